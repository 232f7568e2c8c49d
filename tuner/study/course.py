"""What a study keeps so that it takes the same course when it goes on: its strategy, and what is being built."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.errors import BadInput
from tuner.records.codec import Values, decode, encode
from tuner.search.recorded import is_candidate
from tuner.search.strategies import FIRST, STRATEGIES
from tuner.study.store import Store


def strategy_of(store: Store) -> str:
    """Return the name of a study's strategy. Raises BadInput if the database has none of that name."""
    name = store.study.user_attrs.get("strategy", FIRST)
    if name not in STRATEGIES:
        raise BadInput(f"{store.paths.database}: strategy: {str(name)[:40]} is none of {', '.join(STRATEGIES)}")
    return str(name)


def keep_strategy(store: Store, name: str | None, default: str) -> None:
    """Record the strategy that was asked for; if none was, that of a study that was begun stays."""
    is_new = "strategy" not in store.study.user_attrs and not store.outcomes()
    if name is not None or is_new:
        store.study.set_user_attr("strategy", name or default)


def keep_building(store: Store, sweeps: Sequence[Sequence[Values]]) -> None:
    """Record the step sweeps of the builds that run now."""
    store.study.set_user_attr("building", encode(list(map(list, sweeps))).decode())


def building(store: Store) -> list[list[Values]]:
    """Return the step sweeps of the builds that ran when the study was last killed. Raises BadInput if damaged."""
    text = store.study.user_attrs.get("building")
    sweeps = decode(str(text), list[list[Values]], f"{store.paths.database}: building") if text else []
    if not all(is_candidate(values, store.request) for sweep in sweeps for values in sweep):
        raise BadInput(f"{store.paths.database}: building: not candidates of this study's search space")
    return sweeps
