"""Figures of the chosen configuration beside the baseline's: time by part, cost, energy, memory, limits.

A figure that was not measured has no row. One that only one of the two points has is a dash for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.numbers import format_large, format_latency, format_number
from tuner.records.machine import ProbeState, Roofline
from tuner.records.outcome import Components
from tuner.report.console import BASELINE, CHOSEN, QUIET
from tuner.report.formatting import format_other_processes, one_line, pluralize, wrap_text
from tuner.report.tables import make_bare_table
from tuner.result.economics import CARDS_GB
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.timing import roofline

UNKNOWN = "-"
INDENT = 2


def figures_table(best: BestConfig) -> RenderableType:
    """Return a table with a column for the baseline and, unless that is chosen, one for the chosen configuration."""
    return _Figures(best)


@dataclass(frozen=True)
class _Figures:
    best: BestConfig

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        best = self.best
        if best.chosen.trial == best.baseline.trial:
            yield Text("The chosen configuration is the baseline", style=BASELINE)
            yield self._table({"": best.baseline}, show_header=False)
        else:
            yield self._table({"baseline": best.baseline, f"trial {best.chosen.trial}": best.chosen})
        for note in notes(best):
            yield from wrap_text("", note, options.max_width, QUIET, INDENT)

    def _table(self, points: Mapping[str, MeasuredPoint], show_header: bool = True) -> Table:
        table = make_bare_table(BASELINE)
        table.show_header = show_header
        table.add_column("The chosen configuration", no_wrap=True, overflow="crop", style=QUIET)
        for heading, point in points.items():
            style = "" if point is self.best.baseline else CHOSEN
            table.add_column(Text(heading), justify="right", overflow="fold", style=style)
        for name, *cells in figure_rows(self.best, tuple(points.values())):
            table.add_row(" " * INDENT + name, *map(Text, cells))
        return table


def figure_rows(best: BestConfig, points: Sequence[MeasuredPoint]) -> Iterator[tuple[str, ...]]:
    """Yield the name of each figure that is known of one of the points, and its text for each point."""
    for name, read in ROWS:
        cells = [read(point, best) for point in points]
        if any(cells):
            yield (name, *(cell or UNKNOWN for cell in cells))


# ---- rows -----------------------------------------------------------------------------------------------------------

Cell = Callable[[MeasuredPoint, BestConfig], str | None]


def _latency(point: MeasuredPoint, _: BestConfig) -> str:
    latency = format_latency(point.latency_s.value)
    if point.predicted_from:
        steps = ", ".join(map(str, point.predicted_from))
        return f"{latency}, from calls of {steps} steps"
    return f"{latency} of {pluralize(point.latency_samples, 'call')}"


def _p95(point: MeasuredPoint, _: BestConfig) -> str | None:
    p95_s = point.economics.latency_p95_s if point.economics else None
    return format_latency(p95_s) if p95_s is not None else None


def _batch(point: MeasuredPoint, best: BestConfig) -> str | None:
    return str(point.batch) if max(best.baseline.batch, best.chosen.batch) > 1 else None


def _whole(point: MeasuredPoint, _: BestConfig) -> str | None:
    return f"{format_latency(point.components.total_s / point.batch)} 100%" if point.components else None


def _part(name: str) -> Cell:
    def cell(point: MeasuredPoint, _: BestConfig) -> str | None:
        parts = point.components
        seconds = getattr(parts, name) if parts else None
        if parts is None or seconds is None:
            return None
        return f"{format_latency(seconds / point.batch)} {_share(seconds, parts)}"

    return cell


def _share(seconds: float, parts: Components) -> str:
    return f"{f'{seconds / parts.total_s:.0%}':>4}" if parts.total_s > 0 else ""


def _money(name: str) -> Cell:
    def cell(point: MeasuredPoint, _: BestConfig) -> str | None:
        value = getattr(point.economics, name, None)
        return format_large(value) if value is not None else None

    return cell


def _within(point: MeasuredPoint, _: BestConfig) -> str | None:
    share = point.within_latency_target
    return f"{share:.0%}" if share is not None else None


def _limit(point: MeasuredPoint, _: BestConfig) -> str | None:
    return roofline.describe(point.limit) if point.limit else None


def _bound(point: MeasuredPoint, _: BestConfig) -> str | None:
    return point.limit.bound if point.limit else None


def _state(point: MeasuredPoint, _: BestConfig) -> str | None:
    limit = point.limit
    if limit is None:
        return None
    return roofline.describe_state(ProbeState(sm_clock_mhz=limit.sm_clock_mhz, power_w=limit.power_w)) or None


def _compiling(point: MeasuredPoint, best: BestConfig) -> str | None:
    return format_latency(point.compile_s) if point.compile_s else None


def _paid_for(point: MeasuredPoint, best: BestConfig) -> str | None:
    if point.trial == best.baseline.trial or not point.compile_s or best.baseline.compile_s is None:
        return None
    images = point.economics.break_even_images if point.economics else None
    return {None: "never", 0: "at once"}.get(images) or pluralize(images or 0, "image")


def _card(point: MeasuredPoint, _: BestConfig) -> str | None:
    if point.peak_reserved_bytes is None:
        return None
    fits = point.economics.smallest_card_gb if point.economics else None
    return f"{fits} GB" if fits is not None else f"over {CARDS_GB[-1]} GB"


def _peak(point: MeasuredPoint, _: BestConfig) -> str | None:
    reserved = point.peak_reserved_bytes
    text = f"{format_number(point.peak_memory_bytes / 1e9)} GB"
    return text if reserved is None else f"{text}, {format_number(reserved / 1e9)} GB reserved"


def _discarded(point: MeasuredPoint, _: BestConfig) -> str | None:
    if not point.discarded_samples:
        return None
    return ", ".join(f"{count} by {one_line(why)}" for why, count in point.discarded_samples.items())


def _others(point: MeasuredPoint, _: BestConfig) -> str | None:
    return format_other_processes(point.other_processes, point.other_memory_bytes) or None


ROWS: tuple[tuple[str, Cell], ...] = (
    ("images in a call", _batch),
    ("latency", _latency),
    ("latency, 95th percentile", _p95),
    ("calls within the latency target", _within),
    ("one image, part by part", _whole),
    ("  text encoders", _part("text_encoders_s")),
    ("  denoiser", _part("denoiser_s")),
    ("  VAE decode", _part("vae_s")),
    ("  rest of the call", _part("rest_s")),
    ("denoiser's share of the limit", _limit),
    ("the denoiser is bound by", _bound),
    ("clock and power of the calls", _state),
    ("images per hour", _money("images_per_hour")),
    ("images per 1000 US$", _money("images_per_1000_usd")),
    ("US$ per 1000 images", _money("usd_per_1000_images")),
    ("US$ per million images", _money("usd_per_million_images")),
    ("joules per image", _money("joules_per_image")),
    ("images/s per watt", _money("images_per_s_per_watt")),
    ("compiling", _compiling),
    ("compiling is paid for after", _paid_for),
    ("peak memory", _peak),
    ("smallest card it fits", _card),
    ("calls discarded", _discarded),
    ("also on the GPU", _others),
)
"""Each figure with its unit and the function that reads it from a point; None where it is not known."""


def notes(best: BestConfig) -> Iterator[str]:
    """Yield how close the chosen denoiser is to its limit, the uncertainty of times, and what is not known."""
    if best.chosen.limit is not None:
        bound = roofline.describe_bound(best.chosen.limit)
        share = roofline.describe(best.chosen.limit, best.environment.device)
        yield f"The chosen denoiser runs at {share}{f', {bound}' if bound else ''}"
    if best.baseline.components or best.chosen.components:
        yield (
            "The parts are of a call, divided by its images, that is not one of those of the median: it was timed on "
            "its own, or follows from one of fewer steps"
        )
    yield from _timing_notes(best)
    yield from _rate_notes(best)
    reasons = dict.fromkeys(
        (
            *best.chosen.unavailable_reasons,
            *best.baseline.unavailable_reasons,
            *(best.roofline.unavailable_reasons if best.roofline else ()),
        )
    )
    if reasons:
        yield f"Not known: {'; '.join(map(one_line, reasons))}"


def _timing_notes(best: BestConfig) -> Iterator[str]:
    if best.timing_noise is not None:
        noise = best.timing_noise
        yield (
            f"Timing noise {noise.coefficient_of_variation:.2%} (coefficient of variation between "
            f"{noise.processes} processes of the baseline)"
        )
    worst = max(best.predictions, key=lambda check: abs(check.error), default=None)
    if worst is not None:
        count = len(best.predictions)
        yield f"Predictions measured later: {count}, the worst {worst.error:+.2%} off (trial {worst.trial})"


def _rate_notes(best: BestConfig) -> Iterator[str]:
    found = best.roofline or Roofline()
    rates = found.flop_per_s
    if rates:
        named = [f"{roofline.NAMES.get(dtype, dtype)} {format_number(rate / 1e12)}" for dtype, rate in rates.items()]
        copy = found.copy_bytes_per_s
        copies = f"; copies {format_number(copy / 1e12)} TB/s" if copy else ""
        yield f"Rates reached here by large products, TFLOP/s: {', '.join(named)}{copies}"
        states = {dtype: roofline.describe_state(state) for dtype, state in found.states.items()}
        held = [f"{roofline.NAMES.get(dtype, dtype)} {text}" for dtype, text in states.items() if text]
        if held:
            yield f"Each held until the clock had settled: {'; '.join(held)}"
