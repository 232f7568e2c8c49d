"""What to do with the result of a study, in a few lines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.model.pipeline import DEMO
from tuner.numbers import format_budget, format_exact, format_gain, format_number, format_ratio, rounded
from tuner.quality.metrics import get_metric
from tuner.quality.race import MIN_PROMPTS_WITHIN
from tuner.records.codec import Estimate, read
from tuner.records.outcome import Outcome
from tuner.report.formatting import label, pluralize
from tuner.report.studies import read_limits, read_spent_s
from tuner.result import front
from tuner.result.records import BestConfig
from tuner.search.budget import pair_s
from tuner.search.confirmation import first_in_doubt
from tuner.search.gain import NOISY, speed_up, timing_noise
from tuner.search.history import History
from tuner.search.request import Request

NEAR_FLOOR = 100.0
"""A tolerance of more times what rounding does is not told beside it."""


def gain_text(gain: Estimate) -> str:
    """Format a speed-up with its interval."""
    value, interval = short_gain_text(gain).split(" ", 1)
    return f"{value} the baseline's throughput {interval}"


def short_gain_text(gain: Estimate) -> str:
    """Format a speed-up with its interval, without its unit."""
    return format_gain(gain.value, gain.low, gain.high)


def conclusion(request: Request, history: History, chosen: int, folder: Path) -> str:
    """Return what was chosen, what counts as good, and the commands to go on with, in a few lines."""
    return "\n".join(
        (
            f"Chosen   {_verdict(history, chosen)}",
            *_noise_lines(history),
            f"As good  means that {tolerated(request.quality.metric, history.space.tolerance)}"
            f"{_in_noise_floors(history)}, with 95 % confidence{_few_prompts(history, chosen)}{_scorer_note(request)}",
            f"Use it   tuner.load({str(folder / 'best_config.json')!r})",
            f"Look     tune board {folder}",
        )
    )


def _noise_lines(history: History) -> Iterator[str]:
    """Yield a warning where latencies of the front and gains measured in pairs may contradict each other."""
    noise = timing_noise(history)
    if noise is not None and noise.coefficient_of_variation > NOISY:
        spread = f"{noise.coefficient_of_variation:.0%}"
        yield f"Noise    {spread} between processes of the baseline: latencies above vary as much, gains in pairs less"
    disturbed = sum(len(history.disturbed(trial)) for trial in history.outcomes.values())
    if disturbed:
        count = pluralize(disturbed, "process was", "processes were")
        yield f"Noise    {count} over twice as slow as others of the same trial and not counted: something else ran"


def _few_prompts(history: History, chosen: int) -> str:
    """Return a warning if the choice was judged on so few prompts that damage to some images can go unseen."""
    quality = history.settled(history.outcomes[chosen]).quality
    if not chosen or quality is None or len(quality.scores) >= MIN_PROMPTS_WITHIN:
        return ""
    return f". Only {pluralize(len(quality.scores), 'prompt')} judged it: damage to some images can go unseen"


def _scorer_note(request: Request) -> str:
    """Return a warning if the images of another pipeline were judged by the model that knows the demo's alone."""
    is_foreign = request.model.scorer == DEMO and request.model.source != DEMO
    if not is_foreign or "--scorer" not in get_metric(request.quality.metric).needs:
        return ""
    return ". The demo's scorer judged it, which knows coloured shapes alone: give --scorer a CLIP model"


def tolerated(metric: str, tolerance: float) -> str:
    """Say how far the mean of a metric may be from the baseline's."""
    side, sign = ("above", "minus") if get_metric(metric).higher_is_better else ("below", "plus")
    return f"the mean {get_metric(metric).title} is {side} the baseline's {sign} {format_exact(tolerance)}"


def go_on(folder: Path) -> str:
    """Return the command that searches on, with twice the budget, or the trials, that the last run was given.

    The budget is more than the study has used.
    """
    database = StudyFolder(folder).database
    limits, spent_s = read_limits(database, "limits"), read_spent_s(database)
    more = "with a longer --budget"
    if limits and limits.budget_s:
        more = f"--budget {format_budget(max(2 * limits.budget_s, 1.5 * spent_s))}"
    if limits and limits.max_trials:
        more += f" --trials {2 * limits.max_trials}"
    return f"Go on    tune resume {shlex.quote(str(folder))} {more}"


def interruption(folder: Path) -> str:
    """Return what an interrupted study leaves, and the command to go on with."""
    file = StudyFolder(folder).best_config
    return f"interrupted; {_kept(file)}; `tune resume {shlex.quote(str(folder))}` goes on"


def _kept(file: Path) -> str:
    """Return what the result of a study is so far."""
    try:
        best = read(file, BestConfig)
    except BadInput:
        return "the baseline is not measured yet"
    if best.chosen.trial == best.baseline.trial:
        return f"all recorded trials are kept, {file} has the untouched pipeline: no gain is confirmed yet"
    return f"all recorded trials are kept, {file} has trial {best.chosen.trial}, {gain_text(best.speed_up)}, confirmed"


def _verdict(history: History, chosen: int) -> str:
    best = history.outcomes[chosen]
    if chosen:
        configuration = label(history.space.changed(best.values))
        return f"trial {chosen}, {gain_text(speed_up(history, best))}{_longer_call(history, best)}: {configuration}"
    if len(history.outcomes) == 1:
        return "the baseline: nothing else was tried"
    if front.meets_target(history.settled(best)):
        return f"the baseline: no other configuration was both as good and certainly cheaper{_doubt_text(history)}"
    return "the baseline, although it misses the latency target: nothing that meets it was as good"


def _longer_call(history: History, best: Outcome) -> str:
    """Return how much longer a call of several images takes, if it does: who waits for one image waits longer."""
    ours, theirs = (history.settled(trial) for trial in (best, history.baseline))
    assert ours.timing is not None and theirs.timing is not None
    ratio = ours.timing.latency_s.value / theirs.timing.latency_s.value
    batch = int(best.values["batch"])
    if batch <= int(history.baseline.values["batch"]) or ratio <= 1:
        return ""
    return f", though a call of {batch} images takes {format_ratio(ratio)}x as long"


def _doubt_text(history: History) -> str:
    """Report which gain was left in doubt, and that a longer budget settles it."""
    candidate = first_in_doubt(history)
    if candidate is None:
        return ""
    gain = f"trial {candidate.number} had {gain_text(speed_up(history, candidate))}"
    return f"; {gain}: a longer --budget measures more pairs, {pair_s(history, candidate):.0f} s each"


def _in_noise_floors(history: History) -> str:
    """Return the tolerance in units of what rounding alone does, where that is near enough to matter."""
    ratio = history.space.tolerance / history.quality_floor if history.quality_floor else math.inf
    return f" ({format_number(rounded(ratio, 3))} times what rounding moves it by)" if ratio <= NEAR_FLOOR else ""
