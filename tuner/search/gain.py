"""How much faster than the baseline a trial is, and how sure that is."""

from __future__ import annotations

import msgspec

from tuner.records.codec import Estimate
from tuner.records.outcome import Outcome, PredictionCheck
from tuner.result import config, front
from tuner.result.records import MeasuredPoint, TimingNoise
from tuner.search.history import History, by_device
from tuner.search.remembering import remembered
from tuner.timing import prediction
from tuner.timing.intervals import MIN_DEGREES, paired_ratio, pooled_variation

MIN_PAIRS = 2
"""How many pairs of baseline and candidate a confirmed gain needs, unless one shows it plainly."""

PLAIN_GAIN = 1.1
"""A gain that is surely larger after one pair is confirmed by it, on a quiet machine. Between two equal configurations,
of which one was selected as the quickest of ten by its first process, the interval of one pair lies above 1 in 2.7 % of
cases (400,000 simulated, normal); the margin pays for that look."""

QUIET = 0.02
"""The coefficient of variation between processes up to which a machine is quiet: an H200 has 0.2 %. A pair that was
disturbed by more than some percent shows in it."""

RESERVED_PAIRS = MIN_PAIRS + 1
"""Pairs for which the search leaves time. Two left gains of 1.4x to 2.2x in doubt on a noisy machine; the time of a
third that is not needed is searched afterwards."""

MAX_PAIRS = 6
"""Pairs after which a gain that is still in doubt is given up."""

NOISY = 0.1
"""The coefficient of variation of the baseline's processes above which the user is warned."""


@remembered
def timing_noise(history: History) -> TimingNoise | None:
    """Return how far fresh processes of the baseline differ on a device (A/A); None before there are two."""
    runs = history.undisturbed(history.baseline)
    groups = [group for group in by_device(runs) if len(group) > 1]
    if not groups:
        runs = [history.baseline, *history.repetitions_of(history.baseline)]
        groups = [group for group in by_device(runs) if len(group) > 1] or [runs]
    if len(runs) < 2:
        return None
    spread = pooled_variation([[front.seconds_per_image(run).value for run in group] for group in groups])
    return TimingNoise(processes=sum(map(len, groups)), coefficient_of_variation=spread)


def speed_up(history: History, outcome: Outcome) -> Estimate:
    """Return the throughput over the baseline's, from pairs of fresh processes.

    Before there are enough pairs it comes from those that there are, else from the search, with an interval as wide as
    the baseline's processes spread. The baseline is that of the same device.
    """
    baseline = history.baseline
    if outcome.number == baseline.number:
        return Estimate(value=1.0, low=1.0, high=1.0)
    pairs = history.pairs_of(outcome)
    if len(pairs) == 1:
        return _of_one_pair(history, outcome)
    if not pairs:
        after = history.undisturbed(outcome) or [outcome]
        after = [run for run in after if run.device == after[-1].device]
        ratio = front.speed_up(history.baseline_on(after[0].device) or [baseline], after)
        return front.widen(ratio, _spread(history))
    paired = [pair[0] for pair in pairs]
    devices = [run.device for run in paired]
    unpaired = [run for run in history.undisturbed(baseline) if run.device in devices and run not in paired]
    return paired_ratio(
        [front.seconds_per_image(run).value for run, _ in pairs],
        [front.seconds_per_image(run).value for _, run in pairs],
        [[front.seconds_per_image(run).value for run in group] for group in by_device(unpaired)],
    )


def _of_one_pair(history: History, outcome: Outcome) -> Estimate:
    """Return the ratio of a single pair, with an interval by how processes of both trials differ on its device."""
    ((before, after),) = history.pairs_of(outcome)
    groups = _seconds_until_pair(history, outcome)
    if not groups:
        return front.widen(front.speed_up([before], [after]), _spread(history))
    return paired_ratio([front.seconds_per_image(before).value], [front.seconds_per_image(after).value], groups)


