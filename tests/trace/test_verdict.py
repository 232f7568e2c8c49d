"""The whole verdict on planted traces: first steps, compile work, CUDA graphs, policies, traces of other programs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from planting import busy, only

from tuner.records.codec import decode
from tuner.records.gate import GatePolicy, Verdict
from tuner.trace import read
from tuner.trace.compile_log import Compilation, CompileLog, GraphBreak
from tuner.trace.gate import judge, judge_without_log
from tuner.trace.summary import summarise

DATA = Path(__file__).resolve().parent.parent / "data" / "traces"


def judged(planted: Any, folder: Path, log: CompileLog | None = None, **options: Any) -> Verdict:
    return judge(read.load(planted.save(folder)), log or CompileLog(), (), "cuda", **options)


def alone(planted: Any, folder: Path, policy: GatePolicy | None = None) -> Verdict:
    return judge_without_log(read.ensure_steps(read.load(planted.save(folder))), policy)


# ---- waits ----------------------------------------------------------------------------------------------------------


def test_a_wait_of_the_first_step_alone_is_a_warning(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.shift(5000)
    planted.host("first_step", 4000, 900, cat="user_annotation")
    planted.host("aten::nonzero", 4100, 60)
    planted.call("cudaStreamSynchronize", 4110, 40)
    verdict = judged(planted, tmp_path)
    assert (verdict.status, verdict.findings) == ("clean", ())
    assert [(warning.operator, warning.count) for warning in verdict.warnings] == [("aten::nonzero", 1)]


def test_a_wait_of_every_step_is_no_warning_of_the_first(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.item(step * 1000 + 402, 60)
    planted.shift(5000)
    planted.host("first_step", 4000, 900, cat="user_annotation")
    planted.item(4402, 60)
    verdict = judged(planted, tmp_path)
    assert only(verdict).count == 3
    assert verdict.warnings == ()


def test_the_first_step_s_further_waits_are_a_warning(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.item(step * 1000 + 402, 60)
    planted.shift(5000)
    planted.host("first_step", 4000, 900, cat="user_annotation")
    for number in range(4):
        planted.item(4100 + number * 100, 60)
    verdict = judged(planted, tmp_path)
    assert only(verdict).count == 3
    assert [warning.count for warning in verdict.warnings] == [3]


def test_deep_nesting_is_quick(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    each = 0.02
    for depth in range(4000):
        planted.region(f"{depth}/0", 100 + depth * each, 800 - 2 * depth * each)
        planted.host("aten::deep", 100 + depth * each, 800 - 2 * depth * each, **{"Call stack": "torch/x.py(1): f"})
        planted.call("cudaStreamSynchronize", 100 + depth * each + each / 4, each / 4)
    trace = read.load(planted.save(tmp_path))
    start = time.perf_counter()
    verdict = judge(trace, CompileLog(), (), "cuda")
    summarise(trace)
    assert time.perf_counter() - start < 3  # some 0.2 s alone on one core
    assert sum(finding.count for finding in verdict.findings if finding.kind == "device sync") == 4000
    assert all(len(finding.operator) <= 300 for finding in verdict.findings)


@pytest.mark.parametrize(
    ("runtime", "call"),
    [
        ("cuda_runtime", "hipStreamSynchronize"),
        ("hip_runtime", "hipMemcpyWithStream"),
        ("cuda_driver", "cuCtxSynchronize"),
    ],
)
def test_waits_have_other_names_elsewhere(runtime: str, call: str, planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host(call, 410, 60, cat=runtime)
    assert only(judged(planted, tmp_path)).operator == call


# ---- compiled code --------------------------------------------------------------------------------------------------


def test_a_nested_region_is_a_break_with_its_price(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.region("0/0", step * 1000 + 50, 800)
        planted.region("1/0", step * 1000 + 450, 300)
    finding = only(judged(planted, tmp_path))
    assert (finding.kind, finding.count_per_step) == ("graph break", 1)
    assert finding.idle_ms_per_step == pytest.approx(0.2)


def test_a_wait_takes_its_price_before_the_break_around_it(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.region("0/0", 50, 800)
    planted.item(402, 60)
    planted.region("1/0", 470, 300)
    prices = {finding.kind: finding.idle_ms_per_step for finding in judged(planted, tmp_path).findings}
    # The break has what the wait of 50 us leaves of a gap of 192 us.
    assert prices == {"graph break": pytest.approx(0.142 / 3), "device sync": pytest.approx(0.05 / 3)}


def test_regions_beside_each_other_are_none(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for number in range(5):
        planted.region("0/0", 100 + number * 100, 90)
    assert judged(planted, tmp_path).status == "clean"


def test_a_lookup_without_a_region_runs_uncompiled(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.region("0/0", step * 1000 + 50, 100)
        planted.host("TorchDynamo Cache Lookup", step * 1000 + 450, 5)
    finding = only(alone(planted, tmp_path))
    assert (finding.kind, finding.count_per_step) == ("graph break", 1)
    assert "runs uncompiled" in finding.reason


VAE = "diffusers/models/autoencoders/autoencoder_kl.py:300"
DENOISER = "diffusers/models/transformers/transformer_flux.py:500"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize(
    ("source", "frames", "status"),
    [
        (VAE, (), "clean"),
        (VAE, ("7",), "clean"),
        (VAE, ("0",), "rejected"),  # it runs in the steps after all
        ("transformers/models/t5/modeling_t5.py:3", ("7",), "clean"),
        (DENOISER, (), "rejected"),
        (DENOISER, ("7",), "rejected"),
        ("", (), "rejected"),
    ],
)
def test_a_break_outside_the_denoiser_is_a_warning(
    source: str, frames: tuple[str, ...], status: str, device: Any, planted: Any, tmp_path: Path
) -> None:
    busy(planted)
    planted.region("0/0", 50, 800)
    log = CompileLog(breaks=(GraphBreak(count=2, reason="print", source=source, frames=frames),))
    verdict = judge(read.load(planted.save(tmp_path)), log, (), device)
    assert verdict.status == status
    found = verdict.findings if status == "rejected" else verdict.warnings
    assert [(finding.kind, finding.source) for finding in found] == [("graph break", source)]
    assert len(verdict.findings) + len(verdict.warnings) == 1


@pytest.mark.parametrize(
    ("source", "frame", "status"), [(VAE, 7, "clean"), (VAE, 0, "rejected"), (DENOISER, 7, "rejected")]
)
def test_a_fallback_outside_the_denoiser_is_a_warning(
    source: str, frame: int, status: str, planted: Any, tmp_path: Path
) -> None:
    busy(planted)
    planted.region("0/0", 50, 800)
    log = CompileLog(fallbacks=(Compilation(id=f"{frame}/8", function="f", reason="size", source=source),))
    verdict = judged(planted, tmp_path, log)
    assert verdict.status == status
    assert [one.kind for one in (*verdict.findings, *verdict.warnings)] == ["recompile"]


def test_a_break_outside_the_denoiser_hides_none_inside(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.region("0/0", 50, 800)
    planted.region("1/0", 450, 300)
    log = CompileLog(breaks=(GraphBreak(count=1, reason="print", source=VAE),))
    verdict = judged(planted, tmp_path, log)
    assert "runs inside another" in only(verdict).reason
    assert len(verdict.warnings) == 1


def test_compile_work_that_is_no_new_graph_is_found(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("async_compile.wait (dynamo_timed)", 410, 150)
    planted.host("PyCodeCache.load_by_key_path (dynamo_timed)", 420, 50)
    finding = only(judged(planted, tmp_path))
    assert (finding.kind, finding.operator) == ("compile work", "async_compile.wait (dynamo_timed)")
    assert finding.idle_ms_per_step == pytest.approx(0.15 / 3)


def test_a_wait_of_compile_work_is_a_part_of_it(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("CachingAutotuner.benchmark_all_configs (dynamo_timed)", 410, 150)
    planted.call("cudaDeviceSynchronize", 420, 50)
    finding = only(judged(planted, tmp_path))
    assert (finding.kind, finding.idle_ms_per_step) == ("compile work", pytest.approx(0.15 / 3))


def test_a_recompile_pays_for_the_whole_of_its_work(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("dynamo", 410, 900)
    planted.host("dynamo_data: compile_id=3/1", 415, 5, cat="user_annotation")
    planted.host("backend_compile (dynamo_timed)", 450, 700)
    log = CompileLog(compilations=(Compilation(id="3/1", function="forward", reason="k == 1", source="m.py:7"),))
    finding = only(judged(planted, tmp_path, log))
    assert (finding.kind, finding.reason) == ("recompile", "guard failed: k == 1")
    # Idle from 400 to 600, from 900 to 1100, and not from 1400 on.
    assert finding.idle_ms_per_step == pytest.approx(0.4 / 3)


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


def test_cuda_graphs_that_no_step_replays(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    assert judged(planted, tmp_path).status == "clean"
    finding = only(judged(planted, tmp_path, asks_for_graphs=True))
    assert (finding.kind, finding.count_per_step) == ("cuda graph", 1)
    # The GPU waits for a launch from 400 to 600 in each step and from 900 to 1100 between two.
    assert finding.idle_ms_per_step == pytest.approx((3 * 0.2 + 2 * 0.2) / 3)


def test_a_cuda_graph_in_one_piece_is_clean(planted: Any, tmp_path: Path) -> None:
    for step in range(3):
        planted.region("0/0", step * 1000 + 20, 300)
        planted.replay(step * 1000 + 40, kernels=20)
    assert judged(planted, tmp_path, asks_for_graphs=True).status == "clean"
    summary = summarise(read.load(planted.save(tmp_path)))
    assert (summary.graph_launches_per_step, summary.graph_kernel_share) == (1, 1)


def test_a_step_without_its_cuda_graph_is_found(planted: Any, tmp_path: Path) -> None:
    planted.region("0/0", 20, 300)
    planted.replay(40, kernels=20)
    planted.kernel(1100, 300)
    planted.kernel(1600, 300)
    planted.region("0/0", 2020, 300)
    planted.replay(2040, kernels=20)
    assert judged(planted, tmp_path).status == "clean"
    finding = only(judged(planted, tmp_path, asks_for_graphs=True))
    assert (finding.kind, finding.count, finding.reason) == (
        "cuda graph", 1, "requested, but 1 of 3 steps replay no CUDA graph",
    )  # fmt: skip
    # The GPU waits for a launch from 1400 to 1600, and from 1900 on for the next step's.
    assert finding.idle_ms_per_step == pytest.approx((200 + 152) / 3000)


@pytest.mark.parametrize("asked", [True, False])
def test_a_cuda_graph_that_is_recorded_anew(asked: bool, planted: Any, tmp_path: Path) -> None:
    for step in (0, 2):
        planted.region("0/0", step * 1000 + 20, 300)
        planted.replay(step * 1000 + 40, kernels=20)
    planted.region("0/0", 1020, 700)
    planted.kernel(1100, 100)
    planted.call("cudaGraphInstantiateWithFlags", 1300, 60)
    planted.host("cuGraphInstantiateWithFlags_v2", 1301, 50, cat="cuda_driver")
    finding = only(judged(planted, tmp_path, asks_for_graphs=asked))
    assert (finding.kind, finding.count) == ("cuda graph", 1)
    assert "recorded" in finding.reason


def test_a_cuda_graph_in_pieces(planted: Any, tmp_path: Path) -> None:
    for step in range(3):
        planted.region("0/0", step * 1000 + 20, 800)
        planted.replay(step * 1000 + 40, kernels=20)
        planted.replay(step * 1000 + 500, kernels=20)
    finding = only(judged(planted, tmp_path, asks_for_graphs=True))
    assert (finding.kind, finding.count_per_step) == ("cuda graph", 1)
    assert "2 CUDA graphs" in finding.reason
    assert finding.idle_ms_per_step == pytest.approx(0.241)


# ---- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (GatePolicy(), "rejected"),
        (GatePolicy(count_per_step={"device sync": 1}), "clean"),
        (GatePolicy(count_per_step={"device sync": 0.5}), "rejected"),
        (GatePolicy(count_per_step={"graph break": 9}), "rejected"),
        (GatePolicy(max_idle_ms_per_step=0.06), "clean"),
        (GatePolicy(max_idle_ms_per_step=0.04), "rejected"),
    ],
)
def test_a_policy_tolerates_by_kind_or_by_price(policy: GatePolicy, status: str, planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.item(step * 1000 + 402, 60)
    verdict = judged(planted, tmp_path, policy=policy)
    assert verdict.status == status
    assert only(verdict).idle_ms_per_step == pytest.approx(0.05)
    assert only(verdict).allowed_by == ("gate" if status == "clean" else None)


def test_prices_are_tolerated_together(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for step in range(3):
        planted.item(step * 1000 + 402, 60)
        planted.call("cudaDeviceSynchronize", step * 1000 + 905, 10)
    verdict = judged(planted, tmp_path, policy=GatePolicy(max_idle_ms_per_step=0.055))
    assert verdict.status == "rejected"
    assert [finding.allowed_by for finding in verdict.findings].count("gate") == 1
    assert judged(planted, tmp_path, policy=GatePolicy(max_idle_ms_per_step=0.07)).status == "clean"


def test_what_has_no_price_or_compiles_is_not_tolerated_by_price(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    generous = GatePolicy(max_idle_ms_per_step=1e6)
    unpriced = CompileLog(breaks=(GraphBreak(count=1, reason="skipped", source="m.py:1"),))
    assert judged(planted, tmp_path, unpriced, policy=generous).status == "rejected"
    planted.host("dynamo_data: compile_id=3/1", 500, 5, cat="user_annotation")
    assert judged(planted, tmp_path, policy=generous).status == "rejected"
    assert judged(planted, tmp_path, policy=GatePolicy(count_per_step={"recompile": 1})).status == "clean"


@pytest.mark.parametrize(
    "text", ['{"max_idle_ms_per_step": -1}', '{"count_per_step": {"sync": 1}}', '{"count_per_step": {"recompile": -1}}']
)
def test_a_policy_is_read_strictly(text: str) -> None:
    with pytest.raises(Exception, match="gate"):
        decode(text, GatePolicy, "gate")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=GatePolicy)


# ---- traces of other programs ---------------------------------------------------------------------------------------


def test_a_trace_without_marks_is_judged_whole(unmarked: Any, tmp_path: Path) -> None:
    unmarked.call("cudaDeviceSynchronize", 0, 10)  # the profiler's own, when it starts and when it stops
    busy(unmarked)
    unmarked.call("cudaDeviceSynchronize", 3100, 50)
    verdict = alone(unmarked, tmp_path)
    assert (verdict.status, verdict.findings) == ("clean", ())
    assert any(text.startswith("single steps") for text in verdict.skipped)
    unmarked.item(402, 60)
    assert only(alone(unmarked, tmp_path)).count_per_step == 1


def test_steps_of_another_program_are_all_judged(tmp_path: Path, plant: Any) -> None:
    planted = plant(steps=2, marks=("ProfilerStep",))
    busy(planted, steps=2)
    planted.item(1402, 60)
    verdict = alone(planted, tmp_path)
    assert only(verdict).count_per_step == 0.5
    assert not any("steady steps" in text or text.startswith("single steps") for text in verdict.skipped)


def test_a_gpu_without_a_kernel_is_never_clean(unmarked: Any, tmp_path: Path) -> None:
    unmarked.host("aten::mm", 100, 50)
    assert alone(unmarked, tmp_path).status == "clean"
    unmarked.top = {"deviceProperties": [{"id": 0, "name": "NVIDIA H200", "totalGlobalMem": 1}]}
    verdict = alone(unmarked, tmp_path)
    assert verdict.status == "inconclusive"
    assert "no GPU kernel" in verdict.skipped[0]


def test_gpu_work_without_the_calls_that_started_it_is_inconclusive(unmarked: Any, tmp_path: Path) -> None:
    unmarked.host("aten::mm", 100, 50)
    unmarked.device("gemm", 120, 50, 1)
    assert "no call" in alone(unmarked, tmp_path).skipped[0]


def test_an_empty_trace_is_inconclusive(unmarked: Any, tmp_path: Path) -> None:
    assert alone(unmarked, tmp_path).status == "inconclusive"


def test_times_of_zero_in_a_trace_that_counts_from_1970_are_left_out(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.shift(1.7e15)
    planted.host("aten::lost", 0, 5)
    trace = read.load(planted.save(tmp_path))
    assert "aten::lost" not in {event.name for event in trace.host}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("break", [("graph break", 1.0)]),
        ("limit", [("graph break", 2 / 3)]),
        ("recompile", [("recompile", 1 / 3)]),
        ("loop", []),  # a frame that dynamo skipped leaves nothing: only its log tells
    ],
)
def test_recorded_traces_of_a_cpu(name: str, found: list[tuple[str, float]]) -> None:
    """Recorded with torch 2.13: a graph break, the recompile limit, a recompile, a break in a loop."""
    verdict = judge_without_log(read.ensure_steps(read.load(DATA / f"cpu-2.13-{name}.pt.trace.json.gz")))
    assert [(finding.kind, finding.count_per_step) for finding in verdict.findings] == [
        (kind, pytest.approx(count)) for kind, count in found
    ]
    assert any(text.startswith("functions that torch.compile gave up") for text in verdict.skipped)


# ---- the summary ----------------------------------------------------------------------------------------------------


def test_idle_time_is_told_apart_as_hta_does(planted: Any, tmp_path: Path) -> None:
    early = [planted.call("cudaLaunchKernel", 10 + number, 1) for number in range(3)]
    planted.device("gemm", 100, 100, early[0])
    planted.device("gemm", 210, 90, early[1])  # 10 us after the last, and queued long before
    planted.device("gemm", 400, 100, early[2])  # 100 us after it
    planted.kernel(1000, 2000)  # launched when the GPU had been idle for long
    summary = summarise(read.load(planted.save(tmp_path)))
    wall = 3000
    assert summary.gpu_busy_share == pytest.approx(2290 / wall)
    assert summary.host_wait_share == pytest.approx(600 / wall)  # 100 us of them before the first launch's kernel
    assert summary.kernel_wait_share == pytest.approx(10 / wall)
    assert summary.other_wait_share == pytest.approx(100 / wall)


def test_time_by_class_and_component(planted: Any, tmp_path: Path) -> None:
    planted.kernel(100, 400, name="nvjet_hsh_128x256")
    planted.kernel(600, 200, name="flash_fwd_kernel")
    planted.host("scheduler step", 860, 135, cat="user_annotation")
    planted.kernel(900, 100, operator="aten::add", name="vectorized_elementwise_kernel")
    copy = planted.call("cudaMemcpyAsync", 990, 3)
    planted.device("Memcpy HtoD (Pinned -> Device)", 1010, 50, copy, cat="gpu_memcpy", size=6000)
    summary = summarise(read.load(planted.save(tmp_path)))
    assert summary.classes == {
        "GEMM": pytest.approx(400 / 3000),
        "attention": pytest.approx(200 / 3000),
        "elementwise and norm": pytest.approx(100 / 3000),
        "copy": pytest.approx(50 / 3000),
    }
    assert summary.components == {"denoiser": pytest.approx(600 / 3000), "scheduler step": pytest.approx(150 / 3000)}
    assert [name for name, _ in summary.top_kernels] == [
        "nvjet_hsh_128x256", "flash_fwd_kernel", "vectorized_elementwise_kernel",
    ]  # fmt: skip
    assert [(copies.direction, copies.bytes_per_step) for copies in summary.copies] == [
        ("HtoD (Pinned -> Device)", 2000)
    ]


def test_shares_of_the_cpu_are_of_time_that_passed(planted: Any, tmp_path: Path) -> None:
    planted.region("0/0", 0, 1000)
    planted.host("nn.Module: Block_0", 6, 990, cat="python_function")
    planted.host("aten::mm", 10, 980)
    planted.host("aten::add", 980, 500)  # begins inside another and outlasts it
    summary = summarise(read.load(planted.save(tmp_path)))
    shares = dict(summary.top_operators)
    assert shares["aten::mm"] == pytest.approx(970 / 3000)
    assert shares["aten::add"] == pytest.approx(500 / 3000)
    assert all(share >= 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1490 / 3000, abs=0.01)


def test_a_summary_of_an_older_study_still_reads() -> None:
    from tuner.records.gate import TraceSummary

    old = (
        '{"steps":3,"events":9,"kernel_events":0,"step_ms":1.0,"gpu_busy_share":null,"launches_per_step":null,'
        '"top_operators":[["aten::mm",0.5]]}'
    )
    assert decode(old, TraceSummary, "old").classes == {}
