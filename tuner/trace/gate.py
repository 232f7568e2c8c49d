"""The gate: what a trace and a compile log show, and whether a configuration may stay in the search. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tuner.record import Allowance, Finding, Verdict
from tuner.trace.compile_log import CompileLog
from tuner.trace.findings import cudagraph_findings, graph_breaks, recompiles, syncs
from tuner.trace.read import Trace
from tuner.trace.summary import kernels_of_steps

STEADY_STEPS = 3


def judge(trace: Trace, log: CompileLog, allowances: Sequence[Allowance], device: Literal["cuda", "cpu"]) -> Verdict:
    """The verdict on the marked steps of `trace`. A finding that no knob declared rejects the configuration."""
    steps = len(trace.steps)
    findings = [*graph_breaks(trace, log), *recompiles(trace, log)]
    skipped = [f"trace: it marks {steps} steady steps, not {STEADY_STEPS}"] if steps < STEADY_STEPS else []
    if device == "cpu":
        not_here = ["device syncs: the CPU has no queue to wait for", "CUDA graphs: the CPU has none"]
    else:
        not_here = []
        findings += [*syncs(trace), *cudagraph_findings(log)]
        if not kernels_of_steps(trace):
            skipped.append("device syncs: the trace has no GPU kernel in its steps, so the profiler missed the GPU")
    judged = _allow(findings, allowances)
    return Verdict(status=_status(judged, skipped), findings=judged, skipped=(*skipped, *not_here))


def name_sources(verdict: Verdict, diagnostic: Trace) -> Verdict:
    """The verdict with the source lines of its syncs, taken from a trace of the same build captured with stacks."""
    lines: dict[str, list[str]] = {}
    for finding in syncs(diagnostic):
        if finding.source:
            lines.setdefault(finding.operator, []).append(finding.source)
    findings = tuple(
        finding
        if finding.source or finding.operator not in lines
        else msgspec.structs.replace(finding, source=", ".join(dict.fromkeys(lines[finding.operator])))
        for finding in verdict.findings
    )
    return msgspec.structs.replace(verdict, findings=findings)


def _allow(findings: Iterable[Finding], allowances: Sequence[Allowance]) -> tuple[Finding, ...]:
    """Each finding, marked with the knob that declared it if what the knob declared is not used up yet."""
    left = [allowance.count_per_step for allowance in allowances]
    judged = []
    for finding in findings:
        fitting = (
            index
            for index, allowance in enumerate(allowances)
            if allowance.kind == finding.kind and finding.count_per_step <= left[index]
        )
        index = next(fitting, None)
        if index is None:
            judged.append(finding)
        else:
            left[index] -= finding.count_per_step
            judged.append(msgspec.structs.replace(finding, allowed_by=allowances[index].knob))
    return tuple(judged)


def _status(findings: Sequence[Finding], skipped: Sequence[str]) -> Literal["clean", "rejected", "inconclusive"]:
    if any(finding.allowed_by is None for finding in findings):
        return "rejected"
    return "inconclusive" if skipped else "clean"
