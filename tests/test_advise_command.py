"""`tune advise`: one measurement of the untouched pipeline, a table and JSON, and no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuner import cli
from tuner.errors import BadInput
from tuner.execution.inline import InlineExecutor
from tuner.records.advice import Expectation
from tuner.records.codec import Value, decode, read
from tuner.records.machine import Memory
from tuner.records.outcome import Failure, Outcome
from tuner.records.protocol import BuildDone, Job, Message, PointDone, WorkerFailed
from tuner.report.advice_table import AdviceReport, marked_value

FLUX = read(Path(__file__).resolve().parent / "data" / "advisor" / "flux_h200.json", Outcome)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of the worker, which answers with what FLUX.1-dev took on an H200."""
    given: list[Job] = []

    def work(job: Job) -> Iterator[Message]:
        given.append(job)
        assert FLUX.build and FLUX.timing
        yield BuildDone(build=FLUX.build)
        memory = Memory(peak_bytes=1, reserved_bytes=None)
        yield PointDone(index=0, timing=FLUX.timing, memory=memory, quality=None)

    answer_with(monkeypatch, work)
    return given


def answer_with(monkeypatch: pytest.MonkeyPatch, work: Callable[[Job], Iterator[Message]]) -> None:
    monkeypatch.setattr("tuner.execution.local.LocalExecutor", lambda devices, _: InlineExecutor(work, devices))


def test_one_job_without_images_is_all_that_is_measured(jobs: list[Job], capsys: Capture) -> None:
    assert cli.main(["advise", "demo", "--device", "cpu", "--set", "steps=28"]) == 0
    (job,) = jobs
    assert job.is_baseline and job.probe and job.trace
    assert [(point.steps, point.score) for point in job.points] == [(28, False)]
    assert not Path(job.points[0].folder).exists(), "nothing is kept"
    captured = capsys.readouterr()
    assert captured.err.startswith("tune: measuring the untouched pipeline on ") and captured.err.count("\n") == 1
    shown = " ".join(captured.out.split())
    assert "products 43 %, element-wise work and norms 36 %" in shown
    assert "compile.scope regional 1.66x" in shown
    assert "fusing leaves about 60 % of the element-wise work" in shown
    assert "with compile.scope=regional: " in shown


def test_several_devices_are_advised_on_where_the_space_uses_them(jobs: list[Job], capsys: Capture) -> None:
    several = ["advise", "demo", "--device", "cpu", "--devices", "2"]
    assert cli.main([*several, "--set", "parallel.kind=[none, ulysses]"]) == 0
    assert "devices that share the work" in " ".join(capsys.readouterr().out.split())
    assert cli.main(several) == BadInput.exit_code
    assert "--devices 2: the search space has no parallel.kind" in capsys.readouterr().err
    assert len(jobs) == 1


@pytest.mark.parametrize(
    ("knob", "value", "marked"),
    [("steps", 14, "14*"), ("compile.scope", "regional", "regional"), ("cache.threshold", 0.2, "0.2*"),
     ("graphs.denoiser", True, "true")],
)  # fmt: skip
def test_what_may_change_the_image_is_marked(knob: str, value: Value, marked: str) -> None:
    found = Expectation(knob=knob, value=value, ratio=2.0, low=1.0, high=3.0, reason="it is so")
    assert marked_value(found) == marked


def test_json_is_the_record(jobs: list[Job], capsys: Capture) -> None:
    assert cli.main(["advise", "demo", "--device", "cpu", "--format", "json"]) == 0
    report = decode(capsys.readouterr().out, AdviceReport, "stdout")
    assert {"steps", "compile.scope", "batch"} <= {each.knob for each in report.advice.expectations}


def test_a_pipeline_that_cannot_be_measured_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def work(job: Job) -> Iterator[Message]:
        failure = Failure(kind="out of memory", stage="load", message="no room", remedy="--set batch=1")
        yield WorkerFailed(failure=failure)

    answer_with(monkeypatch, work)
    assert cli.main(["advise", "demo", "--device", "cpu"]) != 0
    told = capsys.readouterr().err
    assert told.splitlines()[1:] == ["tune: the untouched pipeline has no result: load: no room; try --set batch=1"]


@pytest.mark.parametrize("wrong", [["--set", "nonsense=1"], ["--space", "/nowhere.yaml"], ["--format", "html"]])
def test_mistakes_cost_no_measurement(jobs: list[Job], capsys: Capture, wrong: list[str]) -> None:
    try:
        code: Any = cli.main(["advise", "demo", "--device", "cpu", *wrong])
    except SystemExit as end:
        code = end.code
    assert code == 2 and not jobs
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
