"""What is seen while a study runs: plain lines anywhere, a live display in a terminal that it leaves as it was."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import msgspec
import pytest
from rich.console import Console

from tuner.records.codec import Estimate
from tuner.records.gate import Finding, Verdict
from tuner.records.machine import GpuUse, Memory
from tuner.records.outcome import Build, Failure, FailureKind, Limits, Outcome, Timing
from tuner.records.quality import Quality
from tuner.report import plain
from tuner.report.display import Display
from tuner.report.live import LiveDisplay, make_display
from tuner.report.plain import PlainDisplay
from tuner.report.points import FrontPoint
from tuner.report.running import RunningSet
from tuner.report.trial_text import limits_text, result_text

BASELINE: dict[str, Any] = {"compile.scope": "none", "steps": 28}
LIMITS = Limits(budget_s=300.0, max_trials=40)
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture(autouse=True)
def _neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def outcome(number: int, status: Any, **more: Any) -> Outcome:
    defaults: dict[str, Any] = {"purpose": "search", "values": BASELINE, "build_key": "b", "image_key": "i"}
    return Outcome(number=number, status=status, **{**defaults, **more})


def measured(number: int, purpose: Any, steps: int) -> Outcome:
    return outcome(
        number,
        "measured",
        purpose=purpose,
        values={**BASELINE, "steps": steps},
        timing=Timing(
            latency_s=Estimate(value=0.25, low=0.2479, high=0.2521),
            samples=9,
            images_per_s=4.0,
            stopped="interval within target",
        ),
        memory=Memory(peak_bytes=1, reserved_bytes=None),
        quality=Quality(
            metric="CLIP score",
            scores=(),
            mean=0.3,
            difference=Estimate(value=-0.002, low=-0.004, high=0.001),
            psnr_db=None,
            ssim=None,
        ),
        cost_usd_per_1000_images=0.0694,
    )


def rejected(number: int) -> Outcome:
    finding = Finding(
        kind="graph break",
        count=6,
        count_per_step=2.0,
        idle_ms_per_step=1.93,
        operator="aten::item",
        reason="Tensor.item()",
        source="first_block_cache.py:143",
    )
    verdict = Verdict(status="rejected", findings=(finding,))
    build = Build(changes={}, load_s=1.0, apply_s=1.0, first_call_s=1.0, trace=None, verdict=verdict)
    return outcome(number, "rejected", build=build)


def failed(number: int, message: str) -> Outcome:
    return outcome(number, "failed", failure=Failure(kind="out of memory", stage="first call", message=message))


POINT = FrontPoint(
    number=1,
    label="steps=8 [/not markup]",
    latency_s=0.25,
    images_per_s=4.0,
    cost_usd_per_1000_images=0.0694,
    quality=0.3,
    quality_low=0.298,
    quality_high=0.301,
    difference=-0.002,
    speed_up=3.0,
    is_chosen=True,
)


def play(shown: Display) -> None:
    """A short study with an event of every kind."""
    shown.started("demo [bold]", Path("traces/demo"), LIMITS, ["fp8 left the space"], 0.0, [])
    shown.trial_started(0, "baseline", {}, 1)
    shown.stage(0, "load", None)
    shown.stage(0, "time", 28)
    shown.trial_ended(measured(0, "baseline", 28), "on the front")
    shown.worker_ended(0)
    shown.trial_started(1, "recipe", {"steps": 8}, 4)
    shown.trial_ended(measured(1, "recipe", 8), "reused images of trial 3")
    shown.worker_ended(1)
    shown.front([POINT], "best so far: trial 1, 3.00x [2.9, 3.1], confirmed")
    shown.trial_ended(rejected(2), "")
    shown.trial_ended(failed(3, "\x1b[31mCUDA out of memory\x1b[0m [/red]\nTraceback"), "")
    shown.refused({"compile.mode": "default"}, "compile.mode needs compile.scope")
    shown.trial_started(4, "search", {"cache.kind": "a long value " * 40}, 2)
    shown.stage(4, "compile", None)


def lines_of(stream: io.StringIO) -> list[str]:
    return [re.sub(r"^\[ *\d+\.\d s\] ", "", line) for line in stream.getvalue().splitlines()]


def test_plain_lines_for_every_kind_of_outcome() -> None:
    stream = io.StringIO()
    shown = make_display(stream, BASELINE)
    assert isinstance(shown, PlainDisplay)
    play(shown)
    shown.closed()
    assert lines_of(stream)[:11] == [
        "demo [bold]: study folder traces/demo, a budget of 5:00 or 40 trials, after which the finalists are judged",
        "note: fp8 left the space",
        "trial 0 (baseline) started: baseline",
        "trial 0 measured: 250.0 +- 2.1 ms, 4.00 images/s, 0.0694 US$/1000 images, CLIP score 0.3000 (on the front)"
        " | baseline",
        "trial 1 (recipe) started [4 step counts]: steps=8",
        "trial 1 measured: 250.0 +- 2.1 ms, 4.00 images/s, 0.0694 US$/1000 images, CLIP score 0.3000, "
        "-0.0020 [-0.0040, +0.0010] (reused images of trial 3) | steps=8",
        "best so far: trial 1, 3.00x [2.9, 3.1], confirmed; front: 1 point, "
        "cheapest at 0.0694 US$/1000 images, 3.00x, difference -0.0020: trial 1, steps=8 [/not markup]",
        "trial 2 rejected: graph break x6 at first_block_cache.py:143 (1.9 ms idle a step) | baseline",
        "trial 3 failed: out of memory in first call: CUDA out of memory [/red] | baseline",
        "refused: compile.mode needs compile.scope | compile.mode=default",
        lines_of(stream)[10],
    ]


def test_a_line_says_how_a_latency_came_about() -> None:
    plain = measured(3, "search", 8)
    assert plain.timing is not None

    def said(**changed: Any) -> str:
        timing = msgspec.structs.replace(plain.timing, **changed)
        return result_text(msgspec.structs.replace(plain, timing=timing))

    assert " ms (predicted from 6, 28 steps), " in said(predicted_from=(6, 28), samples=0, stopped="predicted")
    assert " ms (misses the latency target), " in said(within_target=0.2)
    assert "misses" not in said(within_target=0.9)
    busy = GpuUse(discarded={"HW thermal slowdown": 2, "HW power brake": 1}, other_processes=1)
    assert " ms (3 throttled calls discarded) (1 other process on the GPU), " in said(gpu=busy)
    assert "(" not in said(gpu=GpuUse())


def test_a_line_has_four_digits_of_a_score_and_no_more_of_a_difference() -> None:
    trial = measured(3, "search", 8)
    assert trial.quality is not None

    def said(mean: float, low: float, high: float) -> str:
        difference = Estimate(value=low, low=low, high=high)
        quality = msgspec.structs.replace(trial.quality, mean=mean, difference=difference)
        return result_text(msgspec.structs.replace(trial, quality=quality))

    assert said(-12.38718, 0.0, 0.0).endswith(", CLIP score -12.39, +0.00 [+0.00, +0.00]")
    assert said(0.83633, 0.0, 0.0).endswith(", CLIP score 0.8363, +0.0000 [+0.0000, +0.0000]")
    assert said(52.93431, -0.94, 0.06).endswith(", CLIP score 52.93, -0.94 [-0.94, +0.06]")


def test_the_front_has_no_more_digits_than_its_trials() -> None:
    stream = io.StringIO()
    shown = PlainDisplay(stream, BASELINE)
    point = msgspec.structs.replace(POINT, quality=50.266, quality_low=46.96, quality_high=52.724, difference=-2.6682)
    shown.front([point], "best so far: the baseline")
    assert ", difference -2.67: trial 1" in stream.getvalue()


def test_plain_lines_hold_no_control_characters_and_cut_what_other_programs_say() -> None:
    stream = io.StringIO()
    shown = make_display(stream, BASELINE)
    play(shown)
    shown.trial_ended(failed(5, "x" * 5000), "")
    shown.note("a\nb\x1b[2Jc\rd\x07")
    shown.closed()
    text = stream.getvalue()
    assert all(character == "\n" or character.isprintable() for character in text)
    assert "x" * 100 in text and "x" * 120 not in text
    assert "note: a bc d" in text


@pytest.mark.parametrize("kind", ["no effect", "timeout", "inconclusive trace"])
def test_what_the_package_says_is_told_to_its_end(kind: FailureKind) -> None:
    stream = io.StringIO()
    shown = make_display(stream, BASELINE)
    own = "so it goes, " * 40 + "install this"
    shown.trial_ended(outcome(5, "failed", failure=Failure(kind=kind, stage="apply", message=own)), "")
    shown.note(own)
    shown.refused({"steps": 4}, own)
    assert [line.count(own) for line in lines_of(stream)] == [1, 1, 1]


def test_a_trial_is_named_by_what_differs_from_the_baseline() -> None:
    stream = io.StringIO()
    make_display(stream, BASELINE).trial_ended(measured(5, "search", 4), "")
    assert lines_of(stream)[0].endswith(" | steps=4")


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, PlainDisplay]:
    """A display in a trial that soon has something to say, and what it says."""
    monkeypatch.setattr(plain, "NOTABLE_S", 0.05)
    stream = io.StringIO()
    shown = PlainDisplay(stream, BASELINE, heartbeat_s=0.04)
    shown.started("demo", Path("x"), LIMITS, [], 0.0, [])
    shown.trial_started(3, "search", {}, 1)
    return stream, shown


def test_what_is_no_trial_is_told_as_well(talkative: tuple[io.StringIO, PlainDisplay]) -> None:
    stream, shown = talkative
    shown.task("finalists", "judge")
    time.sleep(0.15)
    shown.closed()
    assert "finalists: judging 0:00" in stream.getvalue()
    assert re.search(r"finalists: judging took 0\.\d s", stream.getvalue())


def test_progress_counts_trials_over_all_runs_and_no_repetitions() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    shown = LiveDisplay(console, BASELINE, now=lambda: 1000.0)
    shown.started("demo", Path("x"), LIMITS, [], spent_s=240.0, recorded=[measured(0, "baseline", 28), rejected(1)])
    shown.trial_ended(measured(2, "search", 8), "")
    shown.trial_ended(measured(0, "confirm", 28), "")
    shown.task("finalists", "judge")
    with console.capture() as captured:
        console.print(shown._render())
    shown.closed()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", captured.get())
    assert "1:00 left of 5:00, trial 3 of 40" in text
    assert "2 measured   1 rejected" in text
    assert re.search(r"finalists +judging 0:00", text)


@pytest.mark.parametrize(
    ("trials", "spent_s", "text"),
    [
        (None, 0.0, "a budget of 2:30, after which the finalists are judged"),
        (None, 122.4, "a budget of 2:30 (2:02 used before), after which the finalists are judged"),
        (9, 122.4, "a budget of 2:30 (2:02 used before) or 9 trials, after which the finalists are judged"),
    ],
)
def test_a_study_that_goes_on_says_how_much_of_its_budget_is_used(
    trials: int | None, spent_s: float, text: str
) -> None:
    limits = Limits(budget_s=150.0, max_trials=trials)
    assert limits_text(limits, spent_s) == text
    stream = io.StringIO()
    shown = PlainDisplay(stream, BASELINE)
    shown.started("demo", Path("x"), limits, [], spent_s, [])
    shown.closed()
    assert stream.getvalue().endswith(f"demo: study folder x, {text}\n")


def test_notable_stages_and_silence_are_told(talkative: tuple[io.StringIO, PlainDisplay]) -> None:
    stream, shown = talkative
    shown.trial_started(4, "search", {}, 1)
    shown.stage(3, "load", None)
    shown.stage(3, "compile", None)
    shown.stage(4, "time", 20)
    time.sleep(0.15)
    shown.stage(3, "time", None)
    shown.worker_ended(4)
    shown.closed()
    text = stream.getvalue()
    assert "trial 3 (search): compiling 0:00" in text
    assert re.search(r"trial 3 \(search\): compiling took 0\.\d s", text)
    assert re.search(r"trial 4 \(search\): timing at 20 steps took 0\.\d s", text), "the other's end does not end it"
    assert "loading took" not in text
    assert threading.active_count() == 1 or all(thread.name != "plain display" for thread in threading.enumerate())


def test_a_stream_that_is_gone_does_not_stop_the_study() -> None:
    stream = io.StringIO()
    shown = make_display(stream, BASELINE)
    stream.close()
    play(shown)
    shown.closed()


def test_plain_lines_in_an_encoding_that_knows_only_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    make_display(stream, BASELINE).note("café")
    assert raw.getvalue().decode("ascii").endswith("note: caf\\xe9\n")


class Terminal:
    """A pseudo-terminal of a given size whose output is collected."""

    def __init__(self, columns: int, rows: int = 30) -> None:
        self.controller, self.device = pty.openpty()
        fcntl.ioctl(self.device, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self.controller, 65536)
            except OSError:
                return
            if not chunk:
                return
            self._chunks.append(chunk)

    @property
    def text(self) -> str:
        return b"".join(self._chunks).decode("utf-8", "replace")

    def wait_for(self, wanted: str) -> None:
        deadline = time.monotonic() + 4
        while wanted not in self.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert wanted in self.text


@contextmanager
def terminal(columns: int, encoding: str = "utf-8") -> Iterator[tuple[Terminal, TextIO]]:
    screen = Terminal(columns)
    stream = os.fdopen(screen.device, "w", encoding=encoding)
    try:
        yield screen, stream
    finally:
        stream.close()


@pytest.mark.parametrize("columns", [60, 120])
def test_live_display_shows_everything_and_gives_the_cursor_back(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with terminal(columns) as (screen, stream):
        shown = make_display(stream, BASELINE)
        assert isinstance(shown, LiveDisplay)
        play(shown)
        screen.wait_for("compiling 0:00")
        assert HIDE in screen.text
        screen.wait_for("compiling 0:01")
        shown.closed()
        shown.closed()
        screen.wait_for(SHOW)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.text)
    unwrapped = " ".join(plain.split())
    for wanted in (
        "250.0 ± 2.1 ms",
        "graph break x6",
        "first_block_cache.py:143",
        "CUDA out of memory [/red]",
        "left of 5:00, trial 4 of 40",
        "2 measured 1 rejected 1 failed 1 refused",
        "steps=8 [/not",
        "trial 4 (search)",
        "2 step counts of cache.kind=a long",
        "best so far: trial 1, 3.00x [2.9, 3.1], confirmed",
    ):
        assert wanted in unwrapped
    assert screen.text.rindex(SHOW) > screen.text.rindex(HIDE)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= columns


def test_live_display_in_ascii() -> None:
    with terminal(80, "ascii") as (screen, stream):
        shown = make_display(stream, BASELINE)
        play(shown)
        screen.wait_for("compiling 0:00")
        shown.closed()
        screen.wait_for(SHOW)
    assert screen.text.isascii()
    assert "\\u" not in screen.text


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TTY_INTERACTIVE", "0")])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with terminal(80) as (_, stream):
        assert isinstance(make_display(stream, BASELINE), PlainDisplay)


def test_a_file_gets_plain_lines_even_where_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_display(io.StringIO(), BASELINE), PlainDisplay)


@pytest.mark.parametrize("ending", ["finally: shown.closed()", "finally: pass"])
def test_ctrl_c_gives_the_cursor_back_even_when_nobody_closes_the_display(ending: str) -> None:
    program = f"""
