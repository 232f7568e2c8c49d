"""The final report: order, marks, both widths, no colour and only ASCII where the stream asks for it."""

import io
from typing import Any

import msgspec
import pytest
from rich.console import RenderableType

from tuner.numbers import format_latency_with_error
from tuner.records.codec import Estimate
from tuner.records.gate import Finding, Verdict
from tuner.records.outcome import Build, Failure, Outcome, Timing
from tuner.records.quality import Quality
from tuner.report.console import make_console
from tuner.report.formatting import changes, one_line, shorten
from tuner.report.front_plot import front_plot
from tuner.report.front_table import front_table
from tuner.report.points import FrontPoint, front_point
from tuner.report.studies import StudyList, StudySummary
from tuner.report.study_table import StudyTable
from tuner.report.trial_counts import trial_counts


@pytest.fixture(autouse=True)
def _neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def point(number: int, label: str, cost: float, quality: float, **more: Any) -> FrontPoint:
    return FrontPoint(
        number=number,
        label=label,
        latency_s=cost * 3.6,
        images_per_s=1 / (cost * 3.6),
        cost_usd_per_1000_images=cost,
        quality=quality,
        quality_low=quality - 0.002,
        quality_high=quality + 0.001,
        difference=quality - 0.31,
        speed_up=0.07 / cost,
        **more,
    )


POINTS = (
    point(12, "steps=8", 0.02, 0.308),
    point(0, "baseline", 0.07, 0.31, is_baseline=True),
    point(7, "compile.scope=regional " + "inductor.a_flag=true " * 5 + "steps=8", 0.01, 0.307, is_chosen=True),
    point(30, "steps=2", 0.005, 0.29),
)


def test_a_score_from_few_prompts_is_marked() -> None:
    few = (*POINTS[1:2], point(12, "steps=8", 0.02, 0.308, scored_prompts=4))
    text = printed(front_table(few), 120)
    (row,) = (line for line in text.splitlines() if "steps=8" in line)
    assert "0.3080^" in row and "]^" in row
    assert "^ scored on 4 prompts only" in text and "^" not in printed(front_table(POINTS), 120)


def test_a_score_from_the_images_of_another_trial_is_marked() -> None:
    owners = (0, None, 0, 5)
    shared = [msgspec.structs.replace(each, images_of=owner) for each, owner in zip(POINTS, owners, strict=True)]
    text = printed(front_table(shared), 240)
    (row,) = (line for line in text.splitlines() if "steps=8" in line and "(chosen)" not in line)
    assert "0.3080@" in row and "]@" in row
    owners = "7, 12 by those of trial 0; 30 by those of trial 5"
    same = f"@ judged by another trial's images, as its first are near them: {owners}"
    assert same in text and "@" not in printed(front_table(POINTS), 240)
    few = msgspec.structs.replace(shared[0], scored_prompts=4)
    assert "]^@" in printed(front_table([*shared[1:], few]), 240)


def test_a_point_that_may_be_worse_than_is_tolerated_is_marked() -> None:
    worse = [msgspec.structs.replace(each, may_be_worse=each.number == 30) for each in POINTS]
    text = " ".join(printed(front_table(worse), 240).split())
    assert "-0.0200 [-0.0220, -0.0190]< steps=2" in text and text.count("]<") == 1
    legend = "< not certainly as good: its interval reaches below the tolerated loss; it is not chosen"
    assert legend in text and "<" not in printed(front_table(POINTS), 240)
    both = [msgspec.structs.replace(each, scored_prompts=4) for each in worse]
    assert "]<^ steps=2" in " ".join(printed(front_table(both), 240).split())


def printed(what: RenderableType, width: int = 80) -> str:
    stream = io.StringIO()
    make_console(stream, width).print(what)
    return stream.getvalue()


def printed_in_ascii(what: RenderableType, width: int = 80) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    make_console(stream, width).print(what)
    stream.flush()
    return raw.getvalue().decode("ascii")


def outcome(number: int, status: Any, **more: Any) -> Outcome:
    defaults: dict[str, Any] = {
        "purpose": "search",
        "values": {"steps": number},
        "build_key": f"build {number // 2}",
        "image_key": "images",
    }
    return Outcome(number=number, status=status, **{**defaults, **more})


def build(*findings: Finding, skipped: tuple[str, ...] = ()) -> Build:
    verdict = Verdict(status="rejected" if findings else "clean", findings=findings, skipped=skipped)
    return Build(changes={}, load_s=1.0, apply_s=1.0, first_call_s=1.0, trace=None, verdict=verdict)


def finding(source: str, allowed_by: str | None = None) -> Finding:
    return Finding(
        kind="graph break",
        count=3,
        count_per_step=1.0,
        idle_ms_per_step=None,
        operator="",
        reason="a call",
        source=source,
        allowed_by=allowed_by,
    )


