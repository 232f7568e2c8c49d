"""How the processes start: the libraries are imported once, the weights made once, and each child finds both."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pipelines

from knobs_bench.children import Child
from knobs_bench.lent import borrowed, lent, made
from knobs_bench.measuring import product_s, work
from knobs_bench.plan import plan
from tuner.hardware import environment
from tuner.model import architecture


def imported(given: argparse.Namespace) -> Any:
    """The family's pipeline without weights, all libraries imported and CUDA untouched, for it survives no fork."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the other check would begin with CUDA
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    import torch
    import torch.utils._triton

    with mock.patch("torch.cuda.is_available", return_value=False):  # torchao would look at the GPU when imported
        import torch._dynamo
        import torch._inductor.compile_fx
        import torchao.quantization  # noqa: F401

        pipe = pipelines.build(given.family, "tiny" if given.tiny else "full", empty=True)
    torch.utils._triton.has_triton.cache_clear()
    if torch.cuda.is_initialized() or threading.active_count() > 1:
        given.fork = False
    torch.set_num_threads(1 if given.tiny else 2)
    return pipe


def lend(given: argparse.Namespace, pipe: Any, folder: Path) -> Child:
    """Start the process that holds the weights, forked if CUDA then works; say in `given` where they are."""

    def started(role: str, job: Callable[[int, int], None]) -> tuple[Child, Any]:
        child = Child(role, given, folder / f"{role}.log", job)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            messages = child.lines(1.0)
            if messages is None or messages:
                return child, messages[0] if messages else None
        return child, None

    holder, handle = started("holder", lambda tell, _: hold(pipe, tell))
    if handle is None and given.fork:
        print("CUDA does not work after a fork here; every process is started afresh", flush=True)
        print((folder / "holder.log").read_text()[-1500:], flush=True)
        holder.end()
        given.fork = False
        holder, handle = started("holder", lambda tell, _: hold(pipe, tell))
    if handle is not None:
        given.weights = handle
        prober, given.product_s = started("probe", lambda tell, _: probe(handle, tell))
        prober.end()
        if given.product_s is None:
            given.weights = None
            print("weights cannot be lent between processes here; each makes its own", flush=True)
            print((folder / "probe.log").read_text()[-1500:], flush=True)
            holder.signal(signal.SIGKILL)
    return holder


def hold(pipe: Any, tell: int) -> None:
    """Make the weights, tell where they are, and keep them until this process is killed."""
    try:
        memory = made(pipe)
        os.write(tell, json.dumps(lent(memory)).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
        return
    while True:
        time.sleep(3600)


def probe(handle: Sequence[Any], tell: int) -> None:
    """Whether lent weights can be read from another process; if so, what a product takes while nothing else runs."""
    try:
        memory = borrowed(handle)
        if float(memory[: 2**20].float().std()) > 0:
            os.write(tell, json.dumps(min(product_s() for _ in range(10))).encode() + b"\n")
    except BaseException:
        traceback.print_exc()


def be_child(given: argparse.Namespace) -> None:
    """What a process that was started afresh does."""
    role, (tell, handle) = given.role, given.pipes
    for name, value in json.loads(os.environ["BENCH_KNOBS"]).items():
        setattr(given, name, value)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    pipe = imported(given)
    if role == "holder":
        hold(pipe, tell)
    elif role == "probe":
        probe(given.weights, tell)
    else:
        here = environment.detect(given.device)
        trials, _ = plan(architecture.from_pipeline(pipe), here, given.only)
        (row,) = (trial for trial in trials if trial.name == role)
        work(given, here, row, pipe, tell, handle)
