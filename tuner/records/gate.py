"""Records of the trace gate: its policy, findings and verdict, and a summary of the traced steps."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tuner.records.codec import Count, NonNegative, Record

FindingKind = Literal["graph break", "recompile", "compile work", "device sync", "cuda graph"]

TraceShare = Annotated[float, msgspec.Meta(ge=0, le=1.001)]
"""A share of the traced time, 0 to 1. It is a ratio of sums of timestamps, which round."""


class GatePolicy(Record):
    """What the gate tolerates besides what knobs declare. The default tolerates nothing.

    `count_per_step` is the number of findings of a kind that it tolerates in a step. It also tolerates findings that
    together leave the GPU idle for at most `max_idle_ms_per_step`. Findings whose idle time is unknown, and compile
    work inside the steps, are tolerated by `count_per_step` only.
    """

    count_per_step: dict[FindingKind, NonNegative] = msgspec.field(default_factory=dict)
    max_idle_ms_per_step: NonNegative = 0.0


class Allowance(Record):
    """Findings that a knob causes by design: up to `count_per_step` of a kind in a denoising step."""

    kind: FindingKind
    count_per_step: NonNegative
    knob: str


class Finding(Record):
    """One thing that the gate found in the traced steps, and the time for which the GPU idled because of it."""

    kind: FindingKind
    count: Count
    count_per_step: NonNegative
    idle_ms_per_step: NonNegative | None
    operator: str
    reason: str
    source: str
    allowed_by: str | None = None


class Verdict(Record):
    """The gate's verdict on a trace.

    `skipped` names each check that could not be made, with the reason. `warnings` are findings of the first step, the
    autoencoder or the text encoders: they cost time once per image and reject nothing.
    """

    status: Literal["clean", "rejected", "inconclusive"]
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def undeclared(self) -> list[Finding]:
        """Return the findings that no knob declared. Each of them rejects the configuration."""
        return [finding for finding in self.findings if finding.allowed_by is None]

    def as_allowances(self) -> tuple[Allowance, ...]:
        """Return what an untouched pipeline with this verdict does in each step: nothing is rejected for that."""
        return tuple(
            Allowance(kind=found.kind, count_per_step=found.count_per_step, knob="untouched pipeline")
            for found in self.undeclared()
        )


class Copies(Record):
    """Copies of one direction, like `DtoH (Device -> Pinned)`."""

    direction: str
    count_per_step: NonNegative
    bytes_per_step: NonNegative
    ms_per_step: NonNegative


class RankExchanges(Record):
    """What the exchanges with other ranks take of a step on one rank, and how long of that it waits for the last rank.

    The wait is None if the ranks' exchanges do not match.
    """

    count_per_step: NonNegative
    ms_per_step: NonNegative
    wait_ms_per_step: NonNegative | None


class TraceSummary(Record):
    """A summary of the traced steps, usually three of a denoising loop. Shares are of their wall time, 0 to 1.

    The GPU waits for the host ("host wait") while its next work is not launched yet, and for itself ("kernel wait")
    between two launched kernels. Times by class, component, operator and kernel are the GPU's, or the CPU's if the
    trace has no GPU work. `kernels_per_step` counts the GPU's kernels by class. `ranks` has the exchanges of each
    device that computes an image together with others.
    """

    steps: Count
    events: Count
    kernel_events: Count
    step_ms: NonNegative
    gpu_busy_share: TraceShare | None
    launches_per_step: NonNegative | None
    top_operators: tuple[tuple[str, NonNegative], ...]
    host_wait_share: TraceShare | None = None
    kernel_wait_share: TraceShare | None = None
    other_wait_share: TraceShare | None = None
    classes: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    components: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    top_kernels: tuple[tuple[str, NonNegative], ...] = ()
    copies: tuple[Copies, ...] = ()
    graph_launches_per_step: NonNegative | None = None
    graph_kernel_share: TraceShare | None = None
    kernels_per_step: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    ranks: tuple[RankExchanges, ...] = ()
