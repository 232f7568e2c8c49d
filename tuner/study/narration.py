"""What a study tells its user, as text."""

from __future__ import annotations

from statistics import median

from tuner.numbers import format_clock, format_exact, format_latency, format_ratio
from tuner.records.outcome import Outcome
from tuner.report.conclusion import gain_text
from tuner.report.formatting import pluralize
from tuner.result import front
from tuner.result.config import TimingNoise
from tuner.search.budget import quickest_build_s
from tuner.search.gain import MIN_PAIRS, is_confirmed, prediction_checks, speed_up
from tuner.search.history import History
from tuner.search.plan import Plan

NOISY = 0.1
"""The coefficient of variation of the baseline's processes above which the user is warned."""

FEW_BUILDS = 3
"""With room for fewer builds the user is told which budget is enough."""

CLEARLY_LESS = 0.7
"""A second estimate is reported if it is below this share of the first."""


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


def plan_texts(plan: Plan, known: Plan | None, enough_s: float) -> list[str]:
    """Report what the study will take, as the first call lets one expect it; again only if it is clearly less."""
    if known is not None and (known.builds == plan.builds or plan.baseline_s > CLEARLY_LESS * known.baseline_s):
        return []
    baseline, build, budget = map(format_clock, (plan.baseline_s, plan.build_s, plan.budget_s))
    takes = (
        f"the baseline takes about {baseline}, each further build about {build}: the budget of {budget} has room for"
    )
    if plan.builds >= FEW_BUILDS:
        return [f"{takes} about {plan.builds}"]
    room = f"only {pluralize(plan.builds, 'build')}" if plan.builds else "none"
    remedy = "or fewer prompts (workload.prompts), step counts (steps) or pixels"
    return [f"{takes} {room}; give --budget {format_budget(enough_s)}, {remedy}"]


def format_budget(seconds: float) -> str:
    """Format seconds as --budget takes them, in whole minutes, rounded up."""
    hours, minutes = divmod(-(-round(seconds) // 60), 60)
    return "".join(f"{count}{unit}" for count, unit in ((hours, "h"), (minutes, "m")) if count)


def end_text(history: History, trials_left: int, search_s_left: float) -> str:
    """Report why nothing but the baseline, and what is recorded, was tried."""
    if trials_left:
        quickest = f"the quickest build so far took {quickest_build_s(history):.0f} s"
        reason = f"{max(0.0, search_s_left):.0f} s are left to search, and {quickest}: give a longer --budget"
    else:
        reason = "the number of trials is reached: give more --trials"
    return f"nothing more is tried: {reason}"


def confirmation_texts(history: History, candidate: Outcome) -> list[str]:
    """Report what the pairs of a candidate showed, where that is not what was expected."""
    texts = prediction_texts(history, candidate)
    trial = f"trial {candidate.number}"
    if not front.meets_target(history.settled(candidate)):
        texts.append(f"{trial}: it missed the latency target when it was measured again")
    elif len(history.tried_pairs_of(candidate)) < MIN_PAIRS:
        texts.append(f"{trial}: it could not be measured again")
    elif len(history.pairs_of(candidate)) < MIN_PAIRS:
        texts.append(f"{trial}: its pairs were disturbed: a gain is not certain")
    elif not is_confirmed(history, candidate):
        gain = gain_text(speed_up(history, candidate))
        texts.append(f"{trial}: measured again it had {gain}: a gain is not certain")
    return texts


def disturbance_text(history: History, run: Outcome) -> str:
    """Report that a process was disturbed."""
    trial = history.outcomes[run.number]
    latency_s = front.seconds_per_image(run).value
    usual_s = median(front.seconds_per_image(other).value for other in history.undisturbed(trial))
    times = format_ratio(latency_s / usual_s)
    return (
        f"trial {run.number}: a process took {times} times as long as the others: something else disturbed it, and it "
        "does not count"
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
