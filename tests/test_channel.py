"""A worker's turns: what it asks for, and that a compilation gives the device back meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from threading import Semaphore
from types import SimpleNamespace
from typing import Any

import pytest

from tuner.records.model import Workload
from tuner.records.protocol import Alive, Message, Standing, TurnEnded, TurnWanted, decode_message
from tuner.worker.blocks import Blocks
from tuner.worker.channel import Channel


@pytest.fixture
def channel() -> Iterator[Channel]:
    """A channel to a parent that grants everything."""
    reading, writing = os.pipe()
    channel = Channel(writing)
    channel.granted = Semaphore(99)
    channel.reading = reading  # type: ignore[attr-defined]
    yield channel
    os.close(reading)
    os.close(writing)


def read(channel: Channel) -> list[Message]:
    lines = os.read(channel.reading, 1 << 16).splitlines()  # type: ignore[attr-defined]
    return [decode_message(line) for line in lines]


def test_a_turn_within_a_turn_is_the_same(channel: Channel) -> None:
    with channel.turn(), channel.turn():
        channel.send(Alive())
    assert read(channel) == [TurnWanted(), Alive(), TurnEnded()]


def test_an_error_ends_a_turn(channel: Channel) -> None:
    with pytest.raises(RuntimeError, match="planted"), channel.turn():
        raise RuntimeError("planted")
    assert read(channel) == [TurnWanted(), TurnEnded()]


def test_without_a_parent_nothing_is_asked_for() -> None:
    with Channel(-1).turn():
        pass


@pytest.mark.parametrize(("is_first", "call_s", "blocks"), [(True, 5.0, [1, 2, 2, 2]), (False, 0.2, [6, 6, 6])])
def test_blocks_of_a_pair_lie_evenly_around_the_others(
    channel: Channel, is_first: bool, call_s: float, blocks: list[int]
) -> None:
    warm_ups: list[int] = []
    standing = Standing(pair="7 0", is_first=is_first)
    pair = Blocks(channel, standing, lambda: warm_ups.append(1), call_s)
    with channel.turn(in_pair=True):
        for _ in range(sum(blocks)):
            assert pair.before_call() >= 0
            channel.send(Alive())
    told = "".join({TurnWanted: "w", TurnEnded: "e", Alive: "."}[type(message)] for message in read(channel))
    assert told == "".join("w" + "." * block + "e" for block in blocks)
    assert len(warm_ups) == (len(blocks) - 1 if call_s < 1 else 0)


def compile_something() -> None:
    import torch

    torch.compile(lambda number: number + 1, backend="eager")(torch.zeros(1))


@pytest.mark.parametrize("is_turn", [True, False])
def test_the_device_is_given_back_while_something_is_compiled(channel: Channel, is_turn: bool) -> None:
    from tuner.timing.measure import Clock
    from tuner.worker.calls import PipelineCalls

    job: Any = SimpleNamespace(workload=Workload(prompts=("a",), seeds=(0,)))
    calls = PipelineCalls(None, job, channel, Clock())
    with calls.turn() if is_turn else nullcontext():
        compile_something()
    channel.send(Alive())
    assert read(channel) == [*([TurnWanted(), TurnEnded()] * 2 * is_turn), Alive()]
