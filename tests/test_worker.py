"""The worker's own arithmetic, on a pipeline that is made up; the real ones are in tests/faults."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner import worker
from tuner.trace import dynamo


@pytest.mark.parametrize(("first_s", "compile_s"), [(0.5, 0.4), (0.0, 0.0)])
def test_compiling_is_what_the_first_call_takes_longer_than_a_warm_one_of_the_same_point(
    monkeypatch: pytest.MonkeyPatch, first_s: float, compile_s: float
) -> None:
    seconds = iter([first_s, *[0.1] * 20])
    log = SimpleNamespace(read=lambda: SimpleNamespace(unique_graphs=0))
    monkeypatch.setattr(worker.pipeline, "load", lambda *_: None)
    monkeypatch.setattr(worker, "apply_knobs", lambda *_: {})
    monkeypatch.setattr(dynamo, "start_compile_log", lambda: log)
    monkeypatch.setattr(worker.Bench, "caller", lambda *_: lambda: time.sleep(next(seconds)))
    job: Any = SimpleNamespace(
        environment=SimpleNamespace(device="cpu"), reference=None, points=(None,), model=None, trace=False,
        build={"precision.dtype": "float32"},
    )  # fmt: skip
    channel: Any = SimpleNamespace(enter=lambda *_: None)
    build = worker.Bench(job, channel).build(Path())
    assert build.compile_s == pytest.approx(compile_s, abs=0.05)
    assert build.first_call_s == pytest.approx(first_s, abs=0.05)
