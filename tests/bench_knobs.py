"""What every value of every knob does to the time of a denoising step, at the real size of a model, one at a time.

`python tests/bench_knobs.py --family flux --out DIR` builds FLUX.1-dev (or sdxl) with random weights, and beside the
untouched pipeline every value that the catalogue calls available here, each in a process of its own with a time limit.
It writes knobs-FAMILY.jsonl as results come in, knobs-FAMILY.md at the end, and the logs of what failed. With `--tiny`
the family's tiny pipeline is taken instead, also on a CPU.

How it is so fast: the weights are made once, on the GPU, by a process that lends them to all others; the libraries are
imported once, by the process that forks the others; and several build at once. Nothing else runs while one is timed:
the others are stopped (SIGSTOP) for those seconds, which count neither as their build time nor against their limit, and
timing begins when a product of matrices takes as long as it took on the idle GPU: a stopped process may have queued
minutes of work.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import wraps
from itertools import pairwise
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest import mock

import msgspec
import numpy as np
import pipelines
import psutil

from tuner import architecture, components, environment, pipeline, worker
from tuner.knobs import KNOBS, apply_knobs, call_arguments
from tuner.knobs.compile import AUTOTUNED_MODES
from tuner.knobs.graphs import replays_cuda_graphs
from tuner.measure import Clock, CudaClock
from tuner.record import Architecture, Environment, GatePolicy, Record, Value, Values, Workload, encode, fingerprint
from tuner.space import Space, show

What = Literal["step", "mean step", "step, a picture", "VAE decode", "text encoding", "whole call"]

WARM_UP_STEPS, TIMED_STEPS, MEAN_STEPS = 3, 6, 12
UNEVEN = 1.1
"""From this ratio of the longest step to the shortest on, the table gives both."""
PARTS_TIMED = 5
CALM = 1.03
"""Above this ratio of the longest step to the shortest, a call is timed once more and the calmer one counts."""
SETTLE_S = 0.2
"""So long a pipeline draws before it is timed."""
BUSY = 1.15
"""A product of matrices that takes so many times what it took at the start: another process has work on the GPU."""
PATIENCE_S = 40.0
"""What stopped processes had queued on the GPU is done after so long, or the row fails."""
GRACE_S = 45.0
"""How much longer than the budget a trial may take that was started within it."""
TURN_S = 90.0
"""The longest that one may be timed."""
PROMPTS = tuple(f"a red cat beside {count} blue dogs" for count in range(32))

REGIONAL: Values = {"compile.scope": "regional"}
FULL: Values = {"compile.scope": "full"}
AUTOTUNED: Values = {**REGIONAL, "compile.mode": "max-autotune-no-cudagraphs"}

BASES: tuple[tuple[str, Values], ...] = (
    ("compile.mode max-autotune-no-cudagraphs", REGIONAL),
    ("compile.mode *", FULL),
    ("compile.backend *", FULL),
    ("compile.dynamic *", REGIONAL),
    ("graphs.scheduler_step *", FULL),
    ("inductor.epilogue_fusion *", AUTOTUNED),
    ("inductor.persistent_tma_matmul *", AUTOTUNED),
    ("inductor.max_autotune_gemm_backends *", AUTOTUNED),
    ("inductor.coordinate_descent_check_all_directions *", {**REGIONAL, "inductor.coordinate_descent_tuning": True}),
    ("inductor.conv_1x1_as_mm *", {"compile.vae": True}),
    ("inductor.*", REGIONAL),
    ("attention.backend flex", REGIONAL),
    ("attention.flash_impl *", {"attention.backend": "_native_flash"}),
    ("matmul.tf32 *", {"precision.dtype": "float32"}),
    ("quantization.scheme *", REGIONAL),
    ("cache.threshold 0.[01]*", {"cache.kind": "first-block"}),
    ("cache.threshold 0.2", {"cache.kind": "first-block"}),
    ("cache.threshold *", {"cache.kind": "teacache"}),
    ("cache.interval *", {"cache.kind": "taylorseer"}),
    ("cache.interval *", {"cache.kind": "deepcache"}),
    ("cache.max_skip_steps *", {"cache.kind": "mag"}),
    ("vae.slicing *", {"batch": 2}),
)
"""What a value is put on top of, by `knob value`, the first that is allowed counting; else the untouched pipeline, or
where that is not allowed one of the compiled ones."""
SLOW_SCHEMES = ("int8-weight-only", "int4-weight-only")
"""Their steps take seconds at this size, and what is queued of them goes on when the process is stopped."""
FALLBACKS: tuple[Values, ...] = ({}, REGIONAL, FULL, {**REGIONAL, "compile.dynamic": True})

WHATS: tuple[tuple[str, What], ...] = (
    ("compile.text_encoders *", "text encoding"),
    ("compile.vae *", "VAE decode"),
    ("inductor.conv_1x1_as_mm *", "VAE decode"),
    ("vae.*", "VAE decode"),
    ("cache.*", "mean step"),
    ("scheduler.kind *", "mean step"),
    ("batch *", "step, a picture"),
    ("steps *", "whole call"),
)
"""What is timed, by `knob value`; a step where nothing is said."""


class Trial(Record):
    """One row of the table, or what a row is compared with: a candidate, and what of it is timed.

    `limit_s` is for building it. `rank` says when it starts, the lowest first. One that is `alone` already warms up
    while all others are stopped. `memory_gb` is a guess at what it takes beside the weights that are lent to all.
    """

    name: str
    values: Values
    what: What
    base: Values | None
    compared_with: str | None
    limit_s: float
    rank: int
    alone: bool
    memory_gb: float


class Result(Record):
    """What came of a trial. Times are seconds; memory of a GPU includes the weights that it still uses."""

    trial: Trial
    seconds: float | None = None
    samples_s: tuple[float, ...] = ()
    load_s: float | None = None
    apply_s: float | None = None
    first_call_s: float | None = None
    peak_bytes: int | None = None
    changes: dict[str, str] = msgspec.field(default_factory=dict)
    failure: str | None = None


# The plan.


def catalogue(kind: Architecture, here: Environment) -> Space:
    """All candidates that there are for a pipeline here."""
    baseline = {name: knob.baseline(here) for name, knob in KNOBS.items()} | {"cache.threshold": 0.08}
    return Space(
        name="everything", architecture=kind, workload=Workload(prompts=PROMPTS, seeds=(0,)), tolerance=1.0,
        gate=GatePolicy(), baseline=baseline, recipes=(), left_out={}, knobs={},
    )  # fmt: skip


def plan(kind: Architecture, here: Environment, only: Sequence[str] = ()) -> tuple[list[Trial], dict[str, str]]:
    """The rows with their bases, in the order in which they start, and what cannot be had here with the reason."""
    space = catalogue(kind, here)
    rows: list[Trial] = []
    refused: dict[str, str] = {}
    for name, knob in KNOBS.items():
        for value in knob.choices:
            title = f"{name}={show(value)}"
            if value == space.baseline[name] or (only and not {name, title} & set(only)):
                continue
            reason = knob.unavailable(value, here, kind)
            base = None if reason else base_of(space, name, value, here)
            if base is None:
                refused[title] = reason or "no candidate has it: " + refusal(space, name, value)
            else:
                rows.append(trial(space, title, {**base, name: value}, what(kind, name, value), base))
    return sorted([*bases(space, rows), *rows], key=lambda row: row.rank), refused


def base_of(space: Space, name: str, value: Value, here: Environment) -> Values | None:
    """What a value is put on top of; None when no such candidate is allowed."""
    listed = [base for pattern, base in BASES if fnmatchcase(f"{name} {value}", pattern)]
    for base in (*listed, *FALLBACKS):
        known = all(not KNOBS[other].unavailable(given, here, space.architecture) for other, given in base.items())
        for values in (space.candidate(base), space.candidate({**base, name: value})):
            known = known and space.refusal(values) is None
        if known and values.get(name) == value:
            return base
    return None


def refusal(space: Space, name: str, value: Value) -> str:
    reasons = (space.refusal(space.candidate({**base, name: value})) for base in FALLBACKS)
    return next(filter(None, reasons), "nothing here takes it")


def what(kind: Architecture, name: str, value: Value) -> What:
    if name == "cudnn.benchmark":
        return "step" if "unet" in kind.components else "VAE decode"
    return next((part for pattern, part in WHATS if fnmatchcase(f"{name} {value}", pattern)), "step")


def bases(space: Space, rows: Sequence[Trial]) -> list[Trial]:
    """What the rows are compared with and is no row itself."""
    known = {key(row.values, row.what) for row in rows}
    found = []
    for row in rows:
        assert row.base is not None
        base = trial(space, f"({said(row.base)}), {row.what}", row.base, row.what, None)
        if key(base.values, base.what) not in known:
            known.add(key(base.values, base.what))
            found.append(base)
    return found


def trial(space: Space, title: str, different: Values, part: What, base: Values | None) -> Trial:
    """A trial with guesses at its cost, from what was seen of FLUX."""
    values = space.candidate(different)
    batch, scope = int(values["batch"]), values["compile.scope"]
    tuned = values.get("compile.mode") in AUTOTUNED_MODES or bool(values.get("inductor.coordinate_descent_tuning"))
    compiled = scope != "none" or values.get("compile.vae") or values.get("compile.text_encoders")
    wide = different.get("precision.dtype") == "float32"
    rank, limit_s = (1, 330.0) if tuned else (0, 260.0) if scope == "full" else (3, 150.0) if compiled else (4, 120.0)
    if values.get("compile.mode") in AUTOTUNED_MODES and base != AUTOTUNED:
        rank = 0
    if base == AUTOTUNED and values["inductor.max_autotune_gemm_backends"] != "ATEN":
        rank = 2  # what its base has timed by then need not be timed again
    slow = values.get("quantization.scheme") in SLOW_SCHEMES
    if wide or batch >= 4 or slow:
        rank = 5
    memory = 8.0 + 14 * (values.get("quantization.scheme", "none") != "none") + 60 * wide + 2.6 * (batch - 1)
    memory += 14 * bool(values.get("memory.layerwise_casting")) + 8 * bool(values.get("fuse_qkv"))
    return Trial(
        name=title, values=values, what=part, base=base, limit_s=limit_s, rank=rank, alone=wide or batch >= 4 or slow,
        memory_gb=memory, compared_with=None if base is None else key(space.candidate(base), part),
    )  # fmt: skip


def key(values: Values, part: What) -> str:
    return f"{fingerprint(values)} {part}"


def said(base: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={show(value)}" for name, value in base.items()) or "untouched"


# The weights, made once on the GPU and lent.


def layout(pipe: Any) -> dict[int, tuple[int, Any]]:
    """Where each parameter of an empty pipeline lies in one stretch of memory, by id: offset in numbers, and shape."""
    places: dict[int, tuple[int, Any]] = {}
    end = 0
    for model in pipelines.models(pipe).values():
        for parameter in model.parameters():
            if id(parameter) not in places:
                places[id(parameter)] = (end, parameter.shape)
                end += -(-parameter.numel() // 256) * 256
    places[0] = (end, ())
    return places


def made(pipe: Any, device: str = "cuda") -> Any:
    """Random weights for all parameters of an empty pipeline, as `pipelines.fill` chooses them."""
    import torch

    places = layout(pipe)
    memory = torch.zeros(places[0][0], dtype=torch.bfloat16, device=device)
    for model in pipelines.models(pipe).values():
        for name, parameter in model.named_parameters():
            offset, shape = places[id(parameter)]
            weight = memory[offset : offset + prod(shape)]
            if name.endswith("bias"):
                continue
            if len(shape) == 1 or name.endswith("gamma"):
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, prod(shape[1:]) ** -0.5)
    if device == "cuda":
        torch.cuda.synchronize()
    return memory


def put(pipe: Any, memory: Any) -> None:
    """Give an empty pipeline its weights: views of the memory, none of which is ever written to."""
    import torch

    places, views = layout(pipe), {}
    for model in pipelines.models(pipe).values():
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and parameter.device.type == "meta":
                    if id(parameter) not in views:
                        offset, shape = places[id(parameter)]
                        view = memory[offset : offset + prod(shape)].view(shape)
                        views[id(parameter)] = (torch.nn.Parameter(view), parameter)  # kept, so that its id is too
                    module._parameters[name] = views[id(parameter)][0]


def lent(memory: Any) -> list[Any]:
    """A handle by which other processes find the memory, as JSON takes it."""
    shared = memory.untyped_storage()._share_cuda_()
    return [part.hex() if isinstance(part, bytes) else part for part in shared]


def product_s() -> float:
    """Seconds of a hundred products of matrices on the GPU."""
    import torch

    clock = CudaClock()
    matrix = torch.ones(4096, 4096, dtype=torch.bfloat16, device="cuda")
    clock.wait()
    start = clock.mark()
    for _ in range(100):
        matrix @ matrix
    end = clock.mark()
    clock.wait()
    return clock.between(start, end)


def borrowed(handle: Sequence[Any]) -> Any:
    """The memory behind a handle."""
    import torch

    torch.cuda.init()
    parts = [bytes.fromhex(part) if isinstance(part, str) else part for part in handle]
    storage = torch.UntypedStorage._new_shared_cuda(*parts)
    return torch.empty(0, dtype=torch.bfloat16, device="cuda").set_(storage)


# One trial, in a process of its own.


class Bench:
    """A pipeline on which one trial is built and timed."""

    def __init__(self, given: argparse.Namespace, here: Environment, row: Trial, pipe: Any, send: Callable[..., None]):
        self.given, self.here, self.row, self.pipe, self.send = given, here, row, pipe, send
        self.clock = CudaClock() if here.device == "cuda" else Clock()
        self.stage = "load"
        self.memory: Any = None
        call = {"height": 32, "width": 32, **pipelines.CALL.get(given.family, {})} if given.tiny else {}
        size = {name: call.pop(name, 1024) for name in ("height", "width")}
        frames = call.pop("num_frames", None)
        self.workload = Workload(
            prompts=PROMPTS, seeds=tuple(range(len(PROMPTS))), num_frames=frames, arguments=call, **size
        )

    def build(self) -> None:
        import torch

        if self.given.tiny:
            dtype = getattr(torch, str(KNOBS["precision.dtype"].baseline(self.here)))
            self.pipe = pipelines.build(self.given.family).to(self.here.device, dtype)
        else:
            self.memory = borrowed(self.given.weights) if self.given.weights else made(self.pipe)
            put(self.pipe, self.memory)
            self.pipe.to(self.here.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.clock.wait()
        self.enter("apply")
        changes = apply_knobs(self.pipe, self.row.values, self.here)
        self.enter("warm up", changes=changes)

    def enter(self, stage: str, **further: Any) -> None:
        self.stage = stage
        self.send(stage=stage, **further)

    def warm_up(self) -> None:
        """A whole call, which compiles, with a picture that is one."""
        steps = MEAN_STEPS if self.row.what == "mean step" else WARM_UP_STEPS
        with marked_steps(self.pipe.scheduler, self.clock, waits=True):  # one that is stopped has a step queued at most
            drawn = np.asarray(self.draw(steps, "np"), dtype=np.float32)
        if not np.isfinite(drawn).all() or drawn.std() == 0:
            raise worker.InvalidPicture("the picture is constant or has numbers that are none")

    def draw(self, steps: int, output_type: str) -> Any:
        indices = range(int(self.row.values["batch"]))
        of_knobs = call_arguments({**self.row.values, "steps": steps})
        return pipeline.draw(self.pipe, self.workload, list(indices), of_knobs, output_type=output_type)

    def draw_once(self) -> Any:
        return self.draw(1, "pt")

    def steps(self, count: int, output_type: str = "latent") -> list[float]:
        """What the steps of a call took, without the first."""
        with marked_steps(self.pipe.scheduler, self.clock) as marks:
            self.draw(count, output_type)
            self.clock.wait()
        return [self.clock.between(start, end) for start, end in pairwise(marks)]

    def timed(self) -> tuple[float, list[float]]:
        """Seconds of what the trial is about, and the samples that they come from."""
        part = self.row.what
        if part == "mean step":  # of the steps asked for, whatever a solver makes of them
            samples = self.steps(MEAN_STEPS)
            return sum(samples) / (MEAN_STEPS - 1), samples
        if part in ("VAE decode", "text encoding"):
            field = "vae_s" if part == "VAE decode" else "text_encoders_s"
            calls_s = [components.time_components(self.draw_once, self.pipe, self.clock) for _ in range(PARTS_TIMED)]
            samples = [getattr(call_s, field) for call_s in calls_s]
            return median(samples), samples
        if part == "whole call":
            start = self.clock.mark()
            self.draw(int(self.row.values["steps"]), "pil")
            end = self.clock.mark()
            self.clock.wait()
            return self.clock.between(start, end), [self.clock.between(start, end)]
        if self.row.alone:
            samples = self.steps(WARM_UP_STEPS, "np")
        else:
            samples = self.steps(TIMED_STEPS)
            if max(samples) / min(samples) > CALM:
                samples = min(samples, self.steps(TIMED_STEPS), key=lambda call: max(call) / min(call))
        return median(samples) / int(self.row.values["batch"]), samples

    def measure(self) -> dict[str, Any]:
        if self.here.device == "cpu":
            seconds, samples = self.timed()
            return {"seconds": seconds, "samples_s": samples}
        import torch

        torch.cuda.empty_cache()
        if not self.row.alone:
            self.settle()
        torch.cuda.reset_peak_memory_stats()
        seconds, samples = self.timed()
        while self.is_disturbed():
            self.settle()
            seconds, samples = self.timed()
        hidden = replays_cuda_graphs(self.row.values)  # a replay allocates nothing
        peak = torch.cuda.max_memory_reserved() if hidden else torch.cuda.max_memory_allocated()
        return {"seconds": seconds, "samples_s": samples, "peak_bytes": peak + self.borrowed_bytes()}

    def is_disturbed(self) -> bool:
        """Whether another process has work on the GPU."""
        return self.given.product_s is not None and product_s() > BUSY * self.given.product_s

    def settle(self) -> None:
        """Until the GPU is this process's alone and runs at its speed."""
        until = time.monotonic() + PATIENCE_S
        while self.is_disturbed():
            if time.monotonic() > until:
                raise RuntimeError(f"the GPU was still busy {PATIENCE_S:.0f} s after the others were stopped")
        since = time.monotonic()
        while time.monotonic() < since + SETTLE_S:
            self.draw(2, "latent")
            self.clock.wait()

    def borrowed_bytes(self) -> int:
        """What of the lent weights is in use."""
        if self.memory is None or not self.given.weights:
            return 0
        start = self.memory.data_ptr()
        end = start + self.memory.nbytes
        held = {
            parameter.data_ptr(): parameter.numel() * parameter.element_size()
            for model in pipelines.models(self.pipe).values()
            for parameter in model.parameters()
            if parameter.device.type == "cuda" and type(parameter).__name__ == "Parameter"
        }
        return sum(size for address, size in held.items() if start <= address < end)