def first_row_of(text: str, number: int) -> int:
    """The line whose trial column holds the number."""
    return next(at for at, line in enumerate(text.splitlines()) if str(number) in line.lstrip(" ◆★B*").split(" ")[:1])


def test_energy_is_a_column_where_the_gpu_tells_it() -> None:
    joules = [msgspec.structs.replace(each, joules_per_image=100.0 * each.number) for each in POINTS[:3]]
    joules[0] = msgspec.structs.replace(joules[0], is_predicted=True)
    with_energy, without = printed(front_table([*joules, POINTS[3]]), 160), printed(front_table(POINTS), 160)
    assert "joules/" in with_energy and "joules" not in without
    assert "~1200" in with_energy.replace(",", ""), "trial 12 has it from calls with other steps"


@pytest.mark.parametrize("width", [60, 80, 120, 240])
def test_table_has_the_baseline_on_top_then_the_front_from_the_cheapest_on(width: int) -> None:
    text = printed(front_table(POINTS), width)
    rows = [first_row_of(text, number) for number in (0, 30, 7, 12)]
    assert rows == sorted(rows)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("-0.0030 [-0.0050, -0.0020]") == 1


def test_table_marks_the_baseline_and_the_chosen_point_only() -> None:
    rows = [row.lstrip() for row in printed(front_table(POINTS)).splitlines()]
    assert [row.split()[1] for row in rows if row.startswith("◆")] == ["0"]
    assert [row.split()[1] for row in rows if row.startswith("★") and "chosen" not in row] == ["7"]
    assert "(chosen)" in "".join(rows)
    assert next(row for row in rows if row.startswith("◆")).endswith("reference")


def test_table_marks_what_was_predicted_and_what_misses_the_latency_target() -> None:
    late = point(0, "baseline", 0.07, 0.31, is_baseline=True, misses_target=True)
    text = printed(front_table([late, point(12, "steps=8", 0.02, 0.308, is_predicted=True), POINTS[3]]), 100)
    lines = text.splitlines()
    assert "252 ms!" in lines[first_row_of(text, 0)]
    assert "~72.0 ms" in lines[first_row_of(text, 12)]
    assert " 18.0 ms" in lines[first_row_of(text, 30)]
    assert "~ predicted from other step counts" in text
    assert "! misses the latency target" in " ".join(text.split())
    assert "~" not in printed(front_table(POINTS)) and "!" not in printed(front_table(POINTS))


@pytest.mark.parametrize(("width", "is_beside"), [(240, True), (80, False)])
def test_a_configuration_stands_beside_its_numbers_where_there_is_room(width: int, is_beside: bool) -> None:
    text = printed(front_table(POINTS), width)
    assert ("steps=2" in text.splitlines()[first_row_of(text, 30)]) == is_beside
    assert "steps=2" in text


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_drawing_fits_and_marks_every_kind_of_point(width: int, count: int) -> None:
    points = (POINTS[1], POINTS[2], POINTS[0], POINTS[3])[:count]
    text = printed(front_plot(points), width)
    assert max(map(len, text.splitlines())) <= width
    image = "\n".join(line for line in text.splitlines() if "│" in line or "┤" in line)
    assert image.count("◆") == 1
    assert image.count("★") == (count > 1)
    assert image.count("●") == max(0, count - 2)
    assert ("log scale" in text) == (count > 1)


def test_drawing_puts_the_better_point_higher_and_the_cheaper_one_further_left() -> None:
    lines = printed(front_plot(POINTS)).splitlines()
    baseline = next((at, line.index("◆")) for at, line in enumerate(lines) if "◆" in line)
    chosen = next((at, line.index("★")) for at, line in enumerate(lines) if "★" in line)
    assert baseline[0] < chosen[0]
    assert chosen[1] < baseline[1]


def test_equal_points_are_drawn() -> None:
    same = [point(number, "x", 0.02, 0.3) for number in range(3)]
    assert "●" in printed(front_plot(same))


def test_a_chosen_baseline_is_named_as_such() -> None:
    text = printed(front_plot([point(0, "baseline", 0.07, 0.31, is_baseline=True, is_chosen=True)]))
    assert "★ chosen (the baseline)" in text


def test_an_empty_front_is_said_plainly() -> None:
    assert printed(front_table([])) == "Nothing was measured.\n"
    assert printed(front_plot([])).strip() == ""


def test_no_control_characters_without_a_terminal() -> None:
    counts = trial_counts([outcome(1, "measured")])
    text = printed(front_table(POINTS)) + printed(front_plot(POINTS)) + printed(counts)
    assert all(character == "\n" or character.isprintable() for character in text)


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in printed(front_plot(POINTS))


