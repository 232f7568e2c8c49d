"""Refuse settings of the command line that cannot be had together, whatever else a candidate is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tuner.errors import BadInput
from tuner.records.codec import Values
from tuner.records.text import shown
from tuner.space.candidates import SearchSpace

SAMPLES = 300
"""Candidates that are drawn before settings count as impossible: it takes a tenth of a second."""


def check_combination(space: SearchSpace, settings: Sequence[str]) -> None:
    """Check that some candidate has all values that the command line pins. Raises BadInput with what conflicts."""
    names = {setting.partition("=")[0].strip() for setting in settings} & space.knobs.keys()
    pinned = {name: space.knobs[name][0] for name in names if len(space.knobs[name]) == 1}
    if len(pinned) < 2:
        return
    reason = space.conflict_reason(space.candidate(pinned))
    if reason and all(space.conflict_reason(values) for values in _others(space, pinned)):
        given = " ".join(f"--set {name}={shown(value)}" for name, value in sorted(pinned.items()))
        raise BadInput(f"{given}: these cannot be had together: {reason}")


def _others(space: SearchSpace, pinned: Values) -> Iterator[Values]:
    """Yield candidates with the pinned values: each that differs in one value more, then random ones."""
    for name, values in space.knobs.items():
        yield from (space.candidate({name: value, **pinned}) for value in values)
    chance = random.Random(0)  # noqa: S311  (the same draws each time)
    for _ in range(SAMPLES):
        yield space.sample(lambda _, choices: chance.choice(choices))
