"""`tune cost`: the front of one study under other prices, several GPUs side by side, and what cannot be compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_export import example

from tuner.commands.cost.report import CostReport, make_report
from tuner.commands.cost.table import CostTable
from tuner.errors import BadInput
from tuner.numbers import format_large
from tuner.records.codec import encode_pretty
from tuner.report.console import make_console
from tuner.result.economics import Economics
from tuner.result.prices import Price


def study(folder: Path, name: str, device_name: str, faster: float = 1.0, **changes: Any) -> Path:
    """A best_config.json of another machine, so many times as fast."""
    data = json.loads(encode_pretty(example()))
    data["environment"].update(device="cuda", device_name=device_name)
    data["price"] = changes.pop("price", {"usd_per_hour": 2.0, "source": "--price"})
    for point in (data["baseline"], data["chosen"], *data["front"]):
        point["images_per_s"] *= faster
        point["latency_s"] = {name: value / faster for name, value in point["latency_s"].items()}
        point["cost_usd_per_1000_images"] = data["price"]["usd_per_hour"] / 3.6 / point["images_per_s"]
    for path, value in changes.items():
        target, *fields = data, *path.split("__")
        for field in fields[:-1]:
            target = target[field]
        target[fields[-1]] = value
    if "front" not in changes:
        data["front"] = [data["chosen"], data["baseline"]]
    file = folder / f"{name}.json"
    file.write_text(json.dumps(data))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return study(tmp_path, "h200", "NVIDIA H200")


def text_of(report: CostReport, width: int) -> str:
    console = make_console(sys.stdout, width)
    with console.capture() as captured:
        console.print(CostTable(report))
    return captured.get()


def tune(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tuner", "cost", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


# ---- one study ------------------------------------------------------------------------------------------------------


def test_one_file_gives_its_front_at_its_own_price(file: Path) -> None:
    report = make_report([file], None, None)
    assert not report.is_comparison
    assert [(row.trial, row.is_baseline, row.is_chosen) for row in report.rows] == [(0, True, False), (5, False, True)]
    assert {row.price for row in report.rows} == {Price(usd_per_hour=2.0, source="--price")}
    baseline, chosen = (row.economics for row in report.rows)
    assert baseline.usd_per_1000_images == pytest.approx(2.0 / 3600 * 1000 / 0.5)
    assert baseline.usd_per_1000_images == pytest.approx(4 * chosen.usd_per_1000_images)


def test_another_price_changes_the_cost_alone(file: Path) -> None:
    own, other = make_report([file], None, None), make_report([file], 4.0, None)
    assert other.rows[1].price == Price(usd_per_hour=4.0, source="--price")
    for before, after in zip(own.rows, other.rows, strict=True):
        assert after.economics.usd_per_1000_images == pytest.approx(2 * before.economics.usd_per_1000_images)
        assert after.economics.images_per_hour == before.economics.images_per_hour
        assert after.economics.compile_s == before.economics.compile_s


def test_a_provider_gives_its_price(file: Path) -> None:
    assert make_report([file], None, "runpod").rows[0].price.source.startswith("RunPod, 20")


def test_a_nominal_price_gives_way_to_the_tables(tmp_path: Path) -> None:
    nominal = {"usd_per_hour": 1.0, "source": "nominal: no price is known for NVIDIA H200, give --price"}
    assert (
        "median" in make_report([study(tmp_path, "a", "NVIDIA H200", price=nominal)], None, None).rows[0].price.source
    )
    assert make_report([study(tmp_path, "a", "AMD EPYC", price=nominal)], None, None).rows[0].price.usd_per_hour == 1.0


def test_the_chosen_point_is_there_if_it_is_not_on_the_front(tmp_path: Path) -> None:
    data = json.loads(study(tmp_path, "a", "NVIDIA H200").read_text())
    not_as_good_for_certain = {**data["chosen"], "trial": 7, "confirmed": False}
    file = study(tmp_path, "b", "NVIDIA H200", front=[not_as_good_for_certain])
    assert [row.trial for row in make_report([file], None, None).rows] == [0, 7, 5]
    with pytest.raises(BadInput, match=r"chosen\.trial: 5, a trial that is not on the front"):
        make_report([study(tmp_path, "c", "NVIDIA H200", front=[])], None, None)


# ---- several --------------------------------------------------------------------------------------------------------


def test_several_files_give_the_gpus_side_by_side_cheapest_first(tmp_path: Path) -> None:
    files = [
        study(tmp_path, "epyc", "AMD EPYC", price={"usd_per_hour": 1.0, "source": "nominal: no price"}),
        study(tmp_path, "h200", "NVIDIA H200", 8.0),
        study(tmp_path, "l4", "NVIDIA L4", 0.1),
        study(tmp_path, "rtx", "NVIDIA GeForce RTX 4090", 4.0),
    ]
    report = make_report(files, None, None)
    assert report.is_comparison
    assert [Path(row.file).stem for row in report.rows] == ["rtx", "h200", "l4", "epyc"], "the nominal one last"
    assert all(row.is_chosen for row in report.rows)
    assert [row.price.usd_per_hour for row in report.rows[:2]] == [0.74, 4.5]
    text = " ".join(text_of(report, 100).split())
    assert "NVIDIA GeForce RTX 4090, US$ 0.74 per hour (RunPod, 2026-09-25)" in text
    assert "Nominal prices cannot be compared" in text


def test_a_device_that_the_table_does_not_know_keeps_its_own_price(tmp_path: Path, file: Path) -> None:
    report = make_report([file, study(tmp_path, "x", "NVIDIA GeForce RTX 3060")], None, None)
    (row,) = [row for row in report.rows if row.device_name == "NVIDIA GeForce RTX 3060"]
    assert row.price == Price(usd_per_hour=2.0, source="--price")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model__pipeline_class", "SanaPipeline"),
        ("model__source", "/models/other"),
        ("model__scorer", "other"),
        ("workload__height", 64),
        ("workload__seeds", [0, 2]),
        ("quality_tolerance", 2.0),
    ],
)
def test_another_model_or_workload_does_not_compare(tmp_path: Path, file: Path, field: str, value: object) -> None:
    other = study(tmp_path, "other", "NVIDIA L4", **{field: value})
    with pytest.raises(
        BadInput, match=rf"other\.json: {field.replace('__', '.')} differs from .*h200\.json.*`tune compare "
    ):
        make_report([file, other], None, None)


def test_a_models_folder_may_lie_elsewhere(tmp_path: Path, file: Path) -> None:
    other = study(tmp_path, "other", "NVIDIA L4", model__source="/elsewhere/tiny")
    assert make_report([file, other], None, None).model == "tiny"


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_optional_measurements_are_shown(file: Path) -> None:
    report = make_report([file], None, None)
    found = Economics(
        usd_per_1000_images=0.5, usd_per_million_images=500.0, images_per_hour=7200.0, images_per_1000_usd=2e6,
        latency_samples=60, latency_p50_s=1.0, latency_p95_s=1.25, compile_s=30.0, break_even_images=20,
        joules_per_image=250.0, images_per_s_per_watt=0.004, smallest_card_gb=24,
    )  # fmt: skip
    row = msgspec.structs.replace(report.rows[1], economics=found)
    text = text_of(msgspec.structs.replace(report, rows=(report.rows[0], row)), 120)
    for part in ("0.500", "500", "7,200", "2.00M", "1.00 s", "1.25 s", " 60\n",
                 "compiling adds 30.0 s to the first call",
                 "saved after 20 images", "fits a 24 GB card", "250 J/image", "0.00400 images/s/W"):  # fmt: skip
        assert part in text, part


def test_a_predicted_latency_is_marked(tmp_path: Path) -> None:
    predicted = study(tmp_path, "a", "NVIDIA H200", chosen__predicted_from=[6, 28], chosen__latency_samples=0)
    text = text_of(make_report([predicted], None, None), 120)
    assert text.count("predicted from 6, 28 steps, not measured") == 1


def test_a_gain_in_doubt_and_a_loss_beyond_the_tolerance_are_told(tmp_path: Path) -> None:
    doubtful, lossy = "gain in doubt: ", "may lose more quality than tolerated"
    plain = text_of(make_report([study(tmp_path, "a", "NVIDIA H200")], None, None), 120)
    assert doubtful not in plain and lossy not in plain
    tolerance = example().quality_tolerance
    best = json.loads(study(tmp_path, "b", "NVIDIA H200").read_text())
    lost = best["chosen"]["quality_difference"]["value"]
    worse = {"value": lost, "low": lost - 2 * tolerance, "high": lost + 2 * tolerance}
    other = best["chosen"] | {"trial": 99, "confirmed": False, "doubtful": True, "quality_difference": worse}
    front = [*best["front"], other]
    text = text_of(make_report([study(tmp_path, "c", "NVIDIA H200", front=front)], None, None), 120)
    assert (text.count(doubtful), text.count(lossy)) == (1, 1)


def test_measurements_are_passed_on_unchanged(tmp_path: Path) -> None:
    seen = {
        "chosen__latency_samples": 60, "chosen__latency_p95_s": 1.25, "chosen__compile_s": 30.0,
        "chosen__joules_per_image": 250.0, "chosen__peak_reserved_bytes": 20 * 10**9,
    }  # fmt: skip
    found = make_report([study(tmp_path, "a", "NVIDIA H200", **seen)], None, None).rows[1].economics
    assert (found.latency_p95_s, found.compile_s, found.joules_per_image) == (1.25, 30.0, 250.0)
    assert found.smallest_card_gb == 24


def test_a_file_of_before_these_were_measured_still_reads(tmp_path: Path) -> None:
    file = study(tmp_path, "a", "NVIDIA H200")
    data = json.loads(file.read_text())
    for point in (data["baseline"], data["chosen"], *data["front"]):
        for name in ("compile_s", "latency_p95_s", "peak_reserved_bytes", "joules_per_image"):
            del point[name]
    file.write_text(json.dumps(data))
    assert make_report([file], None, None).rows[1].economics.compile_s is None


def test_missing_measurements_are_not_shown(tmp_path: Path) -> None:
    data = {"baseline__compile_s": None, "chosen__compile_s": None}
    text = text_of(make_report([study(tmp_path, "a", "NVIDIA H200", **data)], None, None), 120)
    assert "samples: of all processes; p95: of one process, shown only if that timed at least 59 calls" in text
    for word in ("first call", "compiling", "card", "J/image", "None", "nan"):
        assert word not in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_nothing_is_cut_and_no_line_is_too_long(file: Path, width: int) -> None:
    text = text_of(make_report([file], None, None), width)
    assert max(len(line) for line in text.splitlines()) <= max(width, 24)
    assert "…" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "samples 7" in text or " 7\n" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0421, "0.0421"), (7417.2, "7,417"), (41_400, "41.4k"), (999_000, "999k"), (2e6, "2.00M")]
)
def test_amounts(value: float, text: str) -> None:
    assert format_large(value) == text


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(file: Path, tmp_path: Path) -> None:
    shown = tune(str(file), "--price", "2.5", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "US$ 2.50 per hour (--price)" in shown.stdout
    found = msgspec.json.decode(tune(str(file), "--price", "2.5", "--json", cwd=tmp_path).stdout, type=CostReport)
    assert found == make_report([file], 2.5, None)


def test_it_prints_ascii_where_there_is_no_more(file: Path, tmp_path: Path) -> None:
    shown = tune(str(file), cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert shown.returncode == 0, shown.stderr
    assert "* chosen   B baseline" in shown.stdout
    assert "\\u" not in shown.stdout


def test_it_imports_no_torch(file: Path) -> None:
    code = f"""