@contextlib.contextmanager
def marked_steps(scheduler: Any, clock: Clock, waits: bool = False) -> Iterator[list[Any]]:
    """While the end of each of the scheduler's steps is marked, and perhaps waited for."""
    own, step = vars(scheduler).get("step"), scheduler.step
    marks: list[Any] = []

    @wraps(step)  # pipelines read its signature
    def marked(*arguments: Any, **named: Any) -> Any:
        result = step(*arguments, **named)
        marks.append(clock.mark())
        if waits:
            clock.wait()
        return result

    scheduler.step = marked
    try:
        yield marks
    finally:
        if own is None:
            del scheduler.step
        else:
            scheduler.step = own


def work(given: argparse.Namespace, here: Environment, row: Trial, pipe: Any, tell: int, hear: int) -> None:
    """Build and time one trial, telling how far it is. It is timed when it is let."""

    def send(**message: Any) -> None:
        os.write(tell, json.dumps({"at": time.monotonic(), **message}).encode() + b"\n")

    bench = Bench(given, here, row, pipe, send)
    try:
        bench.build()
        if not row.alone:
            bench.warm_up()
        bench.enter("ready")
        if not os.read(hear, 1):
            return
        bench.enter("time")
        result = bench.measure()
        send(stage="done", **result)
    except BaseException as error:
        traceback.print_exc()
        send(stage="failed", failure=f"{worker.name_failure(error)} ({bench.stage}): {worker.one_line(error)}")


