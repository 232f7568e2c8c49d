"""The time line of one traced step as text: the CPU, compiled regions, and each GPU stream."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.numbers import format_exact, format_number
from tuner.records.gate import Finding, Verdict
from tuner.report.console import QUIET
from tuner.trace import classes
from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.events import RUNTIME, Event
from tuner.trace.read import Trace
from tuner.trace.regions import find_regions, nested_regions, outermost_work
from tuner.trace.waits import find_waits, is_graph_launch

MAX_STREAMS = 4
MAX_COLUMNS = 160
MIN_COLUMNS = 20
TICK = 12
"""The least number of columns between two labels of the axis."""

IDLE = "."
BUSY, PARTLY = "#", "+"
COMPILED, NESTED = "=", "%"
WAITING = "~"
REPLAY = "^"
COMPILING = "!"

LETTERS = {
    classes.GEMM: "G",
    classes.ATTENTION: "A",
    classes.CONVOLUTION: "V",
    classes.ELEMENTWISE: "E",
    classes.COPY: "C",
    classes.COMMUNICATION: "N",
}
STYLES = {"G": "cyan", "A": "magenta", "V": "blue", "E": "green", "C": "yellow", "N": "bright_blue"}
MARK = "bold red"

Span = tuple[float, float]


@dataclass(frozen=True)
class Lane:
    """One row of the time line: a name, and a character for each column."""

    name: str
    cells: str
    style: str = ""


class _Scale:
    """The columns of a row and the microseconds that each covers."""

    def __init__(self, start: float, end: float, columns: int) -> None:
        self.start = start
        self.columns = columns
        self.length = max(end - start, 0.001)
        self.each = self.length / columns

    def column(self, time: float) -> int:
        return min(self.columns - 1, max(0, int((time - self.start) / self.each)))

    def shares(self, spans: Iterable[Span]) -> list[float]:
        """Return the share of each column that spans cover; spans that overlap add up."""
        covered = [0.0] * self.columns
        for start, end in spans:
            first, last = self.column(start), self.column(end)
            for column in range(first, last + 1):
                left = self.start + column * self.each
                covered[column] += max(0.0, min(end, left + self.each) - max(start, left)) / self.each
        return covered


@dataclass(frozen=True)
class TimeLine:
    """The time line of the longest step, as wide as the console.

    Waits carry the numbers of the verdict's findings, counted from 1.
    """

    trace: Trace
    verdict: Verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        step = longest_step(self.trace)
        if step is not None:
            yield from _time_line(self.trace, step, self.verdict, options.max_width)


@dataclass(frozen=True)
class StepLanes:
    """The lanes of a step: its name, how long it took on the CPU, and how long what it started took in all."""

    name: str
    step_ms: float
    length_ms: float
    lanes: tuple[Lane, ...]


def longest_step(trace: Trace) -> Event | None:
    """Return the longest of the marked steps, if there are any."""
    return max(trace.steps, key=lambda step: step.dur, default=None)


def step_lanes(trace: Trace, verdict: Verdict, columns: int) -> StepLanes | None:
    """Return the lanes of the longest step in so many columns; None if the trace has no step."""
    step = longest_step(trace)
    if step is None:
        return None
    inside, streams, _, end = _content(trace, step)
    scale = _Scale(step.ts, end, columns)
    lanes = (*_host_lanes(trace, inside, scale, verdict), *_stream_lanes(streams, scale))
    return StepLanes(step.name, step.dur / 1000, scale.length / 1000, lanes)


def _content(trace: Trace, step: Event) -> tuple[list[int], dict[str, list[Event]], int, float]:
    """Return a step's host events, the busiest streams while it ran, the number of the others, and its end."""
    inside = [index for index in trace.step_indices if step.ts <= trace.host[index].ts < step.end]
    called = set(inside)
    work = [event for event in trace.gpu_work if trace.call_indices[event.correlation] in called]
    end = max([step.end, *(event.end for event in work)])
    # Also what was launched before the step and runs in it.
    streams, more = _streams(event for event in trace.device if event.ts < end and event.end > step.ts)
    return inside, streams, more, end


