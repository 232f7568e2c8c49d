"""Memory of the GPU that is no longer needed."""

from __future__ import annotations

import gc
import sys
import traceback


def free_memory() -> None:
    """Return unused memory to the GPU. Does not import torch."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def release_frames(error: BaseException) -> None:
    """Let go of what the calls behind an exception hold, and behind those that led to it, so that it can be kept."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    free_memory()
