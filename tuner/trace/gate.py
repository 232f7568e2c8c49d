"""The gate: decides from a trace and a compile log whether a configuration stays in the search. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tuner.records.gate import Allowance, Finding, FindingKind, GatePolicy, Verdict
from tuner.trace.compile_log import CompileLog
from tuner.trace.findings import Findings
from tuner.trace.missing import missing_checks, missing_gpu_events, mixed_processes, untimed_events
from tuner.trace.read import Trace

STEADY_STEPS = 3

_POLICY = "gate"
_NOT_BY_IDLE_TIME: frozenset[FindingKind] = frozenset({"recompile", "compile work"})
_ON_A_CPU = ("device syncs: the CPU has no queue to wait for", "CUDA graphs: the CPU has none")
_UNMARKED = ("single steps: no step is marked (denoise_step#2, ProfilerStep#2), so the whole trace counts as one step",)
_NO_STACKS = ("source lines: profile with with_stack=True, experimental_config=_ExperimentalConfig(verbose=True)",)
_NO_LOG = ("functions that torch.compile gave up on: they run uncompiled, and only the compile log names them",)
_NO_REQUEST = ("CUDA graphs: a trace does not show whether they were requested",)


def judge(
    trace: Trace,
    log: CompileLog,
    allowances: Sequence[Allowance],
    device: Literal["cuda", "cpu"],
    policy: GatePolicy | None = None,
    *,
    asks_for_graphs: bool = False,
) -> Verdict:
    """Return the verdict on the marked steps of `trace`.

    A finding rejects the configuration unless a knob declares it or the policy tolerates it.
    """
    steps = len(trace.steps)
    few = [f"trace: {steps} steady steps are marked instead of {STEADY_STEPS}"] if steps < STEADY_STEPS else []
    policy = policy or GatePolicy()
    allowed = [*allowances, *_as_allowances(policy)]
    if device == "cpu":
        results, warnings = _cpu_findings(trace, log)
        missing, unknown = few, list(_ON_A_CPU)
    else:
        results, warnings = _gpu_findings(trace, log, asks_for_graphs)
        missing, unknown = [*few, *missing_gpu_events(trace)], []
    findings = _tolerate(_allow(results, allowed), policy)
    skipped = (*missing, *unknown)
    return Verdict(status=_status(findings, missing), findings=findings, skipped=skipped, warnings=tuple(warnings))


def judge_without_log(trace: Trace, policy: GatePolicy | None = None) -> Verdict:
    """Judge a trace of any program without a compile log; see `read.ensure_steps`.

    `skipped` lists what a trace alone does not show.
    """
    if mixed := mixed_processes(trace):
        return Verdict(status="inconclusive", skipped=tuple(mixed))
    policy = policy or GatePolicy()
    results, warnings = _gpu_findings(trace, None, False) if trace.gpu else _cpu_findings(trace, None)
    findings = _tolerate(_allow(results, _as_allowances(policy)), policy)
    missing = [*trace.missing, *missing_checks(trace)]
    unknown = [
        *trace.notes,
        *untimed_events(trace),
        *(_UNMARKED if trace.is_unmarked else ()),
        *(_NO_STACKS if any(finding.kind == "device sync" and not finding.source for finding in findings) else ()),
        *_NO_LOG,
        *(_NO_REQUEST if trace.gpu else _ON_A_CPU),
    ]
    skipped = (*missing, *unknown)
    return Verdict(status=_status(findings, missing), findings=findings, skipped=skipped, warnings=tuple(warnings))


def _cpu_findings(trace: Trace, log: CompileLog | None) -> tuple[list[Finding], list[Finding]]:
    """Return the findings, and the warnings about work that is done once per image."""
    rules = Findings(trace, is_gpu=False)
    return [*rules.graph_breaks(log), *rules.recompiles(log), *rules.compile_work()], rules.outside_denoiser(log)


def _gpu_findings(trace: Trace, log: CompileLog | None, asks_for_graphs: bool) -> tuple[list[Finding], list[Finding]]:
    """Return the findings, and the warnings about work that is done once per image.

    The order of the calls matters: each rule claims its idle time before the next.
    """
    rules = Findings(trace, is_gpu=True)
    syncs = rules.syncs()
    compiled = [*rules.graph_breaks(log), *rules.recompiles(log), *rules.compile_work()]
    graphs = rules.cuda_graphs(log, asks_for_graphs)
    return [*compiled, *syncs, *graphs], [*rules.outside_denoiser(log), *rules.syncs_of_first_step(syncs)]


def add_source_lines(verdict: Verdict, diagnostic: Trace) -> Verdict:
    """Add source lines to a verdict's syncs, from a trace of the same build that was captured with stacks."""
    rules = Findings(diagnostic, is_gpu=True)
    steady = rules.syncs()
    return msgspec.structs.replace(
        verdict,
        findings=_with_sources(verdict.findings, steady),
        warnings=_with_sources(verdict.warnings, rules.syncs_of_first_step(steady)),
    )


def _with_sources(findings: Iterable[Finding], diagnostic: Iterable[Finding]) -> tuple[Finding, ...]:
    """Fill in missing source lines from the diagnostic findings of the same operator."""
    lines: dict[str, dict[str, None]] = {}
    for finding in diagnostic:
        if finding.source:
            lines.setdefault(finding.operator, {})[finding.source] = None
    return tuple(
        finding
        if finding.source
        else msgspec.structs.replace(finding, source=", ".join(lines.get(finding.operator, ())))
        for finding in findings
    )


def _as_allowances(policy: GatePolicy) -> list[Allowance]:
    return [Allowance(kind=kind, count_per_step=count, knob=_POLICY) for kind, count in policy.count_per_step.items()]


def _allow(findings: Iterable[Finding], allowances: Sequence[Allowance]) -> tuple[Finding, ...]:
    """Mark each finding with the knob that declares it, until the declared count is used up."""
    left = [allowance.count_per_step for allowance in allowances]
    judged = []
    for finding in findings:
        matches = (
            index
            for index, allowance in enumerate(allowances)
            if allowance.kind == finding.kind and finding.count_per_step <= left[index]
        )
        index = next(matches, None)
        if index is None:
            judged.append(finding)
        else:
            left[index] -= finding.count_per_step
            judged.append(msgspec.structs.replace(finding, allowed_by=allowances[index].knob))
    return tuple(judged)


def _tolerate(findings: Sequence[Finding], policy: GatePolicy) -> tuple[Finding, ...]:
    """Mark the cheapest findings as tolerated while their total idle time is within the policy's limit."""
    left = policy.max_idle_ms_per_step
    tolerated: set[int] = set()
    for finding in sorted(findings, key=lambda finding: finding.idle_ms_per_step or 0.0):
        idle_ms = finding.idle_ms_per_step
        if (
            finding.allowed_by
            or idle_ms is None
            or finding.kind in _NOT_BY_IDLE_TIME
            or not policy.max_idle_ms_per_step
        ):
            continue
        left -= idle_ms
        if left >= 0:
            tolerated.add(id(finding))
    return tuple(
        msgspec.structs.replace(finding, allowed_by=_POLICY) if id(finding) in tolerated else finding
        for finding in findings
    )


def _status(findings: Sequence[Finding], skipped: Sequence[str]) -> Literal["clean", "rejected", "inconclusive"]:
    if any(finding.allowed_by is None for finding in findings):
        return "rejected"
    return "inconclusive" if skipped else "clean"