import sys, time
from pathlib import Path
from tuner.report.live import make_display
from tuner.records.outcome import Limits
shown = make_display(sys.stdout, {{}})
try:
    shown.started("demo", Path("x"), Limits(budget_s=60.0, max_trials=None), [], 0.0, [])
    shown.trial_started(0, "baseline", {{}}, 1)
    shown.stage(0, "asleep", None)
    time.sleep(20)
except KeyboardInterrupt:
    pass
{ending}
"""
    screen = Terminal(80)
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=screen.device,
        stdout=screen.device,
        stderr=screen.device,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        cwd=Path(__file__).parent.parent,
    )
    os.close(screen.device)
    try:
        screen.wait_for("asleep 0:00")
        os.write(screen.controller, b"\x03")
        assert child.wait(timeout=4) == 0
        screen.wait_for(SHOW)
    finally:
        child.kill()
        child.wait()
    assert screen.text.rindex(SHOW) > screen.text.rindex(HIDE)
    assert "Traceback" not in screen.text


@pytest.mark.parametrize(
    ("elapsed_s", "expected_s", "text"),
    [
        (30.0, None, "4:30 left of 5:00"),
        (400.0, None, "5:00 used, trial 0 (baseline) goes on"),
        (400.0, 480.0, "5:00 used, trial 0 (baseline) goes on for about 1:20"),
        (490.0, 480.0, "5:00 used, trial 0 (baseline) goes on"),
        (299.8, None, "5:00 used, trial 0 (baseline) goes on"),
    ],
)
def test_no_time_left_is_never_shown_while_something_runs(
    elapsed_s: float, expected_s: float | None, text: str
) -> None:
    now = 0.0
    stream = io.StringIO()
    shown = LiveDisplay(Console(file=stream, width=100, height=30), BASELINE, now=lambda: now)
    shown.started("demo", Path("traces/demo"), LIMITS, [], 0.0, [])
    shown.trial_started(0, "baseline", {}, 3)
    if expected_s is not None:
        shown.expected(0, expected_s)
    now = elapsed_s
    stream.truncate(0)
    Console(file=stream, width=100).print(shown._render())
    shown.closed()
    assert text in stream.getvalue()
    assert "0:00 left" not in stream.getvalue()


def frame(shown: LiveDisplay, width: int, height: int = 30) -> list[str]:
    """The lines that stay below the trials."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, force_terminal=False)
    shown._console = console
    console.print(shown._render())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.fixture
