"""Jobs for executors whose workers are simulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.hardware import environment
from tuner.records.model import Model, Workload
from tuner.records.protocol import Job, Point


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    def make(name: str = "trial") -> Job:
        return Job(
            model=Model(source="/model", revision=None, pipeline_class="FluxPipeline", scorer="/scorer"),
            environment=environment.detect("cpu"),
            workload=Workload(prompts=(name,), seeds=(0,)),
            build={},
            points=(Point(index=0, folder=str(tmp_path / name), steps=4, batch=1),),
            allowance_s=1.0,
        )

    return make
