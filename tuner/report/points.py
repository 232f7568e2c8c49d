"""Points of the front, as every renderer shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tuner.numbers import format_ratio
from tuner.records.codec import Count, Estimate, PositiveCount, Record, Value
from tuner.records.model import Workload
from tuner.records.outcome import Outcome, scored_prompts
from tuner.report.console import Glyphs
from tuner.report.formatting import label
from tuner.result.front import is_as_good
from tuner.search.gain import finalists, is_confirmed, is_in_doubt, speed_up
from tuner.search.history import History
from tuner.timing.target import meets_latency_target

FEW_PROMPTS = "^"
"""Marks a score that is not from all prompts of the study."""

OTHER_IMAGES = "@"
"""Marks a score that is not from the trial's own images."""

NOT_AS_GOOD = "<"
"""Marks a difference whose interval reaches below the tolerance."""


class FrontPoint(Record):
    """One row of the front.

    `quality_low` and `quality_high` are the 95 % interval of the paired difference, moved to `quality`. A predicted
    latency was not measured itself. The gain of a doubtful point was measured in pairs, which did not decide it.
    Only the baseline may miss the latency target and still be a point. A point that `may_be_worse` than is tolerated,
    by its interval, cannot be chosen. `scored_prompts` counts the prompts that the quality is from, if not all of the
    workload's are. `images_of` is the trial whose images it is from, if not its own.
    """

    number: int
    label: str
    latency_s: float
    images_per_s: float
    cost_usd_per_1000_images: float
    quality: float
    quality_low: float
    quality_high: float
    difference: float
    speed_up: float
    joules_per_image: float | None = None
    is_baseline: bool = False
    is_chosen: bool = False
    is_predicted: bool = False
    is_doubtful: bool = False
    misses_target: bool = False
    may_be_worse: bool = False
    scored_prompts: PositiveCount | None = None
    images_of: Count | None = None


class Standing(Record):
    """Where a measured trial stands: its throughput over the baseline's, and whether pairs of processes confirmed that.

    Trials whose gain is in doubt are on the front, too.
    """

    speed_up: Estimate
    is_confirmed: bool
    on_front: bool


def standings(history: History) -> dict[int, Standing]:
    """Return where each measured trial stands, by its number."""
    front = {outcome.number for outcome in finalists(history)}
    measured = {number: each for number, each in history.outcomes.items() if each.status == "measured" and each.timing}
    return {
        number: Standing(
            speed_up=speed_up(history, outcome),
            is_confirmed=is_confirmed(history, outcome),
            on_front=number in front,
        )
        for number, outcome in measured.items()
    }


def front_point(
    outcome: Outcome,
    baseline: Outcome,
    changed: Mapping[str, Value],
    *,
    is_chosen: bool = False,
) -> FrontPoint:
    """Make the row of a trial, labelled with the values it `changed`.

    Raises ValueError if the trial was not measured and scored.
    """
    timing, quality, cost = outcome.timing, outcome.quality, outcome.cost_usd_per_1000_images
    if timing is None or quality is None or cost is None or baseline.timing is None:
        raise ValueError(f"trial {outcome.number} or its baseline is not measured")
    difference = quality.difference
    energy_j = timing.gpu.energy_j if timing.gpu else None
    return FrontPoint(
        number=outcome.number,
        label=label(changed),
        latency_s=timing.latency_s.value,
        images_per_s=timing.images_per_s,
        cost_usd_per_1000_images=cost,
        quality=quality.mean,
        quality_low=quality.mean + difference.low - difference.value,
        quality_high=quality.mean + difference.high - difference.value,
        difference=difference.value,
        speed_up=timing.images_per_s / baseline.timing.images_per_s,
        joules_per_image=energy_j.value / int(outcome.values["batch"]) if energy_j else None,
        is_baseline=outcome.number == baseline.number,
        is_chosen=is_chosen,
        is_predicted=timing.predicted_from is not None,
        misses_target=not meets_latency_target(timing.within_target),
        images_of=quality.reused_from,
    )


def front_points(history: History, chosen: int | None) -> list[FrontPoint]:
    """Return the baseline, the front and the doubtful trials as points to show."""
    baseline = history.outcomes.get(0)
    if baseline is None or baseline.quality is None:
        return []
    numbers = [outcome.number for outcome in finalists(history)]
    shown = dict.fromkeys([*numbers, 0] if chosen is None else [*numbers, 0, chosen])
    return [_point(history, number, is_chosen=number == chosen) for number in shown]


def _point(history: History, number: int, *, is_chosen: bool) -> FrontPoint:
    outcome = history.outcomes[number]
    settled = history.settled(outcome)
    point = front_point(
        settled, history.settled(history.baseline), history.space.changed(outcome.values), is_chosen=is_chosen
    )
    gain, is_doubtful = speed_up(history, outcome), is_in_doubt(history, outcome)
    return msgspec.structs.replace(
        point, speed_up=gain.value, is_doubtful=is_doubtful,
        may_be_worse=not is_as_good(settled, history.space.tolerance),
        scored_prompts=fewer_prompts(settled, history.space.workload),
    )  # fmt: skip


def fewer_prompts(outcome: Outcome, workload: Workload) -> int | None:
    """Return how many prompts the quality of a trial is from; None if from all, or if it was not scored."""
    count = scored_prompts(outcome)
    return count if 0 < count < len(workload.prompts) else None


def in_order(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """Return the baseline, then the others from the cheapest on."""
    return sorted(points, key=lambda point: (not point.is_baseline, point.cost_usd_per_1000_images, point.number))


def gain_cell(point: FrontPoint) -> str:
    """Return the speed-up of a point for a table, marked if it is in doubt."""
    return f"{format_ratio(point.speed_up)}x{'?' if point.is_doubtful else ''}"


def quality_marks(point: FrontPoint) -> str:
    """Return the marks of a score that is not from all prompts, or not from the trial's own images."""
    few = FEW_PROMPTS if point.scored_prompts else ""
    return few if point.images_of is None else f"{few}{OTHER_IMAGES}"


def difference_marks(point: FrontPoint) -> str:
    """Return the marks of a difference: that of one that may be too large, and those of its score."""
    return f"{NOT_AS_GOOD if point.may_be_worse else ''}{quality_marks(point)}"


def quality_notes(points: Iterable[FrontPoint]) -> Iterator[str]:
    """Yield what those marks mean in a table, as far as its points have them."""
    marked = sorted(points, key=lambda point: point.number)
    if any(point.may_be_worse for point in marked):
        yield f"{NOT_AS_GOOD} not certainly as good: its interval reaches below the tolerated loss; it is not chosen"
    counts = sorted({point.scored_prompts for point in marked if point.scored_prompts})
    if counts:
        yield f"{FEW_PROMPTS} scored on {' or '.join(map(str, counts))} prompts only, not on all of the study's"
    judged_by: dict[int, list[str]] = {}
    for point in marked:
        if point.images_of is not None:
            judged_by.setdefault(point.images_of, []).append(str(point.number))
    if judged_by:
        named = "; ".join(f"{', '.join(numbers)} by those of trial {owner}" for owner, numbers in judged_by.items())
        yield f"{OTHER_IMAGES} judged by another trial's images, as its first are near them: {named}"


def is_marked(point: FrontPoint) -> bool:
    """Return whether the point has a mark of its own in tables."""
    return point.is_chosen or point.is_baseline


def mark(point: FrontPoint, glyphs: Glyphs) -> str:
    """Return the mark of a point; that of the chosen one where the baseline is chosen."""
    if point.is_chosen:
        return glyphs.chosen
    return glyphs.baseline if point.is_baseline else glyphs.other
