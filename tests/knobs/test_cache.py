"""Every way to cache on the pipelines of every family: it works and skips work, or says why it is not there."""

from __future__ import annotations

import importlib.util
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from drawing import CPU, FAMILIES, GPU, draw, is_one_line, is_valid, kind, load, values
from kinds import kind as known

from tuner import knobs
from tuner.knobs import KNOBS, NoEffect, allowances, apply_knobs
from tuner.knobs.cache import METHODS
from tuner.knobs.caches import dbcache
from tuner.knobs.caches.broadcast import Plan
from tuner.knobs.caches.clock import Clock
from tuner.knobs.caches.teacache import COEFFICIENTS, TeaCache
from tuner.records.codec import Values
from tuner.records.machine import Environment
from tuner.trace import capture

Folder = Callable[[str], Path]
Untouched = Callable[[str], tuple[Any, "Work"]]

PACKAGES = {"dbcache": ("cache-dit", "cache_dit"), "deepcache": ("DeepCache", "DeepCache")}
"""The distribution that a kind needs, and its module."""

BLOCKS = {"first-block", "taylorseer", "pab"}
WORKING: dict[str, set[str]] = {
    "flux": {*BLOCKS, "mag", "faster", "teacache", "dbcache"},
    "flux2": {"taylorseer", "pab", "dbcache"},
    "sd3": {"pab", "dbcache"},
    "sdxl": {"pab", "deepcache"},
    "qwen-image": {*BLOCKS, "dbcache"},
    "z-image": {"pab", "dbcache"},
    "sana": {"pab", "dbcache"},
    "pixart": {"pab", "dbcache"},
    "wan": {*BLOCKS, "dbcache"},
    "sd15": {"pab", "deepcache"},
    "chroma": {"pab", "dbcache"},
    "lumina2": {"pab", "dbcache"},
    "auraflow": {"pab", "dbcache"},
    "cogview4": {*BLOCKS, "dbcache"},
    "ovis-image": {"taylorseer", "pab", "dbcache"},
    "wan22": {*BLOCKS, "dbcache"},
    "ltx": {*BLOCKS, "dbcache"},
    "cogvideox": {*BLOCKS, "faster", "dbcache"},
    "hunyuan-video": {*BLOCKS, "faster", "dbcache"},
    "mochi": {*BLOCKS, "faster", "dbcache"},
    "sana-video": {"pab"},
}

STEPS = 8
EAGER = {"cache.threshold": 1.9, "cache.interval": 2, "cache.max_skip_steps": 3}
"""What skips as much as can be skipped."""


def idle_reason(pipe: Any, name: str) -> str | None:
    return KNOBS["cache.kind"].idle_reason(pipe, candidate(name))


def needs(name: str) -> list[pytest.MarkDecorator]:
    distribution, module = PACKAGES.get(name, ("", "torch"))
    absent = importlib.util.find_spec(module) is None
    return [pytest.mark.skipif(absent, reason=f"{distribution} is not installed")]


def pairs(families: tuple[str, ...] = FAMILIES, kinds: tuple[str, ...] = tuple(METHODS)) -> list[Any]:
    return [
        pytest.param(family, name, marks=needs(name), id=f"{family}-{name}")
        for family in families
        for name in kinds
        if name in WORKING[family]
    ]


def candidate(name: str, **different: Any) -> Values:
    return values({"cache.kind": name, **EAGER, **different})


@pytest.fixture
def cached(pipeline_folder: Folder) -> Iterator[Callable[..., Any]]:
    """A loader of pipelines with a cache on them. cache-dit changes a pipeline's class, so that is undone."""
    classes: dict[type, dict[str, Any]] = {}

    def make(family: str, name: str, **different: Any) -> Any:
        pipe = load(pipeline_folder(family))
        classes.setdefault(type(pipe), dict(vars(type(pipe))))
        changes = apply_knobs(pipe, candidate(name, **different), CPU)
        assert is_one_line(changes["cache.kind"])
        return pipe

    yield make
    for changed, before in classes.items():
        for name, value in list(vars(changed).items()):
            if name not in before:
                delattr(changed, name)
            elif value is not before[name]:
                setattr(changed, name, before[name])


