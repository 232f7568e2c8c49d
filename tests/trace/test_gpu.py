"""Real waits for a real GPU, planted in a toy model and found at their lines; and their clean twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tuner.records.gate import Allowance, Finding, Verdict  # noqa: E402
from tuner.trace import read  # noqa: E402
from tuner.trace.capture import capture, diagnose  # noqa: E402
from tuner.trace.dynamo import start_compile_log  # noqa: E402
from tuner.trace.gate import add_source_lines, judge  # noqa: E402
from tuner.trace.summary import summarise  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_dynamo")]

Step = Callable[[Any, int], Any]
SIZE = 1024


class Net(torch.nn.Module):
    """Six layers; a subclass plants its defect between the third and the fourth."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(SIZE, SIZE) for _ in range(6))

    def plant(self, x: Any) -> Any:
        return x

    def forward(self, x: Any) -> Any:
        for layer in self.layers[:3]:
            x = layer(x).relu()
        x = self.plant(x)
        for layer in self.layers[3:]:
            x = layer(x).relu()
        return x


class Item(Net):
    def plant(self, x: Any) -> Any:
        return x * x.mean().item()  # planted: item


class Branch(Net):
    def plant(self, x: Any) -> Any:
        return x + 1 if x.sum() > 1e9 else x  # planted: branch


class RoundTrip(Net):
    def plant(self, x: Any) -> Any:
        return x.cpu().to("cuda")  # planted: trip


class Synchronize(Net):
    def plant(self, x: Any) -> Any:
        torch.cuda.synchronize()  # planted: synchronize
        return x


class EventWait(Net):
    def plant(self, x: Any) -> Any:
        event = torch.cuda.Event()
        event.record()
        event.synchronize()  # planted: event
        return x


class Nonzero(Net):
    def plant(self, x: Any) -> Any:
        return x + x[0].nonzero().sum() * 0  # planted: nonzero


class Upload(Net):
    def plant(self, x: Any) -> Any:
        return x + torch.ones(SIZE).to(x.device)  # planted: upload


class AsyncDownload(Net):
    def plant(self, x: Any) -> Any:
        x.to("cpu", non_blocking=True)  # planted: download
        return x


class PinnedUpload(Net):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.ones(SIZE).pin_memory()

    def plant(self, x: Any) -> Any:
        return x + self.offset.to(x.device, non_blocking=True)