def hold(pipe: Any, tell: int) -> None:
    """Make the weights, tell where they are, and keep them until this process is killed."""
    try:
        memory = made(pipe)
        os.write(tell, json.dumps(lent(memory)).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
        return
    while True:
        time.sleep(3600)


def probe(handle: Sequence[Any], tell: int) -> None:
    """Whether lent weights can be read from another process; if so, what a product takes while nothing else runs."""
    try:
        memory = borrowed(handle)
        if float(memory[: 2**20].float().std()) > 0:
            os.write(tell, json.dumps(min(product_s() for _ in range(10))).encode() + b"\n")
    except BaseException:
        traceback.print_exc()


# The processes.


class Child:
    """A process that works on one trial: forked from this one, or where CUDA does not stand that, a fresh one."""

    def __init__(self, role: str, given: argparse.Namespace, log: Path, job: Callable[[int, int], None]) -> None:
        self.log = log
        self.started = time.monotonic()
        self.stops: list[tuple[float, float]] = []
        self.stage = "load"
        self.entered: dict[str, float] = {}
        self.further: dict[str, Any] = {}
        self.buffer = b""
        self.tell, its_tell = os.pipe()
        its_hear, self.hear = os.pipe()
        if given.fork:
            self.pid = os.fork()
            if not self.pid:
                try:
                    become(log)
                    job(its_tell, its_hear)
                    os._exit(0)
                finally:  # whatever happens, it must not go on as its parent
                    os._exit(1)
        else:
            command = [sys.executable, __file__, "--role", role, "--pipes", str(its_tell), str(its_hear)]
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    command, stdout=output, stderr=output, start_new_session=True, pass_fds=(its_tell, its_hear),
                    env={**os.environ, "BENCH_KNOBS": json.dumps(vars(given), default=str)},
                )  # fmt: skip
            self.pid = self.process.pid
        os.close(its_tell)
        os.close(its_hear)

    def lines(self, wait_s: float = 0.0) -> list[Any] | None:
        """Messages that have come; None once there can be none any more."""
        if not select.select([self.tell], [], [], wait_s)[0]:
            return []
        got = os.read(self.tell, 1 << 16)
        if not got:
            return None
        *whole, self.buffer = (self.buffer + got).split(b"\n")
        return [json.loads(line) for line in whole]

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stopped_s(self, start: float, end: float) -> float:
        return sum(max(0.0, min(end, until) - max(start, since)) for since, until in self.stops)

    def end(self) -> str | None:
        """Kill it with all that it started; say how it ended if that was not by itself."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for inner in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    inner.kill()
        self.signal(signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.tell)
        os.close(self.hear)
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"crash ({self.stage}): {how}" if code else None


def alive(pid: int) -> bool:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def become(log: Path) -> None:
    """Be a process of its own: its own group, its own log, ended when its parent ends."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)


