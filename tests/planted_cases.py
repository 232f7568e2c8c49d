"""Planted defects and their clean twins: what the gate must find and what it must not, in every way of compiling.

One table for the tests on a CPU, for those on a GPU and for the golden traces that `golden_traces.py` records.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tuner.records.gate import Finding, FindingKind, Verdict

Mode = Literal["eager", "regional", "full", "reduce-overhead"]
MODES: tuple[Mode, ...] = get_args(Mode)
COMPILED: tuple[Mode, ...] = MODES[1:]

SEEN_ON_A_CPU: frozenset[FindingKind] = frozenset({"graph break", "recompile", "compile work"})

SIZE = 256
ROWS = 64


# ---- what is expected, and whether a verdict says so ----------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """Findings of one kind at one place: the line with a `# planted:` mark, or any that the text is a part of.

    Without `per_step` any number of them will do. What is not `sure` comes along with a defect or is missing, and
    `per_step` is the most there may be. `formerly` says where it is in golden traces that are older than the mark.
    """

    kind: FindingKind
    where: str = ""
    per_step: float | None = 1.0
    sure: bool = True
    formerly: str | None = None

    def place(self, lines: Mapping[str, str]) -> str:
        before = self.where if self.formerly is None else self.formerly
        return lines.get(self.where, before)

    def allows(self, count: float) -> bool:
        if self.per_step is None:
            return count > 0
        return abs(count - self.per_step) < 0.01 or (not self.sure and count < self.per_step)


@dataclass(frozen=True)
class Case:
    """`build(mode, device)` gives a pipeline; `expected` has the modes that it makes sense in. Warnings are those of a
    GPU; where none are named any will do."""

    name: str
    build: Callable[[Mode, str], Any]
    expected: Mapping[Mode, tuple[Expected, ...]]
    warnings: tuple[Expected, ...] | None = None
    asks_for_graphs: bool = False
    dynamo: Mapping[str, Any] = field(default_factory=dict)
    inductor: Mapping[str, Any] = field(default_factory=dict)
    needs_gpu: bool = False
    is_of_diffusers: bool = False

    def asks(self, mode: Mode) -> bool:
        return self.asks_for_graphs or mode == "reduce-overhead"

    def settings(self) -> ExitStack:
        """The compiler's settings of this case, for as long as this is open."""
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        stack = ExitStack()
        stack.enter_context(dynamo.patch(dict(self.dynamo)))
        stack.enter_context(inductor.patch(dict(self.inductor)))
        return stack

    def seen(self, mode: Mode, on_a_cpu: bool = False) -> list[Expected]:
        return [one for one in self.expected[mode] if not on_a_cpu or one.kind in SEEN_ON_A_CPU]

    def status(self, mode: Mode, on_a_cpu: bool = False) -> str:
        """What the verdict must be: clean, unless something is sure to be found."""
        return "rejected" if any(one.sure for one in self.seen(mode, on_a_cpu)) else "clean"

    def problems(self, mode: Mode, verdict: Verdict, lines: Mapping[str, str], on_a_cpu: bool = False) -> list[str]:
        """What of a verdict is not as expected, a line each; `lines` says where each mark is."""
        expected = self.seen(mode, on_a_cpu)
        found = [*_differences(expected, verdict.findings, lines)]
        if self.warnings is not None and not on_a_cpu:
            found += [f"warning: {text}" for text in _differences(self.warnings, verdict.warnings, lines)]
        status = self.status(mode, on_a_cpu)
        return found if verdict.status == status else [*found, f"is {verdict.status}, not {status}"]


def _differences(expected: Any, findings: tuple[Finding, ...], lines: Mapping[str, str]) -> list[str]:
    texts = []
    left = list(findings)
    for one in expected:
        place = one.place(lines)
        is_there = partial(_is_at, place, place in lines.values())
        alike = [finding for finding in left if finding.kind == one.kind and is_there(finding.source)]
        left = [finding for finding in left if finding not in alike]
        count = sum(finding.count_per_step for finding in alike)
        if not one.allows(count):
            wanted = "any" if one.per_step is None else f"{one.per_step:.3g}"
            texts.append(f"MISSED {one.kind} at {place or 'no line'}: {count:.3g} a step, not {wanted}")
    texts += [f"FALSE {f.kind} x{f.count_per_step:.3g} at {f.source}: {f.operator}: {f.reason}" for f in left]
    return texts


