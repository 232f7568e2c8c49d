"""A study's report is made from its folder alone, and every renderer shows it."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import msgspec
import pytest

from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.numbers import format_difference
from tuner.records.codec import Estimate, encode_pretty
from tuner.records.quality import MetricResult
from tuner.records.study_lock import lock_study
from tuner.report.conclusion import tolerated
from tuner.report.console import make_console
from tuner.report.points import front_points
from tuner.report.renderers import RENDERERS
from tuner.report.renderers.terminal import Terminal
from tuner.report.study_report import StudyReport, read_history, read_refusals, read_report


@pytest.fixture
def finished(study_copy: Path) -> Path:
    """The folder of a finished study, with a refused candidate."""
    return study_copy


def test_a_copied_study_has_the_same_report(finished: Path, tmp_path: Path) -> None:
    report = read_report(finished)
    assert report.refused["compile.mode needs compile.scope"] == 1
    assert {point.number for point in report.points} >= {0, report.best.chosen.trial}
    assert f"trial {report.best.chosen.trial}, " in report.conclusion
    copied = read_report(Path(shutil.move(finished, tmp_path / "copy")))
    assert report.time is not None
    assert (report.time.builds, report.time.repetition_s is None) == (2, False)
    assert 0 < report.time.first_gain_s <= report.time.wall_s  # type: ignore[operator]
    moved = msgspec.structs.replace(report, folder=copied.folder, conclusion=copied.conclusion)
    assert copied == moved


def test_a_panel_of_an_earlier_version_has_the_interval_of_the_decision(finished: Path) -> None:
    best = read_report(finished).best
    decided, value = best.chosen.quality_difference, best.chosen.quality
    narrow = Estimate(value=decided.value, low=decided.value - 1e-4, high=decided.value + 1e-4)
    result = MetricResult(
        title="CLIP score", unit="", higher_is_better=True, value=Estimate(value=value, low=value, high=value),
        difference=narrow, floor=0.01, verdict="same", ms_per_image=1.0,
    )  # fmt: skip
    panel = {best.quality_metric: result}
    chosen = msgspec.structs.replace(best.chosen, panel=panel)
    front = tuple(chosen if point.trial == chosen.trial else point for point in best.front)
    edited = msgspec.structs.replace(best, chosen=chosen, front=front)
    (finished / "best_config.json").write_bytes(encode_pretty(edited))
    report = read_report(finished)
    assert (report.best.chosen.panel or {})[best.quality_metric].difference == decided != narrow
    assert format_difference(narrow.value, narrow.low, narrow.high) not in RENDERERS["html"]().render(report)


@pytest.mark.parametrize("name", sorted(RENDERERS))
def test_every_renderer_shows_the_chosen_configuration(finished: Path, name: str) -> None:
    report = read_report(finished)
    text = RENDERERS[name]().render(report)
    assert report.best.chosen.changed
    assert all(knob in text for knob in report.best.chosen.changed)
    assert "tune board" in text or name not in ("terminal", "md")
    assert "load and build" in text or name in ("md", "csv")
    assert "Time" in text or name in ("json", "html", "csv")
    if name == "json":
        assert msgspec.json.decode(text, type=StudyReport) == report
    if name == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [int(row["trial"]) for row in rows] == [outcome.number for outcome in report.outcomes]
        chosen = report.best.chosen
        assert float(rows[chosen.trial]["latency_s"]) == chosen.latency_s.value, "over all its processes"
        assert float(rows[chosen.trial]["latency_high_s"]) == chosen.latency_s.high
        assert rows[0]["scored_prompts"] == "2"
        assert_rows_have_the_table(rows, report)
        assert rows[0]["steps"] == str(report.outcomes[0].values["steps"])


def assert_rows_have_the_table(rows: list[dict[str, str]], report: StudyReport) -> None:
    """The table of the front can be made from the rows alone."""
    best = report.best
    of_front = {int(row["trial"]) for row in rows if row["on_front"] == "True"}
    assert of_front == {point.trial for point in best.front}
    assert [int(row["trial"]) for row in rows if row["is_chosen"] == "True"] == [best.chosen.trial]
    assert of_front | {0, best.chosen.trial} == {point.number for point in report.points}
    assert all(float(rows[point.number]["speed_up"]) == point.speed_up for point in report.points)
    chosen = rows[best.chosen.trial]
    assert (float(chosen["speed_up_low"]), float(chosen["speed_up_high"])) == (best.speed_up.low, best.speed_up.high)
    assert (chosen["is_confirmed"] == "True") == best.speed_up_confirmed
    assert all(row["speed_up"] == "" for row in rows if row["status"] != "measured")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("clip_score", "CLIP score is above the baseline's minus 0.5"), ("lpips", "is below the baseline's plus 0.5")],
)
def test_the_conclusion_says_on_which_side_of_the_baseline_is_as_good(metric: str, expected: str) -> None:
    assert tolerated(metric, 0.5).endswith(expected)


def test_the_terminal_renderer_says_that_the_front_is_not_all_trials(finished: Path) -> None:
    report = read_report(finished)
    title, *_ = Terminal(make_console(io.StringIO(), 80)).render(report).splitlines()
    shown, count = len(report.points), len(report.outcomes)
    assert title == f"Pareto front and baseline: {shown} of {count} trials (all: tune show STUDY --format csv)"
    assert shown < count


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_renderer_is_as_wide_as_its_console(finished: Path, width: int) -> None:
    text = Terminal(make_console(io.StringIO(), width)).render(read_report(finished))
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_the_terminal_renderer_has_colours_where_the_console_has(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in Terminal(make_console(io.StringIO(), 80)).render(read_report(finished))


def test_a_study_without_a_result_or_with_another_is_one_line(finished: Path) -> None:
    paths = StudyFolder(finished)
    best = paths.best_config.read_bytes()
    paths.best_config.unlink()
    with pytest.raises(BadInput, match=r"best_config\.json.*`tune resume"):
        read_report(finished)
    with (
        lock_study(paths.lock),
        pytest.raises(BadInput, match=r"best_config\.json.*running this study \(pid \d+, since"),
    ):
        read_report(finished)
    paths.best_config.write_bytes(best)
    shutil.rmtree(paths.trial(msgspec.json.decode(best)["chosen"]["trial"]))
    shutil.rmtree(paths.repetitions)
    with pytest.raises(BadInput, match=r"chosen\.trial: trial"):
        read_report(finished)


def test_a_study_of_an_earlier_version_has_no_account_of_its_time(finished: Path) -> None:
    StudyFolder(finished).stages.unlink()
    report = read_report(finished)
    assert report.time is None
    assert "load and build" not in RENDERERS["terminal"]().render(report)


def test_refusals_are_read_without_a_database_and_not_from_a_damaged_one(tmp_path: Path) -> None:
    assert read_refusals(tmp_path / "study.db") == []
    (tmp_path / "study.db").write_bytes(b"nothing" * 100)
    with pytest.raises(BadInput, match="damaged"):
        read_refusals(tmp_path / "study.db")


def test_points_that_reach_below_the_tolerance_are_marked_in_every_table(finished: Path) -> None:
    report = read_report(finished)
    history = read_history(StudyFolder(finished), report.request)
    strict = msgspec.structs.replace(history.space, tolerance=0.2)
    points = front_points(dataclasses.replace(history, space=strict), None)
    assert [point.number for point in points if point.may_be_worse] == [7, 9]
    assert not any(point.may_be_worse for point in report.points), "all are within the study's own tolerance"
    for name in ("terminal", "md"):
        text = RENDERERS[name]().render(msgspec.structs.replace(report, points=tuple(points)))
        assert text.count("]<") == 2 and "< not certainly as good" in text