def quiet() -> LiveDisplay:
    """A display of a study that has just begun, which draws nothing by itself."""
    shown = LiveDisplay(Console(file=io.StringIO(), width=100, height=30), BASELINE, now=lambda: 1000.0)
    shown._limits = LIMITS
    return shown


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160])
def test_every_running_trial_has_a_line_and_none_is_too_long(quiet: LiveDisplay, width: int) -> None:
    for number in (12, 13, 140):
        quiet.trial_started(number, "search", {"compile.scope": "full", "cache.kind": f"kind-{number}"}, 6)
    quiet.stage(12, "compile", None)
    quiet.stage(13, "score", 20)
    quiet.expected(140, 90.0)
    quiet.front([POINT, msgspec.structs.replace(POINT, number=0, is_baseline=True)], "best so far: " + "long " * 50)
    lines = frame(quiet, width)
    assert max(map(len, lines)) <= max(20, width - 3)
    text = "\n".join(lines)
    if width >= 60:
        for wanted in (
            r"trial 12 \(search\)\W+compiling 0:00",
            r"trial 13 \(search\)\W+judging images at 20 steps 0:00",
            r"trial 140 \(search\)\W+starting 0:00, about 1:30 to go",
            "6 step counts of compile.scope=full",
        ):
            assert re.search(wanted, text), wanted
    quiet.worker_ended(13)
    assert "trial 13" not in "\n".join(frame(quiet, width))


