"""Real workers forked from a real template: they find the weights, and measure what a worker of its own measures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from forked import ForkedWorkers
from PIL import Image

from tuner.execution.launch import FreshLauncher, Launcher
from tuner.execution.local import LocalExecutor
from tuner.execution.template import TemplateLauncher
from tuner.hardware import environment
from tuner.knobs import baseline
from tuner.model import pipeline
from tuner.records.model import Workload
from tuner.records.outcome import Device
from tuner.records.protocol import BuildDone, Job, Message, Point, PointDone
from tuner.space.candidates import build_values
from tuner.worker.weights import prepare_weights, read_pipeline

pytestmark = pytest.mark.slow

LOADED_S = 1.0
"""A forked worker has the pipeline at once; to read it takes longer, for the imports alone."""


def make_job(model: Path, scorer: Path, device: str, folder: Path, **build: Any) -> Job:
    found, _ = pipeline.resolve(str(model), None, str(scorer))
    here = environment.detect(device)
    different = {name.replace("__", "."): value for name, value in build.items()}
    return Job(
        model=found,
        environment=here,
        workload=Workload(prompts=("a red ball", "a blue box"), seeds=(1, 2), height=32, width=32),
        build=build_values(baseline(here)) | different,
        points=(Point(index=0, folder=str(folder), steps=2, batch=1),),
        allowance_s=0.1,
        trace=False,
        study_pid=os.getpid(),
    )


def run_all(launcher: Launcher, jobs: list[Job]) -> list[list[Message]]:
    received: list[list[Message]] = []
    with LocalExecutor([Device(name="this")], launcher) as executor:
        for job in jobs:
            executor.submit(job, executor.devices[0])
            received.append([event for _, event in executor.wait(lambda: math.inf)])  # type: ignore[misc]
    return received


def of_type(messages: list[Message], wanted: type) -> Any:
    (message,) = [message for message in messages if isinstance(message, wanted)]
    return message


def images(folder: Path) -> list[bytes]:
    return [Image.open(file).tobytes() for file in sorted((folder / "images").glob("*.png"))]


@pytest.fixture
def jobs(tiny_pipeline: Path, tiny_scorer: Path, tmp_path: Path) -> Callable[..., list[Job]]:
    def make(device: str, *folders: str) -> list[Job]:
        return [make_job(tiny_pipeline, tiny_scorer, device, tmp_path / folder) for folder in folders]

    return make


def check_forked(
    launcher: TemplateLauncher, tmp_path: Path, jobs: Callable[..., list[Job]], device: str, **changed: Any
) -> list[list[Message]]:
    """Two jobs from a template, the second after one that changes weights, draw what a fresh worker draws."""
    first, changing, last, alone = jobs(device, "first", "changing", "last", "alone")
    changing = msgspec.structs.replace(changing, build=changing.build | changed)
    received = run_all(launcher, [first, changing, last])
    (fresh,) = run_all(FreshLauncher(tmp_path / "cache"), [alone])
    for messages in (*received, fresh):
        of_type(messages, PointDone)
    log = launcher.log.read_text()
    assert "afresh" not in log and "each worker" not in log, log
    assert all(of_type(messages, BuildDone).build.load_s < LOADED_S for messages in received)
    assert images(tmp_path / "first") == images(tmp_path / "last") == images(tmp_path / "alone") != []
    return [*received, fresh]


def test_forked_workers_draw_what_a_fresh_one_draws(
    forked: ForkedWorkers, tmp_path: Path, jobs: Callable[..., list[Job]]
) -> None:
    check_forked(forked.launcher, tmp_path, jobs, "cpu", fuse_qkv=True)


def test_a_pipeline_that_cannot_be_read_fails_in_the_worker(
    forked: ForkedWorkers, tmp_path: Path, jobs: Callable[..., list[Job]], caplog: pytest.LogCaptureFixture
) -> None:
    """The template says so and goes on without it, and so does its worker, here of a template that has another."""
    (job,) = jobs("cpu", "trial")
    job = msgspec.structs.replace(job, model=msgspec.structs.replace(job.model, source=str(tmp_path / "gone")))
    assert prepare_weights(job, read_pipeline(job)).pipe is None
    assert "each worker loads it" in caplog.text
    (messages,) = run_all(forked.launcher, [job])
    assert "gone" in messages[-2].failure.message  # type: ignore[union-attr]


@pytest.mark.gpu
def test_lent_weights_are_used_and_counted(tmp_path: Path, jobs: Callable[..., list[Job]]) -> None:
    launcher = TemplateLauncher(tmp_path / "cache", tmp_path / "template.log")
    *received, fresh = check_forked(launcher, tmp_path, jobs, "cuda", fuse_qkv=True)
    lent, own = (of_type(messages, PointDone) for messages in (received[0], fresh))
    assert lent.memory.peak_bytes == pytest.approx(own.memory.peak_bytes, rel=0.1), "lent weights count as well"
    assert not lent.timing.gpu.other_processes, "the holder is no other user of the GPU"
