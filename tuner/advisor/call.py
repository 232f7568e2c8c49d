"""One call of a pipeline as seconds by part, and what remains of it when parts change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tuner.records.gate import TraceSummary
from tuner.records.machine import Roofline
from tuner.records.outcome import Outcome

PRODUCTS, ATTENTION, CONVOLUTIONS, ELEMENTWISE, COPIES = (
    "products", "attention", "convolutions", "element-wise work and norms", "copies",
)  # fmt: skip
IDLE, HOST = "idle", "host"
VAE, TEXT, REST = "VAE", "text encoders", "the rest"

OF_CLASS: Mapping[str, str] = {
    "GEMM": PRODUCTS,
    "attention": ATTENTION,
    "convolution": CONVOLUTIONS,
    "elementwise and norm": ELEMENTWISE,
    "copy": COPIES,
    "communication": COPIES,
}
"""The part of a step that each class of kernels (tuner/trace/classes.py) belongs to."""

WORK = (PRODUCTS, ATTENTION, CONVOLUTIONS, ELEMENTWISE, COPIES)
STEP_PARTS = (*WORK, IDLE)
OTHER_PARTS = (TEXT, VAE, REST)
PARTS = (*STEP_PARTS, *OTHER_PARTS)

HOST_BOUND = 0.12
"""A step whose GPU waits for the host for a larger share of its time is bound by the host."""

LAUNCH_S = 12e-6
"""Seconds in which the host launches one kernel of uncompiled code (SDXL and FLUX.1, H200, 16 cores)."""

PRODUCT_LAUNCHES = 6.0
"""Launches for each product of an uncompiled transformer, where its products were not counted."""

Which = Literal["factor", "low", "high", "least"]


@dataclass(frozen=True)
class Change:
    """What remains of a part of a call: `factor` of its time, with 95 % confidence between `low` and `high`, and
    never less than `least`.
    """

    part: str
    factor: float
    low: float
    high: float
    least: float


@dataclass(frozen=True)
class Call:
    """The seconds of one call: of all steps by part in `parts`, and `host_s` in which the host launches the steps.

    A step takes as long as its work and gaps, or as its launches where these take longer.
    """

    parts: Mapping[str, float]
    host_s: float
    product_calls: float = 0.0
    """Matrix products in all steps."""
    host_slowness: float = 1.0
    """How much longer this host takes for a launch than the one on which `LAUNCH_S` was measured, if that shows."""

    @property
    def steps_s(self) -> float:
        """The seconds of all steps."""
        return max(sum(self.parts[part] for part in STEP_PARTS), self.host_s)

    @property
    def waits_for_host(self) -> bool:
        """Whether launching takes longer than the work, which then shows in no step."""
        return self.host_s > sum(self.parts[part] for part in STEP_PARTS)

    @property
    def seconds(self) -> float:
        """The seconds of the whole call."""
        return self.steps_s + sum(self.parts[part] for part in OTHER_PARTS)

    @property
    def idle_s(self) -> float:
        """The seconds of the steps in which the device waits, for the host or between two kernels."""
        return self.steps_s - sum(self.parts[part] for part in WORK)

    def shown(self) -> dict[str, float]:
        """Return the seconds by part, with all waiting as idle time."""
        return {**self.parts, IDLE: self.idle_s}

    def share(self, part: str) -> float:
        """Return the share of a part in the call, 0 to 1."""
        return (self.idle_s if part in (IDLE, HOST) else self.parts[part]) / self.seconds

    def after(self, changes: Sequence[Change], which: Which = "factor") -> Call:
        """Return the call with changes, as they are expected or at one of their limits."""
        parts, host_s = dict(self.parts), self.host_s
        for change in changes:
            remaining = getattr(change, which)
            if change.part == HOST:
                host_s *= remaining
            else:
                parts[change.part] *= remaining
        return replace(self, parts=parts, host_s=host_s)


def call_of(baseline: Outcome) -> Call | None:
    """Return the untouched pipeline's call by part, or None if it was not traced or not timed.

    The profiler slows the host, not the kernels: their seconds are the trace's, and the rest of a step's time by the
    device's clock is idle.
    """
    trace = baseline.build.trace if baseline.build else None
    timing = baseline.timing
    if trace is None or timing is None or not trace.classes or not trace.step_ms:
        return None
    steps, traced_s = int(baseline.values["steps"]), trace.step_ms / 1000
    found = timing.components
    step_s = found.denoiser_s / steps if found is not None and found.denoiser_s else traced_s
    work = dict.fromkeys(WORK, 0.0)
    for name, share in trace.classes.items():
        if name in OF_CLASS:
            work[OF_CLASS[name]] += share * traced_s
    busy_s = sum(work.values())
    if busy_s > step_s:  # kernels of several streams, or threads of a CPU, overlap
        work = {part: seconds * step_s / busy_s for part, seconds in work.items()}
        busy_s = step_s
    gaps_s, host_s = _waiting(trace, step_s, busy_s)
    other = {TEXT: None, VAE: None, REST: None}
    if found is not None:
        other = {TEXT: found.text_encoders_s, VAE: found.vae_s, REST: found.rest_s}  # type: ignore[dict-item]
    parts = {part: seconds * steps for part, seconds in (work | {IDLE: gaps_s}).items()}
    return Call(
        parts=parts | {part: seconds or 0.0 for part, seconds in other.items()},
        host_s=host_s * steps,
        product_calls=_products(trace) * steps,
        host_slowness=_slowness(trace, step_s, host_s),
    )


def _waiting(trace: TraceSummary, step_s: float, busy_s: float) -> tuple[float, float]:
    """Return the seconds of a step between its kernels, and those in which the host launches them."""
    idle_s = step_s - busy_s
    if trace.launches_per_step is None:
        return idle_s, 0.0  # on a CPU the same cores launch and work
    kernel_s = (trace.kernel_wait_share or 0.0) * trace.step_ms / 1000
    if idle_s > HOST_BOUND * step_s and (trace.host_wait_share or 0.0) > HOST_BOUND:
        return min(idle_s, kernel_s), step_s
    return idle_s, min(step_s, trace.launches_per_step * LAUNCH_S)


def _slowness(trace: TraceSummary, step_s: float, host_s: float) -> float:
    """Return how much slower this host launches, which only shows in steps that wait for it."""
    launching_s = (trace.launches_per_step or 0.0) * LAUNCH_S
    return max(1.0, host_s / launching_s) if launching_s and host_s >= step_s else 1.0


def _products(trace: TraceSummary) -> float:
    """Return how many matrix products a step has."""
    counted = trace.kernels_per_step.get("GEMM")
    return counted if counted is not None else (trace.launches_per_step or 0.0) / PRODUCT_LAUNCHES


def product_flop_per_s(call: Call, roofline: Roofline, steps: int, batch: int) -> float | None:
    """Return the FLOP per second that the products of the steps reach, or None if their FLOP were not counted."""
    flop = roofline.flop_by_class.get("GEMM")
    seconds = call.parts[PRODUCTS]
    return flop * steps * batch / seconds if flop and seconds else None
