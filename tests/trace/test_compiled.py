"""Planted defects in really compiled toy models, on the CPU, through the whole of capture, read and judge."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._inductor import cudagraph_utils  # noqa: E402
from torch.cuda import _gpu_trace  # noqa: E402

from tuner.errors import BadInput  # noqa: E402
from tuner.records.gate import Allowance, Finding, Verdict  # noqa: E402
from tuner.trace import events, read  # noqa: E402
from tuner.trace.capture import DIAGNOSED_STEPS, capture, diagnose  # noqa: E402
from tuner.trace.compile_log import CompileLog  # noqa: E402
from tuner.trace.dynamo import start_compile_log  # noqa: E402
from tuner.trace.findings import recompiles_between  # noqa: E402
from tuner.trace.gate import judge  # noqa: E402
from tuner.trace.summary import summarise  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

Step = Callable[[Any, int], Any]


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))


class Clean(Layers):
    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x).relu()
        return x


class BreakInLoop(Layers):
    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
            torch._dynamo.graph_break()  # planted: loop
        return x


class Break(Layers):
    def forward(self, x: Any) -> Any:
        x = self.layers[0](x)
        torch._dynamo.graph_break()  # planted: break
        return self.layers[1](x)


class ItemBranch(Layers):
    def forward(self, x: Any) -> Any:
        x = self.layers[0](x)
        if x.isnan().any().item():  # planted: item
            x = x + 1
        return self.layers[1](x)


class TensorBranch(Layers):
    def forward(self, x: Any) -> Any:
        x = self.layers[0](x)
        if x.sum() > 1e9:  # planted: branch
            x = x + 1
        return self.layers[1](x)


class Tail(Layers):
    def forward(self, x: Any) -> Any:
        return torch.nonzero(self.layers[0](x) > 1e9)  # planted: tail


class TwoBreaks(Layers):
    def forward(self, x: Any) -> Any:
        x = self.layers[0](x)
        torch._dynamo.graph_break()  # planted: first
        x = self.layers[1](x)
        torch._dynamo.graph_break()  # planted: second
        return self.layers[2](x)


class Inlined(Layers):
    def forward(self, x: Any) -> Any:
        return self.layers[1](broken_helper(self.layers[0](x)))


def broken_helper(x: Any) -> Any:
    print(end="")  # planted: helper
    return x * 2


def line_of(mark: str) -> str:
    """The line of this file that carries a planted defect's comment."""
    lines = Path(__file__).read_text().splitlines()
    return f"{__file__}:{1 + next(i for i, line in enumerate(lines) if line.endswith(f'# planted: {mark}'))}"


def run(pipe: Any, folder: Path, warm_up: int = 4) -> tuple[read.Trace, CompileLog]:
    log = start_compile_log()
    pipe(warm_up)
    path = capture(pipe, pipe.scheduler, folder, "trial")
    return read.load(path), log.read()


def judged(step: Step, pipeline: Any, folder: Path, allowances: tuple[Allowance, ...] = ()) -> Verdict:
    return judge(*run(pipeline(step, torch.randn(4, 8)), folder), allowances, "cpu")


def compiled(module: type[torch.nn.Module], **options: Any) -> Step:
    model = torch.compile(module().requires_grad_(False), **options)
    return lambda x, index: model(x)


def only(verdict: Verdict) -> Finding:
    assert len(verdict.findings) == 1, verdict.findings
    return verdict.findings[0]


def test_eager_is_clean(pipeline: Any, tmp_path: Path) -> None:
    model = ItemBranch().requires_grad_(False)
    trace, log = run(pipeline(lambda x, index: model(x), torch.randn(4, 8)), tmp_path)
    assert log == CompileLog()
    verdict = judge(trace, log, (), "cpu")
    assert verdict.status == "clean"
    assert any(line.startswith("device syncs: the CPU") for line in verdict.skipped)


def test_compiled_is_clean_and_summarised(pipeline: Any, tmp_path: Path) -> None:
    trace, log = run(pipeline(compiled(Clean), torch.randn(4, 8)), tmp_path)
    assert judge(trace, log, (), "cpu").status == "clean"
    assert log.unique_graphs == 1
    assert [(entry.function, entry.reason) for entry in log.compilations] == [("forward", "")]
    summary = summarise(trace)
    assert (summary.steps, summary.kernel_events, summary.gpu_busy_share) == (3, 0, None)
    assert summary.step_ms > 0
    assert summary.top_operators
    assert 0 < sum(share for _, share in summary.top_operators) <= 1


def test_regional_compilation_is_clean(pipeline: Any, tmp_path: Path) -> None:
    blocks = [torch.compile(torch.nn.Linear(8, 8).requires_grad_(False), fullgraph=True) for _ in range(3)]
    model = torch.nn.Sequential(*blocks)
    assert judged(lambda x, index: model(x), pipeline, tmp_path).status == "clean"


def test_cudagraphs_cannot_be_asked_of_a_cpu(pipeline: Any, tmp_path: Path) -> None:
    trace, log = run(pipeline(compiled(Clean, mode="reduce-overhead"), torch.randn(4, 8)), tmp_path)
    assert log.cudagraph_skips > 0
    assert judge(trace, log, (), "cpu").status == "clean"
    assert [f.kind for f in judge(trace, log, (), "cuda").findings] == ["cuda graph"]


