"""Keep a process fit to be forked: without CUDA and without threads."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from tuner.records.machine import Environment

FIRST_CAPABILITY = 10.0
"""From this compute capability on torchao chooses kernels when it is imported, by the GPU that it then sees."""

THREAD_S = 2.0
TRIAL_S = 60.0
TRIAL_SIZE = 128


@contextmanager
def cuda_asleep() -> Iterator[None]:
    """Have libraries that look for a GPU when they are imported find none: looking would start CUDA."""
    import torch
    from torch.utils import _triton

    with patch.object(torch.cuda, "is_available", return_value=False):
        yield
    from transformers.utils import import_utils

    for function in (*vars(_triton).values(), *vars(import_utils).values()):
        if hasattr(function, "cache_clear"):  # it may have answered while no GPU was in sight
            function.cache_clear()


def unfit_reason(environment: Environment, threads: int) -> str | None:
    """Return why this process must not be forked, or None. A child is forked to try a product on the device."""
    import torch

    capability = float(environment.compute_capability or 0) if environment.device == "cuda" else 0.0
    if capability >= FIRST_CAPABILITY:
        return f"torchao must see a GPU of compute capability {capability} when it is imported"
    if torch.cuda.is_initialized():
        return "CUDA was started"
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    for thread in others:  # of a library that is just ending them
        thread.join(THREAD_S)
    if running := [thread.name for thread in others if thread.is_alive()]:
        return f"it has other threads: {', '.join(running)}"
    is_usable = succeeds_after_fork(lambda: multiplies(environment.device, threads))
    return None if is_usable else "a forked process cannot use the device"


def succeeds_after_fork(work: Callable[[], bool]) -> bool:
    """Return whether a forked child does some work that says that it succeeded."""
    pid = fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    until = time.monotonic() + TRIAL_S
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def fork() -> int:
    """Fork, without Python's warning of native threads: idle ones that libraries keep do no harm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def multiplies(device: str, threads: int) -> bool:
    """Return whether a product of two matrices on the device is right."""
    import torch

    torch.set_num_threads(threads)
    ones = torch.ones(TRIAL_SIZE, TRIAL_SIZE, device=device)
    return float((ones @ ones).sum()) == TRIAL_SIZE**3
