"""What a study would try is said without running or writing anything."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from inline_study import Bench, Workers

from tuner.api.tuning import make_options
from tuner.cli import main
from tuner.commands import run
from tuner.commands.notes import left_out_notes
from tuner.records.outcome import Limits
from tuner.report.dry_run import DryRun
from tuner.search.request import Request

ARGUMENTS = ("run", "demo", "--device", "cpu", "--dry-run", "--trials", "7")


class DemoBench(Bench):
    """Studies of the demo, as `tune run demo` asks for them."""

    def request(self, *settings: str) -> Request:
        return run.make_request(make_options(model="demo", device="cpu", set=list(settings)))


def told(out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main([*ARGUMENTS, "--out", str(out), *more]) == 0
    return capsys.readouterr().out


def test_it_names_what_is_tried_and_left_out_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(told(tmp_path, capsys).split())
    assert "new; this command ran and wrote nothing" in text
    assert "time: 5 min 30 s, then judging the finalists, at most 15 min, or 7 trials" in text
    assert "steps 28 (untouched), 20, 14, 10, 8, 6" in text
    assert "1. whole-model compile in half precision: compile.scope=full precision.dtype=bfloat16" in text
    assert "left out: graphs.denoiser=true" in text
    assert "Only together with a value of another knob: inductor.freezing, cache.threshold " in text
    assert "What each knob does: tune knobs demo Recipes: combinations that experts recommend, each with the" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        (["steps=[10, 6]"], "steps 28 (untouched, not searched), 10, 6"),
        (["steps=10"], "steps 28 (untouched, not searched), 10"),
        (["steps=[10, 6]", "baseline.steps=10"], "steps 10 (untouched), 6"),
    ],
)
def test_the_untouched_pipelines_value_comes_first_and_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], row: str
) -> None:
    text = " ".join(told(tmp_path, capsys, *(each for setting in settings for each in ("--set", setting))).split())
    assert f"{row} " in text
    assert "cache.threshold 0.05, 0.1, " in text, "the untouched pipeline has no cache"


def test_without_a_recipe_nothing_is_said_of_recipes_in_general(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("pipelines: [any]\nworkload: {prompts: [a]}\nquality: {tolerance: 1}\nknobs: {steps: [28, 6]}\n")
    text = " ".join(told(tmp_path / "traces", capsys, "--space", str(space)).split())
    assert "searched: 1 knob, up to 2 combinations of their values; judged by the images of 1 prompt " in text
    assert "no recipe applies here" in text
    assert "Recipes:" not in text and "Only together" not in text


def test_as_json_it_is_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = msgspec.json.decode(
        told(tmp_path, capsys, "--json", "--set", "steps=[28, 14]", "--set", "batch=1"), type=DryRun
    )
    assert (plan.knobs["steps"], plan.max_trials, plan.budget_s) == ((28, 14), 7, 330.0)
    whole = msgspec.json.decode(told(tmp_path, capsys, "--json"), type=DryRun)
    assert whole.combinations == 6 * plan.combinations, "three times the steps, twice the batches"


def test_a_study_that_was_begun_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DemoBench(tmp_path, Workers()).run(trials=3)
    plan = msgspec.json.decode(told(tmp_path, capsys, "--json", "--study", "study"), type=DryRun)
    assert (plan.folder, plan.state, plan.recorded_trials) == (str(tmp_path / "study"), "finished", 3)


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When each file was written, and what is in it."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_what_is_there_and_what_a_run_would_still_do_is_said_and_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DemoBench(tmp_path, Workers()).run(trials=3)
    before = content(tmp_path)
    told_of = {
        trials: " ".join(told(tmp_path, capsys, "--study", "study", "--trials", trials).split())
        for trials in ("3", "7")
    }
    assert all(
        re.search(r"study: finished, with 3 recorded trials, \d+:\d\d of its time used; this command", text)
        for text in told_of.values()
    )
    assert "a run of it would still do: nothing but show the result again: give a longer --budget" in told_of["3"]
    assert re.search(
        r"would still do: search on, with [0-9:]+ left of [0-9:]+, up to 4 further trials; then", told_of["7"]
    )
    assert content(tmp_path) == before


def test_an_interrupted_study_has_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = DemoBench(tmp_path, Workers())
    bench.run(trials=3)
    with bench.study() as study:
        study.store.begin(Limits(budget_s=3600.0, max_trials=None))
    text = " ".join(told(tmp_path, capsys, "--study", "study").split())
    assert "study: interrupted, with 3 recorded trials" in text
    assert re.search(r"search on, with (59:\d\d|1:00:00) left of 1:00:00, up to 4 further trials", text)


def test_a_folder_of_another_study_is_refused_as_the_run_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Bench(tmp_path, Workers()).run(trials=3)
    arguments = [*ARGUMENTS, "--out", str(tmp_path), "--study", "study"]
    assert main(arguments) == 2
    refusal = capsys.readouterr().err
    assert "study.json: the study here has another model: model.source is /model there, demo is asked for" in refusal
    assert main([each for each in arguments if each != "--dry-run"]) == 2
    assert capsys.readouterr().err == refusal


def test_a_study_that_runs_is_said_to_before_it_has_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DemoBench(tmp_path, Workers()).study():
        text = told(tmp_path, capsys, "--study", "study")
    line = " ".join(text.split())
    assert "running, with 0 recorded trials, 0:00 of its time used; this command ran and wrote nothing" in line
    assert f"would still do: nothing: another process is running this study (pid {os.getpid()}, since 20" in line


def test_a_recipe_that_conflicts_with_a_pinned_value_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = msgspec.json.decode(told(tmp_path, capsys, "--json", "--set", "cache.kind=teacache"), type=DryRun)
    name = "whole-model compile in half precision"
    assert name not in [recipe.name for recipe in plan.recipes] and len(plan.recipes) > 1
    assert plan.left_out[f'recipe "{name}"'].startswith("cache.kind=teacache: it decides between the blocks")


def test_a_run_that_left_much_out_points_to_the_dry_run_which_has_the_reasons() -> None:
    request = run.make_request(make_options(model="demo", device="cpu", set=["steps=[10, 6]"]))
    (note,) = left_out_notes(request)
    assert "(`tune run --dry-run` with the same options gives the reasons): " in note


def test_bad_input_is_refused_as_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--out", str(tmp_path), "--set", "stepz=3"]) == 2
    assert "stepz" in capsys.readouterr().err


def test_devices_that_no_candidate_uses_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--out", str(tmp_path), "--devices", "2"]) == 2
    assert "--devices 2: the search space has no parallel.kind" in capsys.readouterr().err
    plan = told(tmp_path, capsys, "--devices", "2", "--set", "parallel.kind=[none, ulysses]")
    assert "parallel.kind" in plan


def test_a_study_to_start_from_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--out", str(tmp_path), "--warm-start", "nosuch"]) == 2
    assert capsys.readouterr().err.startswith("tune: --warm-start nosuch: no such study")
    assert list(tmp_path.iterdir()) == []