class Room:
    """The machine: what builds on it now, and who may time."""

    def __init__(self, given: argparse.Namespace, here: Environment, pipe: Any, folder: Path) -> None:
        self.given, self.here, self.pipe, self.folder = given, here, pipe, folder
        self.building: dict[str, tuple[Trial, Child]] = {}
        self.ending: list[Child] = []
        self.results: list[Result] = []
        self.until = time.monotonic() + given.budget
        total = (here.device_memory_bytes or 2**37) / 1e9
        self.room_gb = total - 4 - (model_gb(pipe) if given.weights else 0)

    def run(self, waiting: list[Trial]) -> list[Trial]:
        """Run trials until they are done or time is up; what was not started."""
        try:
            while True:
                self.reap()
                self.start(waiting)
                if not self.building:
                    return waiting
                ready = [name for name, (_, child) in self.building.items() if child.stage == "ready"]
                if ready:
                    self.take_turns(ready)
                    continue
                select.select([child.tell for _, child in self.building.values()], [], [], 0.5)
                for name in list(self.building):
                    self.listen(name)
        finally:
            self.reap()
            for _, child in self.building.values():
                child.end()

    def reap(self) -> None:
        while self.ending:
            self.ending.pop().end()

    def start(self, waiting: list[Trial]) -> None:
        """As many as may build at once, those that come first and fit."""
        while len(self.building) < self.given.parallel and time.monotonic() < self.until:
            taken = sum(self.needs_gb(row) for row, _ in self.building.values())
            heavy = sum(row.rank <= 2 for row, _ in self.building.values())
            unfinished = {key(row.values, row.what) for row, _ in self.building.values()}
            unfinished |= {key(row.values, row.what) for row in waiting}
            for row in waiting:
                fits = not self.building or taken + self.needs_gb(row) <= self.room_gb
                is_early = row.rank == 2 and row.compared_with in unfinished
                if fits and not is_early and (row.rank > 2 or heavy < (self.given.parallel + 1) // 2):
                    break
            else:
                return
            waiting.remove(row)
            index = len(self.results) + len(self.building)
            log = self.folder / f"{index}-{row.name.replace('/', '_')[:80]}.log"
            job = lambda tell, hear, row=row: work(self.given, self.here, row, self.pipe, tell, hear)  # noqa: E731
            self.building[row.name] = (row, Child(row.name, self.given, log, job))

    def needs_gb(self, row: Trial) -> float:
        own = 0 if self.given.weights else model_gb(self.pipe)
        return 0.0 if self.given.tiny else row.memory_gb + own

    def take_turns(self, ready: Sequence[str]) -> None:
        """Time those that are ready, one after the other, while all others are stopped."""
        others = [child for name, (_, child) in self.building.items() if name not in ready]
        since = time.monotonic()
        for child in others:
            child.signal(signal.SIGSTOP)
        for name in ready:
            self.reap()
            with contextlib.suppress(BrokenPipeError):  # one that has died since is met with below
                os.write(self.building[name][1].hear, b"1")
            row = self.building[name][0]
            limit_s = row.limit_s if row.alone else TURN_S
            until = time.monotonic() + limit_s
            while name in self.building:
                select.select([self.building[name][1].tell], [], [], 1.0)
                self.listen(name)
                if name in self.building and time.monotonic() > until:
                    self.finish(name, f"timeout (time): no result after {limit_s:.0f} s")
        for child in others:
            child.stops.append((since, time.monotonic()))
            child.signal(signal.SIGCONT)

    def listen(self, name: str) -> None:
        """Take note of what a child says, of its end, and of its limit."""
        row, child = self.building[name]
        is_dead = not alive(child.pid)
        messages = child.lines()
        for message in messages or ():
            child.stage = message.pop("stage")
            child.entered[child.stage] = message.pop("at")
            child.further |= message
            if child.stage in ("done", "failed"):
                self.finish(name)
                return
        now = time.monotonic()
        took_s = now - child.started - child.stopped_s(child.started, now)
        if messages is None or (is_dead and not messages):
            self.finish(name)
        elif child.stage not in ("ready", "time") and took_s > row.limit_s:
            self.finish(name, f"timeout ({child.stage}): no result after {took_s:.0f} s")
        elif child.stage != "ready" and now > self.until + GRACE_S:
            self.finish(name, f"timeout ({child.stage}): no result after {took_s:.0f} s, when the budget was spent")

    def finish(self, name: str, failure: str | None = None) -> None:
        row, child = self.building.pop(name)
        given = child.further
        died = None
        if "seconds" in given:
            self.ending.append(child)  # to leave the GPU takes a process a moment, in which others may go on
        else:
            died = child.end()
        if not failure and "seconds" not in given:
            failure = given.get("failure") or died or f"crash ({child.stage}): it ended without a result"
        result = Result(
            trial=row, failure=failure, seconds=given.get("seconds"), samples_s=tuple(given.get("samples_s", ())),
            peak_bytes=given.get("peak_bytes"), changes=given.get("changes", {}), load_s=lap(child, "", "apply"),
            apply_s=lap(child, "apply", "warm up"), first_call_s=None if row.alone else lap(child, "warm up", "ready"),
        )  # fmt: skip
        self.results.append(result)
        with (self.given.out / f"knobs-{self.given.family}.jsonl").open("ab") as file:
            file.write(encode(result) + b"\n")
        if failure:
            with (self.given.out / f"knobs-{self.given.family}-failures.txt").open("a") as file:
                tail = child.log.read_text(errors="replace")[-6000:]
                file.write(f"\n===== {row.name}: {failure}\n{tail}\n")
        outcome = failure or f"{result.seconds:.4f} s"
        print(f"{time.monotonic() - self.until + self.given.budget:5.0f} s  {row.name}: {outcome}", flush=True)


def lap(child: Child, start: str, end: str) -> float | None:
    """Seconds from one stage to another, without those in which the process was stopped."""
    since = child.entered.get(start) if start else child.started
    until = child.entered.get(end)
    return None if since is None or until is None else until - since - child.stopped_s(since, until)


def model_gb(pipe: Any) -> float:
    numbers = sum(parameter.numel() for model in pipelines.models(pipe).values() for parameter in model.parameters())
    return 2 * numbers / 1e9


# The tables.


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Rows in the catalogue's order: knob and value, on top of what, what is timed, ms, times as fast, GB, build s."""
    known = {key(result.trial.values, result.trial.what): result for result in results}
    order = {name: index for index, name in enumerate(KNOBS)}
    rows = []
    for result in sorted(results, key=lambda result: order.get(result.trial.name.partition("=")[0], -1)):
        row = result.trial
        faster = ""
        if row.compared_with is not None and result.seconds is not None:
            base = known.get(row.compared_with)
            faster = f"{base.seconds / result.seconds:.2f}" if base and base.seconds else "no base"
        taken = f"{1e3 * (result.seconds or 0):.1f}"
        if row.what in ("step", "step, a picture") and result.samples_s:
            shortest, longest = min(result.samples_s), max(result.samples_s)
            taken += "" if longest / shortest < UNEVEN else f" (of {1e3 * shortest:.0f} to {1e3 * longest:.0f})"
        build = [part for part in (result.apply_s, result.first_call_s) if part is not None]
        rows.append((
            row.name, "" if row.base is None else said(row.base), row.what,
            result.failure or taken, faster,
            "" if result.peak_bytes is None else f"{result.peak_bytes / 1e9:.1f}", f"{sum(build):.0f}" if build else "",
        ))  # fmt: skip
    return rows


HEADINGS = ("knob", "on top of", "what", "ms", "times as fast", "peak GB", "build s")


def markdown(
    given: argparse.Namespace,
    here: Environment,
    results: Sequence[Result],
    refused: Mapping[str, str],
    left: Sequence[Trial],
) -> str:
    versions = ", ".join(f"{name} {here.libraries[name]}" for name in ("torch", "triton", "diffusers", "torchao"))
    size = "its tiny pipeline" if given.tiny else "its real size, 1024x1024"
    lines = [
        f"# Knobs against measured time: {given.family} at {size}, random weights",
        "",
        f"{here.device_name}, driver {here.driver}, {here.cpu_count} CPU cores, {versions}, {date.today()}; "
        f"{given.parallel} processes built at once, one at a time was timed.",
        "",
        "`ms` is the median over the steps of a call without its first; `mean step` the mean over the steps of a call "
        f"of {MEAN_STEPS}, for what skips steps or runs the denoiser twice (with random weights a cache's own "
        "decisions mean little); `whole call` all of a call. `times as fast` is against the same without that value. "
        "`peak GB` is of what was timed. `build s` is apply and first call while others built too, with a compiler's "
        "cache that all share: who compiles a graph first pays for it.",
        "",
        *in_markdown(table(results)),
        "",
        f"{sum(result.failure is not None for result in results)} of {len(results)} failed.",
    ]
    if left:
        lines += ["", "Not run, for time was up: " + ", ".join(row.name for row in left) + "."]
    lines += ["", "Not available here:", "", *(f"- {name}: {reason}" for name, reason in refused.items())]
    return "\n".join(lines) + "\n"


def in_markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (HEADINGS, *rows)]
    return [lines[0], "|" + " --- |" * len(HEADINGS), *lines[1:]]


