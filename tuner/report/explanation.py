"""Why this configuration: what each setting is worth, what was expected of those tried, and what was not tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from tuner.records.advice import Expectation
from tuner.records.codec import Count, Estimate, Record, Value, Values
from tuner.records.outcome import Outcome
from tuner.report.formatting import first_line, label
from tuner.result import front
from tuner.search.bounds import refusal_reason
from tuner.search.expectation import estimate_of, expected_beside, is_beside, ratio_beside, share_of
from tuner.search.gain import is_in_doubt, speed_up, timing_noise
from tuner.search.history import BASELINE, History
from tuner.space.candidates import candidate_key

Setting = tuple[str, Value]

ENDED = "the search ended before it"

WORTH_TRYING = 1.003
"""An expectation below this ratio is not worth a build."""


class Worth(Record):
    """What one setting of the chosen configuration is worth: the latency per image without it over that with it.

    It is `measured` if a trial differs from the chosen one in this setting alone, `expected` by the advisor if not, and
    `unknown` without either. `needed_by` are the chosen settings that cannot be had without it.
    """

    knob: str
    value: Value
    source: Literal["measured", "expected", "unknown"]
    ratio: Estimate | None = None
    trial_without: Count | None = None
    needed_by: Values = msgspec.field(default_factory=dict)


TELLING = 1.25
"""The factor within which a ratio must be known, to either side, to say that an expectation agrees with it."""


class Forecast(Record):
    """What was expected of a setting beside what two trials that differ in it alone measured.

    `beside` are the other settings that both trials have. What was `expected`, and the `bound`, hold beside these.
    `measured` is widened by the noise; the expectation `held` if the two intervals meet.
    """

    knob: str
    value: Value
    expected: Estimate
    bound: float | None
    measured: Estimate
    trial: Count
    trial_without: Count
    beside: Values
    held: bool

    @property
    def tells(self) -> bool:
        """Whether the measurement says anything: a wide interval agrees with every expectation."""
        return not self.held or self.measured.high <= TELLING**2 * self.measured.low


class Untried(Record):
    """A searched setting of which no trial was measured, why, and what was expected of it, beside what it needs.

    It `is_next` with a longer budget if the chosen configuration can have it and is expected to become faster by it.
    """

    knob: str
    value: Value
    reason: str
    beside: Values = msgspec.field(default_factory=dict)
    expected: Estimate | None = None
    bound: float | None = None
    is_next: bool = False


class Explanation(Record):
    """Why a configuration was chosen. `untried` has the settings that are next first, each kind by what is expected."""

    trial: Count
    settings: tuple[Worth, ...]
    forecasts: tuple[Forecast, ...]
    untried: tuple[Untried, ...]


def explain(history: History, chosen: int) -> Explanation:
    """Explain a choice from what a study recorded."""
    known, outcome = Trials(history), history.outcomes[chosen]
    return Explanation(
        trial=chosen,
        settings=tuple(_worths(history, known, outcome)),
        forecasts=tuple(_forecasts(history, known)),
        untried=tuple(_untried(history, known, outcome)),
    )


class Trials:
    """The measured trials of a study by their values."""

    def __init__(self, history: History) -> None:
        self.history = history
        measured = [o for o in history.outcomes.values() if o.status == "measured" and o.timing is not None]
        self.settings = {item for outcome in measured for item in outcome.values.items()}
        """Those that a measured trial has."""
        sure = [outcome for outcome in measured if not is_in_doubt(history, outcome)]
        self.by_key = {candidate_key(outcome.values): outcome for outcome in sure}
        """The trials that are compared: what pairs left in doubt tells nothing of a setting."""
        self.expected = expectations(history)

    def without(self, outcome: Outcome, name: str) -> Outcome | None:
        """Return the measured trial that differs from another one in this setting alone, or None."""
        return self.by_key.get(candidate_key(self.history.space.without(outcome.values, name)))

    def ratio(self, slower: Outcome, faster: Outcome) -> Estimate:
        """Return the latency per image of one trial over that of another, with its interval.

        Over the baseline's it is the speed-up that is shown everywhere, from pairs of processes where there are some.
        """
        if slower.number == BASELINE:
            return speed_up(self.history, faster)
        runs = [self.history.undisturbed(trial) or [trial] for trial in (slower, faster)]
        comparable = [list(map(self.history.comparable, processes)) for processes in runs]
        return front.widen(front.speed_up(*comparable), noise_of(self.history))


def expectations(history: History) -> Mapping[Setting, Expectation]:
    """Return what the advisor expected of each setting."""
    found = history.advice.expectations if history.advice else ()
    return {(each.knob, each.value): each for each in found}


def noise_of(history: History) -> float:
    """Return the coefficient of variation of the baseline's processes, 0 if it is not known."""
    noise = timing_noise(history)
    return noise.coefficient_of_variation if noise else 0.0


# ---- what each setting is worth -------------------------------------------------------------------------------------


def _worths(history: History, known: Trials, chosen: Outcome) -> Iterator[Worth]:
    """Yield the worth of each chosen setting, the largest first."""
    changed = history.space.changed(chosen.values)
    worths = [_worth(history, known, chosen, name, value) for name, value in changed.items()]
    yield from sorted(worths, key=lambda worth: -(worth.ratio.value if worth.ratio else 0.0))


