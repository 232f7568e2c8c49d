"""The traced steps of the baseline and of the chosen configuration: figures, and the time line of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tuner.board.shown_traces import SHOWN
from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.numbers import format_number
from tuner.records.gate import TraceSummary, Verdict
from tuner.records.outcome import Outcome
from tuner.report.formatting import one_line, shorten
from tuner.report.study_report import StudyReport
from tuner.report.timeline import LETTERS, MEANINGS, Lane, StepLanes, step_lanes
from tuner.trace.read import load

COLUMNS = 400
MAX_NAMES = 6
MAX_NAME_LENGTH = 90
MIN_SHARE = 0.005
BLANK = " "


@dataclass(frozen=True)
class Bar:
    """Columns of a lane with the same content: where they begin, how many, and what they mean."""

    start: int
    length: int
    style: str
    meaning: str
    is_faint: bool


@dataclass(frozen=True)
class DrawnLane:
    """A lane of the time line as bars."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Step:
    """A traced step: its figures, its largest operators or kernels by share of the time, and its time line, if kept."""

    title: str
    trial: int
    figures: tuple[tuple[str, str], ...]
    largest: tuple[tuple[str, float], ...]
    line: StepLanes | None
    lanes: tuple[DrawnLane, ...]
    note: str = ""

    @property
    def meanings(self) -> list[tuple[str, str]]:
        """What the bars mean, each style once."""
        return list({(bar.style, bar.meaning): None for lane in self.lanes for bar in lane.bars})


def steps(report: StudyReport) -> list[Step]:
    """Return the steps of the baseline and, unless that is chosen, of the chosen configuration."""
    numbers = dict.fromkeys([report.best.baseline.trial, report.best.chosen.trial])
    outcomes = {outcome.number: outcome for outcome in report.outcomes}
    titles = ("Baseline", f"Chosen, trial {report.best.chosen.trial}")
    found = (_step(report, title, outcomes[number]) for title, number in zip(titles, numbers, strict=False))
    return [step for step in found if step is not None]


def _step(report: StudyReport, title: str, outcome: Outcome) -> Step | None:
    built = _with_trace(report, outcome)
    summary = built.build.trace if built.build else None
    if summary is None:
        return None
    verdict = built.build.verdict if built.build and built.build.verdict else Verdict(status="clean")
    line, note = _line(report, built, verdict)
    lanes = tuple(DrawnLane(one_line(lane.name), tuple(_bars(lane))) for lane in line.lanes) if line else ()
    return Step(title, built.number, tuple(_figures(summary)), tuple(_largest(summary)), line, lanes, note)


def _with_trace(report: StudyReport, outcome: Outcome) -> Outcome:
    """Return the trial whose process was traced: the first one of the same build."""
    same = (other for other in report.outcomes if other.build_key == outcome.build_key)
    batch = outcome.values.get("batch")
    traced = (other for other in same if other.values.get("batch") == batch and _files(report, other))
    return next(traced, outcome)


def _files(report: StudyReport, outcome: Outcome) -> list[Path]:
    return sorted(StudyFolder(Path(report.folder)).trial(outcome.number).glob(f"*{SHOWN}"))


def _line(report: StudyReport, outcome: Outcome, verdict: Verdict) -> tuple[StepLanes | None, str]:
    files = _files(report, outcome)
    if not files:
        return None, "the trace is not kept"
    try:
        return step_lanes(load(files[-1]), verdict, COLUMNS), ""
    except BadInput as error:
        return None, one_line(str(error))


# ---- figures --------------------------------------------------------------------------------------------------------


def _figures(summary: TraceSummary) -> Iterator[tuple[str, str]]:
    yield "a step, under the profiler", f"{format_number(summary.step_ms)} ms"
    shares = {
        "GPU busy": summary.gpu_busy_share,
        "GPU waits for the CPU's next launch": summary.host_wait_share,
        "GPU idle between queued kernels": summary.kernel_wait_share,
        "GPU idle otherwise": summary.other_wait_share,
        "kernels in CUDA graphs": summary.graph_kernel_share,
    }
    yield from ((name, f"{share:.0%}") for name, share in shares.items() if share is not None)
    counts = {"launches a step": summary.launches_per_step, "CUDA graphs a step": summary.graph_launches_per_step}
    yield from ((name, format_number(count)) for name, count in counts.items() if count is not None)
    kernels = sum(summary.kernels_per_step.values())
    if kernels:
        yield "kernels a step", format_number(kernels)
    for copies in summary.copies[:3]:
        yield f"copies a step, {one_line(copies.direction)}", f"{format_number(copies.bytes_per_step / 1e6)} MB"
    yield "events in the traced steps", f"{summary.events:,} in {summary.steps}"


def _largest(summary: TraceSummary) -> Iterator[tuple[str, float]]:
    names = summary.top_kernels or summary.top_operators
    for name, share in names[:MAX_NAMES]:
        if share >= MIN_SHARE:
            yield shorten(one_line(name), MAX_NAME_LENGTH), share


# ---- lanes ----------------------------------------------------------------------------------------------------------

OF_LETTER = {letter: name for name, letter in LETTERS.items()}
STYLE_OF_LANE = {"CPU": "cpu", "compiled": "compiled", "compiling": "waits", "graph replay": "graph"}


def _bars(lane: Lane) -> Iterator[Bar]:
    start = 0
    for cell, cells in groupby(lane.cells):
        length = len(list(cells))
        if cell not in (BLANK, "."):
            yield _bar(lane.name, cell, start, length)
        start += length


def _bar(lane: str, cell: str, start: int, length: int) -> Bar:
    meanings = dict(MEANINGS.get(lane, ()))
    if lane in STYLE_OF_LANE:
        is_nested = cell == "%"
        style = "waits" if is_nested else STYLE_OF_LANE[lane]
        meaning = meanings.get(cell, lane) if lane != "CPU" else "CPU busy"
        return Bar(start, length, style, meaning, cell == "+")
    if lane == "CPU waits":
        return Bar(start, length, "waits", "CPU waits for the GPU", False)
    name = OF_LETTER.get(cell.upper(), "other")
    return Bar(start, length, f"class-{name.split()[0].lower()}", f"GPU: {name}", cell.islower())
