"""Which rows there are: every value of every knob, what it is put on top of, and what of it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from knobs_bench.rows import Trial, What, key, said
from tuner.knobs import KNOBS
from tuner.knobs.compile import AUTOTUNED_MODES
from tuner.records.codec import Value, Values
from tuner.records.gate import GatePolicy
from tuner.records.machine import Environment
from tuner.records.model import Architecture, Workload
from tuner.records.text import shown
from tuner.space.candidates import SearchSpace

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
    ("batch *", "step, an image"),
    ("steps *", "whole call"),
)
"""What is timed, by `knob value`; a step where nothing is said."""


def catalogue(kind: Architecture, here: Environment) -> SearchSpace:
    """All candidates that there are for a pipeline here."""
    baseline = {name: knob.baseline(here) for name, knob in KNOBS.items()} | {"cache.threshold": 0.08}
    return SearchSpace(
        name="everything", architecture=kind, tolerance=1.0,
        workload=Workload(prompts=PROMPTS, seeds=(0,) * len(PROMPTS)),
        gate=GatePolicy(), baseline=baseline, recipes=(), left_out={}, knobs={},
    )  # fmt: skip


def plan(kind: Architecture, here: Environment, only: Sequence[str] = ()) -> tuple[list[Trial], dict[str, str]]:
    """The rows with their bases, in the order in which they start, and what cannot be had here with the reason."""
    space = catalogue(kind, here)
    rows: list[Trial] = []
    refused: dict[str, str] = {}
    for name, knob in KNOBS.items():
        for value in knob.choices:
            title = f"{name}={shown(value)}"
            if value == space.baseline[name] or (only and not {name, title} & set(only)):
                continue
            reason = knob.unavailable_reason(value, here, kind)
            base = None if reason else base_of(space, name, value, here)
            if base is None:
                refused[title] = reason or "no candidate has it: " + refusal(space, name, value)
            else:
                rows.append(trial(space, title, {**base, name: value}, what(kind, name, value), base))
    return sorted([*bases(space, rows), *rows], key=lambda row: row.rank), refused


def base_of(space: SearchSpace, name: str, value: Value, here: Environment) -> Values | None:
    """What a value is put on top of; None when no such candidate is allowed."""
    listed = [base for pattern, base in BASES if fnmatchcase(f"{name} {value}", pattern)]
    for base in (*listed, *FALLBACKS):
        known = all(
            not KNOBS[other].unavailable_reason(given, here, space.architecture) for other, given in base.items()
        )
        for values in (space.candidate(base), space.candidate({**base, name: value})):
            known = known and space.conflict_reason(values) is None
        if known and values.get(name) == value:
            return base
    return None


def refusal(space: SearchSpace, name: str, value: Value) -> str:
    """Why no candidate has a value, for the list of what cannot be had."""
    reasons = (space.conflict_reason(space.candidate({**base, name: value})) for base in FALLBACKS)
    return next(filter(None, reasons), "nothing here takes it")


def what(kind: Architecture, name: str, value: Value) -> What:
    """What is timed to see what a value does."""
    if name == "cudnn.benchmark":
        return "step" if "unet" in kind.components else "VAE decode"
    return next((part for pattern, part in WHATS if fnmatchcase(f"{name} {value}", pattern)), "step")


def bases(space: SearchSpace, rows: Sequence[Trial]) -> list[Trial]:
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


def trial(space: SearchSpace, title: str, different: Values, part: What, base: Values | None) -> Trial:
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
