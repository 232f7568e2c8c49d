"""What a study tells its user, as text."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from tuner.numbers import format_budget, format_clock, format_duration, format_exact, format_latency, format_ratio
from tuner.records.codec import Estimate
from tuner.records.outcome import Outcome
from tuner.records.protocol import ImageSize
from tuner.report.conclusion import gain_text, short_gain_text
from tuner.report.formatting import pluralize
from tuner.result import front
from tuner.result.records import TimingNoise
from tuner.search.budget import quickest_build_s
from tuner.search.confirmation import by_preference
from tuner.search.gain import MIN_PAIRS, NOISY, is_confirmed, prediction_checks, speed_up
from tuner.search.history import BASELINE, History
from tuner.search.plan import GOOD_BUILDS, Plan

OTHER_BUDGET = "--budget sets another"

SHORTER_CALLS = ": --set workload.height=... --set workload.width=... (or workload.num_frames) makes calls shorter"
"""What helps where the baseline alone takes longer than the budget."""

CLEARLY_DIFFERENT = 0.7
"""A second estimate is reported if one of the two is below this share of the other."""


def noise_text(noise: TimingNoise) -> str:
    """Report how much the baseline's processes differ, with a warning where that hides gains worth finding."""
    spread = f"{noise.coefficient_of_variation:.2%} between {noise.processes} processes of the baseline"
    if noise.coefficient_of_variation > NOISY:
        return f"this machine is noisy: latency varies by {spread}, and so will every result; does something else run?"
    return f"timing noise: {spread} (coefficient of variation)"


def noise_floor_text(history: History) -> str | None:
    """Report why the quality noise floor is unknown; None if it is known."""
    if history.quality_floor is not None:
        return None
    reasons = "; ".join(reason for noise in history.noise_floors() for reason in noise.unavailable_reasons)
    return (
        f"the quality noise floor (how far rounding alone moves the score) is unknown: {reasons or 'nothing to vary'}"
    )


def allowance_texts(history: History) -> list[str]:
    """Report what the untouched pipeline itself does in each step."""
    return [
        f"the untouched pipeline itself has {format_exact(round(a.count_per_step, 2))} {a.kind} a step: allowed"
        for a in history.allowances()
    ]


def is_clearly_different(plan: Plan, known: Plan) -> bool:
    """Return whether a plan takes so much less or more than another, told before, that it is to be told as well."""
    shorter, longer = sorted((plan.baseline_s, known.baseline_s))
    return shorter <= CLEARLY_DIFFERENT * longer


def call_text(size: ImageSize | None, steps: int) -> str:
    """Format what a call generates, and in how many steps: that is why it takes so long."""
    facts = [f"{size.width}x{size.height}"] if size else []
    facts += [f"{size.frames} frames"] if size and size.frames > 1 else []
    return f"a call ({', '.join([*facts, pluralize(steps, 'step')])})"


def plan_text(plan: Plan, enough_s: float, call: str, *, is_budget_given: bool) -> str:
    """Report what the study will take, as a call lets one expect it, and its budget if the study chose that itself."""
    takes, room = f"{call} takes {format_latency(plan.call_s)}", room_text(plan, enough_s)
    if not is_budget_given:
        return f"{takes}: a budget of {format_duration(plan.budget_s)}, enough for {room}; {OTHER_BUDGET}"
    baseline, build, budget = map(format_clock, (plan.baseline_s, plan.build_s, plan.budget_s))
    takes = f"{takes}, the baseline about {baseline}, each further build about {build}"
    return f"{takes}: the budget of {budget} has room for {room}"


def room_text(plan: Plan, enough_s: float) -> str:
    """Format how many builds fit into a budget, and what to do if they are few."""
    if plan.builds >= GOOD_BUILDS:
        return f"about {plan.builds} builds"
    few = f"only {pluralize(plan.builds, 'build')}" if plan.builds else "no build"
    fits = plan.once_s + plan.baseline_s <= plan.budget_s
    return (
        f"{few}; give --budget {format_budget(enough_s)}, or fewer prompts (workload.prompts), step counts (steps) "
        f"or pixels{'' if fits else SHORTER_CALLS}"
    )


def baseline_timed_text(latency_s: Estimate) -> str:
    """Report how long a call of the untouched pipeline takes, while its images are still to come."""
    takes = f"{format_latency(latency_s.value)} a call"
    return f"trial {BASELINE} is timed: {takes}; it generates the images to compare with"


