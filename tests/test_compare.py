"""`tune compare`: several results by price, at each offer, and what changed between two of one machine."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from test_cost_command import study

from tuner import cli
from tuner.compare.comparison import compare
from tuner.compare.reading import read_results
from tuner.compare.records import Comparison
from tuner.records.codec import decode, encode
from tuner.result.prices import price_for

H200, L40S, UNKNOWN = "NVIDIA H200", "NVIDIA L40S", "Abacus 3000"
NOMINAL = {"usd_per_hour": 1.0, "source": "nominal: no price is known"}


def compared(*files: Path, **options: Any) -> Comparison:
    return compare(read_results([str(file) for file in files], Path("traces")), **options)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["compare", *arguments]) == 0
    return capsys.readouterr().out


def test_machines_stand_in_the_order_of_their_cost_with_intervals(tmp_path: Path) -> None:
    """An H200 four times as fast costs 4.50 or so an hour, an L40S 1.55: US$ a million images decide."""
    comparison = compared(study(tmp_path, "h200", H200, faster=4.0), study(tmp_path, "l40s", L40S))
    h200, l40s = comparison.sources
    assert (h200.price.usd_per_hour, l40s.price.usd_per_hour) == (4.5, 1.55)
    assert "2026" in h200.price.source and h200.front == l40s.front
    points = comparison.points
    costs = [point.usd_per_million_images for point in points]
    assert [cost.value for cost in costs] == sorted(cost.value for cost in costs)
    for point, cost in zip(points, costs, strict=True):
        price = comparison.sources[point.source].price.usd_per_hour
        assert cost.value == pytest.approx(price / 3600 * 1e6 / point.images_per_s.value)
        assert cost.low < cost.value < cost.high
        assert cost.high == pytest.approx(cost.value * point.latency_s.high / point.latency_s.value)
        assert point.iterations_per_s.value == pytest.approx(point.steps / point.latency_s.value)
    assert points[0].is_cheapest and points[0].is_chosen and points[0].source == 0


def test_the_front_is_of_cost_and_latency_among_what_is_as_good(tmp_path: Path) -> None:
    """The slower machine costs less: both chosen points are on the front; a point that is not as good is not."""
    cheap, fast = study(tmp_path, "l40s", L40S), study(tmp_path, "h200", H200, faster=1.5)
    chosen = [point for point in compared(cheap, fast).points if point.is_chosen]
    assert [(point.source, point.on_front, point.is_cheapest) for point in chosen] == [
        (0, True, True),
        (1, True, False),
    ]
    worse = json.loads(cheap.read_text())
    for point in (worse["chosen"], worse["front"][0]):
        point["quality_difference"] = {"value": -3.0, "low": -4.0, "high": -2.0}
        point["quality"] = worse["baseline"]["quality"] - 3.0
    cheap.write_text(json.dumps(worse))
    chosen = [point for point in compared(cheap, fast).points if point.is_chosen]
    assert [(point.source, point.as_good, point.on_front) for point in chosen] == [(0, False, False), (1, True, True)]


@pytest.mark.parametrize(("device_name", "changes"), [(L40S, {"workload__height": 64}), (UNKNOWN, {"price": NOMINAL})])
def test_what_cannot_be_compared_has_a_front_of_its_own(tmp_path: Path, device_name: str, changes: dict) -> None:
    comparison = compared(study(tmp_path, "h200", H200), study(tmp_path, "other", device_name, **changes))
    assert [source.front for source in comparison.sources] == [0, 1]
    assert [point.source for point in comparison.points if point.is_cheapest] == [0, 1]
    assert any("a front of their own" in note for note in comparison.notes)


def test_each_offer_has_its_date_and_the_studys_own_price_is_one(tmp_path: Path) -> None:
    instances = compared(study(tmp_path, "h200", H200)).instances
    assert (instances[0].provider, instances[0].usd_per_hour) == ("the study's price", 2.0)
    assert len(instances) > 2 and all(each.date and each.page for each in instances[1:])
    ratio = instances[-1].usd_per_million_images.value / instances[0].usd_per_million_images.value
    assert ratio == pytest.approx(instances[-1].usd_per_hour / 2.0)


def test_a_list_price_of_the_study_is_not_said_twice(tmp_path: Path) -> None:
    own = json.loads(encode(price_for(H200, None)))
    assert "the study's price" not in {
        each.provider for each in compared(study(tmp_path, "a", H200, price=own)).instances
    }


def test_what_was_not_confirmed_is_not_on_the_front(tmp_path: Path) -> None:
    """A predicted trial that looks cheaper than the chosen one is shown, and does not count."""
    file = study(tmp_path, "h200", H200)
    data = json.loads(file.read_text())
    data["front"].append(
        {**data["chosen"], "trial": 9, "confirmed": False, "predicted_from": [8, 4], "latency_samples": 0}
    )
    data["front"][2]["latency_s"] = {key: value / 2 for key, value in data["chosen"]["latency_s"].items()}
    data["front"][2]["images_per_s"] *= 2
    data["front"][2]["cost_usd_per_1000_images"] /= 2
    file.write_text(json.dumps(data))
    first, second, *_ = compared(file, every=True).points
    assert (first.trial, first.confirmed, first.on_front, first.is_predicted) == (9, False, False, True)
    assert (second.trial, second.is_cheapest) == (5, True)


@pytest.mark.parametrize("options", [{"usd_per_hour": 3.0}, {"provider": "nebius"}])
def test_a_price_may_be_given(tmp_path: Path, options: dict) -> None:
    (source,) = compared(study(tmp_path, "h200", H200), **options).sources
    assert source.price.usd_per_hour == options.get("usd_per_hour", 4.5)


@pytest.mark.parametrize(("noise", "differs"), [(0.0, True), (0.5, False)])
def test_what_processes_differ_by_is_no_change(tmp_path: Path, noise: float, differs: bool) -> None:
    known = {"processes": 3, "coefficient_of_variation": noise}
    old = study(tmp_path, "old", H200, created_at="2026-01-01T00:00:00+00:00", timing_noise=known)
    new = study(tmp_path, "new", H200, created_at="2026-02-01T00:00:00+00:00", timing_noise=known, faster=2.0)
    found = compared(old, new).changes
    assert found is not None
    (latency,) = [each for each in found.figures if (each.of, each.name) == ("untouched", "latency, s")]
    assert latency.differs == differs


def test_two_results_of_one_machine_say_what_changed(tmp_path: Path) -> None:
    """Older first, whatever the order of the arguments."""
    old = study(tmp_path, "old", H200, created_at="2026-01-01T00:00:00+00:00")
    new = study(tmp_path, "new", H200, faster=2.0, created_at="2026-02-01T00:00:00+00:00", tuner_version="9.9",
                environment__driver="600.1", workload__guidance_scale=5.0)  # fmt: skip
    data = json.loads(new.read_text())
    for values in (each[field] for each in (data["chosen"], data["front"][0]) for field in ("values", "changed")):
        values["attention.backend"] = "_native_efficient"
    new.write_text(json.dumps(data))
    found = compared(new, old).changes
    assert found is not None and (found.before, found.after) == (1, 0)
    assert [(each.name, each.recorded, each.now) for each in found.settings] == [
        ("attention.backend", "_native_math", "_native_efficient")
    ]
    figures = {(figure.of, figure.name): figure for figure in found.figures}
    latency = figures["untouched", "latency, s"]
    assert latency.ratio is not None and latency.ratio.value == pytest.approx(0.5) and latency.differs
    assert not figures["chosen", "peak memory, GB"].differs
    assert figures["chosen", "peak memory, GB"].ratio is None, "it has no interval, so nothing can be told apart"
    assert {"driver", "diffusion-tuner"} <= {each.name for each in found.environment}
    assert [each.name for each in found.request] == ["workload.guidance_scale"]


def test_other_results_are_not_one_study_at_two_times(tmp_path: Path) -> None:
    assert compared(study(tmp_path, "h200", H200), study(tmp_path, "l40s", L40S)).changes is None


@pytest.mark.parametrize("format_", ["table", "md", "csv", "json"])
def test_every_format_has_every_point(tmp_path: Path, format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = [study(tmp_path, "a|b`", H200), study(tmp_path, "later", H200, faster=1.1)]
    text = shown(capsys, *map(str, files), "--format", format_)
    comparison = compared(*files)
    if format_ == "json":
        assert decode(text, Comparison, "") == comparison
    elif format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        low, high = (float(rows[0][f"usd_per_million_images_{end}"]) for end in ("low", "high"))
        assert len(rows) == len(comparison.points) and low < float(rows[0]["usd_per_million_images"]) < high
    else:
        assert all(
            word in text for word in ("US$", "attention.backend=_native_math", "RunPod", "2026-09-25", "Settings")
        )
        widths = {line.count("|") for line in text.splitlines() if line.startswith("| A ") or line.startswith("| B ")}
        assert format_ == "table" or len(widths - {7}) <= 2


def test_a_study_folder_is_read_as_a_whole(study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(shown(capsys, study_copy.name, "--out", str(study_copy.parent), "--format", "json", "--all"))
    (source,) = data["sources"]
    assert source["state"] in ("finished", "interrupted") and source["search_s"] > 0 and data["left_out"] == 0


@pytest.mark.parametrize("steps", [None, "abc", 0, -3, 2.5, True])
def test_a_point_without_steps_is_named(tmp_path: Path, steps: object, capsys: pytest.CaptureFixture[str]) -> None:
    file = study(tmp_path, "h200", H200)
    data = json.loads(file.read_text())
    for point in (data["baseline"], data["front"][1]):
        point["values"] = {**point["values"], "steps": steps}
        if steps is None:
            del point["values"]["steps"]
    file.write_text(json.dumps(data))
    assert cli.main(["compare", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{file}: baseline.values" in error and "steps" in error


@pytest.mark.parametrize("arguments", [["{file}", "{file}"], ["nowhere"], ["{file}", "--provider", "Nobody"]])
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    file = study(tmp_path, "h200", H200)
    assert cli.main(["compare", *(each.format(file=file) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and (arguments[-1].format(file=file)) in error
