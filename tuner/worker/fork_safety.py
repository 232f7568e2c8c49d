"""Keep a process fit to be forked: without CUDA and without threads."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
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
    for function in vars(_triton).values():
        if hasattr(function, "cache_clear"):  # answers from the time without a GPU
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
    return None if can_multiply_after_fork(environment.device, threads) else "a child cannot use the device"


def can_multiply_after_fork(device: str, threads: int) -> bool:
    """Return whether a forked child computes a product on the device."""
    pid = fork()
    if pid == 0:
        multiply_and_exit(device, threads)
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


def multiply_and_exit(device: str, threads: int) -> NoReturn:
    """Multiply two matrices and exit, with 0 if their product is right."""
    code = 1
    try:
        import torch

        torch.set_num_threads(threads)
        ones = torch.ones(TRIAL_SIZE, TRIAL_SIZE, device=device)
        code = 0 if float((ones @ ones).sum()) == TRIAL_SIZE**3 else 1
    finally:
        os._exit(code)
