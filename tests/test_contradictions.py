"""Figures that contradict each other, in every file of a study: one line with the file and the field, exit code 2."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_absurd_figures import full_config, full_outcome
from test_export import example

from tuner import cli
from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.records.codec import decode, encode_pretty
from tuner.records.consistency import alike, contradiction
from tuner.records.outcome import Outcome, PredictionCheck
from tuner.report.study_report import read_report
from tuner.result.config import read_best
from tuner.search.recorded import read_outcomes, read_repetitions
from tuner.search.request import read_request
from tuner.study.store import Store

CLEAN = {"status": "clean", "findings": [], "skipped": [], "warnings": []}
FOUND = {
    "kind": "device sync", "count": 3, "count_per_step": 1, "idle_ms_per_step": 0.1, "operator": "item", "reason": "",
    "source": "",
}  # fmt: skip
REJECTED = {**CLEAN, "status": "rejected", "findings": [FOUND]}
ESTIMATE = {"value": 1.0, "low": 0.9, "high": 1.1}

OWN: list[tuple[str, Any, str]] = [
    ("status", "failed", "failure"), ("status", "rejected", "timing"), ("failure", {
        "kind": "error", "stage": "load", "message": "x"}, "failure: present"),
    ("timing", None, "timing: missing"), ("memory", None, "memory: missing"),
    ("cost_usd_per_1000_images", None, "cost_usd_per_1000_images: missing"),
    ("repetition", 3, "purpose"), ("purpose", "confirm", "purpose"), ("pair", {"candidate": 3, "index": 0}, "pair"),
    ("build.verdict.status", "rejected", "build.verdict"), ("build.verdict", REJECTED, "build.verdict.status"),
    ("build.verdict.findings", [FOUND], "build.verdict.findings"),
    ("build.verdict", {**CLEAN, "status": "inconclusive"}, "build.verdict.status"),
    ("build.compile_s", 2.6, "build.compile_s"), ("build.trace.kernel_events", 101, "build.trace.kernel_events"),
    ("build.trace.host_wait_share", 0.6, "build.trace.gpu_busy_share"),
    ("timing.images_per_s", 2.0, "timing.images_per_s"), ("timing.images_per_s", 1.001, "timing.images_per_s"),
    ("timing.latency_s", {"value": 2.0, "low": 1.9, "high": 2.1}, "timing.images_per_s"),
    ("timing.latency_p95_s", 0.5, "timing.latency_p95_s"), ("timing.samples", 0, "timing.samples"),
    ("timing.samples", 10**9, "timing.samples"), ("timing.stopped", "predicted", "timing.predicted_from"),
    ("timing.predicted_from", [28, 6], "timing.predicted_from"),
    ("timing.components.total_s", 3.0, "timing.components.total_s"),
    ("timing.components.vae_s", 0.5, "timing.components.total_s"),
    ("memory.reserved_bytes", 5, "memory.reserved_bytes"), ("quality.reused_from", 3, "quality.reused_from"),
    ("quality.denoiser_error.mean", 0.3, "quality.denoiser_error"),
    ("quality.denoiser_error.largest", 0.3, "quality.denoiser_error"),
]  # fmt: skip

CONFIG: list[tuple[str, Any, str]] = [
    ("chosen.images_per_s", 3.0, "chosen.images_per_s"), ("baseline.images_per_s", 0.6, "baseline.images_per_s"),
    ("front.1.images_per_s", 0.6, "front[1].images_per_s"), ("chosen.batch", 1, "chosen.images_per_s"),
    ("chosen.latency_s", {"value": 2.0, "low": 1.9, "high": 2.1}, "chosen.images_per_s"),
    ("chosen.cost_usd_per_1000_images", 0.01, "chosen.cost_usd_per_1000_images"),
    ("front.0.cost_usd_per_1000_images", 0.01, "front[0].cost_usd_per_1000_images"),
    ("price.usd_per_hour", 2.0, "baseline.cost_usd_per_1000_images"),
    ("chosen.quality", 31.5, "chosen.quality_difference"), ("baseline.quality", 31.5, "quality_difference"),
    ("chosen.quality_difference", ESTIMATE, "chosen.quality_difference"),
    ("chosen.latency_samples", 0, "chosen.latency_samples"), ("chosen.processes", 0, "chosen.processes"),
    ("chosen.predicted_from", [6, 28], "chosen.latency_samples"), ("chosen.doubtful", True, "chosen.doubtful"),
    ("chosen.peak_reserved_bytes", 7, "chosen.peak_reserved_bytes"), ("chosen.confirmed", False, "confirmed"),
    ("front", [], "chosen.trial"), ("front.1.trial", 5, "front[1]"),
    ("front.0.peak_memory_bytes", 7, "front[0].peak_memory_bytes"), ("chosen.ssim", 0.5, "front[0].ssim"),
    ("speed_up", {"value": 80.0, "low": 79.0, "high": 81.0}, "speed_up"),
    ("speed_up", {"value": 4.0, "low": -1.0, "high": 5.0}, "speed_up.low"),
    ("speed_up", {"value": 4.0, "low": 0.9, "high": 5.0}, "speed_up_confirmed"),
    ("speed_up_confirmed", False, "speed_up_confirmed"), ("trials.measured", 1, "trials.measured"),
    ("timing_noise.coefficient_of_variation", 2.0, "timing_noise"),
    ("created_at", "9999-01-01T00:00:00+00:00", "created_at"), ("created_at", "0001-01-01", "created_at"),
    ("created_at", "1970-01-01T00:00:00+00:00", "created_at"),
    ("predictions", [{"trial": 5, "predicted_s": ESTIMATE, "measured_s": ESTIMATE, "error": 0.5, "held": True}],
     "predictions[0].error"),
    ("predictions", [{"trial": 5, "predicted_s": ESTIMATE, "measured_s": {"value": 0, "low": 0, "high": 0},
                      "error": 0.0, "held": True}], "measured_s"),
    ("chosen.economics", {
        "usd_per_1000_images": 9.0, "usd_per_million_images": 1.0, "images_per_hour": 1.0, "images_per_1000_usd": 1.0,
        "latency_samples": 7}, "chosen.economics.usd_per_1000_images"),
]  # fmt: skip


def changed(record: Any, field: str, to: Any) -> str:
    """The record as JSON with one field set to something."""
    data = json.loads(encode_pretty(record))
    *path, last = (int(step) if step.isdecimal() else step for step in field.split("."))
    target = data
    for step in path:
        target = target[step]
    target[last] = to
    return json.dumps(data)


@pytest.mark.parametrize(("field", "value", "named"), OWN, ids=[f"{field}={value}"[:60] for field, value, _ in OWN])
def test_an_outcome_that_contradicts_itself_names_the_field(field: str, value: Any, named: str) -> None:
    whole = full_outcome()
    assert contradiction(whole) is None
    reason = contradiction(decode(changed(whole, field, value), Outcome, "outcome.json"))
    assert reason is not None and reason.startswith(named), reason


@pytest.mark.parametrize(
    ("field", "value", "named"), CONFIG, ids=[f"{field}={value}"[:60] for field, value, _ in CONFIG]
)
def test_a_result_that_contradicts_itself_names_the_field(tmp_path: Path, field: str, value: Any, named: str) -> None:
    file = tmp_path / "best_config.json"
    config = full_config()  # once: it has the second of its making
    file.write_bytes(encode_pretty(config))
    assert read_best(file) == config
    file.write_text(changed(config, field, value))
    with pytest.raises(BadInput) as refusal:
        read_best(file)
    message = str(refusal.value)
    assert message.startswith(f"{file}: ") and named in message, message
    assert "\n" not in message and len(message) < 300


def test_figures_may_be_rounded(tmp_path: Path) -> None:
    """To five digits, as a person or another program may write them."""
    text = re.sub(r"\d+\.\d{6,}", lambda number: f"{float(number[0]):.5g}", encode_pretty(example()).decode())
    (tmp_path / "best_config.json").write_text(text)
    assert read_best(tmp_path / "best_config.json") != example()
    rounded = re.sub(r"\d+\.\d{6,}", lambda number: f"{float(number[0]):.5g}", encode_pretty(full_outcome()).decode())
    assert contradiction(decode(rounded, Outcome, "outcome.json")) is None


def test_records_are_alike_but_for_rounding() -> None:
    best = example()
    assert alike(best, best)
    assert alike(1.0, 1.00001) and not alike(1.0, 1.001) and not alike(1, 1.5) and not alike([1.0], [1.0, 2.0])
    assert not alike(best, msgspec.structs.replace(best, quality_tolerance=0.5))
    assert not alike({"a": 1}, {"b": 1}) and not alike("a", None)


# ---- files that contradict each other -------------------------------------------------------------------------------


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def harm(file: Path) -> None:
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return harm


def slower(data: dict[str, Any]) -> None:
    """Make a trial or a point twice as slow, with every figure that follows from that."""
    timing = data.get("timing", data)
    timing["latency_s"] = {name: 2 * value for name, value in timing["latency_s"].items()}
    timing["images_per_s"] /= 2
    data["cost_usd_per_1000_images"] *= 2


TRIAL, REPETITION = "trials/0001/outcome.json", "repetitions/0000/outcome.json"
BEST, STUDY = "best_config.json", "study.json"
STUDIES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a cost of another price": (TRIAL, edit(lambda d: d.update(cost_usd_per_1000_images=9.0)), "cost_usd_per"),
    "a mean of other scores": (TRIAL, edit(lambda d: d["quality"].update(mean=31.0)), "quality.mean"),
    "scores of another mean": (TRIAL, edit(lambda d: d["quality"].update(scores=[40.0, 40.0])), "quality.difference"),
    "more scores than prompts": (TRIAL, edit(lambda d: d["quality"].update(scores=[30.0] * 5)), "quality.scores"),
    "a difference of other scores": (
        TRIAL, edit(lambda d: d["quality"].update(difference=ESTIMATE)), "quality.difference"),
    "scores of no trial": (TRIAL, edit(lambda d: d["quality"].update(reused_from=77)), "quality.reused_from"),
    "another metric": (TRIAL, edit(lambda d: d["quality"].update(metric="ssim")), "quality.metric"),
    "a target of no study": (TRIAL, edit(lambda d: d["timing"].update(within_target=1.0)), "timing.within_target"),
    "a percentile of six calls": (TRIAL, edit(lambda d: d["timing"].update(latency_p95_s=99.0)), "timing.latency_p95"),
    "values of another build": (TRIAL, edit(lambda d: d["values"].update({"vae.slicing": True})), "build_key"),
    "another trial's number": (TRIAL, edit(lambda d: d.update(number=2)), "number"),
    "a repetition among trials": (TRIAL, edit(lambda d: d.update(repetition=1, purpose="confirm")), "repetition"),
    "a baseline with other values": (
        "trials/0000/outcome.json", edit(lambda d: d["values"].update(steps=6)), "values"),
    "a baseline that was searched": (
        "trials/0000/outcome.json", edit(lambda d: d.update(purpose="search")), "purpose"),
    "a repetition of no trial": (REPETITION, edit(lambda d: d.update(number=99)), "0099/outcome.json: missing"),
    "a repetition of other values": (REPETITION, edit(lambda d: d["values"].update(steps=6)), "values"),
    "a repetition of another folder": (REPETITION, edit(lambda d: d.update(repetition=5)), "repetition"),
    "a repetition at another price": (
        REPETITION, edit(lambda d: d.update(cost_usd_per_1000_images=9.0)), "cost_usd_per_1000_images"),
    "a study at another price": (STUDY, edit(lambda d: d["price"].update(usd_per_hour=7.0)), "outcome.json: cost_usd"),
    "a study of other prompts": (
        STUDY, edit(lambda d: d["space"]["workload"].update(prompts=["a", "b"])), "workload"),
    "a study of another tolerance": (STUDY, edit(lambda d: d["space"].update(tolerance=9.0)), "quality_tolerance"),
    "a study without a knob that others need": (
        STUDY, edit(lambda d: d["space"]["baseline"].pop("cache.kind")), "values"),
    "a study without a knob": (STUDY, edit(lambda d: d["space"]["baseline"].pop("vae.slicing")), "values"),
    "a study of another baseline": (STUDY, edit(lambda d: d["space"]["baseline"].update(steps=6)), "values"),
    "a choice of no trial": (
        BEST, edit(lambda d: [point.update(trial=99) for point in (d["chosen"], *d["front"])
                              if point["trial"] == d["chosen"]["trial"] or point is d["chosen"]]), "trial"),
    "a choice with other values": (BEST, edit(lambda d: d["chosen"]["values"].update(steps=10)), "chosen.trial"),
    "a slower baseline": (
        BEST, edit(lambda d: [slower(p) for p in (d["baseline"], d["chosen"], *d["front"]) if p["trial"] == 0]),
        "baseline."),
    "a greater gain": (
        BEST, edit(lambda d: d.update(speed_up={"value": 4.0, "low": 3.9, "high": 4.1})), "speed_up"),
    "more trials than there are": (BEST, edit(lambda d: d["trials"].update(failed=5)), "trials.failed"),
    "another model": (BEST, edit(lambda d: d["model"].update(source="/other")), "model"),
}  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_whose_files_contradict_each_other_is_not_shown(
    study_copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, harm, named = STUDIES[name]
    harm(study_copy / file)
    assert cli.main(["show", str(study_copy)]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert said.out == ""
    assert line.startswith(f"tune: {study_copy}") and named in line, line
    assert Path(file).name in line or file == STUDY


@pytest.mark.parametrize("name", [name for name, (file, _, _) in STUDIES.items() if file in (TRIAL, REPETITION)])
def test_nor_is_it_resumed(study_copy: Path, name: str) -> None:
    file, harm, named = STUDIES[name]
    request = read_request(study_copy / "study.json")
    harm(study_copy / file)
    before = {path: path.read_bytes() for path in study_copy.rglob("outcome.json")}
    with pytest.raises(BadInput, match=re.escape(named)), Store(study_copy, request):
        pass
    assert before == {path: path.read_bytes() for path in study_copy.rglob("outcome.json")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda space: space["baseline"].pop("cache.kind"), "space.baseline.cache.kind: missing"),
        (lambda space: space["baseline"].update(warp=9), "space.baseline.warp: unknown knob"),
        (lambda space: space["baseline"].update(steps=0), "space.baseline.steps: 0 must be"),
        (lambda space: space["knobs"].update(steps=["x"]), "space.knobs.steps: x must be"),
        (lambda space: space["knobs"].update(steps=[28, 1e300]), "space.knobs.steps"),
        (lambda space: space["knobs"].update(batch=[]), "space.knobs.batch: no value"),
        (lambda space: space["knobs"].update({"attention.backend": ["os.system"]}), "space.knobs.attention.backend"),
    ],
)
def test_a_search_space_of_unknown_knobs_or_values_is_not_resumed(
    study_copy: Path, change: Callable[[dict[str, Any]], object], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(lambda data: change(data["space"]))(study_copy / "study.json")
    assert cli.main(["resume", str(study_copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tune: {study_copy / 'study.json'}: {named}")


def test_a_sound_study_is_shown_whatever_the_instant_of_a_crash(study_copy: Path) -> None:
    """The result of an earlier moment agrees with what was recorded later."""
    best = read_best(study_copy / "best_config.json")
    report = read_report(study_copy)
    assert report.best == best
    paths, request = StudyFolder(study_copy), read_request(study_copy / "study.json")
    outcomes = read_outcomes(paths, request)
    assert len(read_repetitions(paths, request, outcomes)) > 1
    latest = max(number for number in outcomes if number not in {point.trial for point in (best.chosen, *best.front)})
    before = msgspec.structs.replace(
        best, trials=msgspec.structs.replace(best.trials, measured=best.trials.measured - 1)
    )
    (study_copy / "best_config.json").write_bytes(encode_pretty(before))
    assert latest and read_report(study_copy).best == before


def test_costs_between_two_prices_are_completed_first(study_copy: Path) -> None:
    (study_copy / "repricing").touch()
    with pytest.raises(BadInput, match="between two prices; `tune resume"):
        read_report(study_copy)


def test_a_prediction_is_a_latency() -> None:
    with pytest.raises(ValueError, match="measured_s"):
        zero = msgspec.convert({"value": 0.0, "low": 0.0, "high": 0.0}, type=type(example().speed_up))
        PredictionCheck(trial=1, predicted_s=example().speed_up, measured_s=zero, error=0.0, held=True)
