"""The gate on traces of a GPU, written here in the shape that an H200's have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planting import busy, only

from tuner.records.gate import Allowance, GatePolicy, Verdict
from tuner.trace import read
from tuner.trace.compile_log import Compilation, CompileLog, GraphBreak
from tuner.trace.gate import add_source_lines, judge
from tuner.trace.summary import summarise


def judged(
    planted: Any, folder: Path, allowances: tuple[Allowance, ...] = (), log: CompileLog | None = None
) -> Verdict:
    return judge(read.load(planted.save(folder)), log or CompileLog(), allowances, "cuda")


def test_kernels_alone_are_clean(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call("cudaDeviceSynchronize", 3100, 50)  # the profiler's own, when it stops
    assert judged(planted, tmp_path) == Verdict(status="clean")


def test_an_item_in_each_step_is_found_and_priced(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.item(step * 1000 + 402, 60)
    verdict = judged(planted, tmp_path)
    assert verdict.status == "rejected"
    finding = only(verdict)
    assert (finding.kind, finding.count, finding.count_per_step) == ("device sync", 3, 1)
    assert finding.operator == "aten::item > aten::_local_scalar_dense"
    assert "cudaStreamSynchronize for Memcpy DtoH (Device -> Pinned)" in finding.reason
    # The GPU is idle from 408 to 600, and the CPU waits for 50 us of it.
    assert finding.idle_ms_per_step == pytest.approx(0.05)


def test_an_item_outside_the_steps_is_none(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.item(3050, 60)
    assert judged(planted, tmp_path).status == "clean"


def test_an_item_of_a_cpu_tensor_is_none(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("aten::item", 450, 10)
    planted.host("aten::_local_scalar_dense", 451, 8)
    assert judged(planted, tmp_path).status == "clean"


def test_a_synchronize_without_an_operator_is_found(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call("cudaDeviceSynchronize", 1410, 100)
    finding = only(judged(planted, tmp_path))
    assert (finding.operator, finding.count) == ("cudaDeviceSynchronize", 1)
    assert finding.count_per_step == pytest.approx(1 / 3)
    assert finding.idle_ms_per_step == pytest.approx(0.1 / 3)


@pytest.mark.parametrize(("waited", "idle_ms"), [(3, 0.003), (150, 0.15), (190, 0.19), (400, 0.2)])
def test_a_wait_costs_no_more_than_it_takes_and_no_more_than_the_gpu_idles(
    waited: float, idle_ms: float, planted: Any, tmp_path: Path
) -> None:
    planted.kernel(1100, 300)
    planted.kernel(1600, 300)
    planted.call("cudaDeviceSynchronize", max(1405 - waited, 1120) if waited > 190 else 1401, waited)
    assert only(judged(planted, tmp_path)).idle_ms_per_step == pytest.approx(idle_ms / 3)


def test_a_copy_to_pageable_memory_blocks_even_when_asked_not_to(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("aten::copy_", 410, 50)
    copy = planted.call("cudaMemcpyAsync", 411, 40)
    planted.device("Memcpy DtoH (Device -> Pageable)", 415, 5, copy, cat="gpu_memcpy")
    finding = only(judged(planted, tmp_path))
    assert finding.operator == "aten::copy_"
    assert "Pageable" in finding.reason


@pytest.mark.parametrize(
    ("kind", "size", "called", "until", "count"),
    [
        ("HtoD (Pageable -> Device)", 1 << 26, 391, 460, 1),
        ("HtoD (Pageable -> Device)", 1 << 26, 391, 440, 0),  # the driver had room for it, and returned
        ("HtoD (Pageable -> Device)", 1 << 26, 411, 460, 0),  # the GPU had nothing to do meanwhile
        ("HtoD (Pageable -> Device)", 1 << 10, 391, 460, 0),
        ("HtoD (Pinned -> Device)", 1 << 26, 391, 460, 0),
    ],
)
def test_a_large_copy_from_pageable_memory_blocks(
    kind: str, size: int, called: float, until: float, count: int, planted: Any, tmp_path: Path
) -> None:
    busy(planted)
    copy = planted.call("cudaMemcpyAsync", called, until - called)
    planted.device(f"Memcpy {kind}", 450, 50, copy, cat="gpu_memcpy", size=size)
    assert [finding.count for finding in judged(planted, tmp_path).findings] == [1] * count


def test_a_copy_does_not_wait_for_its_own_parts(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    copy = planted.call("cudaMemcpyAsync", 411, 80)
    for ts in (415, 435, 455):
        planted.device("Memcpy HtoD (Pageable -> Device)", ts, 15, copy, cat="gpu_memcpy", size=1 << 20)
    assert judged(planted, tmp_path).status == "clean"


@pytest.mark.parametrize("kind", ["HtoD (Pinned -> Device)", "HtoD (Pageable -> Device)", "DtoD (Device -> Device)"])
def test_a_copy_that_does_not_block_is_none(kind: str, planted: Any, tmp_path: Path) -> None:
    busy(planted)
    copy = planted.call("cudaMemcpyAsync", 411, 3)
    planted.device(f"Memcpy {kind}", 415, 5, copy, cat="gpu_memcpy")
    assert judged(planted, tmp_path).status == "clean"


def test_a_wait_while_the_gpu_is_busy_costs_nothing(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call("cudaEventSynchronize", 610, 20)
    finding = only(judged(planted, tmp_path))
    assert finding.idle_ms_per_step == 0


def test_two_waits_in_one_gap_are_charged_once(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call("cudaDeviceSynchronize", 410, 20)
    planted.call("cudaStreamSynchronize", 450, 20)
    findings = judged(planted, tmp_path).findings
    assert sum(finding.idle_ms_per_step or 0 for finding in findings) == pytest.approx(0.04 / 3)


def test_a_driver_call_inside_a_runtime_call_is_one_wait(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call("cudaStreamSynchronize", 410, 50)
    planted.host("cuStreamSynchronize", 411, 48, cat="cuda_driver", correlation=999)
    assert only(judged(planted, tmp_path)).count == 1


def test_each_wait_of_an_operator_counts(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("mine::solve", 405, 90)
    for number in range(5):
        planted.call("cudaStreamSynchronize", 410 + number * 10, 5)
    finding = only(judged(planted, tmp_path))
    assert (finding.operator, finding.count) == ("mine::solve", 5)


def test_a_copy_takes_only_the_wait_that_follows_it(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("mine::solve", 405, 90)
    for ts in (410, 430):
        copy = planted.call("cudaMemcpyAsync", ts, 5)
        planted.device("Memcpy DtoH (Device -> Pageable)", ts + 1, 2, copy, cat="gpu_memcpy")
        planted.call("cudaStreamSynchronize", ts + 10, 5)
    planted.call("cudaStreamSynchronize", 450, 5)
    alone = planted.call("cudaMemcpyAsync", 460, 5)
    planted.device("Memcpy DtoH (Device -> Pageable)", 461, 2, alone, cat="gpu_memcpy")
    counts = {finding.reason.partition(" in ")[2]: finding.count for finding in judged(planted, tmp_path).findings}
    assert counts == {
        "cudaStreamSynchronize for Memcpy DtoH (Device -> Pageable)": 2,
        "cudaStreamSynchronize": 1,
        "cudaMemcpyAsync for Memcpy DtoH (Device -> Pageable)": 1,
    }


@pytest.mark.parametrize(
    "call", ["cudaFree", "cudaFreeHost", "cudaHostUnregister", "cudaMemcpy2D", "cudaMemcpy3D", "cudaMemcpyToSymbol"]
)
def test_other_calls_that_wait(call: str, planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call(call, 410, 20)
    assert only(judged(planted, tmp_path)).operator == call


@pytest.mark.parametrize("call", ["cudaFreeAsync", "cudaMemcpy2DAsync", "cudaMalloc", "cudaHostRegister"])
def test_other_calls_that_do_not(call: str, planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.call(call, 410, 20)
    assert judged(planted, tmp_path).status == "clean"


def test_no_kernels_are_inconclusive(planted: Any, tmp_path: Path) -> None:
    verdict = judged(planted, tmp_path)
    assert verdict.status == "inconclusive"
    assert "no GPU kernel" in verdict.skipped[0]


def test_a_wait_has_no_price_where_the_gpu_left_nothing(planted: Any, tmp_path: Path) -> None:
    planted.call("cudaDeviceSynchronize", 410, 20)
    trace = read.load(planted.save(tmp_path))
    finding = only(judge(trace, CompileLog(), (), "cuda", GatePolicy(max_idle_ms_per_step=1e6)))
    assert (finding.idle_ms_per_step, finding.allowed_by) == (None, None)


def test_kernels_outside_the_steps_do_not_count(planted: Any, tmp_path: Path) -> None:
    planted.kernel(5000, 100)
    assert judged(planted, tmp_path).status == "inconclusive"


def test_the_same_trace_is_clean_on_a_cpu(planted: Any, tmp_path: Path) -> None:
    verdict = judge(read.load(planted.save(tmp_path)), CompileLog(), (), "cpu")
    assert verdict.status == "clean"
    assert verdict.skipped == ("device syncs: the CPU has no queue to wait for", "CUDA graphs: the CPU has none")


def test_a_break_is_rejected_even_where_the_profiler_missed_the_gpu(planted: Any, tmp_path: Path) -> None:
    log = CompileLog(breaks=(GraphBreak(count=1, reason="r", source="a.py:1"),))
    assert judged(planted, tmp_path, log=log).status == "rejected"


def test_allowances_cover_what_a_knob_declared_and_no_more(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.item(step * 1000 + 402, 60)
    one = Allowance(kind="device sync", count_per_step=1, knob="cache.kind")
    allowed = judged(planted, tmp_path, (one,))
    assert allowed.status == "clean"
    assert only(allowed).allowed_by == "cache.kind"
    assert only(allowed).idle_ms_per_step
    other = Allowance(kind="graph break", count_per_step=5, knob="cache.kind")
    assert judged(planted, tmp_path, (other,)).status == "rejected"
    planted.call("cudaDeviceSynchronize", 950, 10)
    verdict = judged(planted, tmp_path, (one,))
    assert verdict.status == "rejected"
    assert {finding.operator: finding.allowed_by for finding in verdict.findings} == {
        "aten::item > aten::_local_scalar_dense": "cache.kind",
        "cudaDeviceSynchronize": None,
    }


def test_skipped_cudagraphs_are_rejected_with_their_reason(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    log = CompileLog(cudagraph_skips=2, cudagraph_reasons=("skipping cudagraphs due to mutated inputs",))
    finding = only(judged(planted, tmp_path, log=log))
    assert (finding.kind, finding.count, finding.reason) == ("cuda graph", 2, log.cudagraph_reasons[0])


def test_a_recompile_joins_the_log_by_its_id(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("dynamo_data: compile_id=3/1", 500, 5, cat="user_annotation")
    guard = Compilation(id="3/1", function="forward", reason="L['k'] == 1", source="m.py:7")
    known = only(judged(planted, tmp_path, log=CompileLog(compilations=(guard,))))
    assert (known.operator, known.reason, known.source) == ("forward", "guard failed: L['k'] == 1", "m.py:7")
    assert only(judged(planted, tmp_path)).operator == "graph 3/1"


def test_sources_come_from_the_diagnostic_pass(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.item(402, 60)
    verdict = judged(planted, tmp_path)
    assert only(verdict).source == ""
    planted.events = planted.events[:-5]  # the item, to be planted again with stacks
    planted.item(
        402, 60, stack="<built-in method item of Tensor>;torch/x.py(9): g;diffusers/m.py(40): forward;run.py(3): f;"
    )
    diagnostic = read.load(planted.save(tmp_path, "diagnostic.1.pt.trace.json"))
    assert only(add_source_lines(verdict, diagnostic)).source == "diffusers/m.py:40"


def test_sources_of_the_first_step_are_not_those_of_the_others(planted: Any, tmp_path: Path) -> None:
    def items(first: str, steady: str) -> None:
        planted.item(4400, 60, stack=first)
        planted.item(4500, 60, stack=steady)
        planted.item(5402, 60, stack=steady)

    busy(planted)
    planted.shift(5000)
    planted.host("first_step", 4000, 900, cat="user_annotation")
    before = list(planted.events)
    items("", "")
    verdict = judged(planted, tmp_path)
    assert ([finding.count for finding in verdict.findings], [one.count for one in verdict.warnings]) == ([1], [1])
    planted.events = before
    items("diffusers/m.py(10): begin;", "diffusers/m.py(40): forward;")
    named = add_source_lines(verdict, read.load(planted.save(tmp_path, "diagnostic.1.pt.trace.json")))
    assert only(named).source == "diffusers/m.py:40"
    assert [warning.source for warning in named.warnings] == ["diffusers/m.py:10"]


def test_an_annotated_line_comes_before_a_function_s(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.item(402, 60, stack="diffusers/m.py(40): forward;")
    planted.host("sync at diffusers/m.py:52", 406, 1, cat="user_annotation")
    planted.host("sync at user.py:8", 1410, 1, cat="user_annotation")
    planted.call("cudaDeviceSynchronize", 1412, 10)
    planted.call("cudaDeviceSynchronize", 1450, 10)
    trace = read.load(planted.save(tmp_path))
    verdict = judge(trace, CompileLog(), (), "cuda")
    assert sorted(finding.source for finding in verdict.findings) == ["", "diffusers/m.py:52", "user.py:8"]


def test_a_copy_that_blocks_has_the_line_around_it(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("copy at user.py:3", 405, 10, cat="user_annotation")
    planted.host("copy at user.py:8", 420, 60, cat="user_annotation")
    planted.host("aten::copy_", 421, 50, **{"Call stack": "user.py(6): f"})
    copy = planted.call("cudaMemcpyAsync", 422, 40)
    planted.device("Memcpy DtoH (Device -> Pageable)", 430, 5, copy, cat="gpu_memcpy")
    planted.call("cudaDeviceSynchronize", 490, 10)
    sources = {finding.operator: finding.source for finding in judged(planted, tmp_path).findings}
    assert sources == {"aten::copy_": "user.py:8", "cudaDeviceSynchronize": ""}


def test_the_summary_of_a_gpu_trace(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.kernel(2950, 500, operator="aten::late")  # launched in step 4, still running after the CPU has left it
    summary = summarise(read.load(planted.save(tmp_path)))
    assert (summary.steps, summary.kernel_events) == (3, 7)
    assert summary.launches_per_step == pytest.approx(7 / 3)
    assert summary.step_ms == pytest.approx((3450 - 100) / 3000)
    assert summary.gpu_busy_share == pytest.approx(2300 / 3350)
    assert summary.top_operators[0] == ("aten::mm", pytest.approx(1800 / 3350))
    assert summary.top_operators[1] == ("aten::late", pytest.approx(500 / 3350))


def test_the_summary_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text('{"traceEvents": []}')
    summary = summarise(read.load(path))
    assert (summary.steps, summary.step_ms, summary.top_operators) == (0, 0.0, ())
