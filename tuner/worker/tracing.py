"""Trace denoising steps of a built pipeline, and gate them."""

from __future__ import annotations

import tempfile
import traceback
from functools import partial
from pathlib import Path

import msgspec

from tuner.knobs import allowances
from tuner.knobs.parallel import device_count
from tuner.records.gate import TraceSummary, Verdict
from tuner.records.protocol import Job, Point
from tuner.timing.components import denoisers, patch_calls
from tuner.timing.measure import warm_up
from tuner.worker.calls import PipelineCalls

NOT_COMPILED = "the code that inductor generates: the graph breaks, so it was not compiled"


class Tracer:
    """The compile log of this process, and the gate's verdicts on a pipeline's traces."""

    def __init__(self, calls: PipelineCalls) -> None:
        from tuner.trace import dynamo

        self.calls = calls
        self.job = calls.job
        self.compile_log = dynamo.start_compile_log()
        self.profiled = False
        """Whether the profiler has run on the GPU, which slows all later launches."""

    def first_call(self, point: Point, folder: Path) -> tuple[TraceSummary, Verdict] | None:
        """Make the first call, which compiles what is to be compiled.

        Return the gate's rejection instead if it can be found without inductor.

        If any graph break leads to a rejection, dynamo looks for one first: inductor takes minutes for a large model.
        """
        from tuner.trace import dynamo

        user_call = self.calls.user_call(point)

        def call() -> object:
            with self.calls.turn_on_cpu():
                return user_call()

        if not rejects_graph_breaks(self.job):
            call()
            return None
        with patch_calls(denoisers(self.calls.pipe), dynamo.error_on_graph_break):
            if not dynamo.breaks_graph(call):
                return None
        result = self.trace_eagerly(point, folder)
        if result is not None and result[1].status != "clean":
            return result
        self.calls.channel.enter("compile")
        self.compile_log = dynamo.restart_compile_log()
        call()
        return None

    def trace_eagerly(self, point: Point, folder: Path) -> tuple[TraceSummary, Verdict] | None:
        """Trace and gate the pieces of a broken graph, run operator by operator.

        Return None if they do not run (they may need more memory than compiled code), or if no break is in a denoiser.
        """
        from tuner.trace import capture, dynamo, sources

        def run() -> object:
            self.calls.report_alive()
            return self.calls.run_steps(point, capture.STEPS)

        with dynamo.without_inductor() as self.compile_log:
            try:
                with self.calls.turn_on_cpu():
                    warm_up(run, self.calls.clock, self.graph_count)
            except Exception as error:
                traceback.print_exception(error)
                return None
            if all(sources.is_outside_denoiser(found.source) for found in self.compile_log.read().breaks):
                return None
            self.calls.channel.enter("trace")
            summary, verdict = self.trace(point, folder, asks_for_graphs=False)
        return summary, _only_compile_findings(verdict)

    def trace(self, point: Point, folder: Path, *, asks_for_graphs: bool) -> tuple[TraceSummary, Verdict]:
        """Profile three denoising steps and gate them. If they are rejected, add the source lines of the findings."""
        from tuner.trace import capture, gate, read
        from tuner.trace.exchanges import rank_exchanges
        from tuner.trace.summary import summarise

        self.profiled = self.job.environment.device == "cuda"
        call, scheduler = partial(self.calls.run_steps, point), self.calls.pipe.scheduler
        with self.calls.turn():
            file = capture.capture(partial(call, trace_folder=folder), scheduler, folder, "denoise")
            others = self.calls.ranks.traces()
        trace = read.load(file)
        allowed = (*allowances(self.job.build), *self.job.allowed)
        verdict = gate.judge(
            trace, self.compile_log.read(), allowed, self.job.environment.device, self.job.gate,
            asks_for_graphs=asks_for_graphs,
        )  # fmt: skip
        if any(not finding.source for finding in verdict.undeclared()):
            with tempfile.TemporaryDirectory() as scratch:
                diagnostic = read.load(capture.diagnose(call, scheduler, Path(scratch)))
            verdict = gate.add_source_lines(verdict, diagnostic)
        summary = summarise(trace)
        if others:
            ranks = rank_exchanges([trace, *(read.load(Path(file)) for file in others)])
            summary = msgspec.structs.replace(summary, ranks=ranks)
        return summary, verdict

    def graph_count(self) -> int:
        """Return how many graphs this process has compiled so far."""
        return self.compile_log.read().unique_graphs


def rejects_graph_breaks(job: Job) -> bool:
    """Return whether a single graph break makes the gate reject the configuration before anything is compiled.

    Not on several devices: the call in which one is looked for ends where it is found, and leaves them out of step.
    """
    captured_by_hand = job.build.get("graphs.denoiser")  # dynamo's reset does not undo it
    if job.is_baseline or not job.trace or captured_by_hand or device_count(job.build) > 1:
        return False
    tolerated = {*job.gate.count_per_step, *(a.kind for a in (*allowances(job.build), *job.allowed))}
    return "graph break" not in tolerated and job.gate.max_idle_ms_per_step == 0


def _only_compile_findings(verdict: Verdict) -> Verdict:
    """Keep the graph breaks and recompiles without their idle times: eager code waits at other places."""
    findings = tuple(
        msgspec.structs.replace(finding, idle_ms_per_step=None)
        for finding in verdict.findings
        if finding.kind in ("graph break", "recompile")
    )
    return msgspec.structs.replace(verdict, findings=findings, skipped=(*verdict.skipped, NOT_COMPILED))
