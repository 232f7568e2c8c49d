"""Calls of two workers in turn: each gives the device to the other after a block of calls, A B B A A B B A ..."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tuner.records.protocol import Standing
from tuner.timing.measure import SLOW_CALL_S
from tuner.worker.channel import Channel

BLOCK_S = 1.0
"""How long a block takes at least: to change places takes a moment, and a call that does not count."""


class Blocks:
    """The blocks of one of two workers. The first block of the first worker is half as long as all others.

    So the middle of all of its calls is that of the other's, and a drift of the machine changes both alike.
    """

    def __init__(self, channel: Channel, standing: Standing, call: Callable[[], object], call_s: float) -> None:
        half = max(1, math.ceil(BLOCK_S / 2 / max(call_s, 1e-6)))
        self.channel = channel
        self.call = call
        self.size = 2 * half
        self.left = half if standing.is_first else self.size
        self.needs_warm_up = call_s < SLOW_CALL_S

    def before_call(self) -> float:
        """Change places if a block is full, and return the seconds that took.

        A process that stood still finds its caches cold: the first of quick calls does not count.
        """
        started = time.perf_counter()
        if self.left == 0:
            self.channel.end_turn()
            self.channel.take_turn(in_pair=True)
            if self.needs_warm_up:
                self.call()
            self.left = self.size
        self.left -= 1
        return time.perf_counter() - started
