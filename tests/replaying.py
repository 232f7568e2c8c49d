"""A CUDA graph's capture and replay on a CPU, for the tests of what is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuner.knobs.graphs import CapturedCall


class Recorded(CapturedCall):
    """Replays on a CPU as a CUDA graph does: the call runs again on the memory it was recorded with, and writes into
    the memory of its first outputs."""

    recorded = 0

    def _record(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        import torch
        from torch.utils._pytree import tree_leaves

        self.recorded += 1
        outputs = call()

        def replay() -> None:
            for held, fresh in zip(tree_leaves(outputs), tree_leaves(call()), strict=True):
                if isinstance(held, torch.Tensor):
                    held.copy_(fresh)

        return replay, outputs
