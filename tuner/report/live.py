"""A study on a terminal, redrawn while it runs, and the choice between the two displays."""

from __future__ import annotations

import atexit
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.numbers import format_clock
from tuner.records.codec import Value
from tuner.records.outcome import Limits, Outcome
from tuner.report.console import CHOSEN, QUIET, glyphs_for, make_console
from tuner.report.display import Display
from tuner.report.formatting import OneLine, changes, label, one_line, shorten
from tuner.report.front_table import SCORE_FROM_WIDTH, CompactFront
from tuner.report.plain import PlainDisplay
from tuner.report.points import FrontPoint
from tuner.report.running import Running, RunningSet, who_goes_on
from tuner.report.trial_text import limits_text, result_text

STYLES = {"measured": "green", "rejected": "yellow", "failed": "red"}


def make_display(stream: TextIO, baseline: Mapping[str, Value]) -> Display:
    """Make a live display on a terminal, else a plain one; trials show what they change of the `baseline`."""
    console = make_console(stream)
    is_live = stream.isatty() and console.is_terminal and console.is_interactive and not console.is_dumb_terminal
    return LiveDisplay(console, baseline) if is_live else PlainDisplay(stream, baseline)


class LiveDisplay(Display):
    """Scrolls finished trials; the time left, the current trial, the counts and the front stay below them."""

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
        self._running = RunningSet()
        self._counts: Counter[str] = Counter()
        self._reasons: set[str] = set()
        self._points: tuple[FrontPoint, ...] = ()
        self._best = ""
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
        self._print(Text(f"study folder {folder}, {limits_text(limits, spent_s)}", style=QUIET))
        for text in notes:
            self.note(text)
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True, screen=False
        )
        # Restores the cursor even if the study never calls closed().
        atexit.register(self.closed)
        self._live.start(refresh=True)

    def limited(self, limits: Limits) -> None:
        self._limits = limits

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None:
        self._running.start(number, purpose, values, points, self._now())

    def task(self, name: str, stage: str) -> None:
        self._running.task(name, stage, self._now())

    def stage(self, number: int, name: str, steps: int | None) -> None:
        self._running.enter(number, name, steps, self._now())

    def expected(self, number: int, seconds: float) -> None:
        self._running.expect(number, self._now() + seconds)

    def worker_ended(self, number: int) -> None:
        self._running.end(number)

    def stood_still(self, number: int, seconds: float) -> None:
        self._running.shift(number, seconds)

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        if outcome.purpose != "confirm":
            self._counts[outcome.status] += 1
        if outcome.quality:
            self._metric = one_line(outcome.quality.metric)
        style = STYLES[outcome.status]
        text = Text(result_text(outcome, self._glyphs.plus_minus))
        if remark:
            text.append(f"  {one_line(remark)}", style="bold" if outcome.status == "measured" else "")
        name = label(changes(outcome.values, self._baseline))
        text.append(f"\n{shorten(name, 200)}", style=QUIET)
        self._print(_entry(str(outcome.number), outcome.status, style, text))

    def refused(self, values: Mapping[str, Value], reason: str) -> None:
        self._counts["refused"] += 1
        if reason not in self._reasons:
            self._reasons.add(reason)
            text = Text(f"{one_line(reason)}\n{shorten(label(values), 200)}", style=QUIET)
            self._print(_entry("", "refused", QUIET, text))

    def front(self, points: Sequence[FrontPoint], best: str) -> None:
        self._points, self._best = tuple(points), one_line(best)

    def note(self, text: str) -> None:
        self._print(_entry("", "note", "blue", Text(one_line(text))))

    def closed(self) -> None:
        atexit.unregister(self.closed)
        live, self._live = self._live, None
        if live:
            self._running.clear()
            live.stop()

    def _print(self, line: RenderableType) -> None:
        self._console.print(line)

    def _render(self) -> RenderableType:
        # Room for the terminal's echo of Ctrl-C: if that wrapped, rich would miscount its lines.
        width = max(20, self._console.width - 3)
        running = list(self._running)[: max(1, self._console.height // 4)]
        parts: list[RenderableType] = [Text(self._glyphs.rule * width, style=QUIET)]
        parts += [self._progress(), *self._current(running, width), self._count_line()]
        if self._points:
            # Lines that left the screen cannot be redrawn.
            rows = max(2, self._console.height - 12 - 2 * len(running))
            parts += [OneLine(self._best, CHOSEN), Text(""), CompactFront(self._points, rows, self._metric)]
        return Constrain(Group(*parts), width)

    def _progress(self) -> RenderableType:
        elapsed_s, trials = self._now() - self._begin, self._recorded()
        budget_s, max_trials = self._limits.budget_s, self._limits.max_trials
        share = elapsed_s / max(budget_s, 1e-9) if budget_s is not None else 0.0
        text = self._time_left(elapsed_s, budget_s)
        if max_trials is not None:
            share = max(share, trials / max(1, max_trials))
            text += f", trial {trials} of {max_trials}"
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, overflow="crop")
        grid.add_row(
            ProgressBar(total=1.0, completed=min(1.0, share), complete_style="cyan", finished_style="cyan"), Text(text)
        )
        return grid

    def _time_left(self, elapsed_s: float, budget_s: float | None) -> str:
        """Return how much of the budget is left; once it is used, what still runs and for how long."""
        if budget_s is None:
            return f"{format_clock(elapsed_s)} so far, no budget yet"
        if budget_s - elapsed_s >= 0.5:
            return f"{format_clock(budget_s - elapsed_s)} left of {format_clock(budget_s)}"
        return ", ".join(filter(None, (f"{format_clock(budget_s)} used", who_goes_on(self._running, self._now()))))

    def _current(self, running: Sequence[Running], width: int) -> list[RenderableType]:
        """Return a line for each trial that runs, with its configuration beside it, or below it if there is no room."""
        spinner = self._glyphs.spinner[int(self._now() * 4) % len(self._glyphs.spinner)]
        names, configurations = [f"{spinner} {each.name}" for each in running], [each.configuration for each in running]
        doing = [each.text(self._now()) for each in running]
        if width >= SCORE_FROM_WIDTH:
            grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
            for ratio in (None, None, 1):
                grid.add_column(no_wrap=True, overflow="crop", ratio=ratio)
            for name, what, values in zip(names, doing, configurations, strict=True):
                grid.add_row(Text(name, "bold"), Text(what, "cyan"), OneLine(values, QUIET))
            return [grid] if running else [Text("")]
        lines = [(OneLine(f"{name}: {what}", "bold"), OneLine(f"  {values}", QUIET))
                 for name, what, values in zip(names, doing, configurations, strict=True)]  # fmt: skip
        return [line for pair in lines for line in pair] or [Text("")]

    def _count_line(self) -> Text:
        text = Text(no_wrap=True, overflow="crop")
        for status, style in (*STYLES.items(), ("refused", QUIET)):
            text.append(f"{self._counts[status]} {status}   ", style=style if self._counts[status] else QUIET)
        return text

    def _recorded(self) -> int:
        return sum(self._counts[status] for status in STYLES)


def _entry(number: str, status: str, style: str, text: Text) -> Table:
    """Make a line that stays, its continuation indented."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=3, justify="right", no_wrap=True)
    grid.add_column(width=8, no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_row(Text(number, style=style), Text(status, style=style), text)
    return grid
