"""A worker's channel that leads nowhere, for what is measured inside a test."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any


def make_channel(**replaced: Any) -> Any:
    def ignore(*_: Any) -> None:
        pass

    return SimpleNamespace(**{"enter": ignore, "send": ignore, "turn": lambda **_: nullcontext(), "take_turn": ignore,
                              "end_turn": ignore} | replaced)  # fmt: skip