def test_the_reason_of_a_skipped_cudagraph_is_kept() -> None:
    log = start_compile_log()
    cudagraph_utils.cudagraphs_log.warning("skipping cudagraphs due to a planted reason")
    assert log.read().cudagraph_reasons == ("skipping cudagraphs due to a planted reason",)
    assert start_compile_log().read().cudagraph_reasons == ()


def test_the_line_of_a_skipped_cudagraph_is_kept() -> None:
    log, why = start_compile_log(), "skipping cudagraphs due to "
    stack = 'File "/home/me/outer.py", line 3, in f\n    g(x)\n  File "/home/me/inner.py", line 12, in g\n    add_'
    cudagraph_utils.cudagraphs_log.warning(f"{2 * why}mutated inputs. Found from : \n {stack}")
    seen = log.read()
    assert seen.cudagraph_reasons == (f"{why}mutated inputs",)
    assert seen.cudagraph_sources == ("/home/me/inner.py:12",)


@pytest.mark.parametrize(
    ("module", "mark", "word"),
    [
        (BreakInLoop, "loop", "graph_break"),
        (Break, "break", "graph_break"),
        (ItemBranch, "item", "item"),
        (TensorBranch, "branch", "generic_jump"),
        (Tail, "tail", "Dynamic shape operator"),
        (Inlined, "helper", "builtin"),
    ],
)
def test_a_break_is_found_at_its_line(
    module: type[torch.nn.Module], mark: str, word: str, pipeline: Any, tmp_path: Path
) -> None:
    model = compiled(module)
    verdict = judged(lambda x, index: x + 0 * model(x, index).sum(), pipeline, tmp_path)
    assert verdict.status == "rejected"
    finding = only(verdict)
    assert finding.kind == "graph break"
    assert finding.source == line_of(mark)
    assert word in finding.reason
    assert "\n" not in finding.reason
    assert finding.count_per_step == 1
    assert finding.idle_ms_per_step is None


def test_two_breaks_in_one_function_are_two_findings(pipeline: Any, tmp_path: Path) -> None:
    findings = judged(compiled(TwoBreaks), pipeline, tmp_path).findings
    assert {finding.source: finding.count_per_step for finding in findings} == {
        line_of("first"): 1,
        line_of("second"): 1,
    }


def test_a_break_in_a_block_counts_each_time_it_runs(pipeline: Any, tmp_path: Path) -> None:
    blocks = [torch.compile(Break().requires_grad_(False)) for _ in range(3)]
    model = torch.nn.Sequential(*blocks)
    finding = only(judged(lambda x, index: model(x), pipeline, tmp_path))
    assert finding.source == line_of("break")
    assert finding.count_per_step == 3


def test_a_declared_break_is_allowed(pipeline: Any, tmp_path: Path) -> None:
    allowance = Allowance(kind="graph break", count_per_step=1, knob="cache.kind")
    verdict = judged(compiled(Break), pipeline, tmp_path, (allowance,))
    assert verdict.status == "clean"
    assert only(verdict).allowed_by == "cache.kind"


def test_the_trace_alone_shows_a_break(pipeline: Any, tmp_path: Path) -> None:
    trace, _ = run(pipeline(compiled(Break), torch.randn(4, 8)), tmp_path)
    finding = only(judge(trace, CompileLog(), (), "cpu"))
    assert (finding.kind, finding.count, finding.count_per_step) == ("graph break", 3, 1)


def test_a_recompile_in_the_window_is_found_with_its_guard(pipeline: Any, tmp_path: Path) -> None:
    @torch.compile(dynamic=False)
    def step(x: Any, scale: int) -> Any:
        return x * scale

    log = start_compile_log()
    pipe = pipeline(lambda x, index: step(x, 2 if index == 2 else 1), torch.randn(4, 8))
    pipe(2)
    warm = log.read()
    finding = only(judge(read.load(capture(pipe, pipe.scheduler, tmp_path, "t")), log.read(), (), "cpu"))
    assert (finding.kind, finding.count, finding.operator) == ("recompile", 1, "step")
    assert "scale == 1" in finding.reason
    assert finding.source.startswith(f"{__file__}:")
    between = recompiles_between(warm, log.read(), calls=1)
    assert [(f.operator, f.reason) for f in between] == [("step", finding.reason)]
    assert recompiles_between(log.read(), log.read(), calls=1) == []


def test_a_first_compilation_in_the_window_is_found(pipeline: Any, tmp_path: Path) -> None:
    step = torch.compile(lambda x: x * 2)
    pipe = pipeline(lambda x, index: step(x) if index == 2 else x, torch.randn(4, 8))
    finding = only(judge(*run(pipe, tmp_path, warm_up=1), (), "cpu"))
    assert (finding.kind, finding.reason) == ("recompile", "first compiled after warm-up")


