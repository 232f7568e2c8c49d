"""What several devices make of one image: latencies with their spread, and which rank waits for which, as a table.

`python tests/bench_parallel.py --family flux --out FOLDER` builds the pipeline with random weights at its real size in
each process, 2 of them by torchrun, and times whole calls of each configuration, which has processes and a time limit
of its own. What failed or ran out of time is a row that says so. `--only` selects configurations, `--device cpu --size
tiny` tries the program without a GPU. The traces of all ranks and the times of their calls are kept in the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

CUDNN, REGIONAL, FP8 = (
    "attention.backend=_native_cudnn",
    "compile.scope=regional",
    "quantization.scheme=fp8-dynamic-row",
)
ULYSSES = "parallel.kind=ulysses"

CONFIGURATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "cuda": {
        "one": (CUDNN,),
        "one-compiled": (CUDNN, REGIONAL),
        "one-compiled-fp8": (CUDNN, REGIONAL, FP8),
        "ulysses": (ULYSSES, CUDNN),
        "ulysses-compiled": (ULYSSES, CUDNN, REGIONAL),
        "ulysses-compiled-fp8": (ULYSSES, CUDNN, REGIONAL, FP8),
        "ulysses-graph": (ULYSSES, CUDNN, REGIONAL, "graphs.denoiser=true"),
        "ring-compiled": ("parallel.kind=ring", CUDNN, REGIONAL),
        "tensor-compiled": ("parallel.kind=tensor", CUDNN, REGIONAL),
    },
    "cpu": {"one": (), "ulysses": (ULYSSES,), "ulysses-compiled": (ULYSSES, REGIONAL), "hangs": (ULYSSES,)},
}

CALLS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {
        "flux": {"height": 1024, "width": 1024, "num_inference_steps": 28, "guidance_scale": 3.5},
        "wan": {"height": 480, "width": 832, "num_frames": 81, "num_inference_steps": 50},
    },
    "tiny": {
        "flux": {"height": 64, "width": 64, "num_inference_steps": 4, "max_sequence_length": 16},
        "wan": {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 4, "max_sequence_length": 16},
    },
}

HEADER = ("configuration", "GPUs", "s a call", "spread", "calls", "first call s", "GB", "a step on each rank")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("flux", "wan"), default="flux")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--devices", type=int, default=2, help="that compute an image together (2)")
    parser.add_argument("--only", nargs="*", help="configurations, of those in the table (all)")
    parser.add_argument("--steps", type=int, help="of a call (the family's own)")
    parser.add_argument("--calls", type=int, default=20, help="that are timed, after two to warm up (20)")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for each configuration (240)")
    parser.add_argument("--out", type=Path, required=True, help="folder for traces and times")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.rank_of:
        return be_rank(given)
    known = CONFIGURATIONS[given.device]
    rows = []
    for name in given.only or known:
        rows.append(measured(name, known[name], given))
        print(" | ".join(rows[-1]), flush=True)
    print("\n".join(["", *table(rows)]))
    return 0


# ---- the parent ------------------------------------------------------------------------------------------------------


def measured(name: str, settings: Sequence[str], given: argparse.Namespace) -> tuple[str, ...]:
    """A row of the table, from processes of its own, which are killed when their time is over."""
    count = given.devices if any(each.startswith("parallel.kind") for each in settings) else 1
    folder = given.out / given.family / name
    folder.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    options = ["--rank-of", name, "--family", given.family, "--size", given.size, "--device", given.device]
    options += ["--devices", str(given.devices), "--calls", str(given.calls), "--out", str(folder)]
    options += ["--steps", str(given.steps)] if given.steps else []
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*launcher, __file__, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(given.limit)
        except subprocess.TimeoutExpired:
            return (name, str(count), f"over {given.limit:.0f} s", *[""] * (len(HEADER) - 3))
        finally:
            kill(process)
    if code:
        return (name, str(count), last_error(folder / "log.txt"), *[""] * (len(HEADER) - 3))
    return row(name, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(count)], folder)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a configuration: torchrun has each rank in a session of its own."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if "Error" in line and "elastic" not in line and "ChildFailed" not in line]
    return (errors or lines or ["it failed"])[0][:160]


def row(name: str, ranks: Sequence[dict[str, Any]], folder: Path) -> tuple[str, ...]:
    """The figures of rank 0, whose calls are the user's, and of each rank what its exchanges take of a step."""
    from tuner.trace import read
    from tuner.trace.exchanges import rank_exchanges
    from tuner.trace.summary import summarise

    calls = ranks[0]["calls_s"]
    traces = [read.load(Path(rank["trace"])) for rank in ranks]
    parts = []
    for index, (exchanges, trace) in enumerate(zip(rank_exchanges(traces), traces, strict=True)):
        summary = summarise(trace)
        text = f"{index}: {summary.step_ms:.1f} ms"
        if summary.host_wait_share is not None:
            text += f", GPU waits {summary.host_wait_share:.0%} for launches"
        if len(ranks) > 1:
            wait = exchanges.wait_ms_per_step
            waits = "unmatched" if wait is None else f"waits {wait:.1f}"
            text += f", {exchanges.count_per_step:.0f} exchanges {exchanges.ms_per_step:.1f} ms, {waits}"
        parts.append(text)
    return (
        name, str(len(ranks)), f"{median(calls):.3f}", f"{(max(calls) - min(calls)) / median(calls):.1%}",
        str(len(calls)), f"{ranks[0]['first_call_s']:.1f}",
        f"{max(rank['peak_bytes'] for rank in ranks) / 1e9:.1f}", "; ".join(parts),
    )  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *rows)]