@pytest.fixture(scope="module")
def untouched(pipeline_folder: Folder) -> Untouched:
    @cache
    def drawn(family: str) -> tuple[Any, Work]:
        return worked(load(pipeline_folder(family)), family)

    return drawn


class Work(msgspec.Struct):
    """Matrix products of a call, and the numbers read back from tensors in each step but the first."""

    products: int
    read_back: list[int]


def worked(pipe: Any, family: str, steps: int = STEPS) -> tuple[Any, Work]:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: Counter[str] = Counter()
    after_step: list[int] = []
    step = pipe.scheduler.step

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    def marked(*arguments: Any, **named: Any) -> Any:
        after_step.append(seen["_local_scalar_dense"])
        return step(*arguments, **named)

    pipe.scheduler.step = marked
    with Counting():
        images = draw(pipe, family, steps)
    pipe.scheduler.step = step
    products = sum(seen[name] for name in ("mm", "addmm", "bmm", "baddbmm", "convolution"))
    return images, Work(products=products, read_back=np.diff(after_step).tolist())


# ---- where it is there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_there_says_why(family: str, pipeline_folder: Folder) -> None:
    architecture = kind(pipeline_folder(family))
    knob = KNOBS["cache.kind"]
    installed = {distribution: "1.0" for distribution, _ in PACKAGES.values()}
    equipped = msgspec.structs.replace(CPU, libraries=CPU.libraries | installed)
    reasons = {name: knob.unavailable_reason(name, equipped, architecture) for name in METHODS}
    available = {name for name, reason in reasons.items() if reason is None}
    if importlib.util.find_spec("cache_dit") is None:  # its own source says which pipelines it knows
        available = available - {"dbcache"} | (WORKING[family] & {"dbcache"})
    assert available == WORKING[family]
    assert all(is_one_line(reason) for reason in reasons.values() if reason is not None)
    assert knob.unavailable_reason("none", CPU, architecture) is None


@pytest.mark.parametrize(("name", "family"), [("dbcache", "flux"), ("deepcache", "sdxl")])
def test_a_package_that_is_not_installed_names_its_remedy(name: str, family: str, pipeline_folder: Folder) -> None:
    bare: Environment = GPU
    reason = KNOBS["cache.kind"].unavailable_reason(name, bare, kind(pipeline_folder(family)))
    assert reason == f"{PACKAGES[name][0]} is not installed (pip install {PACKAGES[name][0]})"


@pytest.mark.parametrize(("family", "name"), pairs())
def test_it_skips_work_and_draws(family: str, name: str, cached: Callable[..., Any], untouched: Untouched) -> None:
    plain, plain_work = untouched(family)
    pipe = cached(family, name)
    images, work = worked(pipe, family)
    assert is_valid(images)
    assert images.shape == plain.shape
    assert work.products < plain_work.products
    syncs = [cached - own for cached, own in zip(work.read_back, plain_work.read_back, strict=True)]
    assert max(syncs) <= METHODS[name].syncs_per_step
    assert idle_reason(pipe, name) is None
    # What one call leaves behind is not seen by the next, of whatever length.
    assert np.array_equal(draw(pipe, family, STEPS), images)
    assert is_valid(draw(pipe, family, 5))
    assert np.array_equal(draw(pipe, family, STEPS), images)


@pytest.mark.parametrize(("family", "name"), pairs(("flux", "sdxl")))
def test_one_build_draws_any_number_of_steps_as_a_fresh_one(family: str, name: str, cached: Callable[..., Any]) -> None:
    pipe = cached(family, name)
    for steps in (4, 9, 6):
        images = draw(pipe, family, steps)
        assert np.array_equal(images, draw(cached(family, name), family, steps))