def test_the_recompile_limit_is_found(pipeline: Any, tmp_path: Path) -> None:
    @torch.compile(dynamic=False)
    def step(x: Any, scale: int) -> Any:
        return x * scale

    with torch._dynamo.config.patch(recompile_limit=2):
        verdict = judged(lambda x, index: step(x, index), pipeline, tmp_path)
    finding = only(verdict)
    assert (finding.kind, finding.operator) == ("recompile", "step")
    assert "limit" in finding.reason
    assert finding.source.startswith(f"{__file__}:")


def test_a_pipeline_that_fails_leaves_the_profiler_off(pipeline: Any, tmp_path: Path) -> None:
    pipe = pipeline(lambda x, index: x, torch.ones(2))

    def fail(steps: int) -> None:
        pipe.scheduler.step(torch.ones(2), 0)
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        capture(fail, pipe.scheduler, tmp_path, "t")
    assert list(tmp_path.iterdir()) == []
    assert not torch.autograd._profiler_enabled()


def test_a_pipeline_that_never_steps_its_scheduler_is_inconclusive(pipeline: Any, tmp_path: Path) -> None:
    pipe = pipeline(lambda x, index: x, torch.ones(2))
    trace = read.load(capture(lambda steps: torch.ones(2) + 1, pipe.scheduler, tmp_path, "t"))
    verdict = judge(trace, CompileLog(), (), "cpu")
    assert verdict.status == "inconclusive"
    assert "0 steady steps" in verdict.skipped[0]


def test_a_name_with_a_quote_is_exported_readably(pipeline: Any, tmp_path: Path) -> None:
    def call(steps: int) -> None:
        with torch.profiler.record_function('a "quoted" name'):
            torch.ones(2) + 1

    profiler_can = "use_python_export" in inspect.signature(torch.profiler.profile.export_chrome_trace).parameters
    path = capture(call, pipeline(lambda x, index: x, torch.ones(2)).scheduler, tmp_path, "t")
    try:
        read.load(path)
    except BadInput:
        assert not profiler_can


def test_the_diagnostic_pass_names_functions(pipeline: Any, tmp_path: Path) -> None:
    model = ItemBranch().requires_grad_(False)
    path = diagnose(pipe := pipeline(lambda x, index: model(x), torch.randn(4, 8)), pipe.scheduler, tmp_path)
    items = [event for event in read.load(path).host if event.name == "aten::item"]
    assert items
    assert "test_compiled.py" in items[-1].stack


def test_the_diagnostic_pass_annotates_the_line_of_a_wait(pipeline: Any, tmp_path: Path) -> None:
    def step(x: Any, index: int) -> Any:
        _gpu_trace.StreamSynchronizationCallbacks.fire_callbacks(0)  # planted: wait
        return x

    trace = read.load(diagnose(pipe := pipeline(step, torch.randn(2)), pipe.scheduler, tmp_path))
    notes = [event.name for event in trace.host if event.name.startswith(events.SYNC_LINE)]
    assert notes == [f"{events.SYNC_LINE}{line_of('wait')}"] * DIAGNOSED_STEPS
    assert _gpu_trace.StreamSynchronizationCallbacks.callback_list == []


def test_the_diagnostic_pass_annotates_the_line_of_a_copy(pipeline: Any, tmp_path: Path) -> None:
    def step(x: Any, index: int) -> Any:
        return x.to(torch.float64).to(torch.float32)  # planted: copies

    inherited = {name: getattr(torch.Tensor, name) for name in ("to", "copy_", "cpu", "cuda")}
    trace = read.load(diagnose(pipe := pipeline(step, torch.randn(2)), pipe.scheduler, tmp_path))
    around = [trace.host[trace.parents[i]].name for i, event in enumerate(trace.host) if event.name == "aten::to"]
    assert around == [f"{events.COPY_LINE}{line_of('copies')}"] * 2 * DIAGNOSED_STEPS
    assert {name: getattr(torch.Tensor, name) for name in inherited} == inherited
    assert not vars(torch.Tensor).keys() & inherited.keys()


def test_a_wait_in_generated_code_has_the_line_it_was_made_from(pipeline: Any, tmp_path: Path) -> None:
    fire = _gpu_trace.StreamSynchronizationCallbacks.fire_callbacks
    torch.library.define("tests::waits", "(Tensor x) -> Tensor")
    waits = eval("lambda x: x.clone() if fire(0) is None else x", {"fire": fire})  # in no file, as torch's own is not
    torch.library.impl("tests::waits", "CPU", waits)
    torch.library.register_fake("tests::waits", torch.empty_like)

    @torch.compile
    def step(x: Any) -> Any:
        return torch.ops.tests.waits(x.t() @ x) @ x.t()  # planted: generated

    pipe = pipeline(lambda x, index: step(x).t().contiguous(), torch.randn(4, 8))
    with torch._inductor.config.patch(force_disable_caches=True):
        pipe(1)
    trace = read.load(diagnose(pipe, pipe.scheduler, tmp_path))
    notes = {event.name.rpartition("/")[2] for event in trace.host if event.name.startswith(events.SYNC_LINE)}
    assert notes == {line_of("generated").rpartition("/")[2]}