import sys
from tuner.cli import main
assert main(["cost", {str(file)!r}]) == 0
assert not {{"torch", "diffusers", "optuna"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.fixture
def here(tmp_path: Path, file: Path) -> Path:
    """A folder with things that are almost right."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    study(tmp_path, "other", "NVIDIA L4", workload__height=64)
    study(tmp_path, "still", "NVIDIA L4", chosen__images_per_s=0.0)
    study(tmp_path, "tiny", "NVIDIA L4", baseline__images_per_s=1e-320)
    study(tmp_path, "warm", "NVIDIA L4", chosen__joules_per_image=1e-320)
    study(tmp_path, "free", "NVIDIA L4", price__usd_per_hour=0.0)
    study(tmp_path, "knob", "NVIDIA L4", chosen__values={})
    return tmp_path


WRONG = [
    ((), "no study in there"),
    (("nowhere.json",), "nowhere.json"),
    (("a" * 400,), "too long"),
    (("empty",), "best_config.json"),
    (("broken.json",), "broken.json"),
    (("h200.json", "broken.json"), "broken.json"),
    (("h200.json", "other.json"), "workload.height"),
    (("still.json",), "chosen.images_per_s"),
    (("tiny.json",), "baseline.images_per_s"),
    (("warm.json",), "chosen.joules_per_image"),
    (("free.json",), "price.usd_per_hour"),
    (("knob.json",), "chosen.values"),
    (("h200.json", "--price", "0"), "--price"),
    (("h200.json", "--price", "x"), "--price"),
    (("h200.json", "--price", f"0.{'0' * 319}1"), "--price"),
    (("h200.json", "--provider", "nobody"), "--provider nobody"),
    (("h200.json", "--price", "2", "--provider", "Lambda"), "--provider"),
    (("h200.json", "--prise", "2"), "did you mean --price"),
]


@pytest.mark.parametrize(("arguments", "names"), WRONG, ids=[" ".join(arguments)[:40] for arguments, _ in WRONG])
def test_invalid_arguments_give_one_line_and_exit_code_2(here: Path, arguments: tuple[str, ...], names: str) -> None:
    done = tune(*arguments, cwd=here)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("tune")
    assert names in done.stderr
    assert done.stdout == ""


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = study(tmp_path, "evil", "NVIDIA \x1b[2J H200", price__source="a\nb \x1b]0;x\x07")
    text = text_of(make_report([evil], None, None), 100)
    assert "\x1b" not in text
    assert "a b" in text