def _is_at(place: str, exactly: bool, source: str) -> bool:
    """The profiler's own stacks name a file from its entry in sys.path on."""
    if not exactly:
        return place in source
    return any(place == one or place.endswith(f"/{one}") for one in source.split(", "))


@cache
def lines_of_marks() -> dict[str, str]:
    """Where in this file each mark is."""
    numbered = enumerate(Path(__file__).read_text(encoding="utf-8").splitlines(), 1)
    marked = ((number, re.search(r"  # planted: ([a-z ]+)$", line)) for number, line in numbered)
    return {mark[1]: f"{__file__}:{number}" for number, mark in marked if mark}


# ---- a denoiser and a loop ------------------------------------------------------------------------------------------

Plant = Callable[[Any, int], Any]


def nothing(x: Any, k: int) -> Any:
    return x


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(SIZE, SIZE)

    def forward(self, x: Any) -> Any:  # planted: plain
        return self.linear(x).tanh()


class Middle(torch.nn.Module):
    """A block with something planted between two layers, in a function of its own."""

    def __init__(self, plant: Plant = nothing) -> None:
        super().__init__()
        self.before = torch.nn.Linear(SIZE, SIZE)
        self.after = torch.nn.Linear(SIZE, SIZE)
        self.plant = plant

    def forward(self, x: Any, k: int) -> Any:
        x = self.before(x).tanh()
        x = self.plant(x, k)
        return self.after(x).tanh()


