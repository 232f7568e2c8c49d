"""What a person sees while a study runs: a live display on a terminal, one line an event anywhere else."""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.records.codec import Value
from tuner.records.gate import Finding
from tuner.records.outcome import Limits, Outcome, Timing
from tuner.report import formatting, trial_counts
from tuner.report.console import QUIET, glyphs_for, make_console
from tuner.report.formatting import OneLine, label, one_line, shorten
from tuner.report.front_table import CompactFront
from tuner.report.points import FrontPoint
from tuner.timing.target import meets_latency_target

LINE = 300
"""The longest line of the plain display."""

MESSAGE = 120
"""The longest message of a failure; its log has the whole."""

NOTABLE_S = 2.0
"""A stage that took at least this long is told about when it ends."""

HEARTBEAT_S = 30.0
"""How often the plain display speaks while nothing happens: some CI runners kill what is silent."""

STYLES = {"measured": "green", "rejected": "yellow", "failed": "red"}


class Display(Protocol):
    """What the study tells of itself, in the order in which it happens."""

    def started(
        self, title: str, folder: Path, limits: Limits, notes: Sequence[str], spent_s: float,
        recorded: Sequence[Outcome],
    ) -> None:  # fmt: skip
        """The study begins, or resumes with what it `recorded` before, for which it `spent_s` of its time."""

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None:
        """A build is tried; `values` is what differs from the baseline, `points` how many step counts it is for."""

    def task(self, name: str, stage: str) -> None:
        """Something begins that is no trial, and its one stage."""

    def stage(self, name: str) -> None:
        """The trial enters a stage."""

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        """A trial is recorded."""

    def refused(self, values: Mapping[str, Value], reason: str) -> None:
        """A candidate is invalid and costs nothing."""

    def front(self, points: Sequence[FrontPoint]) -> None:
        """The front so far."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def closed(self) -> None:
        """Nothing more will come. May be called again."""


def make_display(stream: TextIO, baseline: Mapping[str, Value]) -> Display:
    """The display that suits the stream; a trial is named by what in it differs from the `baseline`."""
    console = make_console(stream)
    is_live = stream.isatty() and console.is_terminal and console.is_interactive and not console.is_dumb_terminal
    return LiveDisplay(console, baseline) if is_live else PlainDisplay(stream, baseline)


# ---- what both say --------------------------------------------------------------------------------------------------


def result_text(outcome: Outcome, plus_minus: str = "+-") -> str:
    """What came of a trial: its numbers, what the gate found, or why it failed."""
    if outcome.status == "measured":
        return _measured_text(outcome, plus_minus)
    if outcome.status == "rejected":
        return _findings_text(trial_counts.undeclared(outcome))
    if outcome.failure is None:
        return "failed without a reason"
    failure = outcome.failure
    return f"{failure.kind} in {one_line(failure.stage)}: {shorten(formatting.first_line(failure.message), MESSAGE)}"


def _measured_text(outcome: Outcome, plus_minus: str) -> str:
    parts = []
    if outcome.timing:
        latency = outcome.timing.latency_s
        half = (latency.high - latency.low) / 2
        parts.append(formatting.format_latency_with_error(latency.value, half, plus_minus) + _how(outcome.timing))
        parts.append(f"{formatting.format_number(outcome.timing.images_per_s)} images/s")
    if outcome.cost_usd_per_1000_images is not None:
        parts.append(f"{formatting.format_number(outcome.cost_usd_per_1000_images)} US$/1000 images")
    if outcome.quality:
        quality, difference = outcome.quality, outcome.quality.difference
        parts.append(f"{one_line(quality.metric)} {quality.mean:.4f}")
        if outcome.purpose != "baseline":
            parts.append(formatting.format_difference(difference.value, difference.low, difference.high))
    else:
        parts.append("not scored")
    return ", ".join(parts)


def _how(timing: Timing) -> str:
    """What else there is to say of a latency."""
    said = ""
    if timing.predicted_from:
        said += f" (predicted from {', '.join(map(str, timing.predicted_from))} steps)"
    discarded = sum(timing.gpu.discarded.values()) if timing.gpu else 0
    if discarded:
        said += f" ({formatting.pluralize(discarded, 'throttled call')} discarded)"
    others = (
        formatting.format_other_processes(timing.gpu.other_processes, timing.gpu.other_memory_bytes)
        if timing.gpu
        else ""
    )
    if others:
        said += f" ({others} on the GPU)"
    return said if meets_latency_target(timing.within_target) else f"{said} (misses the latency target)"


def _findings_text(findings: Sequence[Finding]) -> str:
    text = "; ".join(map(_finding_text, findings[:2])) or "rejected by the gate"
    return text + (f"; and {len(findings) - 2} more" if len(findings) > 2 else "")


def _finding_text(finding: Finding) -> str:
    count = f"{finding.kind} x{finding.count}"
    idle = finding.idle_ms_per_step
    price = f" ({formatting.format_number(idle, 2)} ms idle a step)" if idle else ""
    return f"{count} at {one_line(finding.source)}{price}"


def _limits_text(limits: Limits) -> str:
    trials = f" or {formatting.pluralize(limits.max_trials, 'trial')}" if limits.max_trials is not None else ""
    return f"at most {formatting.format_clock(limits.budget_s)}{trials}, then the finalists are judged"


def _trial_text(number: int, purpose: str) -> str:
    return f"trial {number} ({one_line(purpose)})"


# ---- plain lines ----------------------------------------------------------------------------------------------------


class PlainDisplay:
    """One flushed line an event, with the seconds since the start; no control characters.

    It goes silent when its stream is gone: a study is worth more than its log.
    """

    def __init__(self, stream: TextIO, baseline: Mapping[str, Value], heartbeat_s: float = HEARTBEAT_S) -> None:
        self._stream = stream
        self._heartbeat_s = heartbeat_s
        self._baseline = baseline
        self._begin = time.monotonic()
        self._task = ""
        self._stage: tuple[str, float] | None = None
        self._front = ""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None

    def started(
        self, title: str, folder: Path, limits: Limits, notes: Sequence[str], spent_s: float,
        recorded: Sequence[Outcome],
    ) -> None:  # fmt: skip
        self._begin = time.monotonic()
        self._say(f"{title}: study folder {folder}, {_limits_text(limits)}")
        for text in notes:
            self.note(text)
        self._ticker = threading.Thread(target=self._tick, name="plain display", daemon=True)
        self._ticker.start()

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None:
        self._end_stage()
        self._task = f"trial {number}"
        several = f" [{points} step counts]" if points > 1 else ""
        self._say(f"{_trial_text(number, purpose)} started{several}: {label(values)}")

    def task(self, name: str, stage: str) -> None:
        self._end_stage()
        self._task = name
        self.stage(stage)

    def stage(self, name: str) -> None:
        self._end_stage()
        self._stage = (one_line(name), time.monotonic())

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        self._end_stage()
        tail = f" ({one_line(remark)})" if remark else ""
        name, result = label(formatting.changes(outcome.values, self._baseline)), result_text(outcome)
        room = LINE - 40 - len(result) - len(tail)
        self._say(f"trial {outcome.number} {outcome.status}: {result}{tail} | {shorten(name, max(40, room))}")

    def refused(self, values: Mapping[str, Value], reason: str) -> None:
        self._say(f"refused: {shorten(one_line(reason), 120)} | {label(values)}")

    def front(self, points: Sequence[FrontPoint]) -> None:
        text = _front_text(points)
        if text != self._front:
            self._front = text
            self._say(text)

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def closed(self) -> None:
        self._end_stage()
        self._closing.set()
        if self._ticker:
            self._ticker.join(timeout=1.0)
            self._ticker = None

    def _end_stage(self) -> None:
        ended, self._stage = self._stage, None
        if ended and (took := time.monotonic() - ended[1]) >= NOTABLE_S:
            self._say(f"{self._task}: {ended[0]} took {took:.1f} s")

    def _tick(self) -> None:
        while not self._closing.wait(self._heartbeat_s):
            stage = self._stage
            if stage and (so_far := time.monotonic() - stage[1]) >= self._heartbeat_s / 2:
                self._say(f"{self._task}: {stage[0]}, {so_far:.0f} s so far")

    def _say(self, text: str) -> None:
        line = f"[{time.monotonic() - self._begin:7.1f} s] {one_line(text)}"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        line = shorten(line.encode(encoding, "backslashreplace").decode(encoding), LINE)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return


def _front_text(points: Sequence[FrontPoint]) -> str:
    if not points:
        return "front: empty"
    cheapest = min(points, key=lambda point: point.cost_usd_per_1000_images)
    marked = next((point for point in points if point.is_chosen), cheapest)
    word = "chosen" if marked.is_chosen else "cheapest"
    cost = formatting.format_number(marked.cost_usd_per_1000_images)
    return (
        f"front: {formatting.pluralize(len(points), 'point')}, {word} trial {marked.number} at {cost} US$/1000 images, "
        f"{marked.speed_up:.2f}x, difference {marked.difference:+.4f} | {marked.label}"
    )


# ---- on a terminal --------------------------------------------------------------------------------------------------


class LiveDisplay:
    """Finished trials scroll by; below them the current trial, its stage, the time left, the counts and the front."""

    def __init__(
        self,
        console: Console,
        baseline: Mapping[str, Value],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._glyphs = glyphs_for(console.options.ascii_only)
        self._baseline = baseline
        self._now = now
        self._begin = now()
        self._limits = Limits(budget_s=0.0, max_trials=None)
        self._task: tuple[str, str] | None = None
        self._stage: tuple[str, float] | None = None
        self._counts: Counter[str] = Counter()
        self._reasons: set[str] = set()
        self._points: tuple[FrontPoint, ...] = ()
        self._metric = "score"
        self._live: Live | None = None

    def started(
        self, title: str, folder: Path, limits: Limits, notes: Sequence[str], spent_s: float,
        recorded: Sequence[Outcome],
    ) -> None:  # fmt: skip
        self._begin = self._now() - spent_s
        self._limits = limits
        self._counts.update(outcome.status for outcome in recorded)
        self._print(Text(one_line(title), style="bold"))
        self._print(Text(f"study folder {folder}, {_limits_text(limits)}", style=QUIET))
        for text in notes:
            self.note(text)
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True, screen=False
        )
        # The cursor comes back even where an exception keeps the study from calling closed().
        atexit.register(self.closed)
        self._live.start(refresh=True)

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None:
        several = f", {points} step counts" if points > 1 else ""
        self._stage = None
        self._task = (_trial_text(number, purpose) + several, label(values))

    def task(self, name: str, stage: str) -> None:
        self._task = (name, "")
        self.stage(stage)

    def stage(self, name: str) -> None:
        self._stage = (one_line(name), self._now())

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        if outcome.purpose != "confirm":
            self._counts[outcome.status] += 1
        if outcome.quality:
            self._metric = one_line(outcome.quality.metric)
        style = STYLES[outcome.status]
        text = Text(result_text(outcome, self._glyphs.plus_minus))
        if remark:
            text.append(f"  {one_line(remark)}", style="bold" if outcome.status == "measured" else "")
        name = label(formatting.changes(outcome.values, self._baseline))
        text.append(f"\n{shorten(name, 200)}", style=QUIET)
        self._print(_entry(str(outcome.number), outcome.status, style, text))

    def refused(self, values: Mapping[str, Value], reason: str) -> None:
        self._counts["refused"] += 1
        if reason not in self._reasons:
            self._reasons.add(reason)
            text = Text(f"{shorten(one_line(reason), 200)}\n{shorten(label(values), 200)}", style=QUIET)
            self._print(_entry("", "refused", QUIET, text))

    def front(self, points: Sequence[FrontPoint]) -> None:
        self._points = tuple(points)

    def note(self, text: str) -> None:
        self._print(_entry("", "note", "blue", Text(one_line(text))))

    def closed(self) -> None:
        atexit.unregister(self.closed)
        live, self._live = self._live, None
        if live:
            self._task = self._stage = None
            live.stop()

    def _print(self, what: RenderableType) -> None:
        self._console.print(what)

    def _render(self) -> RenderableType:
        # Room for the terminal's echo of Ctrl-C: were it to wrap, the display would lose count of its lines.
        width = max(20, self._console.width - 3)
        parts: list[RenderableType] = [Text(self._glyphs.rule * width, style=QUIET)]
        parts += [self._progress(), *self._current(), self._count_line()]
        if self._points:
            # What does not fit on the screen cannot be redrawn in place.
            rows = max(2, self._console.height - 12)
            parts += [Text(""), CompactFront(self._points, rows, self._metric)]
        return Constrain(Group(*parts), width)

    def _progress(self) -> RenderableType:
        elapsed_s, trials = self._now() - self._begin, self._recorded()
        budget_s, max_trials = self._limits.budget_s, self._limits.max_trials
        share = elapsed_s / max(budget_s, 1e-9)
        text = f"{formatting.format_clock(max(0.0, budget_s - elapsed_s))} left of {formatting.format_clock(budget_s)}"
        if max_trials is not None:
            share = max(share, trials / max(1, max_trials))
            text += f", trial {trials} of {max_trials}"
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(
            ProgressBar(total=1.0, completed=min(1.0, share), complete_style="cyan", finished_style="cyan"), Text(text)
        )
        return grid

    def _current(self) -> list[RenderableType]:
        task = self._task
        if task is None:
            return [Text("")]
        lines: list[RenderableType] = [OneLine(": ".join(filter(None, task)), "bold")]
        # Read once: the display redraws itself from a thread of its own.
        stage = self._stage
        if stage:
            name, since = stage
            spinner = self._glyphs.spinner[int(self._now() * 4) % len(self._glyphs.spinner)]
            lines.append(OneLine(f"{spinner} {name} {int(self._now() - since)} s", "cyan"))
        return lines

    def _count_line(self) -> Text:
        text = Text(no_wrap=True, overflow="crop")
        for status, style in (*STYLES.items(), ("refused", QUIET)):
            text.append(f"{self._counts[status]} {status}   ", style=style if self._counts[status] else QUIET)
        return text

    def _recorded(self) -> int:
        return sum(self._counts[status] for status in STYLES)


def _entry(number: str, word: str, style: str, text: Text) -> Table:
    """A permanent line, its continuation indented."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=3, justify="right", no_wrap=True)
    grid.add_column(width=8, no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_row(Text(number, style=style), Text(word, style=style), text)
    return grid
