"""The contract that every executor keeps: with jobs in this process, and with worker processes that are simulated."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.execution import launch, template
from tuner.execution.executor import Ended, Executor, Handle
from tuner.execution.inline import InlineExecutor
from tuner.execution.launch import FreshLauncher, Launcher, Place
from tuner.execution.local import LocalExecutor
from tuner.execution.process import DEADLINES_S
from tuner.execution.template import TemplateLauncher
from tuner.records.outcome import Device, Failure
from tuner.records.protocol import Job, Message, StageStarted, WorkerFailed

DEVICES = (Device(name="cpu", index=0), Device(name="cpu", index=1))
FAILED = WorkerFailed(failure=Failure(kind="error", stage="load", message="planted"))

WORKER = """
import os, sys, time
job, pipe = open(sys.argv[1]).read(), int(sys.argv[2])
os.write(pipe, b'{"type":"stage","stage":"load"}\\n')
if '"sleeps' in job:
    time.sleep(3600)
if '"dies' in job:
    os._exit(3)
if '"says where' in job:
    print(os.environ["CUDA_VISIBLE_DEVICES"], sorted(os.sched_getaffinity(0)), file=sys.stderr, flush=True)
os.write(pipe, b'{"type":"failed","failure":{"kind":"error","stage":"load","message":"planted"}}\\n')
"""


TEMPLATE = f"""
import socket, sys
from types import SimpleNamespace
from tuner.worker import template

def run(arguments, weights):
    sys.argv[1:] = arguments
    exec({WORKER!r}, {{}})
    return 0

template.worker = SimpleNamespace(main=run)
template.set_threads = lambda threads: None
weights = SimpleNamespace(check=lambda: None, holder=None)
template.Template(socket.socket(fileno=int(sys.argv[1])), weights, 1).serve()
"""
"""The real template, without libraries and weights, that forks simulated workers."""


def pid_of(executor: LocalExecutor, handle: Handle) -> int:
    """The process of a job. A template tells it a moment after the worker's first message."""
    process = executor.running[handle.id][1].process
    end = time.monotonic() + 10.0
    while process.poll() is None and process.pid is None and time.monotonic() < end:
        time.sleep(0.01)
    assert process.pid is not None
    return process.pid


def inline(folder: Path, slots: int = 1) -> Executor:
    def work(job: Job) -> Iterator[Message]:
        yield StageStarted(stage="load")
        yield FAILED

    return InlineExecutor(work, DEVICES, slots)


def local(folder: Path, slots: int = 1) -> Executor:
    return LocalExecutor(DEVICES, FreshLauncher(folder / "cache"), slots=slots)


def forking(folder: Path, slots: int = 1) -> Executor:
    folder.mkdir(exist_ok=True)
    return LocalExecutor(DEVICES, TemplateLauncher(folder / "cache", folder / "template.log"), slots=slots)


def pinned(folder: Path, slots: int = 1) -> Executor:
    """Each device with a launcher of its own, and a core."""
    cores = sorted(os.sched_getaffinity(0))
    places = [Place(f"GPU-{device.index}", frozenset({cores[device.index % len(cores)]})) for device in DEVICES]
    launchers = [FreshLauncher(folder / "cache", place) for place in places]
    return LocalExecutor(DEVICES, dict(zip(DEVICES, launchers, strict=True)), slots=slots)


EXECUTORS: dict[str, Callable[..., Executor]] = {
    "inline": inline, "local": local, "forking": forking, "pinned": pinned,
}  # fmt: skip


@pytest.fixture(params=EXECUTORS)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Executor]:
    """What makes an executor; `test_ray.py` has another one for the same tests."""
    monkeypatch.setattr(launch, "WORKER", (sys.executable, "-c", WORKER))
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", TEMPLATE))
    return EXECUTORS[request.param]


@pytest.fixture
def executor(make: Callable[..., Executor], tmp_path: Path) -> Iterator[Executor]:
    with make(tmp_path) as executor:
        yield executor


def test_a_job_ends_with_exactly_one_end(executor: Executor, make_job: Callable[..., Job]) -> None:
    handle = executor.submit(make_job(), executor.free()[0])
    events = [(of.id, event) for of, event in executor.wait(lambda: math.inf)]
    assert events == [(handle.id, StageStarted(stage="load")), (handle.id, FAILED), (handle.id, Ended())]


def test_a_device_is_busy_while_its_job_runs(executor: Executor, make_job: Callable[..., Job]) -> None:
    assert tuple(executor.free()) == DEVICES
    executor.submit(make_job(), DEVICES[0])
    assert tuple(executor.free()) == DEVICES[1:]
    list(executor.wait(lambda: math.inf))
    assert tuple(executor.free()) == DEVICES


def test_jobs_on_several_devices_are_told_apart(executor: Executor, make_job: Callable[..., Job]) -> None:
    handles = [executor.submit(make_job(device.name), device) for device in DEVICES]
    ended = [handle.id for handle, event in executor.wait(lambda: math.inf) if event == Ended()]
    assert sorted(ended) == sorted(handle.id for handle in handles)


def test_a_cancelled_job_sends_nothing_more(executor: Executor, make_job: Callable[..., Job]) -> None:
    handle = executor.submit(make_job("sleeps"), DEVICES[0])
    executor.cancel(handle)
    executor.cancel(handle)
    assert list(executor.wait(lambda: math.inf)) == []
    assert tuple(executor.free()) == DEVICES


