"""Traces as other programs, machines and versions of torch write them: each gives its verdict or says what it lacks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.trace.conftest import MAIN, PlantedTrace
from tuner import cli
from tuner.commands.trace.report import TraceReport, examine_trace
from tuner.records.gate import Finding
from tuner.trace import classes, waits
from tuner.trace.events import TraceFile

LINE = "diffusers/schedulers/scheduling_flow_match_euler_discrete.py(386): index_for_timestep"
BOOT_US = 1e12
"""Times count from boot or from 1970 in real traces."""


def saved(trace: PlantedTrace, folder: Path, change: Callable[[str], str] = str, name: str = "t.json") -> Path:
    """Save a trace in the layout of torch's exporter, with its text changed."""
    text = json.dumps({"schemaVersion": 1, **trace.top, "traceEvents": trace.events}, indent=2)
    path = folder / name
    path.write_bytes(change(text).encode("utf-8", "surrogateescape"))
    return path


def report_of(trace: PlantedTrace, folder: Path) -> TraceReport:
    return examine_trace(saved(trace, folder)).report


def only(report: TraceReport) -> Finding:
    assert len(report.verdict.findings) == 1
    return report.verdict.findings[0]


def busy(planted: PlantedTrace) -> None:
    for step in range(3):
        planted.kernel(step * 1000 + 100, 300)
        planted.kernel(step * 1000 + 600, 300)


