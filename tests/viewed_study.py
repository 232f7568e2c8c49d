"""A small study folder to look at: real images and traces of a CPU, and a GPU's trace written by hand."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tuner.board.events_file import Row, ShownImage, write_trial
from tuner.board.shown_traces import SHOWN, WHOLE, keep_steps

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
    for kind, process, lane, name in names:
        events.append({"ph": "M", "name": kind, "pid": process, "tid": lane, "ts": 0, "args": {"name": name}})
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


def make(folder: Path) -> Path:
    """The study: a baseline, a configuration that was measured and one that was rejected. Gives back its folder."""
    trials = folder / "trials"
    statuses = ("ok", "ok", "rejected:sync")
    for number, status in enumerate(statuses):
        trial = trials / f"{number:04}"
        for index, colour in enumerate(("#d33", "#36c")):
            image(trial / "images" / f"{index:04}.png", colour, 24 + 8 * number)
        baseline = trials / "0000" / "images" if number else None
        row = Row(
            number=number,
            status=status,
            result=("baseline", "chosen", "-")[number],
            knobs={"compile.scope": ("none", "regional", "full")[number], "steps": "28"},
            metrics={"latency_s": 0.4 / (number + 1)} if status == "ok" else {},
            text=f"**trial {number}**: {status}",
            images=[
                ShownImage(
                    file=trial / "images" / f"{index:04}.png",
                    shows=prompt,
                    of="a pair" if baseline else "the baseline's image",
                    baseline=baseline / f"{index:04}.png" if baseline else None,
                )
                for index, prompt in enumerate(PROMPTS)
            ],
        )
        write_trial(trial, row)
    (trials / "0000" / "denoise.1700000000000000000.pt.trace.json.gz").write_bytes(gzip.compress(gpu_trace()))
    shutil.copy(TRACES / "cpu-2.13-loop.pt.trace.json.gz", trials / "0002" / "denoise.1.pt.trace.json.gz")
    for trace in trials.glob(f"*/*{SHOWN}"):
        keep_steps(trace, trace.with_name(trace.name.removesuffix(SHOWN) + WHOLE))
    (folder / "study.json").write_text("{}")
    return folder


def make_long(folder: Path) -> Path:
    """The study gone on with: more trials than TensorBoard ticks, and a result."""
    make(folder)
    for number in range(3, 50):
        row = Row(
            number=number, status="ok", result="-", knobs={"compile.scope": "none", "steps": str(number)},
            metrics={"latency_s": 0.5}, text=f"**trial {number}**", images=[],
        )  # fmt: skip
        write_trial(folder / "trials" / f"{number:04}", row)
    best = {"baseline": {"trial": 0}, "chosen": {"trial": 1}, "front": [{"trial": 1}, {"trial": 7}]}
    (folder / "best_config.json").write_text(json.dumps(best))
    return folder