def waiting_text(history: History, number: int, seconds_per_image: float) -> str:
    """Report how long an image of a trial takes that waits until the baseline's images are there."""
    ratio = format_ratio(front.seconds_per_image(history.baseline).value / seconds_per_image)
    takes = f"{format_latency(seconds_per_image)} an image, {ratio}x the baseline's throughput"
    return f"trial {number} is timed: {takes}; its images are judged when the baseline's are there"


def end_text(history: History, trials_left: int, search_s_left: float) -> str:
    """Report why nothing but the baseline, and what is recorded, was tried."""
    if trials_left:
        quickest = f"the quickest build so far took {quickest_build_s(history):.0f} s"
        reason = f"{max(0.0, search_s_left):.0f} s are left to search, and {quickest}: give a longer --budget"
    else:
        reason = "the number of trials is reached: give more --trials"
    return f"nothing more is tried: {reason}"


def confirmation_texts(history: History, candidate: Outcome) -> list[str]:
    """Report what the pairs of a candidate showed."""
    texts = prediction_texts(history, candidate)
    trial, gain = f"trial {candidate.number}", gain_text(speed_up(history, candidate))
    if not front.meets_target(history.settled(candidate)):
        texts.append(f"{trial}: it missed the latency target when it was measured again")
    elif is_confirmed(history, candidate):
        texts.append(f"{trial}: a gain is confirmed, {gain}; best_config.json has the best one so far")
    elif len(history.tried_pairs_of(candidate)) < MIN_PAIRS:
        texts.append(f"{trial}: it could not be measured again")
    elif len(history.pairs_of(candidate)) < MIN_PAIRS:
        texts.append(f"{trial}: its measurements beside the baseline were disturbed: it may be no faster")
    else:
        texts.append(f"{trial}: measured again beside the baseline it had {gain}: it may be no faster")
    return texts


def best_text(history: History, best: Outcome) -> str:
    """Report the best trial so far, and if that is the baseline, which gain is clear but not confirmed yet."""
    if best.number != BASELINE:
        return f"best so far: trial {best.number}, {short_gain_text(speed_up(history, best))}, confirmed"
    first = next(iter(by_preference(history)), best)
    gain = speed_up(history, first)
    is_clear = first.number != BASELINE and gain.low > 1.0
    clear = f"; to confirm: trial {first.number}, {short_gain_text(gain)}" if is_clear else ""
    return f"best so far: the baseline{clear}"


def disturbance_text(history: History, run: Outcome) -> str:
    """Report that a process was disturbed."""
    trial = history.outcomes[run.number]
    latency_s = front.seconds_per_image(run).value
    slowed = history.disturbed(trial)  # fewer than half of a device's processes
    others = (other for other in history.processes_of(trial) if other.device == run.device and other not in slowed)
    usual_s = median(front.seconds_per_image(other).value for other in others)
    times = format_ratio(latency_s / usual_s)
    return (
        f"trial {run.number}: a process took {times} times as long as the others: something else disturbed it, and it "
        "does not count, unless others are as slow"
    )


def prediction_texts(history: History, candidate: Outcome) -> list[str]:
    """Report how well a predicted latency held, once it was measured."""
    texts = []
    for check in prediction_checks(history):
        if check.trial == candidate.number:
            verdict = "as" if check.held else "more than"
            predicted = format_latency(check.predicted_s.value)
            measured = f"measured {format_latency(check.measured_s.value)}, {check.error:+.2%}"
            texts.append(
                f"trial {candidate.number}: predicted {predicted}, {measured}, {verdict} intervals and noise explain"
            )
    return texts


def device_texts(history: History) -> Iterator[str]:
    """Say how fast each further device is, by the untouched pipeline."""
    first = history.baseline.device
    for device in history.devices:
        if first is not None and device != first:
            longer = 1 / history.scale(device) - 1
            yield f"{device.title}: a call of the untouched pipeline takes {longer:+.1%} against {first.title}"


def stop_text(number: int, left_s: float, seconds_per_image: Estimate | None, *, is_recorded: bool) -> str:
    """Say that a running build was stopped, and why. If its trial `is_recorded`, only further step counts were.

    `seconds_per_image` is what it takes, if that was timed.
    """
    what = f"the rest of trial {number}" if is_recorded else f"trial {number}"
    reason = "the rest of the time is for the confirmation" if left_s > 1.0 else "the time is up"
    if is_recorded or seconds_per_image is None:
        return f"{what} was stopped: {reason}"
    takes = f"it takes {format_latency(seconds_per_image.value)} an image, whose quality is not known yet"
    return f"{what} was stopped: {reason}; {takes}"