# ---- a rank ----------------------------------------------------------------------------------------------------------


def be_rank(given: argparse.Namespace) -> int:
    """Build the pipeline, apply the knobs, time the calls, trace one, and write the figures."""
    import torch
    from pipelines import build, fill, models

    from tuner.hardware.environment import detect
    from tuner.knobs import KNOBS, apply_knobs, baseline
    from tuner.knobs.parallel import device_count, join_ranks
    from tuner.records.codec import Values
    from tuner.trace import capture
    from tuner.worker.host_memory import peak_memory_bytes

    rank, on_gpu = int(os.environ["RANK"]), given.device == "cuda"
    here = detect(given.device, given.devices)
    different: Values = {"parallel.degree": given.devices}
    for setting in CONFIGURATIONS[given.device][given.rank_of]:
        knob, _, text = setting.partition("=")
        different[knob] = KNOBS[knob].canonical(text == "true" if text in ("true", "false") else text)
    values: Values = {}
    for name, each in KNOBS.items():
        if each.is_active(values):
            values[name] = different.get(name, each.baseline(here))
    if device_count(values) > 1:
        join_ranks(device_count(values))
    pipe = build(given.family, given.size, empty=given.size == "full")
    if given.size == "full":
        for model in models(pipe).values():
            fill(model)
    pipe.to(given.device).set_progress_bar_config(disable=True)
    print(apply_knobs(pipe, {**baseline(here), **values}, here), flush=True)
    if given.rank_of == "hangs" and rank:
        time.sleep(3600)
    arguments = CALLS[given.size][given.family]
    arguments = arguments | ({"num_inference_steps": given.steps} if given.steps else {})

    def call(steps: int = arguments["num_inference_steps"]) -> float:
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(0)
        pipe(prompt="a red ball on a table", generator=generator, **{**arguments, "num_inference_steps": steps})
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first_call_s = call()
    call()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    calls_s = [call() for _ in range(given.calls)]
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes()
    trace = capture.capture(call, pipe.scheduler, given.out, f"rank{rank}")
    figures = {"calls_s": calls_s, "first_call_s": first_call_s, "peak_bytes": peak, "trace": str(trace)}
    (given.out / f"rank-{rank}.json").write_text(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)  # without waiting for what the group still has open


if __name__ == "__main__":
    sys.exit(main())