@pytest.mark.parametrize(("family", "name"), pairs(("flux", "sdxl", "wan")))
def test_a_call_that_fails_leaves_nothing_to_the_next(family: str, name: str, cached: Callable[..., Any]) -> None:
    class StopError(Exception):
        pass

    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            raise StopError
        return tensors

    pipe = cached(family, name)
    images = draw(pipe, family, STEPS)
    with pytest.raises(StopError):
        draw(pipe, family, STEPS, callback_on_step_end=stop)
    assert np.array_equal(draw(pipe, family, STEPS), images)


@pytest.mark.parametrize(("family", "name"), pairs(("flux",), ("first-block", "teacache", "dbcache")))
def test_a_threshold_that_nothing_is_under_changes_nothing(
    family: str, name: str, cached: Callable[..., Any], untouched: Untouched
) -> None:
    plain, _ = untouched(family)
    pipe = cached(family, name, **{"cache.threshold": 1e-9})
    assert np.allclose(draw(pipe, family, STEPS), plain, atol=1e-6)
    assert idle_reason(pipe, name) == f"it skipped nothing in {STEPS} steps, as if it were not set"


@pytest.mark.parametrize(("family", "name"), pairs(("flux", "sdxl")))
def test_a_cache_that_never_acts_in_so_few_steps_has_no_effect(
    family: str, name: str, cached: Callable[..., Any], untouched: Untouched
) -> None:
    """The only step of a call is computed, whatever the cache. Nothing is known until a call was made."""
    pipe, chosen = cached(family, name), candidate(name)
    knobs.require_effects(pipe, chosen, CPU)
    draw(pipe, family, STEPS)
    knobs.require_effects(pipe, chosen, CPU)
    knobs.watch(pipe, chosen, CPU)
    draw(pipe, family, 1)
    with pytest.raises(NoEffect, match=f"cache.kind={name}: it skipped nothing in 1 step, as if it were not set$"):
        knobs.require_effects(pipe, chosen, CPU)


@pytest.mark.parametrize(
    ("family", "name", "knob"),
    [("flux", "taylorseer", "cache.interval"), ("flux", "pab", "cache.interval"), ("flux", "faster", "cache.interval"),
     ("sdxl", "deepcache", "cache.interval"), ("flux", "mag", "cache.max_skip_steps"),
     ("flux", "dbcache", "cache.max_skip_steps")],
)  # fmt: skip
def test_a_larger_number_skips_more(family: str, name: str, knob: str, cached: Callable[..., Any]) -> None:
    distribution, module = PACKAGES.get(name, ("", "torch"))
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{distribution} is not installed")
    few, many = (worked(cached(family, name, **{knob: number}), family, 12)[1].products for number in (2, 5))
    assert many < few


