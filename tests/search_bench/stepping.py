"""Replays that tests drive one build at a time."""

from __future__ import annotations

import dataclasses
from functools import cache

from search_bench.replay import Replay
from search_bench.table import Table, flux
from tuner.records.codec import Values
from tuner.search.strategy import SearchContext, Strategy

SMALL = (
    "compile.scope=[none, full]", "cache.kind=[none, first-block]", "cache.threshold=0.12", "batch=1",
    "quantization.scheme=none", "text.sequence_length=workload", "fuse_qkv=false", "compile.vae=false",
    "vae.channels_last=false", "attention.backend=[native, _native_flash]", "compile.mode=default",
)  # fmt: skip
"""Eight builds of three step counts. Those with a cache in a whole graph are rejected."""


@cache
def small() -> Table:
    return flux(*SMALL)


def replayed(table: Table, **more: object) -> tuple[Replay, SearchContext]:
    replay = Replay(table, seed=1, area=1.0, slots=1)
    notes: list[str] = []
    context = SearchContext(
        replay.trials, lambda _: False, lambda _: False, lambda history: history.baseline, notes.append, seed=1
    )
    return replay, dataclasses.replace(context, **more)  # type: ignore[arg-type]


def build_one(replay: Replay, strategy: Strategy) -> Values | None:
    """Let a strategy propose once, and build that."""
    before = len(replay.history.outcomes)
    while not replay.flying:
        refused = len(replay.history.refused)
        replay.fill(strategy)
        if not replay.flying and len(replay.history.refused) == refused:
            return None
    flying = replay.flying[-1]
    replay.land(flying)
    for outcome in list(replay.history.outcomes.values())[before:]:
        strategy.observe(outcome)
    return flying.proposal.values
