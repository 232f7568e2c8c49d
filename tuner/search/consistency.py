"""Find figures of an outcome that contradict its study: the price, the workload, the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tuner.records.consistency import Rule, contradiction, differ, first_broken, scores_differ
from tuner.records.outcome import Outcome
from tuner.records.quality import Quality
from tuner.result.prices import cost_of
from tuner.search.request import Request
from tuner.space.candidates import build_key
from tuner.timing.intervals import MIN_SAMPLES, supports_percentile


@dataclass(frozen=True)
class Recorded:
    """An outcome with what it was recorded in: the request, the trials by number, and earlier repetitions."""

    outcome: Outcome
    request: Request
    trials: Mapping[int, Outcome]
    repetitions: Sequence[Outcome] = ()


def study_contradiction(recorded: Recorded) -> str | None:
    """Return which field of an outcome contradicts the outcome itself or its study, and why, or None."""
    return contradiction(recorded.outcome) or first_broken(RULES, recorded)


def _cost(recorded: Recorded) -> Iterator[str]:
    cost, timing, price = recorded.outcome.cost_usd_per_1000_images, recorded.outcome.timing, recorded.request.price
    if cost is not None and timing is not None and differ(cost, cost_of(timing, price)):
        yield (
            f"cost_usd_per_1000_images: {cost}, although at US$ {price.usd_per_hour} per hour and "
            f"{timing.images_per_s} images/s it is {cost_of(timing, price)}"
        )


def _percentile(recorded: Recorded) -> Iterator[str]:
    timing = recorded.outcome.timing
    if timing and timing.latency_p95_s is not None and not supports_percentile(timing.samples, 0.95):
        yield f"timing.latency_p95_s: known, although {timing.samples} samples are too few for it"


def _target(recorded: Recorded) -> Iterator[str]:
    timing, target_s = recorded.outcome.timing, recorded.request.space.workload.latency_target_s
    if timing is None:
        return
    within = timing.within_target
    if (within is None) != (target_s is None):
        yield f"timing.within_target: {within}, although the study's latency target is {target_s}"
    elif within is not None and target_s is not None:
        # Of fewer samples the latency is the mean, which one slow call moves beyond the target.
        half = 0.5 if timing.samples >= MIN_SAMPLES else 1.0
        is_within, is_beyond = within > min(half, 0.999), within < 1 - half or within == 0
        latency_s = timing.latency_s.value
        if (is_within and latency_s > target_s) or (is_beyond and latency_s <= target_s):
            yield f"timing.within_target: {within}, although the latency is {latency_s} s and the target {target_s} s"


def _baseline(recorded: Recorded) -> Iterator[str]:
    outcome, space = recorded.outcome, recorded.request.space
    if outcome.number == 0 and outcome.repetition is None and outcome.purpose != "baseline":
        yield f"purpose: {outcome.purpose}, although trial 0 is the baseline"
    if outcome.number == 0 and space.changed(outcome.values):
        yield "values: not those of the untouched pipeline, although trial 0 is the baseline"


def _values(recorded: Recorded) -> Iterator[str]:
    if recorded.outcome.build_key != build_key(recorded.outcome.values):
        yield f"build_key: {recorded.outcome.build_key}, although that of its values is another"


def _scores(recorded: Recorded) -> Iterator[str]:
    quality, request = recorded.outcome.quality, recorded.request
    if quality is None:
        return
    if quality.metric != request.quality.metric:
        yield f"quality.metric: {quality.metric}, although the study's is {request.quality.metric}"
    baseline = _judged_against(recorded)
    known = len(baseline.scores) if baseline is not None else len(request.space.workload.prompts)
    if len(quality.scores) > known:
        yield f"quality.scores: {len(quality.scores)}, although {known} prompts were judged"
    elif baseline is not None:
        yield from _difference(quality, baseline)
        yield from _reused(quality, recorded.trials)


def _judged_against(recorded: Recorded) -> Quality | None:
    """Return the baseline's scores that an outcome's are compared with: a repetition's may be on more prompts."""
    trial, outcome = recorded.trials.get(0), recorded.outcome
    known = trial.quality if trial is not None else None
    if outcome.repetition is None:
        return known
    if outcome.number == 0:
        return outcome.quality  # which others are judged against from then on
    judged = (run.quality for run in recorded.repetitions if run.number == 0 and run.quality is not None)
    return max(judged, key=lambda quality: len(quality.scores), default=known)


def _difference(quality: Quality, baseline: Quality) -> Iterator[str]:
    difference = fmean(quality.scores) - fmean(baseline.scores[: len(quality.scores)])
    if scores_differ(quality.difference.value, difference, baseline):
        yield f"quality.difference: {quality.difference.value}, although by its scores it is {difference}"
    if scores_differ(quality.mean, fmean(baseline.scores) + difference, baseline):
        yield f"quality.mean: {quality.mean}, although by its scores it is {fmean(baseline.scores) + difference}"


def _reused(quality: Quality, trials: Mapping[int, Outcome]) -> Iterator[str]:
    if quality.reused_from is None:
        return
    source = trials.get(quality.reused_from)
    if source is None or source.quality is None or source.quality.scores != quality.scores:
        yield f"quality.reused_from: {quality.reused_from}, a trial that does not have these scores"


RULES: tuple[Rule[Recorded], ...] = (_values, _cost, _percentile, _target, _baseline, _scores)