def _worth(history: History, known: Trials, chosen: Outcome, name: str, value: Value) -> Worth:
    other, expected = known.without(chosen, name), known.expected.get((name, value))
    needed_by = {} if other is not None else _needed_by(history, chosen, name)
    if other is not None:
        return Worth(
            knob=name, value=value, source="measured", ratio=known.ratio(other, chosen), trial_without=other.number
        )
    if expected is not None and is_beside(history, expected, chosen):
        ratio = expected_beside(history, expected, chosen, has_setting=True)
        return Worth(knob=name, value=value, source="expected", ratio=ratio, needed_by=needed_by)
    return Worth(knob=name, value=value, source="unknown", needed_by=needed_by)


def _needed_by(history: History, chosen: Outcome, name: str) -> Values:
    """Return the chosen settings that go, or conflict, without one of them."""
    left = history.space.without(chosen.values, name)
    changed = {other: value for other, value in history.space.changed(chosen.values).items() if other != name}
    gone = {other: value for other, value in changed.items() if left.get(other) != value}
    for other, value in changed.items():
        alone = history.space.candidate({**changed, name: history.space.baseline[name]})
        fixed = history.space.candidate({k: v for k, v in changed.items() if k != other})
        if history.space.conflict_reason(alone) and not history.space.conflict_reason(fixed):
            gone[other] = value
    return gone


# ---- expected against measured --------------------------------------------------------------------------------------


def _forecasts(history: History, known: Trials) -> Iterator[Forecast]:
    """Yield what was expected of each setting that two trials tell of."""
    for (name, value), expected in known.expected.items():
        pair = _pair(history, known, expected)
        if pair is not None:
            trial, other = pair
            measured = known.ratio(other, trial)
            here = expected_beside(history, expected, other, has_setting=False)
            yield Forecast(
                knob=name, value=value, expected=here, bound=_bound_beside(history, expected, other), measured=measured,
                trial=trial.number, trial_without=other.number, beside=history.space.changed(other.values),
                held=here.low <= measured.high and measured.low <= here.high,
            )  # fmt: skip


def _bound_beside(history: History, found: Expectation, other: Outcome) -> float | None:
    """Return the most that a setting can be worth beside those of a trial that lacks it, None if that is not known."""
    if found.bound is None:
        return None
    shares = (share_of(trial, (found.knob, found.value)) for trial in (history.baseline, other))
    return ratio_beside(found.bound, *shares, has_setting=False)


def _pair(history: History, known: Trials, found: Expectation) -> tuple[Outcome, Outcome] | None:
    """Return the trials with and without a setting that have the fewest other settings, or None."""
    pairs = []
    for outcome in known.by_key.values():
        if outcome.values.get(found.knob) == found.value:
            other = known.without(outcome, found.knob)
            if other is not None and is_beside(history, found, other):
                pairs.append((len(history.space.changed(outcome.values)), outcome.number, outcome, other))
    return min(pairs, key=lambda pair: pair[:2])[2:] if pairs else None


# ---- what was not tried ---------------------------------------------------------------------------------------------


def _untried(history: History, known: Trials, chosen: Outcome) -> Iterator[Untried]:
    """Yield each searched setting that no measured trial has, those that are next first, the most promising on top."""
    settings = [(name, value) for name, values in history.space.knobs.items() for value in values]
    left = [item for item in settings if item not in known.settings and item[1] != history.space.baseline[item[0]]]
    found = [_untried_setting(history, known.expected.get(item), item) for item in left]
    ranked = [msgspec.structs.replace(each, is_next=_is_next(history, known, chosen, each)) for each in found]
    yield from sorted(ranked, key=lambda each: (not each.is_next, -(each.expected.value if each.expected else 0.0)))


def _untried_setting(history: History, expected: Expectation | None, setting: Setting) -> Untried:
    beside = expected.beside if expected else {}
    return Untried(
        knob=setting[0],
        value=setting[1],
        reason=_untried_reason(history, setting, beside),
        beside=beside,
        expected=estimate_of(expected) if expected else None,
        bound=expected.bound if expected else None,
    )


def _untried_reason(history: History, setting: Setting, beside: Values) -> str:
    """Return why no trial of a setting, beside those that it needs, was measured."""
    name, value = setting
    ruled_out = {(each.knob, each.value) for each in history.advice.ruled_out} if history.advice else set()
    if setting in ruled_out:
        return "it cannot gain more than the timing noise"
    ended = [o for o in history.outcomes.values() if o.values.get(name) == value and o.status != "measured"]
    if ended:
        return _end_text(ended[-1])
    return refusal_reason(history, history.space.candidate({**beside, name: value})) or ENDED


def _end_text(outcome: Outcome) -> str:
    """Return how a trial without a result ended."""
    if outcome.failure is not None:
        return f"trial {outcome.number} failed: {first_line(outcome.failure.message)[:120]}"
    return f"trial {outcome.number} was {outcome.status} by the gate"


def _is_next(history: History, known: Trials, chosen: Outcome, found: Untried) -> bool:
    """Return whether the chosen configuration can have an untried setting and is expected to become faster by it."""
    if found.reason != ENDED or found.expected is None:
        return False
    changed = history.space.changed(chosen.values)
    candidate = history.space.candidate({**found.beside, **changed, found.knob: found.value})
    if candidate.get(found.knob) != found.value or refusal_reason(history, candidate) is not None:
        return False
    own = known.expected.get((found.knob, changed.get(found.knob, "")))
    return found.expected.value / (own.ratio if own else 1.0) >= WORTH_TRYING


def setting_text(found: Worth | Forecast | Untried) -> str:
    """Format a setting."""
    return label({found.knob: found.value})
