"""Exchanges of ranks: what is longer on one rank than on the last to come is a wait."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tuner.trace.events import Event
from tuner.trace.exchanges import rank_exchanges
from tuner.trace.read import Trace


def trace(durations: Sequence[float], offset: float = 0.0) -> Trace:
    """Two steps with exchanges of gloo, on a clock of its own."""
    steps = tuple(Event("user_annotation", f"denoise_step#{n}", offset + 1000.0 * n, 1000.0) for n in (2, 3))
    host = [Event("user_annotation", "gloo:all_to_all", offset + 2001.0 + n, each) for n, each in enumerate(durations)]
    other = Event("cpu_op", "aten::mm", offset + 2000.5, 400.0)
    return Trace("", 0, None, steps, None, [*host, other], [-1] * (len(host) + 1), [])


def test_the_last_rank_of_an_exchange_waits_for_nobody() -> None:
    first, second = rank_exchanges([trace([100, 900, 300]), trace([500, 100, 300], offset=7e9)])
    assert (first.count_per_step, second.count_per_step) == (1.5, 1.5)
    assert first.ms_per_step == pytest.approx(0.65)
    assert first.wait_ms_per_step == pytest.approx(0.4), "800 us of the second exchange"
    assert second.wait_ms_per_step == pytest.approx(0.2), "400 us of the first one"


def test_exchanges_that_do_not_match_are_not_compared() -> None:
    assert [rank.wait_ms_per_step for rank in rank_exchanges([trace([100, 200]), trace([100])])] == [None, None]


def test_one_rank_has_none() -> None:
    (alone,) = rank_exchanges([trace([])])
    assert (alone.count_per_step, alone.ms_per_step, alone.wait_ms_per_step) == (0, 0, 0)
