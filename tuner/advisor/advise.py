"""Say of each value of a search space what it can gain at most, and what it is expected to gain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from tuner.advisor.attention import ATTENTION_EFFECTS
from tuner.advisor.call import HOST, IDLE, PARTS, STEP_PARTS, WORK, Call, Change, call_of
from tuner.advisor.compiling import COMPILING
from tuner.advisor.effects import Effect, EffectOf, Facts, percent
from tuner.advisor.products import PRODUCT_EFFECTS
from tuner.advisor.skipping import SKIPPING
from tuner.knobs import KNOBS
from tuner.knobs.graphs import DenoiserGraph
from tuner.numbers import format_ratio
from tuner.records.advice import Advice, Expectation
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment, Roofline
from tuner.records.outcome import Outcome
from tuner.space.candidates import SearchSpace

EFFECTS: Mapping[str, EffectOf] = COMPILING | PRODUCT_EFFECTS | ATTENTION_EFFECTS | SKIPPING
"""What each knob does to a call."""

UNKNOWN = (0.2, 5.0)
"""The interval of a ratio where nothing of the baseline is known."""

FALLBACK_SPREAD = 0.003
"""No expectation is surer than this."""

LARGEST = 1e4
"""The largest ratio that is told: a call of which everything can be saved has none."""

GRAPH = DenoiserGraph.name
LAUNCHING = (GRAPH, "compile.scope", "compile.mode", "compile.backend")
"""Knobs that decide how much launching is left."""

Setting = tuple[str, Value]


def advise(space: SearchSpace, environment: Environment, baseline: Outcome, noise: float) -> Advice:
    """Return what every searched value is expected to gain, from the baseline's trial alone.

    `noise` is the share by which fresh processes of the baseline differ.
    """
    call = call_of(baseline)
    expectations = tuple(expect(space, environment, baseline, name, value) for name, value in settings_of(space))
    if call is None:
        return Advice(seconds_by_part={}, noise=noise, expectations=expectations)
    wanted = wanted_settings(space)
    ruled_out = (
        each
        for each in expectations
        if (each.knob, each.value) not in wanted and is_idle(each, expectations, call, noise)
    )
    return Advice(seconds_by_part=call.shown(), noise=noise, expectations=expectations, ruled_out=tuple(ruled_out))


def settings_of(space: SearchSpace) -> Iterator[Setting]:
    """Yield each value to search that is not the baseline's."""
    for name, values in space.knobs.items():
        yield from ((name, value) for value in values if value != space.baseline[name])


def expect(space: SearchSpace, environment: Environment, baseline: Outcome, name: str, value: Value) -> Expectation:
    """Return what is expected of a value of a knob."""
    call, beside = call_of(baseline), companions(space, name, value)
    roofline = baseline.build.roofline if baseline.build else None
    if call is None:
        return Expectation(
            knob=name, value=value, ratio=1.0, low=UNKNOWN[0], high=UNKNOWN[1], beside=beside,
            reason="the baseline has no trace or no timing, from which to expect anything",
        )  # fmt: skip
    facts = facts_beside(space, environment, roofline, call, beside, {name: value})
    effect = effect_of(name, value, facts)
    found = _expectation(name, value, beside, facts.call, effect)
    is_hidden = facts.call.waits_for_host and any(change.part in WORK for change in effect.changes)
    if not is_hidden or not can_have_graph(space, beside, name, value):
        return found
    beside = {**beside, GRAPH: True}
    facts = facts_beside(space, environment, roofline, call, beside, {name: value})
    replayed = _expectation(name, value, beside, facts.call, effect_of(name, value, facts))
    return replayed if replayed.ratio > found.ratio else found  # what has fewer launches gains more without the graph


def facts_beside(
    space: SearchSpace, environment: Environment, roofline: Roofline | None, call: Call, beside: Values, values: Values
) -> Facts:
    """Return the facts of values beside others, with the call that these make of the untouched one."""
    without = space.candidate({})
    for companion, its_value in sorted(beside.items(), key=lambda item: list(KNOBS).index(item[0])):
        facts = _facts(space, environment, roofline, call, without, {**without, companion: its_value})
        call = call.after(effect_of(companion, its_value, facts).changes)
        without = space.candidate({**space.changed(without), companion: its_value})
    return _facts(space, environment, roofline, call, without, space.candidate({**beside, **values}))


def can_have_graph(space: SearchSpace, beside: Values, name: str, value: Value) -> bool:
    """Return whether a value can be tried beside a CUDA graph of the denoiser.

    Without the graph, shorter work does not show in a step that waits for the host.
    """
    candidate = space.candidate({**beside, GRAPH: True, name: value})
    is_whole = candidate.get(name) == value and candidate.get(GRAPH) is True
    is_searched = True in space.knobs.get(GRAPH, ())
    return is_searched and name not in LAUNCHING and is_whole and space.conflict_reason(candidate) is None