class Net(torch.nn.Module):
    def __init__(self, middle: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = Plain(), middle, Plain()

    def forward(self, x: Any, k: int) -> Any:  # planted: net
        return self.last(self.middle(self.first(x), k))


class Loop:
    """What the gate needs of a diffusers pipeline: a denoiser, and a scheduler that is asked once a step."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = model
        self.start = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(0)).to(device)
        self.images = 0

    @property
    def scheduler(self) -> Loop:
        return self

    def set_timesteps(self, steps: int) -> None:
        self.images += 1

    def denoise(self, x: Any, index: int) -> Any:
        return self.model(x, 0)

    def step(self, noise: Any, index: int, x: Any) -> Any:
        return x - 0.1 * noise

    def __call__(self, steps: int) -> Any:
        with torch.no_grad():
            x = self.start.clone()
            self.set_timesteps(steps)
            for index in range(steps):
                x = self.step(self.denoise(x, index), index, x)
        return x


def compiled(net: Net, mode: Mode, **options: Any) -> Any:
    if mode == "eager":
        return net
    if mode == "regional":
        for block in (net.first, net.middle, net.last):
            block.compile(**options)
        return net
    return torch.compile(net, mode="reduce-overhead" if mode == "reduce-overhead" else "default", **options)


def build(mode: Mode, device: str, middle: Callable[[], Any], loop: type[Loop] = Loop, **options: Any) -> Loop:
    net = Net(middle()).to(device).requires_grad_(False)
    return loop(compiled(net, mode, **options), device)


def planted(name: str, plant: Plant | type[Middle], expected: Any, loop: type[Loop] = Loop, **more: Any) -> Case:
    options = more.pop("options", {})
    middle = plant if isinstance(plant, type) else partial(Middle, plant)
    return Case(name, partial(build, middle=middle, loop=loop, **options), expected, **more)


# ---- plants: waits --------------------------------------------------------------------------------------------------


def item(x: Any, k: int) -> Any:
    x.mean().item()  # planted: item
    return x


def item_branch(x: Any, k: int) -> Any:
    if x.isnan().any().item():  # planted: item branch
        x = x + 1
    return x


def branch(x: Any, k: int) -> Any:
    return x + 1 if x.sum() > 1e9 else x  # planted: branch


def boolean(x: Any, k: int) -> Any:
    return x + 1 if bool(torch.isinf(x).any()) else x  # planted: bool


def nonzero(x: Any, k: int) -> Any:
    return x + (x[0] < 1e9).nonzero().sum() * 0  # planted: nonzero


def mask(x: Any, k: int) -> Any:
    return x[x[:, 0] < 1e9]  # planted: mask


def as_list(x: Any, k: int) -> Any:
    return x * (1 + 0 * x[0].tolist()[0])  # planted: tolist


def equal(x: Any, k: int) -> Any:
    return x if torch.equal(x, x.clone()) else x + 1  # planted: equal


def unique(x: Any, k: int) -> Any:
    return x + 0 * x[0].unique().sum()  # planted: unique


def repeats(x: Any, k: int) -> Any:
    counts = torch.ones(ROWS, dtype=torch.int64, device=x.device)
    return x.repeat_interleave(counts, dim=0)  # planted: repeats


def tensor_index(x: Any, k: int) -> Any:
    row = x.argmax()
    return x + 0 * x.flatten()[row]  # planted: index


def formatted(x: Any, k: int) -> Any:
    text = f"{x.mean():.3f}"  # planted: format
    return x if text else x + 1


def round_trip(x: Any, k: int) -> Any:
    return x.cpu().to(x.device)  # planted: trip


def download(x: Any, k: int) -> Any:
    x.cpu()  # planted: download
    return x


def download_unasked(x: Any, k: int) -> Any:
    x.to("cpu", non_blocking=True)
    return x


def upload_list(x: Any, k: int) -> Any:
    return x * torch.tensor([1.0] * SIZE, device=x.device)  # planted: list


def synchronize(x: Any, k: int) -> Any:
    torch.cuda.synchronize()  # planted: synchronize
    return x


def event(x: Any, k: int) -> Any:
    passed = torch.cuda.Event()
    passed.record()
    passed.synchronize()  # planted: event
    return x


def stream(x: Any, k: int) -> Any:
    torch.cuda.current_stream().synchronize()  # planted: stream
    return x


class Upload(Middle):
    """An offset that stayed on the CPU; pinned or not, and sent with or without waiting."""

    pinned = False

    def __init__(self) -> None:
        super().__init__(self.moved)
        offset = torch.ones(SIZE)
        self.offset = [offset.pin_memory() if self.pinned else offset]

    def moved(self, x: Any, k: int) -> Any:
        return x + self.offset[0].to(x.device)  # planted: upload


class PinnedUpload(Upload):
    pinned = True

    def moved(self, x: Any, k: int) -> Any:
        return x + self.offset[0].to(x.device, non_blocking=True)


class BigUpload(Middle):
    """More than the driver has room for, from pageable memory, while the GPU is busy: asked not to wait, it does."""

    def __init__(self) -> None:
        super().__init__(self.moved)
        self.large = torch.nn.Parameter(torch.ones(4096, 4096))
        self.offset = [torch.ones(64 << 18)]

    def moved(self, x: Any, k: int) -> Any:
        busy = self.large @ self.large
        moved = self.offset[0].to(x.device, non_blocking=True)  # planted: big upload
        return x + 0 * busy[0, 0] + 0 * moved[0]


class PageableDownload(Middle):
    """To pageable memory, asked not to wait: it does."""

    def __init__(self) -> None:
        super().__init__(self.moved)
        self.kept = [torch.empty(ROWS, SIZE)]

    def moved(self, x: Any, k: int) -> Any:
        self.kept[0].copy_(x, non_blocking=True)  # planted: pageable download
        return x


class PinnedDownload(Middle):
    def __init__(self) -> None:
        super().__init__(self.moved)
        self.kept = torch.empty(ROWS, SIZE).pin_memory()

    def moved(self, x: Any, k: int) -> Any:
        self.kept.copy_(x, non_blocking=True)
        return x


# ---- plants: breaks -------------------------------------------------------------------------------------------------


def say(x: Any, k: int) -> Any:
    print(end="", file=sys.stderr)  # planted: print
    return x


def helper(x: Any, k: int) -> Any:
    return deeper(x * 2) / 2


def deeper(x: Any) -> Any:
    return deepest(x + 1) - 1


def deepest(x: Any) -> Any:
    torch._dynamo.graph_break()  # planted: deepest
    return x * 1.5


@torch.compiler.disable
def not_compiled(x: Any) -> Any:
    return x * 2


def disabled(x: Any, k: int) -> Any:
    return not_compiled(x)  # planted: disabled


def unsupported(x: Any, k: int) -> Any:
    sys.getsizeof(x)  # planted: unsupported
    return x


def attempt(x: Any, k: int) -> Any:
    try:
        x = x * 2
        torch._dynamo.graph_break()  # planted: try
    except ValueError:
        x = x + 1
    return x / 2


def in_a_loop(x: Any, k: int) -> Any:
    for _ in range(2):
        x = (x * 2).sin()
        torch._dynamo.graph_break()  # planted: loop
    return x


class Direct(Middle):
    def forward(self, x: Any, k: int) -> Any:
        x = self.before(x).tanh()
        torch._dynamo.graph_break()  # planted: direct
        return self.after(x).tanh()


class Twice(Middle):
    def forward(self, x: Any, k: int) -> Any:
        x = self.before(x).tanh()
        torch._dynamo.graph_break()  # planted: first
        x = self.after(x).tanh()
        torch._dynamo.graph_break()  # planted: second
        return x.sin()


class Skipped(Middle):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(SIZE, SIZE) for _ in range(2))

    def forward(self, x: Any, k: int) -> Any:
        for layer in self.layers:
            x = layer(x).tanh()
            torch._dynamo.graph_break()  # planted: frame
        return x


# ---- plants: recompiles, compile work -------------------------------------------------------------------------------


class Scaled(Middle):
    def forward(self, x: Any, k: int) -> Any:  # planted: scaled
        return self.after(self.before(x).tanh() * (1 + k))  # planted: scale


class NewInt(Loop):
    """Once an image a number that no step had before."""

    def denoise(self, x: Any, index: int) -> Any:
        return self.model(x, self.images if index == 2 else 0)


class NewShape(Loop):
    def denoise(self, x: Any, index: int) -> Any:
        rows = ROWS - self.images if index == 2 else ROWS
        return x + self.model(x[:rows], 0).mean()


class OldShapes(Loop):
    """Two shapes, both of which the warm-up saw."""

    def denoise(self, x: Any, index: int) -> Any:
        return x + self.model(x[: ROWS - 8 * (index % 2)], 0).mean()


class EachInt(Loop):
    def denoise(self, x: Any, index: int) -> Any:
        return self.model(x, 10 * self.images + index)


class Late(Loop):
    """Another function is met for the first time while the trace is taken: after two images of warm-up."""

    def __init__(self, model: Any, device: str) -> None:
        super().__init__(model, device)
        self.other = torch.compile(late)

    def denoise(self, x: Any, index: int) -> Any:
        x = self.model(x, 0)
        return self.other(x) if (self.images, index) == (3, 2) else x


def late(x: Any) -> Any:  # planted: late
    return x.sin() * 2


class Tuning(Loop):
    def denoise(self, x: Any, index: int) -> Any:
        from torch._dynamo.utils import dynamo_timed

        with dynamo_timed("planted tuning"):
            time.sleep(0.002)
        return self.model(x, 0)


# ---- plants: the loop -----------------------------------------------------------------------------------------------


class SchedulerWaits(Loop):
    def step(self, noise: Any, index: int, x: Any) -> Any:
        return x - (0.1 + 0 * noise.mean().item()) * noise  # planted: scheduler


class SchedulerLooks(Loop):
    """As a scheduler of diffusers that looks its step up among the timesteps."""

    def step(self, noise: Any, index: int, x: Any) -> Any:
        timesteps = torch.arange(4, device=x.device)
        return x - (0.1 + 0 * (timesteps == index).nonzero().item()) * noise  # planted: looks


class FirstStepWaits(Loop):
    def step(self, noise: Any, index: int, x: Any) -> Any:
        if index == 0:
            noise.mean().item()
        return super().step(noise, index, x)


class WaitsOutside(Loop):
    def __call__(self, steps: int) -> Any:
        self.start.mean().item()
        x = super().__call__(steps)
        x.cpu()
        if x.is_cuda:
            torch.cuda.synchronize()
        return x


class WaitsBeside(Loop):
    def denoise(self, x: Any, index: int) -> Any:
        x = self.model(x, 0)
        passed = torch.cuda.Event()
        passed.record()
        passed.synchronize()  # planted: beside
        return x


class NumbersOfTheCpu(Loop):
    """Sigmas that are kept on the CPU, as schedulers do: no wait."""

    def __init__(self, model: Any, device: str) -> None:
        super().__init__(model, device)
        self.sigmas = torch.linspace(1, 0, 5)

    def step(self, noise: Any, index: int, x: Any) -> Any:
        if self.sigmas[index] > 0.5:
            noise = noise * self.sigmas[index]
        return x - self.sigmas[index + 1].item() * 0.1 * noise


class SideStream(Loop):
    """Work on a second stream, which the GPU waits for and the CPU does not."""

    def denoise(self, x: Any, index: int) -> Any:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x * 2
            done = torch.cuda.Event()
            done.record()
        done.query()
        torch.cuda.current_stream().wait_event(done)
        y.record_stream(torch.cuda.current_stream())
        return self.model(x, 0) + y


# ---- plants: CUDA graphs --------------------------------------------------------------------------------------------

_KEPT: list[Any] = []


class Mutated(Middle):
    def __init__(self) -> None:
        super().__init__(self.added)

    def added(self, x: Any, k: int) -> Any:
        _KEPT[0].add_(1.0)
        return x + _KEPT[0]


class KeepsOutside(Loop):
    def __init__(self, model: Any, device: str) -> None:
        super().__init__(model, device)
        _KEPT[:] = [torch.zeros(SIZE, device=device)]


class OnceWithoutGraph(Loop):
    def denoise(self, x: Any, index: int) -> Any:
        model = self.model._orig_mod if index == 2 else self.model
        return model(x, 0)


class Captured(Loop):
    """A denoiser that was captured by hand and replays."""

    def __init__(self, model: Any, device: str) -> None:
        super().__init__(model, device)
        self.given = self.start.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):
            model(self.given, 0)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.result = model(self.given, 0)

    def denoise(self, x: Any, index: int) -> Any:
        self.given.copy_(x)
        self.graph.replay()
        return self.result.clone()


class RecordsAnew(Captured):
    """Captures its graph once more in each image."""

    def denoise(self, x: Any, index: int) -> Any:
        if index == 2:
            self.__init__(self.model, str(x.device))  # type: ignore[misc]
        return super().denoise(x, index)


# ---- pipelines of diffusers -----------------------------------------------------------------------------------------


def pipeline(mode: Mode, device: str, family: str, scheduler: str = "") -> Any:
    """A tiny pipeline of random weights, with another scheduler or with the begin index that `tune` tries."""
    import diffusers
    import pipelines

    pipe = pipelines.build(family).to(device)
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    else:
        _repair(pipe)
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    if mode == "regional":
        denoiser.compile_repeated_blocks(fullgraph=True)
    elif mode == "full":
        denoiser.compile()
    return Drawing(pipe, family)


def _repair(pipe: Any) -> None:
    """Set the begin index where the pipeline does not do so itself."""
    from tuner.knobs.schedule import BeginIndex
    from tuner.model.diffusers_source import class_source

    if "set_begin_index(0)" not in class_source("pipelines", type(pipe).__name__):
        BeginIndex().apply(pipe, {})


class Drawing:
    def __init__(self, pipe: Any, family: str) -> None:
        import pipelines

        self.pipe = pipe
        self.arguments = {"height": 32, "width": 32, "output_type": "latent", **pipelines.CALL.get(family, {})}

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    def __call__(self, steps: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        return self.pipe(prompt="a red cat", num_inference_steps=steps, generator=generator, **self.arguments)


# ---- the table ------------------------------------------------------------------------------------------------------


def wait(where: str, per_step: float | None = 1.0, sure: bool = True, formerly: str | None = None) -> Expected:
    return Expected("device sync", where, per_step, sure, formerly)


def graph_break(where: str, per_step: float | None = 1.0, sure: bool = True) -> Expected:
    return Expected("graph break", where, per_step, sure)


def recompile(where: str, per_step: float = 1 / 3, formerly: str | None = None) -> Expected:
    return Expected("recompile", where, per_step, formerly=formerly)


def graph(per_step: float | None = 1.0, sure: bool = True) -> Expected:
    return Expected("cuda graph", "", per_step, sure)


def in_all(*expected: Expected) -> dict[Mode, tuple[Expected, ...]]:
    return dict.fromkeys(MODES, expected)


def in_eager(*expected: Expected) -> dict[Mode, tuple[Expected, ...]]:
    return {"eager": expected}


WHILE_COMPILING = (wait("", 1 / 3, sure=False), Expected("compile work", "", 1 / 3, sure=False))
"""What a compilation may do besides."""
RECORDED_ANEW = (
    wait("net", 1 / 3, formerly="tests/planted_cases.py:151"), Expected("compile work", "", 1 / 3), graph(1 / 3),
)  # fmt: skip
"""A CUDA graph that is recorded in one of three steps."""


def by_mode(eager: Any, compiled: Any, graphs: Any = None) -> dict[Mode, tuple[Expected, ...]]:
    """What is expected of eager, of both ways to compile, and of CUDA graphs if that is something else."""
    return {"eager": eager, "regional": compiled, "full": compiled, "reduce-overhead": graphs or compiled}


def broken(where: str, per_step: float = 1.0) -> dict[Mode, tuple[Expected, ...]]:
    return by_mode((), (graph_break(where, per_step),))


def waits_and_breaks(where: str) -> dict[Mode, tuple[Expected, ...]]:
    return by_mode((wait(where),), (graph_break(where), wait(where)))


FIXED = {"options": {"dynamic": False}}
EVERY_STEP = {
    "DDIMScheduler": "scheduling_ddim.py", "DDPMScheduler": "scheduling_ddpm.py",
    "PNDMScheduler": "scheduling_pndm.py", "LCMScheduler": "scheduling_lcm.py", "TCDScheduler": "scheduling_tcd.py",
    "SASolverScheduler": "scheduling_sasolver.py",
}  # fmt: skip
"""Schedulers of diffusers that wait for the GPU in every step."""
NOISE_FROM_THE_CPU = wait("diffusers/utils/torch_utils.py", sure=False)
NEW_INT = recompile("scale", formerly="tests/planted_cases.py:439")
NEW_SHAPE = recompile("net", formerly="tests/planted_cases.py:151")
AT_ITS_LIMIT = recompile("scale", 1)
OWN_DEFAULTS: dict[str, Mode] = {
    "flux": "regional", "flux2": "regional", "sd3": "full", "sdxl": "regional", "qwen-image": "regional",
    "z-image": "regional", "sana": "full", "pixart": "full", "wan": "regional", "sd15": "regional",
}  # fmt: skip
"""Families, and how each is compiled: diffusers names the repeated blocks of some."""

OWN_WAITS = {"wan": (wait("scheduling_unipc_multistep.py", None),)}
"""Also with a begin index UniPC uploads a list and solves its equations on the GPU, which looks whether they can be."""

CASES: tuple[Case, ...] = (
    # Waits.
    planted("item", item, waits_and_breaks("item")),
    planted("item branch", item_branch, waits_and_breaks("item branch")),
    planted("branch", branch, waits_and_breaks("branch")),
    planted("bool", boolean, waits_and_breaks("bool")),
    planted("nonzero", nonzero, waits_and_breaks("nonzero")),
    planted("mask", mask, waits_and_breaks("mask")),
    planted("tolist", as_list, in_eager(wait("tolist"))),
    planted("equal", equal, in_eager(wait("equal"))),
    planted("unique", unique, in_eager(wait("unique", None))),
    planted("repeats", repeats, in_eager(wait("repeats", None))),
    planted("tensor as index", tensor_index, in_eager(wait("index"))),
    planted("format", formatted, in_eager(wait("format"))),
    planted("round trip", round_trip, by_mode(
        (wait("trip", 2),), (wait("trip", None),), (wait("trip", None), graph()))),
    planted("download", download, in_eager(wait("download"))),
    planted("upload", Upload, by_mode((wait("upload"),), (wait("upload"),), (wait("upload", None), graph(sure=False)))),
    planted("upload of a list", upload_list, in_eager(wait("list"))),
    planted("big upload", BigUpload, in_eager(wait("big upload")), needs_gpu=True),
    planted("pageable download", PageableDownload, in_eager(wait("pageable download")), needs_gpu=True),
    planted("synchronize", synchronize, by_mode(
        (wait("synchronize"),), (wait("synchronize"), graph_break("synchronize", sure=False))), needs_gpu=True),
    planted("event", event, in_eager(wait("event")), needs_gpu=True),
    planted("stream", stream, in_eager(wait("stream")), needs_gpu=True),
    planted("event beside the model", nothing, in_all(wait("beside")), WaitsBeside, needs_gpu=True),
    planted("captured nonzero", nonzero, {
        "full": (wait("nonzero", None),), "reduce-overhead": (wait("nonzero", None), graph(sure=False)),
    }, options={"fullgraph": True}, dynamo={"capture_dynamic_output_shape_ops": True}),
    planted("scheduler waits", nothing, in_all(wait("scheduler")), SchedulerWaits),
    planted("scheduler looks", nothing, in_all(wait("looks", 2)), SchedulerLooks),
    planted("first step waits", nothing, in_all(), FirstStepWaits, warnings=(wait(""),)),
    planted("waits outside", nothing, in_all(), WaitsOutside, warnings=()),
    # Breaks.
    planted("print", say, broken("print")),
    planted("deepest", helper, broken("deepest")),
    planted("disabled", disabled, broken("disabled")),
    planted("unsupported", unsupported, broken("unsupported")),
    planted("try", attempt, broken("try")),
    planted("loop", in_a_loop, broken("loop")),
    planted("direct", Direct, broken("direct")),
    planted("twice", Twice, by_mode((), (graph_break("first"), graph_break("second")))),
    planted("skipped frame", Skipped, broken("frame")),
    # Recompiles and compile work.
    planted("new int", Scaled, by_mode((), (NEW_INT, *WHILE_COMPILING), (NEW_INT, *RECORDED_ANEW)), NewInt, **FIXED),
    planted("automatic int", Scaled, by_mode((), (), RECORDED_ANEW), NewInt),
    planted("new shape", Scaled, {
        "eager": (),
        "regional": (
            recompile("plain", formerly="tests/planted_cases.py:127"),
            recompile("scaled", formerly="tests/planted_cases.py:438"),
            *WHILE_COMPILING,
        ),
        "full": (NEW_SHAPE, *WHILE_COMPILING),
        "reduce-overhead": (NEW_SHAPE, *RECORDED_ANEW),
    }, NewShape, **FIXED),
    planted("limit", Scaled, by_mode((), (AT_ITS_LIMIT,), (AT_ITS_LIMIT, graph())), EachInt,
            **FIXED, dynamo={"recompile_limit": 2}),
    planted("late function", nothing, in_all(recompile("late"), *WHILE_COMPILING), Late),
    planted("tuning", nothing, in_all(Expected("compile work")), Tuning),
    # CUDA graphs.
    planted("mutated", Mutated, {"eager": (), "regional": (), "full": (), "reduce-overhead": (graph(),)}, KeepsOutside),
    planted("CPU in a graph", round_trip, {"reduce-overhead": (wait("trip", None), graph())},
            inductor={"graph_partition": False}, needs_gpu=True),
    planted("graphs not used", nothing, {"eager": (graph(1),), "regional": (graph(1),), "full": (graph(1),)},
            asks_for_graphs=True, needs_gpu=True),
    planted("one step without", nothing, {"reduce-overhead": (graph(1 / 3),)}, OnceWithoutGraph, needs_gpu=True),
    planted("recorded anew", nothing, in_eager(graph(1 / 3), wait("", 2, sure=False)), RecordsAnew,
            asks_for_graphs=True, needs_gpu=True),
    # Clean twins.
    planted("clean", nothing, in_all(), warnings=()),
    planted("torch.where", lambda x, k: torch.where(x.sum() > 1e9, x + 1, x), in_all()),
    planted("old shapes", Scaled, in_all(), OldShapes, **FIXED),
    planted("numbers of the CPU", nothing, in_all(), NumbersOfTheCpu),
    planted("pinned upload", PinnedUpload, in_eager(), needs_gpu=True),
    planted("pinned download", PinnedDownload, in_eager(), needs_gpu=True),
    planted("download unasked", download_unasked, in_eager()),
    planted("side stream", nothing, in_all(), SideStream, needs_gpu=True),
    planted("captured by hand", nothing, in_eager(), Captured, asks_for_graphs=True, needs_gpu=True),
    # Diffusers itself.
    *(
        Case(
            f"SDXL with {name}", partial(pipeline, family="sdxl", scheduler=name),
            in_eager(wait(file, None), NOISE_FROM_THE_CPU), is_of_diffusers=True,
        )
        for name, file in EVERY_STEP.items()
    ),
    *(
        Case(
            f"{family} as it is", partial(pipeline, family=family),
            dict.fromkeys(("eager", mode), OWN_WAITS.get(family, ())), is_of_diffusers=True,
        )
        for family, mode in OWN_DEFAULTS.items()
    ),
)  # fmt: skip

BY_NAME: dict[str, Case] = {case.name: case for case in CASES}
