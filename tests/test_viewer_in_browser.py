"""`tune board` in a browser that can reach nothing but this machine: every page has its content.

With TUNE_SCREENSHOTS set to a folder, the pages are kept there to be looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser
import pytest
import viewed_study
from browser import Page

from tuner.board import pages, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.found() is None, reason="Chromium is not installed (Debian's package chromium)"),
]

HELPERS = """
    window.walk = function* (root) {
        for (const element of root.querySelectorAll("*")) {
            yield element;
            if (element.shadowRoot) yield* walk(element.shadowRoot);
        }
    };
    window.all = (selector) => [...walk(document)].filter((element) => element.matches(selector));
    window.words = (element) => [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data);
    window.shown = () => all("*").flatMap(words).join("\\n");
    window.tab = () => all("iframe").find((frame) => frame.src.includes("pytorch_profiler")).contentDocument;
    window.colours = (canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
    };
    window.columns = () => all(".table-header").map((header) => header.textContent.trim()).slice(2);
    window.copied = (canvas) => {
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        copy.getContext("2d").drawImage(canvas, 0, 0);
        return copy;
    };
    window.charts = () => [...tab().querySelectorAll("canvas")].map(colours);
    window.selects = () => tab().querySelectorAll(".MuiSelect-root");
    window.pick = async (index, option) => {
        selects()[index].dispatchEvent(new MouseEvent("mousedown", { bubbles: true, button: 0 }));
        for (let tries = 0; tries < 50; tries += 1) {
            const found = [...tab().querySelectorAll("[role=option]")].find((one) => one.textContent === option);
            if (found) return found.click(), true;
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        throw new Error(`no option ${option}`);
    };
    window.at = async (...options) => {  // the page picks a view of its own when the answer to a run arrives late
        for (const [index, option] of options.entries())
            if (selects()[index].textContent !== option) return await pick(index, option), false;
        return true;
    };
"""
TRIES, IN_VIEW_S = 4, 30.0
A_CHART = 8
"""Colours that a canvas with a chart has at least; an empty one has one."""

TWO_CHARTS, FOUR_CHARTS = (
    f"charts().length === {count} && charts().every((count) => count >= {A_CHART})" for count in (2, 4)
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    study = viewed_study.make(tmp_path_factory.mktemp("studies") / "seen")
    with start.serve(start.find_log_folder(str(study), study.parent), viewed_study.a_port()) as (address, _):
        yield address


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("TUNE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser.opened() as page:
        yield page


@contextmanager
def looked_at(page: Page, file: Path) -> Iterator[None]:
    """Keeps a screenshot of what was asserted, or of what was there instead, and holds that all came from here."""
    try:
        yield
    finally:
        page.screenshot(file)
    assert page.failed == []
    assert file.stat().st_size > 20_000, "a page with something on it"


def open_tab(page: Page, address: str, name: str) -> None:
    page.open(f"{address}#{name}")
    page.until("document.readyState === 'complete' && Boolean(document.body)")
    page.ask(HELPERS + "; true")


def open_view(page: Page, address: str, run: str, view: str) -> None:
    """A view of torch-tb-profiler's tab, of a run."""
    open_tab(page, address, "pytorch_profiler")
    page.until("selects().length > 1 && fetch('data/plugin/pytorch_profiler/runs').then((r) => r.json())"
               ".then((found) => !found.loading && found.runs.length === 2)")  # fmt: skip
    page.until(f"at('{run}', '{view}')")


def until_in_view(page: Page, address: str, run: str, view: str, expression: str) -> Any:
    """Wait for an expression in a view of a run; pick both again if the page left them, and at last load it again.

    The profiler's page now and then stays without a chart on a busy machine, and is right when it is loaded anew.
    """
    wanted = f"at('{run}', '{view}').then((there) => there && {expression})"
    for _ in range(TRIES - 1):
        with contextlib.suppress(AssertionError):
            return page.until(wanted, IN_VIEW_S)
        page.open("about:blank")
        open_view(page, address, run, view)
    return page.until(wanted)


def test_the_browser_has_no_internet() -> None:
    with browser.opened() as page:
        assert page.ask("fetch('https://www.gstatic.com/charts/loader.js').then(() => true, () => false)") is False
        assert page.failed == ["asked for https://www.gstatic.com/charts/loader.js"]


def test_charts_of_many_rows(page: Page) -> None:
    """As many as a long trace has: more than a call can have arguments."""
    page.open("about:blank")
    for script in ("chart.umd.min.js", "charts.js"):
        page.ask((pages.STATIC / script).read_text(encoding="utf-8") + "; true")
    drawn = page.ask("""
        const { DataTable, Table, Timeline } = google.visualization;
        const box = document.createElement("div");  // not in the page, which would be laid out for half a minute
        const filled = (columns, row) => {
            const table = new DataTable();
            for (const label of columns) table.addColumn("string", label);
            table.addRows(Array.from({ length: 130000 }, (_, index) => row(index)));
            return table;
        };
        const labels = ["level", "name", "hint", "start", "end"];
        const times = filled(labels, (index) => ["0", "kernel", "", index, index + 1]);
        new Timeline(box).draw(times);
        const bars = box.firstChild.children;
        const last = [bars.length, bars[bars.length - 1].style.left];
        new Table(box).draw(filled(["name"], () => ["kernel"]), {});
        [...last, box.querySelectorAll("tr").length];
    """)
    assert drawn == [130_000, "99.9992%", 130_001]


def test_the_overview_draws_the_steps(page: Page, address: str, screenshots: Path) -> None:
    open_view(page, address, "0000", "Overview")
    with looked_at(page, screenshots / "overview.png"):
        until_in_view(page, address, "0000", "Overview", TWO_CHARTS)
        text = page.ask("tab().body.innerText")
        assert "Average Step Time" in text
        assert "NVIDIA H200" in text
        assert "Kernel" in text


def test_the_operator_view_draws_and_lists_operators(page: Page, address: str, screenshots: Path) -> None:
    open_view(page, address, "0000", "Operator")
    with looked_at(page, screenshots / "operator.png"):
        until_in_view(page, address, "0000", "Operator", FOUR_CHARTS)
        assert "aten::addmm" in page.until("[...tab().querySelectorAll('table')].map((t) => t.innerText).join()")


def test_the_kernel_view_draws_and_lists_kernels(page: Page, address: str, screenshots: Path) -> None:
    open_view(page, address, "0000", "GPU Kernel")
    with looked_at(page, screenshots / "kernel.png"):
        until_in_view(
            page,
            address,
            "0000",
            "GPU Kernel",
            TWO_CHARTS,
        )
        assert "nvjet_hsh" in page.until("[...tab().querySelectorAll('table')].map((t) => t.innerText).join()")


@pytest.mark.parametrize("run", ["0000", "0002"])
def test_the_trace_view_draws_the_time_line(page: Page, address: str, screenshots: Path, run: str) -> None:
    open_view(page, address, run, "Trace")
    with looked_at(page, screenshots / f"trace-{run}.png"):
        viewer = "tab().querySelector('iframe').contentDocument"
        until_in_view(
            page,
            address,
            run,
            "Trace",
            f"Array.from({viewer}.querySelectorAll('canvas')).some((canvas) => colours(canvas) >= {A_CHART})",
        )
        assert "thread" in page.until(f"{viewer}.body.innerText.includes('thread') && {viewer}.body.innerText")


def test_hparams_has_a_row_a_trial_and_a_status_to_filter_by(page: Page, address: str, screenshots: Path) -> None:
    page.open(address)  # opens on HParams
    page.until("location.hash.includes('hparams') && document.readyState === 'complete'")
    page.ask(HELPERS + "; true")
    with looked_at(page, screenshots / "hparams.png"):
        for word in ("0000", "0001", "0002", "rejected:sync", "chosen", "compile.scope", "regional", "latency_s"):
            page.until(f"shown().includes({word!r})")
        page.until("shown().includes('0.40000')")
        columns = page.until("columns().length > 6 && columns()")
        assert columns[:6] == ["Cost US$/1000", "Quality", "Result", "Status", "compile.scope", "steps"]
        assert "cache.kind" not in columns, "it does not vary"
        right = page.ask(
            "all('.table-header').find((h) => h.textContent.includes('Cost')).getBoundingClientRect().right"
        )
        assert right < 900, "in sight"


def test_cost_and_quality_are_a_scatter_plot(page: Page, address: str, screenshots: Path) -> None:
    open_tab(page, address, "hparams")
    page.until("shown().includes('0.40000')")
    page.ask("all('paper-tab').find((one) => /scatter/i.test(one.textContent)).click()")
    with looked_at(page, screenshots / "scatter.png"):
        page.until("all('circle.data-marker').length >= 3 && shown().includes('Cost US$/1000')")


def test_images_stand_beside_the_baselines(page: Page, address: str, screenshots: Path) -> None:
    open_tab(page, address, "images")
    with looked_at(page, screenshots / "images.png"):
        sizes = page.until(
            "all('img').length >= 3 && all('img').every((image) => image.naturalWidth > 0)"
            " && all('img').map((image) => image.naturalWidth / image.naturalHeight)"
        )
        page.until("['a red circle', 'cost against quality', 'finalists'].every((word) => shown().includes(word))")
        assert sizes[0] == pytest.approx(4 / 3)


def test_the_result_of_a_long_study_is_ticked_by_the_printed_addresses(
    page: Page, tmp_path: Path, screenshots: Path
) -> None:
    study = viewed_study.make_long(tmp_path / "long")
    folder = start.find_log_folder(str(study), study.parent)
    with start.serve(folder, viewed_study.a_port()) as (address, _):
        printed = re.findall(r"#(\S+&runSelectionState=\S+)", start.guide(folder, address))
        images, text = printed
        open_tab(page, address, images)
        with looked_at(page, screenshots / "images-ticked.png"):
            page.until("all('img').length >= 3 && all('img').every((image) => image.naturalWidth > 0)")
        open_tab(page, address, text)
        with looked_at(page, screenshots / "text-ticked.png"):
            page.until("shown().includes('trial 7')")
            assert "Chosen   trial 1, 2.00x" in page.ask("shown()")
            assert "trial 8" not in page.ask("shown()")


def test_the_verdict_is_there_as_text(page: Page, address: str, screenshots: Path) -> None:
    open_tab(page, address, "text")
    with looked_at(page, screenshots / "text.png"):
        page.until("shown().includes('rejected:sync')")
        page.until("shown().includes('Chosen   trial 1, 2.00x') && shown().includes('steps=6')")


def test_scalars_are_drawn_by_trial(page: Page, address: str, screenshots: Path) -> None:
    open_tab(page, address, "timeseries")
    with looked_at(page, screenshots / "scalars.png"):
        page.until("shown().includes('cost_usd_per_1000_images')")
        # A worker draws it, so that only a copy can be looked at: the ground and a dot for each of two trials.
        page.until("all('line-chart canvas').some((canvas) => colours(copied(canvas)) >= 3)")