def test_teacache_reads_a_number_for_each_of_two_calls_and_says_so(
    pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    guided: dict[str, Any] = {"negative_prompt": ["blue", "green"], "true_cfg_scale": 3.0}
    monkeypatch.setitem(globals(), "draw", partial(draw, **guided))
    pipe = load(pipeline_folder("flux"))
    plain = worked(pipe, "flux")[1].read_back
    METHODS["teacache"].enable(pipe, EAGER)
    read = worked(pipe, "flux")[1].read_back
    assert max(cached - own for cached, own in zip(read, plain, strict=True)) == METHODS["teacache"].syncs_per_step == 2


def test_dbcache_skips_in_the_steps_that_are_traced() -> None:
    assert dbcache.WARM_UP_STEPS < capture.STEPS - 1


def test_no_blocks_is_no_effect() -> None:
    empty = SimpleNamespace(transformer_blocks=[], single_transformer_blocks=[], norm1=None)
    with pytest.raises(NoEffect, match="no blocks to skip"):
        METHODS["teacache"].enable(SimpleNamespace(transformer=empty), EAGER)


# ---- beside other knobs ---------------------------------------------------------------------------------------------

COMPILED = tuple(name for name in METHODS if "regional" not in METHODS[name].refused_scopes)


@pytest.mark.usefixtures("only_dynamo", "process_state")
@pytest.mark.parametrize(("family", "name"), pairs(("flux", "sdxl", "wan", "cogvideox"), COMPILED))
def test_regional_compile_keeps_it_outside_the_graphs(family: str, name: str, cached: Callable[..., Any]) -> None:
    from tuner.trace import dynamo

    expected = draw(cached(family, name), family, STEPS)
    log = dynamo.start_compile_log()
    pipe = cached(family, name, **{"compile.scope": "regional"})
    assert np.allclose(draw(pipe, family, STEPS), expected, atol=1e-4)
    first = log.read()
    draw(pipe, family, STEPS)
    draw(pipe, family, 5)
    assert 1 <= log.read().unique_graphs == first.unique_graphs <= 8
    assert not log.read().breaks


def conflict_of(name: str, **different: Any) -> str | None:
    chosen = candidate(name, **different) | different
    return next(filter(None, (KNOBS[knob].conflict_reason(chosen, known()) for knob in chosen if knob in KNOBS)), None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "different",
    [
        {"compile.scope": "full", "compile.mode": "reduce-overhead"},
        {"lora.file": "few-steps.safetensors", "steps": 8},
        {"guidance.stop": 0.6},
        {"guidance.truncation": 0.6},
    ],
    ids=lambda different: next(reversed(different)),
)
def test_what_cannot_go_together_says_why(name: str, different: Values) -> None:
    assert is_one_line(conflict_of(name, **different))
    assert conflict_of(name) is None


def test_only_the_gate_rejects_the_first_block_cache_in_a_whole_graph() -> None:
    assert {name for name in METHODS if conflict_of(name, **{"compile.scope": "full"}) is None} == {"first-block"}
    assert {name for name in METHODS if conflict_of(name, **{"compile.scope": "regional"})} == {"faster"}


@pytest.mark.parametrize("name", METHODS)
def test_a_kind_takes_its_own_numbers_only(name: str) -> None:
    chosen = candidate(name)
    assert {knob for knob in chosen if knob.startswith("cache.")} == {"cache.kind", *METHODS[name].parameters}
    declared = [(a.kind, a.count_per_step, a.knob) for a in allowances(chosen)]
    syncs = METHODS[name].syncs_per_step
    assert declared == ([("device sync", syncs, "cache.kind")] if syncs else [])


# ---- the parts ------------------------------------------------------------------------------------------------------


class Timesteps(list[float]):
    """As much of a tensor as the clock needs."""

    def tolist(self) -> list[float]:
        return list(self)


class Scheduler:
    def __init__(self, *timesteps: float) -> None:
        self.timesteps = Timesteps(timesteps)

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None) -> None: ...

    def step(self, output: Any, timestep: Any, sample: Any) -> Any:
        return sample


def clock_of(*timesteps: float) -> tuple[Clock, Scheduler, Any]:
    import torch

    scheduler, denoiser = Scheduler(*timesteps), torch.nn.Identity()
    return Clock(SimpleNamespace(scheduler=scheduler, transformer=denoiser)), scheduler, denoiser


def test_the_clock_follows_a_call() -> None:
    clock, scheduler, denoiser = clock_of(1000.0, 600.0, 200.0)
    begun: list[int] = []
    clock.on_begin(lambda: begun.append(clock.steps))
    assert list(inspect.signature(scheduler.set_timesteps).parameters) == ["num_inference_steps", "device"]
    for _ in range(2):
        scheduler.set_timesteps(3)
        seen = []
        for timestep in scheduler.timesteps:
            for _ in range(2):
                denoiser(0)
                seen.append((clock.index, clock.call, clock.timestep))
            assert scheduler.step(0, timestep, "sample") == "sample"
        assert seen == [(index, call, [1000, 600, 200][index]) for index in range(3) for call in range(2)]
    assert begun == [3, 3]