def console(rows: Sequence[tuple[str, ...]]) -> str:
    widths = (52, 34, 15, 26, 5, 6, 5)
    lines = []
    for row in (HEADINGS, *rows):
        cells = [cell[:width].ljust(width) for cell, width in zip(row, widths, strict=True)]
        if row[3][:1].isalpha() and row is not HEADINGS:  # a failure takes the rest of the line
            cells[3:] = [row[3][:120]]
        lines.append(" ".join(cells).rstrip())
    return "\n".join(lines)


# The program.


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="flux", choices=tuple(pipelines.BUILDERS))
    parser.add_argument("--tiny", action="store_true", help="the family's tiny pipeline")
    parser.add_argument("--only", nargs="+", default=(), metavar="KNOB[=VALUE]", help="only these, and their bases")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which nothing is started (420)")
    parser.add_argument("--parallel", type=int, default=8, help="how many build at once (8)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--fresh", action="store_true", help="start each process afresh instead of forking it")
    parser.add_argument(
        "--table", nargs="+", type=Path, metavar="JSONL", help="only the table of earlier runs' results"
    )
    parser.add_argument("--plan", action="store_true", help="only say what would run")
    parser.add_argument("--out", type=Path, default=Path("knobs"))
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--pipes", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    unknown = {name.partition("=")[0] for name in given.only} - KNOBS.keys()
    if unknown:
        parser.error(f"no such knob: {', '.join(sorted(unknown))}")
    if given.device == "cpu" and not given.tiny and not (given.plan or given.table):
        parser.error("on a CPU give --tiny")
    given.weights, given.product_s, given.fork = None, None, not given.fresh
    return given