def effect_of(name: str, value: Value, facts: Facts) -> Effect:
    """Return what a value of a knob does."""
    return EFFECTS[name](value, facts)


def _facts(
    space: SearchSpace, environment: Environment, roofline: Roofline | None, call: Call, without: Values, values: Values
) -> Facts:
    # What was just made active has its baseline's value.
    full = {**space.baseline, **values}
    return Facts(
        call=call, roofline=roofline or Roofline(), environment=environment, architecture=space.architecture,
        workload=space.workload, values=full, without={**space.baseline, **without},
    )  # fmt: skip


def companions(space: SearchSpace, name: str, value: Value) -> Values:
    """Return the settings that a value needs: none, one or two searched ones; none if no candidate can have it."""
    tried: list[Values] = [{}]
    tried += [{other: its} for other, its in settings_of(space) if other != name]
    tried += [{one: its, "compile.scope": scope} for one, its in settings_of(space) for scope in ("regional", "full")]
    for beside in tried:
        candidate = space.candidate({**beside, name: value})
        is_whole = candidate.get(name) == value and beside.items() <= candidate.items()
        if is_whole and space.conflict_reason(candidate) is None:
            return beside
    return {}


# ---- in figures and words -------------------------------------------------------------------------------------------


def _expectation(name: str, value: Value, beside: Values, call: Call, effect: Effect) -> Expectation:
    """Return the expectation that follows from an effect on a call."""
    ratio, low, high, bound = (
        speed_up(call, call.after(effect.changes, which)) for which in ("factor", "high", "low", "least")
    )
    spread = FALLBACK_SPREAD if effect.changes else 0.0
    bound = max(bound, ratio)
    return Expectation(
        knob=name, value=value, ratio=ratio, low=min(low, ratio * (1 - spread)),
        high=min(bound, max(high, ratio * (1 + spread))), bound=bound, beside=beside,
        reason=reason(call, effect, bound), also=effect.also,
    )  # fmt: skip


def speed_up(before: Call, after: Call) -> float:
    """Return how many times as fast one call is as another, within what a record can hold."""
    return before.seconds / min(max(after.seconds, before.seconds / LARGEST), before.seconds * LARGEST)


def reason(call: Call, effect: Effect, bound: float) -> str:
    """Say in one line why, with figures that a person can check."""
    if not effect.changes:
        return f"nothing is expected: {effect.why}"
    limit = f"at most {format_ratio(bound)}x" if bound >= 1.005 else "it cannot be faster"
    shares = ", ".join(_shares(call, effect.changes)) or "nothing"
    return f"{shares} of a call; {effect.why}: {limit}"


def _shares(call: Call, changes: Sequence[Change]) -> Iterator[str]:
    changed = {IDLE if change.part == HOST else change.part for change in changes}
    if len(changed) >= 5:
        yield f"steps {percent(call.steps_s / call.seconds)}"
        changed -= set(STEP_PARTS)
    yield from (f"{part} {percent(call.share(part))}" for part in PARTS if part in changed and call.share(part) > 0)


# ---- what is not worth a trial --------------------------------------------------------------------------------------


def wanted_settings(space: SearchSpace) -> set[Setting]:
    """Return the settings that are tried whatever they gain: a recipe's, and those of a knob without its baseline."""
    pinned = {name: values for name, values in space.knobs.items() if space.baseline[name] not in values}
    recommended = {item for recipe in space.recipes for item in recipe.values.items()}
    return recommended | {(name, value) for name, values in pinned.items() for value in values}


def is_idle(found: Expectation, all_found: Sequence[Expectation], call: Call, noise: float) -> bool:
    """Return whether a value cannot gain more than the noise even in the fastest call imaginable.

    There every other knob gains what is expected of its best value. A value that serves another purpose, or that others
    need, is never idle.
    """
    if found.bound is None or found.also:
        return False
    needed = set(chain.from_iterable(each.beside.items() for each in all_found))
    if (found.knob, found.value) in needed:
        return False
    best: dict[str, float] = {}
    for each in all_found:
        if each.knob != found.knob:
            best[each.knob] = max(best.get(each.knob, 1.0), each.ratio)
    fastest_s = call.seconds / math.prod(best.values())
    saved_s = call.seconds * (1 - 1 / found.bound)
    return saved_s <= noise * max(fastest_s, 1e-9)


# ---- what is worth most ---------------------------------------------------------------------------------------------


def best_of_knobs(advice: Advice) -> list[Expectation]:
    """Return the best value of each knob that is expected to gain, the best first."""
    best: dict[str, Expectation] = {}
    for found in advice.expectations:
        if found.ratio > best.get(found.knob, found).ratio or found.knob not in best:
            best[found.knob] = found
    return sorted((found for found in best.values() if found.ratio > 1.0), key=lambda found: -found.ratio)