def line_of(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return f"{__file__}:{1 + next(i for i, line in enumerate(lines) if line.endswith(f'# planted: {mark}'))}"


def judged(model: Step, pipeline: Any, folder: Path, allowances: tuple[Allowance, ...] = ()) -> Verdict:
    """As a worker does it: warm up, trace, judge, and once more with stacks for the lines."""
    pipe = pipeline(lambda x, index: model(x.clone(), index), torch.randn(64, SIZE, device="cuda"))
    log = start_compile_log()
    pipe(4)
    pipe(4)
    trace = read.load(capture(pipe, pipe.scheduler, folder, "trial"))
    assert summarise(trace).kernel_events > 0
    verdict = judge(trace, log.read(), allowances, "cuda")
    if any(not finding.source for finding in verdict.findings):
        verdict = add_source_lines(verdict, read.load(diagnose(pipe, pipe.scheduler, folder)))
    return verdict


def net(kind: type[Net], **options: Any) -> Step:
    module = kind().cuda().requires_grad_(False)
    model = torch.compile(module, **options) if options else module
    return lambda x, index: model(x)


def only(verdict: Verdict) -> Finding:
    assert len(verdict.findings) == 1, verdict.findings
    return verdict.findings[0]


@pytest.mark.parametrize("kind", [Net, PinnedUpload])
def test_eager_without_waits_is_clean(kind: type[Net], pipeline: Any, tmp_path: Path) -> None:
    verdict = judged(net(kind), pipeline, tmp_path)
    assert verdict.findings == ()
    assert verdict.status == "clean"


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_without_waits_is_clean(mode: str, pipeline: Any, tmp_path: Path) -> None:
    verdict = judged(net(Net, mode=mode), pipeline, tmp_path)
    assert verdict.findings == ()
    assert verdict.status == "clean"


@pytest.mark.parametrize(
    ("kind", "mark", "operator"),
    [
        (Item, "item", "aten::item > aten::_local_scalar_dense"),
        (Branch, "branch", "aten::is_nonzero"),
        (Synchronize, "synchronize", "cudaDeviceSynchronize"),
        (EventWait, "event", "cudaEventSynchronize"),
        (Nonzero, "nonzero", "aten::nonzero"),
        (Upload, "upload", "aten::to > aten::_to_copy > aten::copy_"),
    ],
)
def test_a_wait_is_found_at_its_line(kind: type[Net], mark: str, operator: str, pipeline: Any, tmp_path: Path) -> None:
    verdict = judged(net(kind), pipeline, tmp_path)
    assert verdict.status == "rejected"
    finding = only(verdict)
    assert finding.kind == "device sync"
    assert finding.operator.startswith(operator)
    assert finding.source == line_of(mark)
    assert (finding.count, finding.count_per_step) == (3, 1)
    assert finding.idle_ms_per_step is not None
    assert 0 <= finding.idle_ms_per_step < 50


def test_both_ways_of_a_round_trip_are_found(pipeline: Any, tmp_path: Path) -> None:
    verdict = judged(net(RoundTrip), pipeline, tmp_path)
    assert sum(finding.count_per_step for finding in verdict.findings) == 2
    assert {finding.source for finding in verdict.findings} == {line_of("trip")}


def test_a_download_that_is_told_not_to_wait_does_not(pipeline: Any, tmp_path: Path) -> None:
    # torch 2.11 takes pinned memory for it: the trace has no wait (seen on an H200).
    assert judged(net(AsyncDownload), pipeline, tmp_path).status == "clean"


def test_a_declared_wait_is_allowed_and_priced(pipeline: Any, tmp_path: Path) -> None:
    allowance = Allowance(kind="device sync", count_per_step=1, knob="cache.kind")
    verdict = judged(net(Item), pipeline, tmp_path, (allowance,))
    assert verdict.status == "clean"
    assert only(verdict).allowed_by == "cache.kind"


def test_a_compiled_branch_is_a_break_and_a_wait(pipeline: Any, tmp_path: Path) -> None:
    verdict = judged(net(Branch, mode="default"), pipeline, tmp_path)
    assert {finding.kind for finding in verdict.findings} == {"graph break", "device sync"}
    assert {finding.source for finding in verdict.findings} == {line_of("branch")}


def test_fullgraph_does_not_exclude_a_wait(pipeline: Any, tmp_path: Path) -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        verdict = judged(net(Nonzero, mode="default", fullgraph=True), pipeline, tmp_path)
    assert {finding.kind for finding in verdict.findings} == {"device sync"}


def test_a_cudagraph_that_inductor_skips_is_found(pipeline: Any, tmp_path: Path) -> None:
    module = torch.nn.Linear(SIZE, SIZE).cuda().requires_grad_(False)
    buffer = torch.zeros(64, SIZE, device="cuda")

    @torch.compile(mode="reduce-overhead")
    def step(x: Any) -> Any:
        buffer.add_(x)
        return module(x) + buffer

    verdict = judged(lambda x, index: step(x), pipeline, tmp_path)
    skipped = [finding for finding in verdict.findings if finding.kind == "cuda graph"]
    assert len(skipped) == 1, verdict
    assert "cudagraph" in skipped[0].reason


def test_the_summary_of_a_busy_gpu(pipeline: Any, tmp_path: Path) -> None:
    model = net(Net)
    pipe = pipeline(lambda x, index: model(x, index), torch.randn(8192, SIZE, device="cuda"))
    pipe(4)
    summary = summarise(read.load(capture(pipe, pipe.scheduler, tmp_path, "trial")))
    assert summary.steps == 3
    assert summary.gpu_busy_share is not None
    assert 0.5 < summary.gpu_busy_share <= 1
    assert summary.launches_per_step is not None
    assert summary.launches_per_step >= 12
    assert summary.top_operators[0][0] == "aten::addmm"


def test_the_shares_of_a_gpu_add_up(pipeline: Any, tmp_path: Path) -> None:
    model = net(Item)
    pipe = pipeline(lambda x, index: model(x, index), torch.randn(64, SIZE, device="cuda"))
    pipe(4)
    trace = read.load(capture(pipe, pipe.scheduler, tmp_path, "trial"))
    assert trace.gpu == torch.cuda.get_device_name()
    summary = summarise(trace)
    idle = (summary.host_wait_share, summary.kernel_wait_share, summary.other_wait_share)
    assert sum(filter(None, (summary.gpu_busy_share, *idle))) == pytest.approx(1)
    assert summary.classes["GEMM"] > 0
    assert [copies.count_per_step for copies in summary.copies if "DtoH" in copies.direction] == [1]
    assert all(copies.bytes_per_step == 4 for copies in summary.copies if "DtoH" in copies.direction)


def test_replayed_kernels_are_told_from_launched_ones(pipeline: Any, tmp_path: Path) -> None:
    model = net(Net, mode="reduce-overhead")
    pipe = pipeline(lambda x, index: model(x.clone(), index), torch.randn(64, SIZE, device="cuda"))
    log = start_compile_log()
    pipe(4)
    pipe(4)
    trace = read.load(capture(pipe, pipe.scheduler, tmp_path, "trial"))
    summary = summarise(trace)
    assert summary.graph_launches_per_step == 1
    assert summary.graph_kernel_share is not None
    assert summary.graph_kernel_share > 0.5
    assert judge(trace, log.read(), (), "cuda", asks_for_graphs=True).status == "clean"


def test_graphs_that_were_asked_for_and_not_captured_are_found(pipeline: Any, tmp_path: Path) -> None:
    model = net(Net)
    pipe = pipeline(lambda x, index: model(x, index), torch.randn(64, SIZE, device="cuda"))
    log = start_compile_log()
    pipe(4)
    trace = read.load(capture(pipe, pipe.scheduler, tmp_path, "trial"))
    verdict = judge(trace, log.read(), (), "cuda", asks_for_graphs=True)
    assert [finding.kind for finding in verdict.findings] == ["cuda graph"]


def test_a_copy_in_a_captured_region_cuts_its_graph(pipeline: Any, tmp_path: Path) -> None:
    verdict = judged(net(RoundTrip, mode="reduce-overhead"), pipeline, tmp_path)
    assert {finding.kind for finding in verdict.findings} >= {"cuda graph", "device sync"}
