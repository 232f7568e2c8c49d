"""A comparison as cells of text, which the table for a terminal and the one in Markdown share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuner.compare.changes import DIFFERENCE, LATENCY
from tuner.compare.comparison import letter
from tuner.compare.records import Changes, ComparedPoint, Comparison, Figure, Instance, Source
from tuner.numbers import (
    decimals,
    format_clock,
    format_difference,
    format_fixed,
    format_number,
    time_unit,
)
from tuner.records.codec import Estimate
from tuner.report.formatting import label, one_line, pluralize
from tuner.result.prices import Price
from tuner.verify.judge import ratio_text

POINTS = ("", "latency", "images/s", "iterations/s", "US$/million images", "standing")
INSTANCES = ("", "provider", "US$/hour", "US$/million images", "quoted", "offer")
FIGURES = ("", "before", "after", "after/before", "")
TOLD_APART = (
    "more, less: the ratio's interval, the widest that both and the noise between processes allow, excludes 1; "
    "=: it does not"
)
CHANGED = ("", "before", "after")


def latency(estimate: Estimate) -> str:
    """Write a latency with its interval, all in one unit."""
    scale, unit = time_unit(estimate.value)
    value, low, high = (format_number(each * scale) for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}] {unit}"


def number(estimate: Estimate) -> str:
    """Write a number with its interval, all with the decimals of three digits of the number."""
    places = decimals(estimate.value, 3)
    value, low, high = (format_fixed(each, places) for each in (estimate.value, estimate.low, estimate.high))
    return value if estimate.low == estimate.high else f"{value} [{low}, {high}]"


def name(point: ComparedPoint) -> str:
    """Return the short name of a point: its source and its trial."""
    return f"{letter(point.source)} {point.trial}"


def point_cells(point: ComparedPoint) -> tuple[str, ...]:
    """Return the figures of a point, without its name and marks."""
    predicted = "~" if point.is_predicted else ""
    return (
        f"{predicted}{latency(point.latency_s)}",
        format_number(point.images_per_s.value),
        format_number(point.iterations_per_s.value),
        number(point.usd_per_million_images),
        standing(point),
    )


def settings(point: ComparedPoint) -> str:
    """Return the settings of a point, and what is to be known of it."""
    return f"{label(point.changed)}{' (chosen)' if point.is_chosen else ''}"


def details(point: ComparedPoint) -> str:
    """Return the further figures of a point."""
    shift = point.quality_difference
    difference = "reference" if point.is_baseline else format_difference(shift.value, shift.low, shift.high)
    parts = [
        f"{point.steps} steps, batch {point.batch}",
        f"{point.quality_metric} {difference}{'' if point.as_good else ', not as good'}",
        f"{format_number(point.peak_memory_bytes / 1e9)} GB",
    ]
    return "; ".join(parts)


def source_text(source: Source) -> str:
    """Describe a source: model, machine, date, price, file."""
    revision = f" at {one_line(source.revision)[:12]}" if source.revision else ""
    spent = f", search {format_clock(source.search_s)}" if source.search_s else ""
    return (
        f"{source.model} ({one_line(source.pipeline_class)}){revision} on {one_line(source.device_name)}, "
        f"{source.created_at[:10]}{spent}; {price_text(source.price)}; {one_line(source.file)}"
    )


def price_text(price: Price) -> str:
    """Describe a price and where it comes from."""
    return f"US$ {price.usd_per_hour:.2f} per hour ({one_line(price.source)})"


def instance_cells(instance: Instance) -> tuple[str, ...]:
    """Return the cells of an offer."""
    return (
        letter(instance.source),
        one_line(instance.provider),
        f"{instance.usd_per_hour:.2f}",
        number(instance.usd_per_million_images),
        str(instance.date or ""),
        one_line(instance.offer),
    )


# ---- changes --------------------------------------------------------------------------------------------------------


def changed_rows(changes: Changes) -> Iterator[tuple[str, Sequence[tuple[str, str, str]]]]:
    """Yield what changed, by its kind: settings, environment, request."""
    for title, found in (
        ("Settings", changes.settings),
        ("Environment", changes.environment),
        ("Request", changes.request),
    ):
        yield title, [(each.name, one_line(each.recorded), one_line(each.now)) for each in found]


def figure_rows(changes: Changes) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield the figures by what they are of."""
    for of in dict.fromkeys(figure.of for figure in changes.figures):
        yield of, [figure_cells(figure) for figure in changes.figures if figure.of == of]


def figure_cells(figure: Figure) -> tuple[str, ...]:
    """Return the cells of a figure: both values, their ratio, and whether they can be told apart."""
    write = latency if figure.name == LATENCY else signed if figure.name.endswith(DIFFERENCE) else number
    shown = figure.name.removesuffix(", s") if write is latency else figure.name
    ratio = ratio_text(figure.ratio) if figure.ratio else ""
    return shown, write(figure.before), write(figure.after), ratio, verdict(figure)


def signed(estimate: Estimate) -> str:
    """Write a difference with its interval."""
    return format_difference(estimate.value, estimate.low, estimate.high)


def verdict(figure: Figure) -> str:
    """Say whether two figures differ by more than their intervals."""
    if figure.ratio is None:
        return ""
    if not figure.differs:
        return "="
    return "more" if figure.ratio.value > 1 else "less"


def standing(point: ComparedPoint) -> str:
    """Return how a point stands among all that can be compared with it."""
    if not point.as_good:
        return "not as good"
    if not point.confirmed:
        return "not confirmed"
    place = "cheapest" if point.is_cheapest else "front" if point.on_front else ""
    return f"{place} =".strip() if point.may_be_cheapest and not point.is_cheapest else place


def legend(comparison: Comparison) -> Iterator[str]:
    """Yield what the words and marks mean, and what was left out."""
    yield "front: as good as its untouched pipeline, confirmed, and nothing else such is cheaper and faster"
    if any(point.may_be_cheapest and not point.is_cheapest for point in comparison.points):
        yield "=: the interval of its cost overlaps the cheapest one's"
    if any(point.is_predicted for point in comparison.points):
        yield "~: predicted from other step counts, not measured"
    if comparison.left_out:
        yield f"{pluralize(comparison.left_out, 'further point')} of the studies' fronts: --all"
