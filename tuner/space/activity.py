"""Find the knobs that no candidate of a space can make act, such as the interval of caches that are all left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tuner.knobs import KNOBS
from tuner.records.codec import Value
from tuner.records.text import shown

Options = Mapping[str, Sequence[Value | None]]
"""The values that candidates may have of each knob; None where it may be inactive."""

NOTHING_ACTS = "no value that can be tried here makes it act"


class _Undecided(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


class _Partial(Mapping[str, Value]):
    """Values of a candidate of which only some are decided: asking for another raises `_Undecided`.

    So only the few knobs that decide are varied, not all that a candidate has.
    """

    def __init__(self, decided: Mapping[str, Value | None]) -> None:
        self._decided = decided

    def __getitem__(self, name: str) -> Value:
        if name not in self._decided:
            raise _Undecided(name)
        value = self._decided[name]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._decided)

    def __len__(self) -> int:
        return len(self._decided)


def inactive_reasons(written: Mapping[str, Sequence[Value]], usable: Mapping[str, Sequence[Value]]) -> dict[str, str]:
    """Return the knobs that are inactive whatever usable values the others have, with the reason.

    `usable` has a value of every knob, `written` also those that cannot be used here.
    """
    options: dict[str, Sequence[Value | None]] = {}
    reasons = {}
    for name in KNOBS:
        can_be = {is_active for _, is_active in _cases(name, options, {})}
        options[name] = (*(usable[name] if True in can_be else ()), *((None,) if False in can_be else ()))
        if True not in can_be:
            reasons[name] = _reason(name, written)
    return reasons


def _cases(
    name: str, options: Options, decided: Mapping[str, Value | None]
) -> Iterator[tuple[Mapping[str, Value | None], bool]]:
    """Yield the values that decide whether a knob is active, in all combinations, and whether it is."""
    try:
        yield decided, KNOBS[name].is_active(_Partial(decided))
    except _Undecided as asked:
        for value in options[asked.name]:
            yield from _cases(name, options, {**decided, asked.name: value})


def _reason(name: str, written: Mapping[str, Sequence[Value]]) -> str:
    """Say beside which values a knob would act, if possible those of the space file."""
    options = {other: (*written.get(other, ()), *knob.choices) for other, knob in KNOBS.items()}
    acting = next((decided for decided, is_active in _cases(name, options, {}) if is_active), {})
    beside = " ".join(f"{other}={shown(value)}" for other, value in acting.items() if value is not None)
    return f"it acts only in candidates such as {beside}, and this space has none" if beside else NOTHING_ACTS