def _time_line(trace: Trace, step: Event, verdict: Verdict, width: int) -> Iterator[Text]:
    inside, streams, more, end = _content(trace, step)
    margin = max(map(len, ["graph replay", *streams])) + 1
    scale = _Scale(step.ts, end, max(MIN_COLUMNS, min(MAX_COLUMNS, width - margin)))
    lanes = [*_host_lanes(trace, inside, scale, verdict), *_stream_lanes(streams, scale)]
    longest = f", the longest of {len(trace.steps)} steps" if len(trace.steps) > 1 else ""
    yield Text(f"Time line of {step.name}{longest}: {_ms(step.dur)} on the CPU", style="bold")
    yield from _axis(scale, margin)
    for lane in lanes:
        yield _row(lane, margin)
    if more:
        yield Text(f"{'':{margin}}and {more} more streams", style=QUIET)
    for line in _legend(lanes, width):
        yield Text(line, style=QUIET)


def _ms(time_us: float) -> str:
    return f"{format_number(time_us / 1000)} ms"


# ---- lanes ----------------------------------------------------------------------------------------------------------


def _host_lanes(trace: Trace, inside: Sequence[int], scale: _Scale, verdict: Verdict) -> Iterator[Lane]:
    yield Lane("CPU", _filled(scale.shares(_outermost(trace, inside)), BUSY, PARTLY))
    yield from _compiled_lanes(trace, set(inside), scale)
    replayed = [trace.host[index].ts for index in inside if is_graph_launch(trace.host[index].name)]
    if replayed:
        yield Lane("graph replay", _marked(scale, ((REPLAY, time) for time in replayed)))
    waited = _waits(trace, set(inside), verdict)
    if waited:
        yield Lane("CPU waits", _wait_cells(scale, waited), MARK)


def _outermost(trace: Trace, inside: Iterable[int]) -> Iterator[Span]:
    """Yield the spans of outermost operators and calls of the GPU's runtime on the CPU."""
    around = EnclosingEvent(trace, lambda index: _is_work(trace.host[index]))
    outermost = (index for index in inside if _is_work(trace.host[index]) and around(index) < 0)
    return _spans(trace, outermost)


def _is_work(event: Event) -> bool:
    """Return whether an event is an operator or a runtime call; Python functions and annotations are not."""
    return event.cat == "cpu_op" or event.cat in RUNTIME


def _compiled_lanes(trace: Trace, inside: set[int], scale: _Scale) -> Iterator[Lane]:
    compiled = find_regions(trace)
    running = [index for index in compiled.regions if index in inside]
    if running:
        cells = list(_filled(scale.shares(_spans(trace, running)), COMPILED, COMPILED))
        for index in nested_regions(trace, compiled):
            if index in inside:
                first, last = scale.column(trace.host[index].ts), scale.column(trace.host[index].end)
                cells[first : last + 1] = NESTED * (last + 1 - first)
        yield Lane("compiled", "".join(cells))
    work = {outer for index, outer in outermost_work(trace, compiled).items() if index in inside}
    if work:
        yield Lane("compiling", _filled(scale.shares(_spans(trace, work)), COMPILING, COMPILING), MARK)


def _spans(trace: Trace, indices: Iterable[int]) -> Iterator[Span]:
    return ((trace.host[index].ts, trace.host[index].end) for index in indices)


def _waits(trace: Trace, inside: set[int], verdict: Verdict) -> list[tuple[int, Event]]:
    """Return the waits of the step, each with the number of its finding."""
    numbers = {_key(finding): number for number, finding in enumerate(verdict.findings, 1)}
    inside_waits = [wait for wait in find_waits(trace) if wait.index in inside]
    keys = ((("device sync", wait.operator, wait.reason, wait.source), trace.host[wait.index]) for wait in inside_waits)
    return [(numbers[key], event) for key, event in keys if key in numbers]


def _key(finding: Finding) -> tuple[str, str, str, str]:
    return finding.kind, finding.operator, finding.reason, finding.source


def _wait_cells(scale: _Scale, waited: Iterable[tuple[int, Event]]) -> str:
    cells = [" "] * scale.columns
    for number, event in waited:
        last, digits = scale.column(event.end), str(number)
        for column in range(scale.column(event.ts), last + 1):
            cells[column] = WAITING if cells[column] == " " else cells[column]
        first = max(0, last + 1 - len(digits))
        cells[first : first + len(digits)] = digits
    return "".join(cells)


