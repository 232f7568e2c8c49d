"""A small study folder to look at: real images and traces of a CPU, and a GPU's trace written by hand."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kinds import kind
from PIL import Image, ImageDraw

from tuner.board import study_events, trial_events
from tuner.board.shown_traces import SHOWN, WHOLE, keep_steps
from tuner.quality import strips
from tuner.quality.images import Images
from tuner.records.codec import Estimate, Values
from tuner.records.gate import Finding, GatePolicy, Verdict
from tuner.records.machine import Memory
from tuner.records.model import Workload
from tuner.records.outcome import Build, Outcome, Timing
from tuner.records.quality import Quality
from tuner.space.candidates import SearchSpace

TRACES = Path(__file__).parent / "data" / "traces"
PROMPTS = ("a red circle", "a blue square")
KERNELS = (
    ("aten::addmm", "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", 310.0, 132),
    (
        "aten::_scaled_dot_product_cudnn_attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_f16",
        170.0,
        264,
    ),
    ("aten::mul", "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<...>>", 40.0, 512),
    ("aten::native_layer_norm", "void at::native::vectorized_layer_norm_kernel<c10::BFloat16, float>", 60.0, 1024),
)
"""In each step of the GPU's trace: an operator, its kernel, the kernel's microseconds and its blocks."""

STEP_US = 1000.0


def gpu_trace(steps: int = 3) -> bytes:
    """A profiled loop as Kineto writes it, with the fields that the kernel view reads."""
    events: list[dict[str, Any]] = []

    def event(cat: str, name: str, start: float, length: float, lane: int, **args: Any) -> None:
        place = {"pid": 0 if cat == "kernel" else 1, "tid": lane}
        events.append({"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length, **place, "args": args})

    names = [("process_name", 0, 0, "GPU 0"), ("thread_name", 0, 7, "stream 7"),
             ("process_name", 1, 0, "python"), ("thread_name", 1, 1, "thread 1 (python)")]  # fmt: skip
    for what, process, lane, name in names:
        events.append({"ph": "M", "name": what, "pid": process, "tid": lane, "ts": 0, "args": {"name": name}})
    for step in range(steps):
        begin = 100 + step * STEP_US
        for mark in ("ProfilerStep", "denoise_step"):
            event("user_annotation", f"{mark}#{step + 2}", begin, STEP_US, 1)
        ready = begin + 40
        for order, (operator, kernel, length, blocks) in enumerate(KERNELS):
            number = step * len(KERNELS) + order + 1
            called = begin + 10 + 60 * order
            event("cpu_op", operator, called, 50, 1, **{"External id": number})
            event("cuda_runtime", "cudaLaunchKernel", called + 20, 10, 1, correlation=number, **{"External id": number})
            ready = max(ready, called + 32)
            event(
                "kernel", kernel, ready, length + step, 7,
                correlation=number, device=0, context=1, stream=7, grid=[blocks, 1, 1], block=[256, 1, 1],
                **{"External id": number, "blocks per SM": blocks / 132, "est. achieved occupancy %": 38},
            )  # fmt: skip
            ready += length + step + 2
    device = {"id": 0, "name": "NVIDIA H200", "totalGlobalMem": 150_000_000_000, "computeMajor": 9, "computeMinor": 0}
    return json.dumps({"schemaVersion": 1, "deviceProperties": [device], "traceEvents": events}).encode()


def a_port() -> int:
    """A port that no other test is given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def image(file: Path, colour: str, side: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.new("RGB", (96, 96), "#20242c")
    ImageDraw.Draw(drawn).ellipse((48 - side, 48 - side, 48 + side, 48 + side), fill=colour)
    drawn.save(file)


BASELINE: Values = {"compile.scope": "none", "cache.kind": "none", "steps": 28, "batch": 1}
SPACE = SearchSpace(
    name="small", architecture=kind(), workload=Workload(prompts=PROMPTS, seeds=(1, 2)), tolerance=1.0,
    gate=GatePolicy(), baseline=BASELINE, recipes=(), left_out={},
    knobs={"compile.scope": ("none", "regional", "full"), "cache.kind": ("none", "first-block"), "steps": (28, 20, 6)},
)  # fmt: skip
SYNC = Finding(
    kind="device sync", count=3, count_per_step=1, idle_ms_per_step=0.25, operator="aten::item", reason="waits",
    source="model.py:7",
)  # fmt: skip
PLACES: dict[int, trial_events.Place] = {0: "front", 1: "chosen", 3: "front"}
CONCLUSION = "Chosen   trial 1, 2.00x the baseline's throughput [1.90, 2.10]: compile.scope=regional"


def outcome(number: int, different: Values, latency_s: float | None, score: float = 31.0, **more: Any) -> Outcome:
    """A trial that was measured, or rejected by the gate without a latency."""
    values = {**BASELINE, **different}
    verdict = Verdict(status="clean") if latency_s else Verdict(status="rejected", findings=(SYNC,))
    given: dict[str, Any] = {"purpose": "search", "status": "rejected"}
    if latency_s:
        exact = Estimate(value=latency_s, low=0.99 * latency_s, high=1.01 * latency_s)
        change = Estimate(value=score - 31, low=score - 31.2, high=score - 30.8)
        given |= {
            "status": "measured",
            "timing": Timing(
                latency_s=exact, samples=9, images_per_s=1 / latency_s, stopped="interval within target"
            ),
            "memory": Memory(peak_bytes=1 << 30, reserved_bytes=None),
            "quality": Quality(
                metric="clip_score", scores=(score, score), mean=score, difference=change, psnr_db=None, ssim=None
            ),
            "cost_usd_per_1000_images": latency_s,
        }  # fmt: skip
    build = Build(changes={}, load_s=1, apply_s=1, first_call_s=3, trace=None, verdict=verdict)
    return Outcome(number=number, values=values, build_key="b", image_key="i", build=build, **(given | more))


def write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Show trials in TensorBoard as a study does at its end."""
    for each in outcomes:
        trial_events.write(folder / "trials" / f"{each.number:04}", each, SPACE)
        trial_events.write_row(folder / "trials" / f"{each.number:04}", each, SPACE, PLACES.get(each.number))
    study_events.write(folder / "trials", outcomes, PLACES, "clip_score", CONCLUSION)


OUTCOMES = (
    outcome(0, {}, 0.4, purpose="baseline"),
    outcome(1, {"compile.scope": "regional"}, 0.2),
    outcome(2, {"compile.scope": "full"}, None),
    outcome(3, {"steps": 6}, 0.1, 30.2, purpose="baseline"),
)


def make(folder: Path) -> Path:
    """The study: a baseline, one configuration that was chosen, one that was rejected, one with fewer steps.

    Gives back its folder.
    """
    trials = folder / "trials"
    for number in range(len(OUTCOMES)):
        for index, colour in enumerate(("#d33", "#36c")):
            image(trials / f"{number:04}" / "images" / f"{index:04}.png", colour, 24 + 8 * number)
    ours, theirs = (Images(np.full((2, 64, 64, 3), level), list(PROMPTS)) for level in (0.6, 0.4))
    strips.write("trial 1", ours, theirs, folder / "strips" / "0001.png")
    write(folder, OUTCOMES)
    (trials / "0000" / "denoise.1700000000000000000.pt.trace.json.gz").write_bytes(gzip.compress(gpu_trace()))
    shutil.copy(TRACES / "cpu-2.13-loop.pt.trace.json.gz", trials / "0002" / "denoise.1.pt.trace.json.gz")
    for trace in trials.glob(f"*/*{SHOWN}"):
        keep_steps(trace, trace.with_name(trace.name.removesuffix(SHOWN) + WHOLE))
    (folder / "study.json").write_text("{}")
    return folder


def make_long(folder: Path) -> Path:
    """The study gone on with: more trials than TensorBoard ticks, and a result."""
    make(folder)
    more = [outcome(number, {"steps": 20, "batch": number}, 0.5) for number in range(len(OUTCOMES), 50)]
    write(folder, [*OUTCOMES, *more])
    best = {"baseline": {"trial": 0}, "chosen": {"trial": 1}, "front": [{"trial": 1}, {"trial": 7}]}
    (folder / "best_config.json").write_text(json.dumps(best))
    return folder
