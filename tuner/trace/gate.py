"""The gate: what a trace and a compile log show, and whether a configuration may stay in the search. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tuner.records.gate import Allowance, Finding, FindingKind, GatePolicy, Verdict
from tuner.trace.compile_log import CompileLog
from tuner.trace.findings import Findings
from tuner.trace.read import RUNTIME, Trace

STEADY_STEPS = 3

_POLICY = "gate"
_NEVER_BY_PRICE: frozenset[FindingKind] = frozenset({"recompile", "compile work"})
_ON_A_CPU = ("device syncs: the CPU has no queue to wait for", "CUDA graphs: the CPU has none")
_UNMARKED = ("single steps: none is marked (denoise_step#2, ProfilerStep#2), so the whole trace was judged as one",)
_NO_STACKS = ("source lines: profile with with_stack=True, experimental_config=_ExperimentalConfig(verbose=True)",)
_NO_LOG = ("functions that torch.compile gave up: they run uncompiled, and only its own log names them",)
_NO_REQUEST = ("CUDA graphs: a trace does not tell whether they were asked for",)


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

    A finding that no knob declared and that the policy does not tolerate rejects the configuration.
    """
    steps = len(trace.steps)
    few = [f"trace: it marks {steps} steady steps, not {STEADY_STEPS}"] if steps < STEADY_STEPS else []
    policy = policy or GatePolicy()
    allowed = [*allowances, *_as_allowances(policy)]
    if device == "cpu":
        found, warnings = _of_compiler(trace, log)
        blind, unknown = few, list(_ON_A_CPU)
    else:
        found, warnings = _of_gpu(trace, log, asks_for_graphs)
        blind, unknown = [*few, *_missed(trace)], []
    findings = _tolerate(_allow(found, allowed), policy)
    return Verdict(
        status=_status(findings, blind), findings=findings, skipped=(*blind, *unknown), warnings=tuple(warnings)
    )


def judge_without_log(trace: Trace, policy: GatePolicy | None = None) -> Verdict:
    """Judge a trace of any program without a compile log; see `read.ensure_steps`.

    `skipped` lists what a trace alone does not show.
    """
    policy = policy or GatePolicy()
    found, warnings = _of_gpu(trace, None, False) if trace.gpu else _of_compiler(trace, None)
    findings = _tolerate(_allow(found, _as_allowances(policy)), policy)
    blind = _missed(trace) if trace.gpu or not trace.host else []
    unknown = [
        *(_UNMARKED if trace.is_unmarked else ()),
        *(_NO_STACKS if any(finding.kind == "device sync" and not finding.source for finding in findings) else ()),
        *_NO_LOG,
        *(_NO_REQUEST if trace.gpu else _ON_A_CPU),
    ]
    skipped = (*blind, *unknown)
    return Verdict(status=_status(findings, blind), findings=findings, skipped=skipped, warnings=tuple(warnings))


def _of_compiler(trace: Trace, log: CompileLog | None) -> tuple[list[Finding], list[Finding]]:
    found = Findings(trace, is_gpu=False)
    return [*found.graph_breaks(log), *found.recompiles(log), *found.compile_work()], found.outside_denoiser(log)


def _of_gpu(trace: Trace, log: CompileLog | None, asks_for_graphs: bool) -> tuple[list[Finding], list[Finding]]:
    """Return the findings, and the warnings about what is paid once an image. Each takes its price before the next."""
    found = Findings(trace, is_gpu=True)
    syncs = found.syncs()
    compiled = [*found.graph_breaks(log), *found.recompiles(log), *found.compile_work()]
    graphs = found.cuda_graphs(log, asks_for_graphs)
    return [*compiled, *syncs, *graphs], [*found.outside_denoiser(log), *found.syncs_of_first_step(syncs)]


def _missed(trace: Trace) -> list[str]:
    """Return why nothing can be said of what the GPU did."""
    if trace.kernels:
        return []
    if not trace.host:
        return ["everything: the trace has no event of the CPU"]
    if trace.device and not any(event.cat in RUNTIME for event in trace.host):
        return ["device syncs: the trace has GPU work and no call of the CPU that started it"]
    return ["device syncs: the trace has no GPU kernel in its steps, so the profiler missed the GPU"]


def add_source_lines(verdict: Verdict, diagnostic: Trace) -> Verdict:
    """Add the source lines of a verdict's syncs, from a trace of the same build captured with stacks."""
    found = Findings(diagnostic, is_gpu=True)
    steady = found.syncs()
    return msgspec.structs.replace(
        verdict,
        findings=_named(verdict.findings, steady),
        warnings=_named(verdict.warnings, found.syncs_of_first_step(steady)),
    )


def _named(findings: Iterable[Finding], diagnostic: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, those without a source line with the lines of diagnostic ones of the same operator."""
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
    """Mark each finding with the knob that declared it, as far as what the knob declared is not used up."""
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


def _tolerate(findings: Sequence[Finding], policy: GatePolicy) -> tuple[Finding, ...]:
    """Mark the cheapest findings as tolerated while together they cost no more than the policy allows."""
    left = policy.max_idle_ms_per_step
    tolerated: set[int] = set()
    for finding in sorted(findings, key=lambda finding: finding.idle_ms_per_step or 0.0):
        price = finding.idle_ms_per_step
        if finding.allowed_by or price is None or finding.kind in _NEVER_BY_PRICE or not policy.max_idle_ms_per_step:
            continue
        left -= price
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