def test_ascii_where_the_stream_knows_no_more() -> None:
    strange = [*POINTS, point(31, "prompt=é★", 0.03, 0.3)]
    for what in (front_table(strange), front_plot(strange), trial_counts([outcome(1, "measured")])):
        assert printed_in_ascii(what)
    assert "* chosen" in printed_in_ascii(front_plot(POINTS))


def test_summary_groups_the_reasons() -> None:
    outcomes = [
        outcome(0, "measured", build=build(skipped=("device syncs: no GPU",))),
        outcome(1, "rejected", build=build(finding("a.py:3"), finding("b.py:9", allowed_by="cache.kind"))),
        outcome(2, "rejected", build=build(finding("a.py:3"))),
        outcome(3, "failed", failure=Failure(kind="timeout", stage="compile", message="no answer\nfor long")),
    ]
    text = printed(trial_counts(outcomes, {"compile.mode needs compile.scope": 5}), 120)
    assert "4 trials from 2 builds: 1 measured, 2 rejected, 1 failed; 5 candidates refused" in text
    assert "rejected     2  graph break at a.py:3 (trials 1, 2)" in text
    assert "b.py:9" not in text
    assert "failed       1  timeout in compile: no answer (trial 3)" in text
    assert "refused      5  compile.mode needs compile.scope" in text
    assert "not checked  1  device syncs: no GPU" in text


def test_summary_stays_short() -> None:
    text = printed(trial_counts([outcome(1, "measured")], {f"reason {index}": 1 for index in range(30)}))
    assert "22  for other reasons" in text


def test_a_row_is_made_from_two_outcomes() -> None:
    def measured(number: int, latency_s: float, values: dict[str, Any], difference: Estimate) -> Outcome:
        latency = Estimate(value=latency_s, low=latency_s, high=latency_s)
        timing = Timing(latency_s=latency, samples=5, images_per_s=2 / latency_s, stopped="interval within target")
        quality = Quality(metric="CLIP", scores=(), mean=0.3, difference=difference, psnr_db=None, ssim=None)
        return outcome(
            number, "measured", values=values, timing=timing, quality=quality, cost_usd_per_1000_images=latency_s
        )

    baseline = measured(0, 2.0, {"steps": 28, "fuse_qkv": False}, Estimate(value=0.0, low=0.0, high=0.0))
    faster = measured(4, 0.5, {"steps": 28, "fuse_qkv": True}, Estimate(value=-0.01, low=-0.03, high=0.02))
    row = front_point(faster, baseline, changes(faster.values, baseline.values), is_chosen=True)
    assert (row.label, row.speed_up, row.is_chosen, row.is_baseline) == ("fuse_qkv=true", 4.0, True, False)
    assert (row.quality_low, row.quality_high) == pytest.approx((0.28, 0.33))
    assert front_point(baseline, baseline, {}).label == "baseline"
    assert not row.is_predicted and not row.misses_target
    assert faster.timing is not None
    timing = msgspec.structs.replace(faster.timing, predicted_from=(4, 28), within_target=0.0)
    row = front_point(msgspec.structs.replace(faster, timing=timing), baseline, {})
    assert row.is_predicted and row.misses_target
    with pytest.raises(ValueError, match="trial 9"):
        front_point(outcome(9, "measured"), baseline, {})


def test_words_and_numbers() -> None:
    assert one_line("\x1b[31mred\x1b[0m\n\ttwo\x07  three\x00") == "red two three"
    assert shorten("abcdefgh", 6) == "abc..."
    assert format_latency_with_error(0.25, 0.0021, "+-") == "250.0 +- 2.1 ms"
    assert format_latency_with_error(12.3456, 0.12, "+-") == "12.35 +- 0.12 s"


def test_names_of_studies_are_not_broken() -> None:
    names = ("flux.1-dev-1024x1024-steps28-231471c9", "deep/er/stable-diffusion-xl-base-1.0-5d0c61aa")
    studies = [
        StudySummary(
            folder=f"traces/{name}", state="interrupted", model="black-forest-labs/FLUX.1-dev", trials=27,
            chosen_trial=13, chosen="precision.dtype=bfloat16 cache.kind=first-block cache.threshold=0.1 " * 2,
        )
        for name in names
    ]  # fmt: skip
    shown = StudyTable(StudyList(folder="traces", studies=tuple(studies)))
    for width, below in ((80, "    black-forest-labs/FLUX.1-dev: precision.dtype=bf"), (120, "    precision.dtype=bf")):
        lines = printed(shown, width).splitlines()
        assert [line.split()[0] for line in lines if "interrupted" in line] == list(names)
        assert max(map(len, lines)) <= width
        assert lines[3].startswith(below)