def _streams(work: Iterable[Event]) -> tuple[dict[str, list[Event]], int]:
    """Return the busiest streams by name, and the number of the others."""
    by_stream: defaultdict[tuple[int | str, int | str], list[Event]] = defaultdict(list)
    for event in work:
        by_stream[event.pid, event.tid].append(event)
    busiest = sorted(by_stream, key=lambda stream: -sum(event.dur for event in by_stream[stream]))
    several = len({device for device, _ in by_stream}) > 1
    names = {
        stream: f"GPU {stream[0]} stream {stream[1]}" if several else f"GPU stream {stream[1]}" for stream in busiest
    }
    return {names[stream]: by_stream[stream] for stream in busiest[:MAX_STREAMS]}, len(busiest[MAX_STREAMS:])


def _stream_lanes(streams: dict[str, list[Event]], scale: _Scale) -> Iterator[Lane]:
    for name, events in streams.items():
        by_class: defaultdict[str, list[Span]] = defaultdict(list)
        for event in events:
            by_class[LETTERS.get(classes.classify_kernel(event.name), "E")].append((event.ts, event.end))
        shares = {letter: scale.shares(spans) for letter, spans in by_class.items()}
        yield Lane(
            name, "".join(_letter({key: share[i] for key, share in shares.items()}) for i in range(scale.columns))
        )


def _letter(shares: dict[str, float]) -> str:
    """Return the letter of the class that took most of a column, lower case if the stream idled for over half of it."""
    letter, most = Counter(shares).most_common(1)[0]
    if most <= 0:
        return IDLE
    return letter if sum(shares.values()) >= 0.5 else letter.lower()


def _filled(shares: Iterable[float], mostly: str, partly: str) -> str:
    return "".join(IDLE if share <= 0 else mostly if share >= 0.5 else partly for share in shares)


def _marked(scale: _Scale, marks: Iterable[tuple[str, float]]) -> str:
    cells = [" "] * scale.columns
    for mark, time in marks:
        cells[scale.column(time)] = mark
    return "".join(cells)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _row(lane: Lane, margin: int) -> Text:
    row = Text(f"{lane.name:<{margin}}", no_wrap=True, overflow="crop")
    for cell in lane.cells:
        row.append(cell, style=lane.style or STYLES.get(cell.upper(), "") or (QUIET if cell == IDLE else ""))
    return row


def _axis(scale: _Scale, margin: int) -> Iterator[Text]:
    """Yield times since the step began, and a tick below each."""
    step = _round_up(scale.each * TICK)
    labels, ticks = [" "] * scale.columns, ["-"] * scale.columns
    for count in range(int(scale.length / step) + 1):
        column = scale.column(scale.start + count * step)
        label = format_exact(round(count * step / 1000, 9)) + ("" if count else " ms")
        ticks[column] = "+"
        if column + len(label) <= scale.columns:
            labels[column : column + len(label)] = label
    yield Text(" " * margin + "".join(labels).rstrip(), style=QUIET)
    yield Text(" " * margin + "".join(ticks), style=QUIET)


def _round_up(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)


MEANINGS = {
    "CPU": ((BUSY, "busy"), (PARTLY, "less than half of the column"), (IDLE, "idle, or Python between operators")),
    "compiled": ((COMPILED, "in a compiled region"), (NESTED, "in one inside another: a graph break")),
    "compiling": ((COMPILING, "torch.compile at work"),),
    "graph replay": ((REPLAY, "launches a CUDA graph"),),
    "CPU waits": ((WAITING, "waits for the GPU: the finding of the number that ends it"),),
}


def _legend(lanes: Sequence[Lane], width: int) -> Iterator[str]:
    """Yield lines with the meanings of the characters that occur."""
    parts = [
        f"{char} {meaning}" for lane in lanes for char, meaning in MEANINGS.get(lane.name, ()) if char in lane.cells
    ]
    drawn = {cell.upper() for lane in lanes if lane.name.startswith("GPU") for cell in lane.cells}
    gpu = [f"{letter} {name}" for name, letter in LETTERS.items() if letter in drawn]
    if gpu:
        gpu.append("small letters: idle for more than half of the column")
    for group in (parts, gpu):
        line = ""
        for part in group:
            if line and len(line) + 3 + len(part) > width:
                yield line
                line = ""
            line = f"{line}   {part}" if line else part
        if line:
            yield line