def _seconds_until_pair(history: History, outcome: Outcome) -> list[list[float]]:
    """Return the seconds per image of the baseline's and a trial's undisturbed processes on the device of its one pair.

    Those that were measured after it say nothing of it: what it confirmed stays confirmed. Empty if they are too few.
    """
    (pair,) = history.pairs_of(outcome)
    known = history.repetitions[: 1 + max(map(history.repetitions.index, pair))]
    groups = []
    for trial in (history.baseline, history.outcomes[outcome.number]):
        disturbed = history.disturbed(trial)
        runs = [trial, *(run for run in history.repetitions_of(trial) if run in known)]
        own = [run for run in runs if run.device == pair[0].device and run.timing and run not in disturbed]
        groups.append([front.seconds_per_image(run).value for run in own])
    degrees = sum(len(group) - 1 for group in groups if group)
    return groups if degrees >= MIN_DEGREES else []


def is_confirmed(history: History, outcome: Outcome) -> bool:
    """Return whether fresh processes showed a gain over the baseline again, surely. The baseline needs none."""
    if outcome.number == history.baseline.number:
        return True
    pairs = len(history.pairs_of(outcome))
    if pairs >= MIN_PAIRS:
        return speed_up(history, outcome).low > 1.0
    return pairs == 1 and _is_plain(history, outcome)


def _is_plain(history: History, outcome: Outcome) -> bool:
    """Return whether one pair shows a gain plainly: on a quiet machine, with an interval from enough processes."""
    groups = _seconds_until_pair(history, outcome)
    is_quiet = bool(groups) and pooled_variation(groups) <= QUIET
    return is_quiet and speed_up(history, outcome).low > PLAIN_GAIN


def is_in_doubt(history: History, outcome: Outcome) -> bool:
    """Return whether pairs were measured and did not decide whether there is a gain.

    The interval of the pairs decides, or that they are still too few; never the order of the latencies.
    """
    if not history.tried_pairs_of(outcome) or is_confirmed(history, outcome):
        return False
    return len(history.pairs_of(outcome)) < MIN_PAIRS or speed_up(history, outcome).high > 1.0


def may_gain(history: History, settled: Outcome, baseline_cost: float) -> bool:
    """Return whether a settled trial may be cheaper than the baseline: by its pairs if it has any, else by its cost."""
    if history.tried_pairs_of(settled):
        return is_confirmed(history, settled) or is_in_doubt(history, settled)
    return front.cost(settled) < baseline_cost


def finalists(history: History) -> list[Outcome]:
    """Return the front and the trials whose gain is in doubt, cheapest first.

    A doubtful trial stays, whatever its latency seems to be now, and keeps no other off the front.
    """
    trials = [outcome for outcome in history.all_settled() if front.meets_target(outcome)]
    doubtful = [outcome for outcome in front.measured(trials) if is_in_doubt(history, outcome)]
    points = front.pareto_front([outcome for outcome in trials if outcome not in doubtful])
    return sorted([*points, *doubtful], key=lambda outcome: (front.cost(outcome), outcome.number))


def prediction_checks(history: History) -> list[PredictionCheck]:
    """Compare the predicted latencies of trials with what fresh processes measured later."""
    spread = _spread(history)
    return [
        prediction.check(
            number, outcome.timing.latency_s, front.scaled(settled, 1 / history.scale(outcome.device)).latency_s, spread
        )
        for number, outcome in history.outcomes.items()
        if outcome.timing and outcome.timing.predicted_from
        and (settled := history.settled(outcome).timing) and not settled.predicted_from
    ]  # fmt: skip


def measured_point(history: History, outcome: Outcome) -> MeasuredPoint:
    """Return what is exported of a trial, but for what depends on other trials."""
    changed = history.space.changed(outcome.values)
    trial = history.outcomes[outcome.number]
    return msgspec.structs.replace(
        config.measured_point(history.settled(trial), changed, is_confirmed(history, trial)),
        doubtful=is_in_doubt(history, trial),
        speed_up=speed_up(history, trial),
        processes=len(history.undisturbed(trial)),
        disturbed_processes=len(history.disturbed(trial)),
    )


def _spread(history: History) -> float:
    noise = timing_noise(history)
    return noise.coefficient_of_variation if noise else 0.0