def imported(given: argparse.Namespace) -> Any:
    """The family's pipeline without weights, all libraries imported and CUDA untouched, for it survives no fork."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the other check would begin with CUDA
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    import torch
    import torch.utils._triton

    with mock.patch("torch.cuda.is_available", return_value=False):  # torchao would look at the GPU when imported
        import torch._dynamo
        import torch._inductor.compile_fx
        import torchao.quantization  # noqa: F401

        pipe = pipelines.build(given.family, "tiny" if given.tiny else "full", empty=True)
    torch.utils._triton.has_triton.cache_clear()
    if torch.cuda.is_initialized() or threading.active_count() > 1:
        given.fork = False
    torch.set_num_threads(1 if given.tiny else 2)
    return pipe


def lend(given: argparse.Namespace, pipe: Any, folder: Path) -> Child:
    """Start the process that holds the weights, forked if CUDA then works; say in `given` where they are."""

    def started(role: str, job: Callable[[int, int], None]) -> tuple[Child, Any]:
        child = Child(role, given, folder / f"{role}.log", job)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            messages = child.lines(1.0)
            if messages is None or messages:
                return child, messages[0] if messages else None
        return child, None

    holder, handle = started("holder", lambda tell, _: hold(pipe, tell))
    if handle is None and given.fork:
        print("CUDA does not work after a fork here; every process is started afresh", flush=True)
        print((folder / "holder.log").read_text()[-1500:], flush=True)
        holder.end()
        given.fork = False
        holder, handle = started("holder", lambda tell, _: hold(pipe, tell))
    if handle is not None:
        given.weights = handle
        prober, given.product_s = started("probe", lambda tell, _: probe(handle, tell))
        prober.end()
        if given.product_s is None:
            given.weights = None
            print("weights cannot be lent between processes here; each makes its own", flush=True)
            print((folder / "probe.log").read_text()[-1500:], flush=True)
            holder.signal(signal.SIGKILL)
    return holder


def be_child(given: argparse.Namespace) -> None:
    """What a process that was started afresh does."""
    role, (tell, hear) = given.role, given.pipes
    for name, value in json.loads(os.environ["BENCH_KNOBS"]).items():
        setattr(given, name, value)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    pipe = imported(given)
    if role == "holder":
        hold(pipe, tell)
    elif role == "probe":
        probe(given.weights, tell)
    else:
        here = environment.detect(given.device)
        trials, _ = plan(architecture.of(pipe), here, given.only)
        (row,) = (trial for trial in trials if trial.name == role)
        work(given, here, row, pipe, tell, hear)


def main(arguments: Sequence[str] | None = None) -> int:
    given = arguments_of(arguments)
    if given.role:
        be_child(given)
        return 0
    if given.table:
        lines = [line for file in given.table for line in file.read_bytes().splitlines()]
        latest = {result.trial.name: result for result in (msgspec.json.decode(line, type=Result) for line in lines)}
        print("\n".join(in_markdown(table(list(latest.values())))))
        return 0
    begun = time.monotonic()
    here = environment.detect(given.device)
    pipe = imported(given)
    trials, refused = plan(architecture.of(pipe), here, given.only)
    how = "forked" if given.fork else "started afresh"
    print(f"{len(trials)} trials, each process {how}; {len(refused)} values cannot be had here; "
          f"libraries imported in {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    if given.plan:
        for row in trials:
            print(f"{row.rank} {row.name:60} {row.what:15} {'' if row.base is None else said(row.base)}")
        for name, reason in refused.items():
            print(f"- {name}: {reason}")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-knobs-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    holder = None
    try:
        if here.device == "cuda" and not given.tiny:
            holder = lend(given, pipe, folder)
            print(f"weights on the GPU after {time.monotonic() - begun:.0f} s", flush=True)
        given.budget -= time.monotonic() - begun
        room = Room(given, here, pipe, folder)
        left = room.run(list(trials))
    finally:
        if holder is not None:
            holder.end()
        shutil.rmtree(folder, ignore_errors=True)
    (given.out / f"knobs-{given.family}.md").write_text(markdown(given, here, room.results, refused, left))
    print(console(table(room.results)))
    print(f"{len(room.results)} run, {len(left)} left, {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