def lanes(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    cli.main(["trace", str(path)])
    return {line[:13].strip(): line[13:] for line in capsys.readouterr().out.splitlines()}


# ---- AMD ------------------------------------------------------------------------------------------------------------


def test_sizes_and_ids_as_text_are_numbers(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    copy = planted.call("hipMemcpyWithStream", 420, 50)
    planted.device("Memcpy DtoD (Device -> Device)", 430, 5, copy, cat="gpu_memcpy", size=4)
    planted.events[-1]["args"] = {"correlation": str(copy), "bytes": "4"}
    report = report_of(planted, tmp_path)
    assert "hipMemcpyWithStream for Memcpy DtoD" in only(report).reason
    assert report.summary.copies[0].bytes_per_step == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    "call",
    [
        "hipStreamSynchronize", "hipDeviceSynchronize", "hipEventSynchronize", "hipStreamSynchronize_spt",
        "hipMemcpy", "hipMemcpy_spt", "hipMemcpyWithStream", "hipMemcpyDtoH", "hipMemcpyHtoD", "hipMemcpy2D",
        "hipMemcpyToSymbol", "hipFree", "hipHostFree", "cudaStreamSynchronize_ptsz", "cudaMemcpy_ptds",
        "cuStreamSynchronize", "cuCtxSynchronize", "cuMemcpyDtoH_v2", "cuMemFree_v2", "cudaDeviceSynchronize",
    ],
)  # fmt: skip
def test_a_call_that_waits_is_a_sync(call: str, planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    planted.call(call, 420, 50)
    assert only(report_of(planted, tmp_path)).kind == "device sync"


@pytest.mark.parametrize("call", ["hipMemcpyAsync", "hipMemcpyDtoDAsync", "hipEventRecord", "hipStreamWaitEvent"])
def test_a_call_that_does_not_wait_is_none(call: str) -> None:
    assert not waits.is_wait_call(call)


@pytest.mark.parametrize(
    "call",
    [
        "hipLaunchKernel", "hipExtLaunchKernel", "hipModuleLaunchKernel", "hipExtModuleLaunchKernel",
        "hipLaunchCooperativeKernel", "hipHccModuleLaunchKernel", "hipDrvLaunchKernelEx", "hipGraphLaunch",
        "cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaLaunchKernel_ptsz",
    ],
)  # fmt: skip
def test_a_launch_is_known(call: str) -> None:
    assert waits.is_launch(call)
    assert waits.is_graph_launch(call) is ("Graph" in call)


def test_the_gpu_that_worked_is_named(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    planted.top = {"deviceProperties": [{"id": 0, "name": "the first"}, {"id": 1, "name": "the other"}]}
    for event in planted.events:
        event["pid"] = 1 if event["cat"] == "kernel" else MAIN
    assert report_of(planted, tmp_path).gpu == "the other"


# ---- Python stacks --------------------------------------------------------------------------------------------------


def test_the_line_comes_from_python_functions(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    planted.host("run.py(3): <module>", -100, 4000, cat="python_function")
    planted.host("torch/utils/_contextlib.py(117): decorate_context", -90, 3900, cat="python_function")
    planted.host(LINE, 400, 90, cat="python_function")
    planted.host("<built-in method item of Tensor object at 0x7f>", 401, 80, cat="python_function")
    planted.host("other.py(1): f", 495, 20, cat="python_function")
    planted.item(402, 60)
    planted.shift(BOOT_US)
    report = report_of(planted, tmp_path)
    assert only(report).source == LINE.partition("(")[0] + ":386"
    assert not [text for text in report.verdict.skipped if text.startswith("source lines")]


def test_the_line_is_of_the_same_thread(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    planted.host(LINE, 400, 90, cat="python_function")
    planted.events[-1]["tid"] = 7
    planted.item(402, 60)
    assert only(report_of(planted, tmp_path)).source == ""


# ---- the GPU's time -------------------------------------------------------------------------------------------------


def test_work_launched_before_the_steps_counts_where_it_runs(
    unmarked: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unmarked.kernel(100, 850)
    unmarked.host("ProfilerStep#2", 500, 1000, cat="user_annotation")
    unmarked.kernel(1000, 500)
    report = report_of(unmarked, tmp_path)
    assert report.summary.gpu_busy_share == pytest.approx(0.95)
    assert report.summary.launches_per_step == 1
    assert report.summary.classes == {"GEMM": pytest.approx(0.95)}
    lane = lanes(saved(unmarked, tmp_path), capsys)["GPU stream 7"]
    assert lane.startswith("G" * 20) and lane.count(".") < 6


def test_cpu_work_before_the_first_launch_is_a_wait_for_the_cpu(planted: PlantedTrace, tmp_path: Path) -> None:
    planted.host("aten::resize_on_cpu", 0, 2000)
    planted.kernel(2100, 900)
    summary = report_of(planted, tmp_path).summary
    assert summary.host_wait_share == pytest.approx(2100 / 3000)
    assert summary.other_wait_share == pytest.approx(0)


def test_python_after_a_sync_is_the_cpu_s_time(planted: PlantedTrace, tmp_path: Path) -> None:
    for step in range(3):
        planted.kernel(step * 1000 + 30, 50)
        planted.call("cudaDeviceSynchronize", step * 1000 + 100, 3)
    report = report_of(planted, tmp_path)
    assert only(report).idle_ms_per_step == pytest.approx(0.003 * 2 / 3)  # no work follows the third
    assert report.summary.host_wait_share == pytest.approx((3000 - 150) / 3000)


@pytest.mark.parametrize("place", ["lead", "tail"])
def test_idle_time_has_no_part_twice(place: str, planted: PlantedTrace, tmp_path: Path) -> None:
    planted.kernel(2900 if place == "lead" else 30, 50)
    summary = report_of(planted, tmp_path).summary
    assert summary.gpu_busy_share is not None and summary.host_wait_share is not None
    assert summary.gpu_busy_share + summary.host_wait_share == pytest.approx(1)


def test_streams_that_overlap_share_one_clock(
    planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (7, 13, 20):
        planted.kernel(100, 2700, stream=stream)
    planted.kernel(150, 2600, operator="c10d::allreduce_", name="ncclDevKernel_AllReduce_Sum_bf16_RING_LL", stream=21)
    summary = report_of(planted, tmp_path).summary
    assert summary.classes == {"GEMM": pytest.approx(0.9), "communication": pytest.approx(2600 / 3000)}
    assert summary.top_operators[0] == ("aten::mm", pytest.approx(0.9))
    assert summary.gpu_busy_share == pytest.approx(0.9)
    cli.main(["trace", str(saved(planted, tmp_path))])
    shown = " ".join(capsys.readouterr().out.split())
    assert "GPU by class 90% GEMM, 87% communication (at the same time on several streams) operators" in shown


@pytest.mark.parametrize(
    "name",
    [
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "ncclKernel_AllGather_RING_LL_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)",
        "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
        "rcclGenericKernel<1, false>", "mscclKernel_Sum_half_Simple", "mscclpp::allreduce", "ccl_allreduce",
        "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(vllm::RankData*)",
        "multimem_all_reduce_kernel", "nvshmemi_transfer_rma", "deep_ep::intranode::dispatch<8, 768>",
        "record_param_comms", "c10d::allreduce_",
    ],
)  # fmt: skip
def test_communication_is_a_class_of_its_own(name: str) -> None:
    assert classes.classify_kernel(name) == classes.COMMUNICATION


def test_kernels_at_time_0_are_told(planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy(planted)
    planted.shift(BOOT_US)
    untimed = [event for event in planted.events if event["cat"] == "kernel"][::2]
    for event in untimed:
        event["ts"] = event["dur"] = 0
    path = saved(planted, tmp_path)
    assert cli.main(["trace", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("CLEAN: no graph breaks, recompiles or device syncs; 3 GPU events without a time left out")
    assert "busy at least 30%" in out and "3 of 6 GPU events have no time" in out
    for event in planted.events:
        if event["cat"] == "kernel":
            event["ts"] = event["dur"] = 0
    assert report_of(planted, tmp_path).verdict.status == "inconclusive"


def test_the_copy_call_that_waits_is_named_and_drawn(
    planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted.kernel(25, 890)
    planted.host("aten::copy_", 50, 900)
    copy = planted.call("cudaMemcpyAsync", 60, 870)
    planted.device("Memcpy DtoH (Device -> Pageable)", 920, 3, copy, cat="gpu_memcpy", size=4096)
    planted.call("cudaStreamSynchronize", 935, 3)
    finding = only(report_of(planted, tmp_path))
    assert finding.count == 1
    assert finding.reason.endswith("in cudaMemcpyAsync for Memcpy DtoH (Device -> Pageable)")
    assert lanes(saved(planted, tmp_path), capsys)["CPU waits"].count("~") > 50


# ---- torch.compile --------------------------------------------------------------------------------------------------


def test_the_lookups_of_a_first_compile_are_compile_work(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    for number in range(4):
        planted.host("TorchDynamo Cache Lookup", 10 + number, 0.5)
    planted.host("_compile.compile_inner (dynamo_timed)", 50, 500, cat="user_annotation")
    planted.host("Torch-Compiled Region: 0/0", 600, 100)
    for number in range(6):
        planted.host("TorchDynamo Cache Lookup", 610 + number, 0.5)
    assert only(report_of(planted, tmp_path)).kind == "compile work"
    planted.host("TorchDynamo Cache Lookup", 2400, 0.5)  # long after it: the function runs uncompiled
    assert {finding.kind for finding in report_of(planted, tmp_path).verdict.findings} == {
        "compile work",
        "graph break",
    }


def test_before_torch_2_3_a_lookup_needs_no_region(planted: PlantedTrace, tmp_path: Path) -> None:
    for step in range(3):
        planted.host("TorchDynamo Cache Lookup", step * 1000 + 10, 5)
        planted.kernel(step * 1000 + 100, 300, name="triton_poi_fused_add_0")
    assert report_of(planted, tmp_path).verdict.status == "clean"


@pytest.mark.parametrize("around", ["mine::inner", "## Call CompiledFxGraph fgqyhfh ##"])
def test_the_compiled_body_of_a_custom_operator_is_no_break(around: str, planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    planted.region("0/0", 50, 900)
    planted.host(around, 100, 700)
    planted.region("1/1", 200, 300)
    assert report_of(planted, tmp_path).verdict.status == "clean"


def test_findings_of_one_cause_are_one(planted: PlantedTrace, tmp_path: Path) -> None:
    planted.kernel(1500, 300)
    for frame in range(1, 48):
        planted.region("0/0", frame * 20, 18)
        planted.region(f"{frame}/0", frame * 20 + 6, 10)
    finding = only(report_of(planted, tmp_path))
    assert (finding.kind, finding.count) == ("graph break", 47)
    assert "regions 1, 2, 3, 4, 5 and 42 more run inside others" in finding.reason


def test_compilations_that_no_log_names_are_one(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    for graph in range(47):
        planted.host("dynamo", graph * 20, 18, cat="user_annotation")
        planted.host(f"dynamo_data: compile_id={graph}/0", graph * 20 + 1, 2, cat="user_annotation")
    finding = only(report_of(planted, tmp_path))
    assert (finding.kind, finding.count) == ("compile work", 47)
    assert finding.operator == "graphs 0/0, 1/0, 2/0, 3/0, 4/0 and 42 more"
    for event in planted.events:
        event["name"] = event["name"].replace("/0", "/1")
    assert only(report_of(planted, tmp_path)).kind == "recompile"


# ---- what a trace does not show -------------------------------------------------------------------------------------


def as_accelerator(runtime: str, kernel: str) -> Callable[[dict[str, Any]], None]:
    names = {"cuda_runtime": runtime, "kernel": kernel}

    def change(event: dict[str, Any]) -> None:
        if event["cat"] == "cuda_runtime":
            event["name"] = "launchOrWait"
        event["cat"] = names.get(event["cat"], event["cat"])

    return change


BLIND: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "XPU": (as_accelerator("xpu_runtime", "kernel"), "XPU"),
    "XPU driver": (as_accelerator("xpu_driver", "kernel"), "XPU"),
    "MTIA": (as_accelerator("mtia_runtime", "mtia_ccp_events"), "MTIA"),
    "PrivateUse1": (as_accelerator("privateuse1_runtime", "kernel"), "PrivateUse1"),
    "HPU": (as_accelerator("hpu_op", "hpu_op"), "HPU"),
    "Ascend": (as_accelerator("enqueue", ""), "Ascend NPU"),
    "no operators": (lambda event: event.update(cat="none") if event["cat"] == "cpu_op" else None, "no CPU operators"),
    "no kernels": (lambda event: event.update(cat="none") if event["cat"] == "kernel" else None, "no GPU kernel"),
    "no calls": (lambda event: event.update(cat="none") if "runtime" in event["cat"] else None, "no call of the CPU"),
    "operators alone": (
        lambda event: event.update(
            {"name": "aten::cudnn_convolution"} if event["cat"] == "cpu_op" else {"cat": "none"}
        ),
        "aten::cudnn_convolution runs on an accelerator",
    ),
    "Chrome's own": (lambda event: event.update(cat="devtools.timeline"), "no CPU events"),
}  # fmt: skip


@pytest.mark.parametrize("what", BLIND)
def test_what_a_trace_does_not_show_is_not_clean(
    what: str, planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy(planted)
    change, words = BLIND[what]
    for event in planted.events:
        change(event)
    assert cli.main(["trace", str(saved(planted, tmp_path))]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("INCONCLUSIVE: ")
    assert words in out.partition("Time line")[0]


# ---- formats --------------------------------------------------------------------------------------------------------


def array(planted: PlantedTrace) -> str:
    return json.dumps(planted.events)


ARRAYS: dict[str, Callable[[str], bytes]] = {
    "whole": str.encode,
    "unterminated": lambda text: text[:-1].encode(),
    "comma at the end": lambda text: (text[:-1] + ",\n").encode(),
    "empty object at the end": lambda text: (text[:-1] + ", {}]").encode(),
    "cut in an event": lambda text: text[:-30].encode(),
    "gzipped": lambda text: gzip.compress(text.encode()),
    "unterminated, gzipped": lambda text: gzip.compress(text[:-1].encode()),
    "after spaces": lambda text: (" \n" * 200 + text).encode(),
}


@pytest.mark.parametrize("form", ARRAYS)
def test_an_array_of_events_is_read(form: str, planted: PlantedTrace, tmp_path: Path) -> None:
    planted.item(402, 60)
    busy(planted)
    path = tmp_path / "array.json"
    path.write_bytes(ARRAYS[form](array(planted)))
    report = examine_trace(path).report
    assert only(report).operator == "aten::item > aten::_local_scalar_dense"
    assert report.summary.steps == 3
    assert any("cut off" in text for text in report.verdict.skipped) is (form == "cut in an event")


FAULTS: dict[str, Callable[[str], str]] = {
    "quotes in a name": lambda text: text.replace('"note"', '"{"device": "cpu", "dtype": "f"}(1): f"'),
    "quotes in one line": lambda text: text.replace('"name": "note",\n', '"name": "say "hi", you", "pid": 1,\n'),
    "not UTF-8": lambda text: text.replace('"note"', '"caf\udce9"'),
    "control characters": lambda text: text.replace('"note"', '"a\tb\x01c"'),
    "a Windows path": lambda text: text.replace('"note"', '"C:\\Users\\me\\x.py(3): f"'),
    "not a number": lambda text: text.replace('"cbid": 1', '"cbid": nan'),
    "infinite": lambda text: text.replace('"cbid": 1', '"cbid": -inf'),
    "null": lambda text: text.replace('"tid": 100', '"tid": null'),
    "-1 as unsigned": lambda text: text.replace('"tid": 100', '"tid": 18446744073709551615'),
    "a comma too many": lambda text: text.replace("\n  ]\n}", ",\n  ]\n}"),
    "a byte order mark": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_an_exporter_gets_wrong_is_mended(fault: str, planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    planted.host("note", 300, 5, cat="user_annotation")
    planted.item(402, 60)
    path = saved(planted, tmp_path, FAULTS[fault])
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        msgspec.json.decode(path.read_bytes(), type=TraceFile, strict=False)
    assert only(examine_trace(path).report).operator == "aten::item > aten::_local_scalar_dense"


def test_a_fault_that_is_not_known_is_one_line_with_the_remedy(
    planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy(planted)
    path = saved(planted, tmp_path, lambda text: text.replace('"name": "gemm"', '"name": "gemm" oops'))
    assert cli.main(["trace", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "use_python_export=True" in error


def test_the_categories_of_torch_1_8_are_known(planted: PlantedTrace, tmp_path: Path) -> None:
    earlier = {
        "cpu_op": "Operator", "user_annotation": "Operator", "cuda_runtime": "Runtime", "kernel": "Kernel",
        "gpu_memcpy": "Memcpy",
    }  # fmt: skip
    busy(planted)
    planted.item(402, 60)
    for event in planted.events:
        event |= {"cat": earlier[event["cat"]], "tid": str(event["tid"])}
    planted.top = {"computeProperties": [{"id": 0, "name": "Tesla V100-DGXS-32GB"}]}
    report = report_of(planted, tmp_path)
    assert report.gpu == "Tesla V100-DGXS-32GB"
    assert (report.judged, report.summary.launches_per_step) == ("3 marked steps", 2)
    assert "Memcpy DtoH (Device -> Pinned)" in only(report).reason


def test_the_profiler_before_kineto_is_inconclusive(tmp_path: Path) -> None:
    functions = [("CPU functions", "aten::mm", 10, 20), ("CUDA functions", "aten::mm", 11, 30)]
    events = [{"name": n, "ph": "X", "ts": ts, "dur": d, "tid": 1, "pid": p, "args": {}} for p, n, ts, d in functions]
    path = tmp_path / "autograd.json"
    path.write_text(json.dumps(events))
    assert examine_trace(path).report.verdict.status == "inconclusive"


NO_TRACES = {
    "execution trace": b'{"schema": "1.1.0-chakra.0.0.4", "pid": 1, "nodes": [{"id": 1, "name": "[pytorch]"}]}',
    "memory timeline": b"[[0, 1, 2], [[1, 2], [3, 4]]]",
    "memory events": b"[[-1, 0, [1024, 0], 4]]",
    "nothing": b"",
    "a number": b"5",
    "array of numbers": b"[1, 2, 3]",
    "open array of nothing known": b'[{"a": 1},',
    "zip": b"PK\x03\x04\x14\x00",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00",
}


@pytest.mark.parametrize("what", NO_TRACES)
def test_another_file_of_the_profiler_is_one_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(NO_TRACES[what])
    assert cli.main(["trace", str(path)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


# ---- several processes ----------------------------------------------------------------------------------------------


def rank(process: int | str, gpu: int | str, *, waits_in: bool) -> list[dict[str, Any]]:
    """The events of one rank. The ids of its calls are those of every other rank."""
    planted = PlantedTrace()
    busy(planted)
    if waits_in:
        planted.item(402, 60)
    return [event | {"pid": gpu if event["cat"] in ("kernel", "gpu_memcpy") else process} for event in planted.events]


RANKS: dict[str, tuple[int | str, int | str, int | str, int | str]] = {
    "a GPU each": (100, 0, 200, 1),
    "labels of SGLang": ("[TP00] 100", "[TP00] 0", "[TP01] 100", "[TP01] 0"),
}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("waiting", [0, 1])
def test_each_rank_is_judged_and_the_worst_shown(ranks: str, is_sorted: bool, waiting: int, tmp_path: Path) -> None:
    first, its_gpu, second, other_gpu = RANKS[ranks]
    planted = PlantedTrace()
    planted.events = rank(first, its_gpu, waits_in=waiting == 0) + rank(second, other_gpu, waits_in=waiting == 1)
    if is_sorted:
        planted.events.sort(key=lambda event: event["ts"])
    report = report_of(planted, tmp_path)
    assert (report.process, report.processes) == (f"process {(first, second)[waiting]}", 2)
    assert (only(report).count, report.summary.steps, report.summary.launches_per_step) == (1, 3, 2)
    assert report.summary.gpu_busy_share == pytest.approx(0.6, abs=0.01)


def test_ranks_that_follow_each_other_may_share_the_name_of_their_gpu(tmp_path: Path) -> None:
    planted = PlantedTrace()
    planted.events = rank(100, 0, waits_in=False) + rank(200, 0, waits_in=True)
    report = report_of(planted, tmp_path)
    assert report.process == "process 200"
    assert report.summary.kernel_events == 6


def test_ranks_that_cannot_be_told_apart_are_inconclusive(tmp_path: Path) -> None:
    planted = PlantedTrace()
    planted.events = rank(100, 0, waits_in=False) + rank(200, 0, waits_in=False)
    planted.events.sort(key=lambda event: event["ts"])
    report = report_of(planted, tmp_path)
    assert report.verdict.status == "inconclusive"
    assert "cannot be told apart" in report.verdict.skipped[0]
    assert report.summary.gpu_busy_share is None
    planted.events = rank(1, 0, waits_in=False) + rank(1, 1, waits_in=True)
    report = report_of(planted, tmp_path)
    assert (report.verdict.status, report.verdict.findings) == ("inconclusive", ())
    assert "several processes in this file have the same id" in report.verdict.skipped[0]


def test_the_rank_of_a_distributed_program_is_told(
    planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy(planted)
    planted.top = {"distributedInfo": {"backend": "nccl", "rank": 3, "world_size": 8}}
    assert cli.main(["trace", str(saved(planted, tmp_path))]) == 0
    assert "3 marked steps of rank 3 of 8" in " ".join(capsys.readouterr().out.split())


def test_one_process_with_two_gpus_is_one(planted: PlantedTrace, tmp_path: Path) -> None:
    busy(planted)
    for event in [event for event in planted.events if event["cat"] == "kernel"][::2]:
        event["pid"] = 1
    report = report_of(planted, tmp_path)
    assert (report.gpu, report.processes, report.summary.launches_per_step) == ("2 GPUs", 1, 2)


def test_what_a_profiler_records_besides_does_not_matter(planted: PlantedTrace, tmp_path: Path) -> None:
    """record_shapes, with_modules, annotations of the GPU, sync events, spans of the trace."""
    busy(planted)
    planted.host("nn.Module: Block_0", 50, 800, cat="python_function", **{"Python module id": 0})
    planted.host("denoise", 100, 300, cat="gpu_user_annotation")
    planted.host("Stream Wait Event", 100, 300, cat="cuda_sync", wait_on_stream=7, correlation=200)
    planted.host("PyTorch Profiler (0)", 0, 3000, cat="Trace", **{"Op count": 4})
    planted.host("aten::mm", 70, 5, **{"Input Dims": [[8, 16], []], "Concrete Inputs": ["", "[1, 2]"]})
    planted.events.append({"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": 1})
    planted.top = {"deviceProperties": {"not": "a list"}, "distributedInfo": ["neither"]}
    assert report_of(planted, tmp_path).verdict.status == "clean"


CATEGORIES = ("cpu_op", "user_annotation", "kernel", "gpu_memcpy", "cuda_runtime", "python_function", "Kernel", "", "x")
NAMES = (
    "ProfilerStep#2", "first_step", "TorchDynamo Cache Lookup", "Torch-Compiled Region", "x (dynamo_timed)", "dynamo",
    "dynamo_data: compile_id=3/1", "cudaGraphLaunch", "cudaStreamSynchronize", "cudaMemcpyAsync", "a.py(3): f", "",
    "Memcpy DtoH (Device -> Pageable)", "nn.Module: B_0", "sync at a.py:3", "copy at b.py:3",
)  # fmt: skip
CHANGES: dict[str, tuple[Any, ...]] = {
    "cat": CATEGORIES, "name": NAMES, "dur": (0, 1e-9, 1e9), "ts": (0, 1, 500, BOOT_US), "pid": (0, 7, "CPU functions"),
    "tid": (0, "stream 7"), "args": ({}, None, {"correlation": "5", "bytes": "7"}, {"bytes": 2**62}),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_no_change_of_a_trace_ends_in_a_traceback(
    seed: int, planted: PlantedTrace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(seed)
    busy(planted)
    planted.item(402, 60)
    planted.region("0/0", 500, 90)
    for _ in range(random.choice((1, 5, 20))):
        field, changed = random.choice(list(CHANGES)), random.choice(planted.events)
        value = random.choice(CHANGES[field])
        same = [event for event in planted.events if event["cat"] == changed["cat"]]
        for event in same if random.random() < 0.3 else [changed]:
            event[field] = value
    assert cli.main(["trace", str(saved(planted, tmp_path))]) in (0, 1, 2, 3)
    captured = capsys.readouterr()
    assert captured.out.startswith(("CLEAN", "REJECTED", "INCONCLUSIVE")) or captured.err.count("\n") == 1