def test_a_job_can_be_cancelled_because_of_its_message(executor: Executor, make_job: Callable[..., Job]) -> None:
    handle = executor.submit(make_job("sleeps"), DEVICES[0])
    for of, event in executor.wait(lambda: math.inf):
        assert event == StageStarted(stage="load")
        executor.cancel(of)
    assert handle.device in executor.free()


def test_a_job_cancelled_because_of_anothers_message_sends_nothing_more(
    executor: Executor, make_job: Callable[..., Job]
) -> None:
    first, second = (executor.submit(make_job("sleeps" + device.name), device) for device in DEVICES)
    seen = []
    for of, _ in executor.wait(lambda: math.inf):
        seen.append(of.id)
        executor.cancel(second if of.id == first.id else first)
        executor.cancel(of)
    assert len(seen) == 1


def test_a_busy_device_takes_no_second_job(executor: Executor, make_job: Callable[..., Job]) -> None:
    executor.submit(make_job("sleeps"), DEVICES[0])
    with pytest.raises(ValueError, match="not free"):
        executor.submit(make_job("other"), DEVICES[0])


def test_a_device_takes_as_many_jobs_as_it_has_slots(
    make: Callable[..., Executor], tmp_path: Path, make_job: Callable[..., Job]
) -> None:
    with make(tmp_path, slots=2) as executor:
        handles = [executor.submit(make_job("sleeps one"), DEVICES[0])]
        assert tuple(executor.free()) == DEVICES
        handles.append(executor.submit(make_job("two"), DEVICES[0]))
        assert tuple(executor.free()) == DEVICES[1:]
        with pytest.raises(ValueError, match="not free"):
            executor.submit(make_job("three"), DEVICES[0])
        executor.cancel(handles[0])
        assert tuple(executor.free()) == DEVICES
        events = [(of.id, event) for of, event in executor.wait(lambda: math.inf)]
        assert events == [(handles[1].id, event) for event in (StageStarted(stage="load"), FAILED, Ended())]


def test_nothing_is_lost_when_waiting_is_interrupted(executor: Executor, make_job: Callable[..., Job]) -> None:
    executor.submit(make_job(), DEVICES[0])
    events = [next(event for _, event in executor.wait(lambda: math.inf))]
    if not isinstance(executor, InlineExecutor):  # a job in this process cannot be interrupted
        events += [event for _, event in executor.wait(lambda: math.inf)]
        assert events == [StageStarted(stage="load"), FAILED, Ended()]


def test_a_failure_is_told_once_although_nobody_waits_for_the_end(
    executor: Executor, make_job: Callable[..., Job]
) -> None:
    if isinstance(executor, InlineExecutor):
        pytest.skip("a job in this process cannot be interrupted")
    executor.submit(make_job("dies"), DEVICES[0])
    for _, event in executor.wait(lambda: math.inf):
        if isinstance(event, WorkerFailed):
            break
    assert [event for _, event in executor.wait(lambda: math.inf)] == [Ended()]


def test_a_hung_worker_is_told_once_although_nobody_waits_for_the_end(
    tmp_path: Path, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "WORKER", (sys.executable, "-c", WORKER))
    monkeypatch.setitem(DEADLINES_S, "load", 0.1)
    with LocalExecutor(DEVICES, FreshLauncher(tmp_path / "cache")) as executor:
        executor.submit(make_job("sleeps"), DEVICES[0])
        failed = next(event for _, event in executor.wait(lambda: math.inf) if isinstance(event, WorkerFailed))
        assert failed.failure.kind == "timeout"
        assert [event for _, event in executor.wait(lambda: math.inf)] == [Ended()]


def test_waiting_for_nothing_returns_at_once(executor: Executor) -> None:
    assert list(executor.wait(lambda: math.inf)) == []


def test_a_silent_worker_is_not_waited_for_beyond_the_time(tmp_path: Path, make_job: Callable[..., Job],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(launch, "WORKER", (sys.executable, "-c", WORKER))
    with LocalExecutor(DEVICES, FreshLauncher(tmp_path / "cache")) as executor:
        handle = executor.submit(make_job("sleeps"), DEVICES[0])
        first = next(event for _, event in executor.wait(lambda: math.inf))
        assert first == StageStarted(stage="load")
        before = time.monotonic()
        assert list(executor.wait(lambda: before + 0.3)) == []
        assert time.monotonic() >= before + 0.3
        worker = executor.running[handle.id][1].process
    assert worker.poll() is not None, "leaving the executor kills what still runs"


@pytest.mark.parametrize("make", [FreshLauncher, lambda cache, place: TemplateLauncher(cache, cache / "log", place)])
def test_workers_see_the_gpu_of_their_device_and_run_on_its_cores(
    make: Callable[..., Launcher], tmp_path: Path, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "WORKER", (sys.executable, "-c", WORKER))
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", TEMPLATE))
    mine = os.sched_getaffinity(0)
    launchers = {device: make(tmp_path, Place(f"GPU-{device.index}", frozenset({core})))
                 for device, core in zip(DEVICES, [min(mine), max(mine)], strict=True)}  # fmt: skip
    with LocalExecutor(DEVICES, launchers) as executor:
        handles = [executor.submit(make_job(f"says where {device.index}"), device) for device in DEVICES]
        list(executor.wait(lambda: math.inf))
    said = [(Path(handle.job.points[0].folder) / "worker.log").read_text() for handle in handles]
    assert said == [f"GPU-0 [{min(mine)}]\n", f"GPU-1 [{max(mine)}]\n"]
    assert os.sched_getaffinity(0) == mine
