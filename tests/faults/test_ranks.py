"""Real workers that compute an image on two devices, here two processes on the CPU: they draw what one draws, are timed
and traced as one, and end as one whoever of them is killed or hangs."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from faults.harness import wait_until
from forked import ForkedWorkers

from tuner.execution import process
from tuner.execution.executor import Ended
from tuner.execution.local import LocalExecutor
from tuner.hardware import environment
from tuner.knobs import baseline
from tuner.model import pipeline
from tuner.quality.reference import baseline_reference
from tuner.records.codec import Values
from tuner.records.model import Workload
from tuner.records.outcome import Device, Failure
from tuner.records.protocol import BuildDone, Job, Message, Point, PointDone, StageStarted, WorkerFailed
from tuner.space.candidates import build_values

pytestmark = pytest.mark.slow

TWO: Values = {"parallel.kind": "ulysses", "parallel.degree": 2}
SURELY_EQUAL_DB = 70.0
"""Images of 8 bits that rounding alone tells apart are closer."""

HUNG_S = 5.0


@pytest.fixture
def make_job(tmp_path: Path, tiny_pipeline: Path, tiny_scorer: Path) -> Callable[..., Job]:
    def make(different: Values, folder: str = "trial", text_tokens: int = 16, **fields: Any) -> Job:
        here = msgspec.structs.replace(environment.detect("cpu"), devices=2)
        model, _ = pipeline.resolve(str(tiny_pipeline), None, str(tiny_scorer))
        point = Point(index=0, folder=str(tmp_path / folder), steps=4, batch=1, score=fields.pop("score", False))
        workload = Workload(
            prompts=("a red ball", "a blue box"), seeds=(1, 2), height=32, width=32, max_sequence_length=text_tokens
        )
        settings = {"allowance_s": 0.1, "trace": False, "study_pid": os.getpid(), **fields}
        build = build_values(baseline(here)) | different
        return Job(model=model, environment=here, workload=workload, build=build, points=(point,), **settings)

    return make


def of_type(messages: list[Message], wanted: type) -> Any:
    (found,) = [message for message in messages if isinstance(message, wanted)]
    return found


def members(group: int) -> list[psutil.Process]:
    """The running processes of a process group, its leader first."""
    found = []
    for each in psutil.process_iter(["pid", "status"]):
        if each.info["status"] != psutil.STATUS_ZOMBIE:
            try:
                is_member = os.getpgid(each.pid) == group
            except ProcessLookupError:
                continue
            if is_member:
                found.append(each)
    return sorted(found, key=lambda each: (each.pid != group, each.pid))


def test_two_devices_draw_what_one_draws_and_are_measured_as_one(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    alone = of_type(forked.run(make_job({}, "alone", score=True), tmp_path / "alone"), PointDone)
    reference = baseline_reference(tmp_path / "alone", alone.quality)
    messages = forked.run(make_job(TWO, score=True, trace=True, reference=reference), tmp_path / "trial")
    both, build = of_type(messages, PointDone), of_type(messages, BuildDone).build
    assert both.quality.psnr_db > SURELY_EQUAL_DB
    assert (alone.timing.devices, both.timing.devices) == (1, 2)
    assert build.changes["parallel.kind"] == "ulysses over 2 devices, this is rank 0"
    assert build.verdict.status == "clean"
    counts = [rank.count_per_step for rank in build.trace.ranks]
    assert counts == [counts[0]] * 2 and counts[0] > 1, "each rank has its trace, and the same exchanges"
    waits = [rank.wait_ms_per_step for rank in build.trace.ranks]
    assert all(0 <= wait <= rank.ms_per_step for wait, rank in zip(waits, build.trace.ranks, strict=True))
    assert max(waits) > 0, "somebody is always first"
    assert len(list((tmp_path / "trial").glob("denoise*.pt.trace.json.gz"))) == 2


def test_an_error_of_all_ranks_is_reported_once(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    failure = of_type(forked.run(make_job(TWO, text_tokens=15), tmp_path / "trial"), WorkerFailed).failure
    assert (failure.kind, failure.stage) == ("error", "first call")
    assert "divisible" in failure.message


def harm(
    forked: ForkedWorkers, job: Job, folder: Path, rank: int, signal_number: int
) -> tuple[Failure, list[psutil.Process]]:
    """Send a signal to a rank while calls are timed. Return the failure, and who is left of the worker."""
    with LocalExecutor([Device(name="cpu")], forked.launcher, folder) as executor:
        executor.submit(job, executor.devices[0])
        group, failures, harmed = 0, [], False
        for _, message in executor.wait(lambda: math.inf):
            if isinstance(message, StageStarted) and message.stage == "time" and not harmed:
                ((_, worker),) = executor.running.values()
                assert worker.process.pid is not None
                group, harmed = worker.process.pid, True
                ranks = members(group)
                assert len(ranks) == 2
                ranks[rank].send_signal(signal_number)
            if isinstance(message, WorkerFailed):
                failures.append(message.failure)
            if isinstance(message, Ended):
                break
    (failure,) = failures
    wait_until(lambda: not members(group), 20)
    return failure, members(group)


@pytest.mark.parametrize(("rank", "told"), [(0, "the worker was killed by SIGKILL"), (1, "rank 1 of 2: it was killed")])
def test_a_rank_that_is_killed_is_a_crash_and_leaves_nobody(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path, rank: int, told: str
) -> None:
    failure, left = harm(forked, make_job(TWO, allowance_s=60.0), tmp_path / "trial", rank, signal.SIGKILL)
    assert (failure.kind, failure.stage) == ("crash", "time")
    assert failure.message.startswith(told)
    assert left == []


def test_a_rank_that_hangs_is_a_timeout_of_the_stage_and_leaves_nobody(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(process.DEADLINES_S, "time", HUNG_S)
    failure, left = harm(forked, make_job(TWO, allowance_s=60.0), tmp_path / "trial", 1, signal.SIGSTOP)
    assert (failure.kind, failure.stage, failure.limit_s) == ("timeout", "time", HUNG_S)
    assert left == []