def test_many_running_trials_leave_room_for_the_front(quiet: LiveDisplay) -> None:
    for number in range(40):
        quiet.trial_started(number, "search", {"steps": number}, 1)
    quiet.front([msgspec.structs.replace(POINT, number=number) for number in range(40)], "best so far: the baseline")
    for width in (60, 120):
        assert len(frame(quiet, width, height=24)) < 24


def test_a_budget_that_is_not_chosen_yet_is_said_to_be_so(quiet: LiveDisplay) -> None:
    quiet.limited(Limits(budget_s=None, max_trials=None))
    assert any("0:00 so far, no budget yet" in line for line in frame(quiet, 100))
    quiet.limited(Limits(budget_s=1200.0, max_trials=None))
    assert any("20:00 left of 20:00" in line for line in frame(quiet, 100))


def test_when_the_time_is_up_and_nothing_runs_no_time_is_left(quiet: LiveDisplay) -> None:
    quiet._begin = 0.0
    assert any(line.endswith("5:00 used, trial 0 of 40") for line in frame(quiet, 100))
    for number in (4, 5):
        quiet.trial_started(number, "search", {}, 1)
        quiet.expected(number, 10.0 * number)
    assert any("5:00 used, 2 trials go on for about 0:50" in line for line in frame(quiet, 100))


def test_the_time_in_which_a_trial_stood_still_is_not_its_stages() -> None:
    running = RunningSet()
    running.start(3, "search", {}, 1, 0.0)
    running.enter(3, "score", None, 10.0)
    running.expect(3, 50.0)
    running.shift(3, 25.0)
    running.shift(4, 1.0)  # it has ended
    (trial,) = running
    assert trial.text(60.0) == "judging images 0:25, about 0:15 to go"