def test_a_schedule_that_counts_up_is_turned_round() -> None:
    clock, scheduler, _ = clock_of(0.0, 400.0, 900.0)
    scheduler.set_timesteps(3)
    assert clock.timestep == 1000
    scheduler.step(0, 0, 0)
    assert clock.timestep == 600


def test_attention_is_broadcast_in_the_middle_and_never_before_it_was_computed() -> None:
    clock, scheduler, denoiser = clock_of(900.0, 700.0, 500.0, 300.0, 150.0, 50.0)
    plan, other = Plan(clock, 2), Plan(clock, 2)
    denoiser.register_forward_pre_hook(plan.decide)
    for _ in range(2):
        scheduler.set_timesteps(6)
        reused = []
        for index, timestep in enumerate(scheduler.timesteps):
            denoiser(0)
            reused.append(plan.reuse)
            if index == 3:  # a second denoiser takes over, as in Wan 2.2
                other.decide()
                assert not other.reuse
            scheduler.step(0, timestep, 0)
        assert reused == [False, True, False, True, False, False]


def test_the_two_calls_of_a_guided_step_keep_their_own_attention(cached: Callable[..., Any]) -> None:
    pipe = cached("wan", "pab")
    last = [module for module in pipe.transformer.modules() if hasattr(module, "plan")][-1]  # behind a look at the text
    seen = []
    clock = Clock.of(pipe)
    assert clock is not None
    clock._at_end.insert(0, lambda: seen.append(np.allclose(last.kept_0, last.kept_1)))
    draw(pipe, "wan", 3)
    assert seen == [False]
    assert last.kept_0 is last.kept_1 is None, "gigabytes are kept while the VAE decodes"


def test_teacache_sums_its_polynomial_up_to_the_threshold() -> None:
    import torch

    clock, scheduler, denoiser = clock_of(*range(1000, 0, -100))
    cache = TeaCache(0.5, clock)
    change = 0.1
    predicted = float(np.polyval(COEFFICIENTS, change))
    assert 0 < predicted < 0.5

    def decisions() -> list[bool]:
        scheduler.set_timesteps(10)
        skipped, modulated = [], torch.ones(2, 3, dtype=torch.float64)
        for timestep in scheduler.timesteps:
            denoiser(0)
            skipped.append(cache._skips(modulated))
            modulated = modulated * (1 + change)
            scheduler.step(0, timestep, 0)
        return skipped

    expected, distance = [False], 0.0
    for _ in range(8):
        distance += predicted
        expected.append(distance < 0.5)
        distance = distance if distance < 0.5 else 0.0
    assert decisions() == [*expected, False] == decisions()
    assert True in expected[1:]
    assert False in expected[1:]


def test_a_skipped_step_adds_the_last_residual(cached: Callable[..., Any]) -> None:
    pipe = cached("flux", "teacache")
    ran: list[tuple[str, Any, Any]] = []
    transformer = pipe.transformer
    transformer.transformer_blocks[1].attn.register_forward_pre_hook(lambda *_: ran.append(("ran", None, None)))
    entered = transformer.transformer_blocks[0].norm1
    entered.register_forward_pre_hook(lambda _, inputs: ran.append(("in", inputs[0].clone(), None)))
    transformer.norm_out.register_forward_pre_hook(lambda _, inputs: ran.append(("out", inputs[0].clone(), None)))
    draw(pipe, "flux", 4)
    steps: list[list[tuple[str, Any, Any]]] = []
    for event in ran:
        if event[0] == "in" and (not steps or steps[-1][-1][0] == "out"):
            steps.append([])
        steps[-1].append(event)
    residuals = [step[-1][1] - step[0][1] for step in steps]
    computed = [any(name == "ran" for name, _, _ in step) for step in steps]
    assert computed == [True, False, False, True]
    assert np.allclose(residuals[1], residuals[0], atol=1e-5)
    assert np.allclose(residuals[2], residuals[0], atol=1e-5)
    assert not np.allclose(residuals[3], residuals[0], atol=1e-5)
