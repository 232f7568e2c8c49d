"""Records of the trace gate: its policy, findings and verdict, and what the traced steps showed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tuner.records.codec import Record

FindingKind = Literal["graph break", "recompile", "compile work", "device sync", "cuda graph"]


class GatePolicy(Record):
    """What the gate tolerates besides what knobs declare: so many findings of a kind in a step, and any that together
    leave the GPU idle for no longer than this in a step. The default tolerates nothing. Whatever has no known price,
    and compiling inside the steps, is tolerated by kind only."""

    count_per_step: dict[FindingKind, Annotated[float, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    max_idle_ms_per_step: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Allowance(Record):
    """Findings of the gate that are a knob's design: up to so many of a kind in a denoising step."""

    kind: FindingKind
    count_per_step: float
    knob: str


class Finding(Record):
    """One thing that the gate found in the traced steps, priced by the time in which the GPU idled because of it."""

    kind: FindingKind
    count: int
    count_per_step: float
    idle_ms_per_step: float | None
    operator: str
    reason: str
    source: str
    allowed_by: str | None = None


class Verdict(Record):
    """What the gate makes of a trace; `skipped` names each check that could not be made here, and why. `warnings` are
    what only the first step does, or autoencoders and text encoders: paid once an image, it rejects nothing."""

    status: Literal["clean", "rejected", "inconclusive"]
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def undeclared(self) -> list[Finding]:
        """The findings that no knob declared: each of them rejects the configuration."""
        return [finding for finding in self.findings if finding.allowed_by is None]


class Copies(Record):
    """Copies of one direction, like `DtoH (Device -> Pinned)`."""

    direction: str
    count_per_step: float
    bytes_per_step: float
    ms_per_step: float


class TraceSummary(Record):
    """What the traced steps showed, as a rule three of a denoising loop. Shares are of their wall time, 0 to 1.

    The GPU waits for the host while its next work is not launched yet, and for itself ("kernel wait") between two that
    are. Times by class, component, operator and kernel are the GPU's, or the CPU's where the trace has no GPU work.
    """

    steps: int
    events: int
    kernel_events: int
    step_ms: float
    gpu_busy_share: float | None
    launches_per_step: float | None
    top_operators: tuple[tuple[str, float], ...]
    host_wait_share: float | None = None
    kernel_wait_share: float | None = None
    other_wait_share: float | None = None
    classes: dict[str, float] = msgspec.field(default_factory=dict)
    components: dict[str, float] = msgspec.field(default_factory=dict)
    top_kernels: tuple[tuple[str, float], ...] = ()
    copies: tuple[Copies, ...] = ()
    graph_launches_per_step: float | None = None
    graph_kernel_share: float | None = None
