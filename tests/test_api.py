"""The Python API: a study from a script, and a study in its folder as an object."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from inline_study import Bench, Workers

import tuner
from tuner.api.loaded import require_as_saved, source_of
from tuner.api.tuning import make_options
from tuner.demo import pipeline as demo_pipeline
from tuner.errors import BadInput, Interrupted, Unavailable
from tuner.execution.inline import InlineExecutor
from tuner.records.model import Model
from tuner.records.outcome import Outcome

STEPS = {"steps": [28, 14], "batch": 1, "workload.prompts": ["a red circle", "a blue square"]}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Workers:
    workers = Workers()
    monkeypatch.setattr(
        "tuner.execution.local.LocalExecutor", lambda devices, *_, slots: InlineExecutor(workers, devices, slots)
    )
    return workers


def test_a_study_from_a_script(tmp_path: Path, inline: Workers, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Outcome] = []
    study = tuner.tune(
        "demo", settings=STEPS, budget=60, trials=3, out=tmp_path, device="cpu", on_trial=seen.append, progress=False
    )
    assert capsys.readouterr().out == ""
    assert {outcome.number for outcome in seen} == {trial.number for trial in study.trials}
    assert len(study.trials) == 3
    assert study.best.workload.prompts == ("a red circle", "a blue square")
    again = tuner.Study.open(out=tmp_path)
    assert (again.folder, again.best) == (study.folder, study.best)
    assert [point.number for point in again.front if point.is_chosen] == [study.best.chosen.trial]
    assert f"trial {study.best.chosen.trial}" in str(study)
    assert (study.folder / "report.html").exists()


def test_progress_is_printed_and_an_interruption_says_how_to_go_on(
    tmp_path: Path, inline: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="tune resume"):
        tuner.tune(settings=STEPS, budget="1m", out=tmp_path, device="cpu", on_trial=stop)
    assert "trial 0 (baseline) started" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tirals": 3}, r"no option tirals"),
        ({"dry_run": True}, r"no option dry_run"),
        ({"strategy": "agnet"}, r"strategy: .*agent"),
        ({"log": "mlfow"}, r"log: .mlfow. is none of mlflow, wandb"),
        ({"trials": 0}, r"trials: "),
        ({"budget": "soon"}, r"budget: "),
        ({"budget": "20"}, r"budget: 20 has no unit"),
        ({"budget": -1}, r"budget: "),
        ({"budget": [1]}, r"budget: "),
        ({"latency_target": "fast"}, r"latency_target: "),
        ({"out": 3}, r"out: "),
    ],
)
def test_bad_options_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_options(**given)


def test_settings_and_times_mean_what_they_mean_on_the_command_line(inline: Workers, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"stepz"):
        tuner.tune(settings={"stepz": 3}, out=tmp_path)
    assert (make_options(budget=90).budget, make_options(budget="1m30s").budget) == (90.0, 90.0)


@pytest.fixture
def study(tmp_path: Path) -> tuner.Study:
    Bench(tmp_path, Workers()).run(trials=6)
    return tuner.Study.open(tmp_path / "study")


def test_settings_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    for settings in ("steps=3", "", ["steps=3"]):
        with pytest.raises(BadInput, match=r'tune\(\): settings: it is a .*; give a mapping .* such as \{"steps": 3\}'):
            tuner.tune(settings=settings, out=tmp_path)  # type: ignore[arg-type]


def test_trials_are_shown_by_their_count_and_status(study: tuner.Study) -> None:
    assert repr(study.trials) == "<6 trials: 6 measured>"
    none = msgspec.structs.replace(study.report, outcomes=())
    assert repr(type(study.trials)(none)) == "<0 trials>"


def test_trials_as_rows_and_as_a_table(study: tuner.Study) -> None:
    pandas = pytest.importorskip("pandas")
    table = study.trials.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.index) == [trial.number for trial in study.trials]
    assert table.loc[0, "steps"] == 28
    assert table["latency_s"].notna().all()
    assert list(table.index[table["is_chosen"]]) == [study.best.chosen.trial]
    assert table.loc[study.best.chosen.trial, "speed_up"] == study.best.speed_up.value
    assert next(iter(study.trials.rows()))["status"] == study.trials[0].status == "measured"


def test_without_pandas_it_says_what_to_do(study: tuner.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Unavailable, match="pip install pandas"):
        study.trials.to_pandas()


def test_a_notebook_shows_the_front(study: tuner.Study) -> None:
    page = study._repr_html_()
    assert page.count("<tr>") == 1 + len(study.front)
    assert "(chosen)" in page
    assert "tuner.load" in page


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no study"):
        tuner.Study.open(out=tmp_path)


# ---- a pipeline that is loaded --------------------------------------------------------------------------------------

DEMO = Path(demo_pipeline.__path__[0])


class Loaded:
    """A loaded pipeline of the demo."""

    def __init__(self, adapters: dict[str, list[str]] | None = None, **config: Any) -> None:
        self.config = {"_name_or_path": str(DEMO), **config}
        self.get_list_adapters: Callable[[], dict[str, list[str]]] = lambda: adapters or {}


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (Loaded(), None),
        (Loaded(transformer=("diffusers", "FluxTransformer2DModel")), None),
        (Loaded(scheduler=("diffusers", "DDIMScheduler")), "scheduler is a DDIMScheduler"),
        (Loaded(adapters={"transformer": ["style"]}), "LoRA"),
    ],
)
def test_a_loaded_pipeline_must_be_what_its_folder_holds(pipe: Loaded, message: str | None) -> None:
    model = Model(source=source_of(pipe), revision=None, pipeline_class="FluxPipeline", scorer="demo")
    if message is None:
        require_as_saved(pipe, model)
        return
    with pytest.raises(BadInput, match=message):
        require_as_saved(pipe, model)


def test_a_pipeline_from_nowhere_is_refused() -> None:
    with pytest.raises(BadInput, match="save_pretrained"):
        tuner.tune(SimpleNamespace(config={}))
