"""report.html in a browser that can reach nothing: quick, without an error, and usable, whatever its texts are.

With TUNE_SCREENSHOTS set to a folder, screenshots are kept there to be looked at.
"""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import large_report
import pytest
from browser import Page
from msgspec.structs import replace
from PIL import Image

from tuner.cli import main
from tuner.commands import report as command
from tuner.commands.run import report_study
from tuner.errors import BadInput
from tuner.files import thumbnail_path
from tuner.records.advice import FILE, Advice, Expectation
from tuner.records.codec import Estimate, encode_pretty
from tuner.records.quality import MetricResult
from tuner.report import written
from tuner.report.explanation import setting_text
from tuner.report.explanation_text import ratio_text, untried_text, untried_title, worth_source
from tuner.report.page import facts, images
from tuner.report.page.metrics import metrics
from tuner.report.page.page import page
from tuner.report.page.settings import settings
from tuner.report.page.shares import call_bars
from tuner.report.page.trials import trials
from tuner.report.renderers import RENDERERS
from tuner.report.studies import read_limits
from tuner.report.study_report import StudyReport, read_report

in_browser = pytest.mark.skipif(browser.found() is None, reason="Chromium is not installed (Debian's package chromium)")
MAX_BYTES = 6_000_000
MAX_MS = 2000
SHAPES = [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")]
SHOWN = "[...document.querySelectorAll('#table tbody tr')].filter((row) => !row.hidden)"


@pytest.fixture(scope="module")
def large(recorded_study: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    return large_report.make(read_report(recorded_study), tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def file(large: StudyReport) -> Path:
    return written.write_page(large)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser.opened(1400, 1000) as page:
        yield page


def opened(tab: Page, file: Path, width: int = 1400, scheme: str = "light") -> Page:
    tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False
    )  # fmt: skip
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(file.as_uri())
    tab.until("document.readyState === 'complete' && Boolean(document.getElementById('picked'))")
    return tab


# ---- in the browser -------------------------------------------------------------------------------------------------


@in_browser
@pytest.mark.parametrize(("width", "scheme"), SHAPES)
def test_300_trials_open_without_an_error(tab: Page, file: Path, tmp_path: Path, width: int, scheme: str) -> None:
    opened(tab, file, width, scheme)
    assert tab.ask("document.querySelectorAll('#table tbody tr').length") == large_report.COUNT
    assert tab.ask("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is wider than the window"
    assert tab.ask("getComputedStyle(document.body).backgroundColor === 'rgb(17, 21, 27)'") == (scheme == "dark")
    tab.screenshot(Path(os.environ.get("TUNE_SCREENSHOTS") or tmp_path) / f"report-{width}-{scheme}.png")
    assert tab.failed == tab.errors == []


@in_browser
@pytest.mark.alone
def test_300_trials_open_at_once(tab: Page, file: Path) -> None:
    """The quickest of a few times, as other programs may take the processor."""
    end = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert any(opened(tab, file).until(end) < MAX_MS for _ in range(5))


@in_browser
def test_text_stays_text(tab: Page, file: Path) -> None:
    opened(tab, file)
    assert tab.ask("[window.broken ?? 0, document.querySelectorAll('img:not([src^=\"data:image/\"])').length]") == [
        0,
        0,
    ]
    seen = large_report.HOSTILE.replace("\u202e ", "")
    assert tab.ask("document.querySelector('h1').textContent") == seen
    assert seen in tab.ask("document.querySelector('#images figcaption').textContent")
    assert tab.failed == tab.errors == []


@in_browser
def test_trials_are_filtered_and_sorted(tab: Page, file: Path) -> None:
    opened(tab, file)
    assert tab.ask("document.querySelector('input[value=rejected]').click(), " + SHOWN + ".length") < large_report.COUNT
    assert not tab.ask(SHOWN + ".some((row) => row.dataset.kind === 'rejected')")
    search = "(() => { const box = document.getElementById('search'); box.value = 'FAILED load'; "
    found = f"box.dispatchEvent(new Event('input')); return {SHOWN}.map((row) => row.dataset.kind); }})()"
    assert set(tab.ask(search + found)) == {"failed"}
    click = "document.querySelectorAll('#table thead button')[3].click()"
    speeds = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[3].dataset.value)"
    for sign in (1, -1):
        values = tab.ask(f"{click}, {speeds}")
        known = [sign * float(value) for value in values if value]
        assert known == sorted(known)
        assert values[len(known) :] == [""] * (large_report.COUNT - len(known)), "what is unknown comes last"


@in_browser
@pytest.mark.parametrize("plot", ["front-plot", "order-plot"])
def test_the_plots_are_walked_with_the_keyboard(tab: Page, file: Path, plot: str) -> None:
    opened(tab, file)
    tab.ask(f"document.getElementById('{plot}').focus()")
    told = []
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        told.append(tab.ask("document.getElementById('picked').textContent"))
    assert told[0].startswith("Trial ")
    assert told[0] != told[1] == told[2]
    assert tab.ask("document.activeElement.id").startswith("trial-")


@in_browser
def test_the_slider_and_the_views_show_one_image_or_the_other(tab: Page, file: Path) -> None:
    opened(tab, file)
    slide = "(() => { const slider = document.querySelector('.compare input'); slider.value = 20; "
    moved = "slider.dispatchEvent(new Event('input')); "
    clipped = "return getComputedStyle(document.querySelector('.after')).clipPath; })()"
    assert "20%" in tab.ask(slide + moved + clipped)
    assert tab.ask("document.querySelector('input[value=before]').click(), "
                   "getComputedStyle(document.querySelector('.compare .after')).display") == "none"  # fmt: skip
    assert tab.ask("document.querySelector('input[value=blink]').click(), "
                   "getComputedStyle(document.querySelector('.compare .after')).animationName") == "blink"  # fmt: skip


# ---- without one ----------------------------------------------------------------------------------------------------


def test_the_page_is_small_and_loads_nothing(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert "GPU stream 7" in text, "the time line of a step"
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text


def test_the_parts_of_a_call_stand_below_the_call_that_they_are_of(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert '<th scope="row">one image, part by part</th><td class="number">1.00 s 100%</td>' in text
    assert "<span>1.00 s per image, in a call of 1 image</span>" in text
    assert "is not one of those of the median" in text


def test_calls_of_different_batches_are_compared_per_image(large: StudyReport) -> None:
    best = large.best
    chosen = replace(best.chosen, batch=4, latency_s=Estimate(value=0.72, low=0.7, high=0.74))
    baseline = replace(best.baseline, batch=1, latency_s=Estimate(value=1.02, low=1.0, high=1.04))
    report = replace(large, best=replace(best, baseline=baseline, chosen=chosen))
    before, after = call_bars(report)
    assert (before.total, after.total) == (
        "1.00 s per image, in a call of 1 image", "175 ms per image, in a call of 4 images",
    )  # fmt: skip
    assert [(part.name, part.text) for part in after.parts][1] == ("denoiser", "125 ms")
    assert sum(part.share for part in before.parts) == pytest.approx(1.0), "the longer bar is the whole scale"
    assert [part.share for part in after.parts][1] == pytest.approx(0.125), "one eighth of the baseline's second"
    assert ("latency per image", "180 ms", "baseline 1.02 s; a call of 4 images takes 720 ms") in facts.headline(report)


def test_a_page_without_images_and_traces_leaves_them_out(recorded_study: Path) -> None:
    text = page(read_report(recorded_study))
    assert 'id="images"' not in text
    assert 'id="trials"' in text


def test_the_workload_has_the_steps_of_the_untouched_pipeline(large: StudyReport) -> None:
    steps = large.request.space.baseline["steps"]
    assert ("steps of the untouched pipeline", str(steps)) in list(facts.workload(large))


def test_images_become_smaller_until_they_have_room(large: StudyReport, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {cell.width for strip in images.strips(large) for cell in strip.cells} == {large_report.SIDE}
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    assert max(cell.width for strip in images.strips(large) for cell in strip.cells) < large_report.SIDE


def test_small_copies_are_taken_as_they_are_if_all_images_have_one(large: StudyReport, tmp_path: Path) -> None:
    report = large_report.make(large, tmp_path)
    stills = list((tmp_path / "trials").glob("*/images/*.png"))
    for still in stills:
        thumbnail_path(still).parent.mkdir(exist_ok=True)
        Image.new("RGB", (256, 256)).save(thumbnail_path(still), "JPEG")
    cells = [cell for strip in images.strips(report) for cell in strip.cells]
    copy = base64.b64encode(thumbnail_path(stills[0]).read_bytes()).decode()
    assert {cell.after for cell in cells} == {f"data:image/jpeg;base64,{copy}"}
    thumbnail_path(tmp_path / "trials" / "0000" / "images" / "0000.png").write_bytes(b"no image")
    assert all(cell.after.startswith("data:image/webp") for strip in images.strips(report) for cell in strip.cells)


def test_a_damaged_image_is_left_out_with_its_name(large: StudyReport, tmp_path: Path) -> None:
    report = large_report.make(large, tmp_path)
    damaged = tmp_path / "trials" / "0000" / "images" / "0000.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"0000\.png"):
        images.strips(report)
    assert "0000.png" in page(report)


def test_a_setting_is_worth_the_same_in_the_terminal_and_in_the_page(recorded_study: Path) -> None:
    report = read_report(recorded_study)
    shown = [setting.worth for setting in settings(report)]
    assert shown and tuple(shown) == report.explanation.settings
    assert {worth.knob for worth in shown} == report.best.chosen.changed.keys()
    html, terminal = page(report), " ".join(RENDERERS["terminal"]().render(report).split())
    measured = [worth for worth in shown if worth.ratio is not None]
    assert measured
    for worth in measured:
        value, interval = ratio_text(worth.ratio).split(" ", 1)
        cell = f'<strong>{value}</strong> <span class="quiet">{interval}</span><small>{worth_source(worth)}</small>'
        assert cell in html
        assert f"{value} {interval}, {worth_source(worth)}" in terminal


def test_all_that_was_not_tried_stands_in_the_page_with_the_texts_of_the_terminal(recorded_study: Path) -> None:
    report = read_report(recorded_study)
    html, terminal = page(report), " ".join(RENDERERS["terminal"]().render(report).split())
    assert report.explanation.untried
    assert untried_title(report.explanation) in html and untried_title(report.explanation) in terminal
    for each in report.explanation.untried:
        assert f"<dt>{setting_text(each)}</dt><dd>{untried_text(each)}</dd>" in html
        assert f"{setting_text(each)} {untried_text(each)}" in terminal


def test_what_was_expected_of_a_setting_stands_beside_it(study_copy: Path) -> None:
    report = read_report(study_copy)
    (knob, value), *_ = report.best.chosen.changed.items()
    expected = Expectation(knob=knob, value=value, ratio=1.2, low=1.1, high=1.3, reason="fewer kernels")
    (study_copy / FILE).write_bytes(encode_pretty(Advice(seconds_by_part={}, noise=0.01, expectations=(expected,))))
    advised = read_report(study_copy)
    assert {setting.knob: setting.expected for setting in settings(advised)}[knob] == expected
    assert "fewer kernels" in page(advised)


def result(title: str, verdict: Any, difference: Estimate | None) -> MetricResult:
    value = Estimate(value=44.0, low=44.0, high=44.0)
    return MetricResult(
        title=title, unit="", higher_is_better=True, value=value, difference=difference, floor=0.0, verdict=verdict,
        ms_per_image=1.0,
    )  # fmt: skip


def test_the_page_says_that_the_objective_alone_decides(recorded_study: Path) -> None:
    report, lost = read_report(recorded_study), Estimate(value=-0.2, low=-0.5, high=0.1)
    panel = {
        "psnr": result("PSNR", "worse", None),
        "hps": result("HPS", "worse", lost),
        "clip_score": result("CLIP score", "in doubt", lost),
    }
    best = replace(report.best, chosen=replace(report.best.chosen, panel=panel))
    judged = replace(report, best=best)
    assert [(metric.after.title, metric.text) for metric in metrics(judged)] == [
        ("CLIP score", "decides: as good, tolerated loss 1"), ("PSNR", "larger"), ("HPS", "larger, and worse"),
    ]  # fmt: skip
    text = page(judged)
    assert "CLIP score alone decides whether a configuration is as good. The others are for information" in text
    assert "in doubt" not in text[text.index("All metrics") : text.index("<h2", text.index("All metrics"))]


def test_a_trial_that_was_judged_by_another_ones_images_says_so(recorded_study: Path) -> None:
    report = read_report(recorded_study)
    number = report.best.chosen.trial
    outcomes = [
        replace(each, quality=replace(each.quality, reused_from=0)) if each.number == number else each
        for each in report.outcomes
    ]
    reasons = {row.number: row.reason for row in trials(replace(report, outcomes=tuple(outcomes)))}
    assert "; images of trial 0" in reasons[number] and "images of trial" not in reasons[0]


def test_what_is_wrong_with_the_page_is_a_note(recorded_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(RENDERERS["html"], "render", fails)
    assert written.page_line(read_report(recorded_study)) == "note: report.html was not written: no way"


@pytest.mark.parametrize("name", ["", "missing/report.html"])
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="--output"):
        command.check_output(tmp_path / name)


@pytest.mark.parametrize("name", sorted(RENDERERS))
def test_a_hostile_study_is_rendered(large: StudyReport, name: str) -> None:
    text = RENDERERS[name]().render(large)
    assert "\u202e" not in text
    assert "<img src=x" not in text or name not in ("html", "md")


def test_no_text_ends_the_code_of_a_markdown_table(large: StudyReport) -> None:
    label = "x` | <img src=x> | ```"
    text = RENDERERS["md"]().render(replace(large, points=(replace(large.points[0], label=label),)))
    row = next(line for line in text.splitlines() if "img src=x> /" in line)
    assert (row.count("|"), row.count("`")) == (7, 2)


def test_a_study_ends_with_the_command_that_goes_on(study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tuner import cli

    report_study(study_copy)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Go on")]
    options = cli.make_parser().parse_args(shlex.split(line.removeprefix("Go on"))[1:])
    before = read_limits(study_copy / "study.db", "limits")
    assert before is not None and before.budget_s is not None
    assert options.study == str(study_copy)
    assert options.budget == pytest.approx(2 * before.budget_s, abs=60.0)
    assert (options.trials or 0) == 2 * (before.max_trials or 0)


def test_a_study_ends_with_its_page(study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_study(study_copy)
    assert capsys.readouterr().out.endswith(f"Report   {study_copy / 'report.html'}\n")
    assert 'id="trials"' in (study_copy / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "begins"), [("html", "/"), ("md", "# "), ("json", "{")])
def test_the_command_writes_each_format(
    study_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, begins: str
) -> None:
    assert main(["report", str(study_copy), "--format", name]) == 0
    assert capsys.readouterr().out.startswith(begins)
    file = tmp_path / "kept"
    assert main(["report", str(study_copy), "--format", name, "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert file.stat().st_size > 100


@pytest.mark.parametrize(("name", "begins"), [("x.html", "<!"), ("x.md", "# "), ("x.JSON", "{"), ("x.txt", "<!")])
def test_the_suffix_of_the_output_chooses_the_format(study_copy: Path, tmp_path: Path, name: str, begins: str) -> None:
    assert main(["report", str(study_copy), "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)


@pytest.mark.parametrize("options", [["--format", "html"], ["--format", "md"]])
def test_a_suffix_that_contradicts_the_format_is_refused(
    study_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    file = tmp_path / "x.json"
    assert main(["report", str(study_copy), "--output", str(file), *options]) == 2
    told = f"--output {file}: its suffix is that of json, not of --format {options[1]}; change one of them"
    assert capsys.readouterr().err == f"tune: {told}\n"
    assert not file.exists()
    assert main(["report", str(study_copy), "--output", str(file), "--json"]) == 0
