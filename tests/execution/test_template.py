"""Workers that are forked from a template: what becomes of them when the template, a worker or the parent dies."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from execution.test_executor import DEVICES, FAILED, TEMPLATE, WORKER, pid_of
from faults.harness import wait_until

from tuner.execution import launch, template
from tuner.execution.executor import Ended
from tuner.execution.local import LocalExecutor
from tuner.execution.template import Template, TemplateLauncher
from tuner.records.codec import encode
from tuner.records.outcome import Device
from tuner.records.protocol import Job, StageStarted, WorkerFailed

ORPHAN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1] + ".orphan", "w").write(str(os.getpid()))
        time.sleep(3600)
    os._exit(0)
os.wait()
time.sleep(0.3)
"""


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    monkeypatch.setattr(launch, "WORKER", (sys.executable, "-c", WORKER))
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", TEMPLATE))
    with LocalExecutor(DEVICES, TemplateLauncher(tmp_path / "cache", tmp_path / "template.log")) as executor:
        yield executor


def template_of(executor: LocalExecutor) -> Template:
    launcher = executor.launchers[DEVICES[0]]
    assert isinstance(launcher, TemplateLauncher)
    assert launcher.template is not None
    return launcher.template


def run(executor: LocalExecutor, job: Job, device: Device = DEVICES[0]) -> list[object]:
    handle = executor.submit(job, device)
    return [event for of, event in executor.wait(lambda: math.inf) if of == handle]


def test_workers_are_children_of_one_template(executor: LocalExecutor, make_job: Callable[..., Job]) -> None:
    handle = executor.submit(make_job("sleeps"), DEVICES[0])
    next(executor.wait(lambda: math.inf))
    worker = pid_of(executor, handle)
    assert psutil.Process(worker).ppid() == template_of(executor).process.pid
    executor.cancel(handle)
    assert not psutil.pid_exists(worker)
    before = template_of(executor).process.pid
    assert run(executor, make_job()) == [StageStarted(stage="load"), FAILED, Ended()]
    assert template_of(executor).process.pid == before


def test_a_template_that_dies_before_it_forks_is_not_needed(
    executor: LocalExecutor, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", "raise SystemExit('unfit')"))
    templates = []
    for name in ("one", "two"):
        assert run(executor, make_job(name)) == [StageStarted(stage="load"), FAILED, Ended()]
        templates.append(template_of(executor))
    assert templates[0] is templates[1], "it is not tried again"


def test_a_cancelled_worker_that_is_not_known_yet_takes_no_neighbour_with_it(
    executor: LocalExecutor, make_job: Callable[..., Job]
) -> None:
    neighbour = executor.submit(make_job("sleeps here"), DEVICES[0])
    worker = pid_of(executor, neighbour)
    cancelled = executor.submit(make_job("sleeps there"), DEVICES[1])
    process = executor.running[cancelled.id][1].process
    assert process.pid is None, "nobody has read what the template reports"
    executor.cancel(cancelled)
    assert process.pid is not None and not psutil.pid_exists(process.pid)
    assert template_of(executor).is_alive
    assert executor.running[neighbour.id][1].process.poll() is None and psutil.pid_exists(worker)


def test_a_template_that_does_not_report_a_cancelled_worker_is_killed_with_it(
    executor: LocalExecutor, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "REPORT_S", 0.1)
    pid_of(executor, executor.submit(make_job("sleeps here"), DEVICES[0]))
    hanging = template_of(executor)
    hanging.process.send_signal(signal.SIGSTOP)
    executor.cancel(executor.submit(make_job("sleeps there"), DEVICES[1]))
    assert not hanging.is_alive
    assert run(executor, make_job(), DEVICES[1]) == [StageStarted(stage="load"), FAILED, Ended()]
    assert template_of(executor) is not hanging


def test_a_template_is_replaced_if_its_first_worker_was_cancelled(
    executor: LocalExecutor, make_job: Callable[..., Job]
) -> None:
    executor.cancel(executor.submit(make_job("sleeps"), DEVICES[0]))
    worker = pid_of(executor, executor.submit(make_job("sleeps again"), DEVICES[0]))
    assert psutil.Process(worker).ppid() == template_of(executor).process.pid


def test_a_template_that_hung_before_it_forked_is_not_replaced(
    executor: LocalExecutor, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", "import time; time.sleep(3600)"))
    monkeypatch.setattr(TemplateLauncher, "start_limit_s", 0.5)
    (failed, _) = run(executor, make_job())
    assert isinstance(failed, WorkerFailed) and failed.failure.kind == "timeout"
    handle = executor.submit(make_job("sleeps"), DEVICES[0])
    assert psutil.Process(pid_of(executor, handle)).ppid() == os.getpid()


def test_a_worker_outlives_its_template_and_the_next_has_a_new_one(
    executor: LocalExecutor, make_job: Callable[..., Job]
) -> None:
    handle = executor.submit(make_job("sleeps"), DEVICES[0])
    messages = executor.wait(lambda: math.inf)
    assert next(messages) == (handle, StageStarted(stage="load"))
    worker = pid_of(executor, handle)
    before = template_of(executor).process
    before.kill()
    before.wait()
    os.kill(worker, signal.SIGKILL)
    failed, ended = next(messages)[1], next(messages)[1]
    assert isinstance(failed, WorkerFailed)
    assert failed.failure.kind == "crash"
    assert ended == Ended()
    assert run(executor, make_job()) == [StageStarted(stage="load"), FAILED, Ended()]
    assert template_of(executor).process.pid != before.pid


def test_what_a_worker_leaves_behind_is_killed(
    executor: LocalExecutor, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", TEMPLATE.replace(repr(WORKER), repr(ORPHAN))))
    events = run(executor, make_job())
    assert isinstance(events[0], WorkerFailed)
    orphan = int((tmp_path / "trial" / "job.json.orphan").read_text())
    wait_until(lambda: not psutil.pid_exists(orphan), 10.0)


def test_nothing_outlives_the_parent(make_job: Callable[..., Job], tmp_path: Path) -> None:
    """The parent dies by SIGKILL while a forked worker runs: template and worker end by themselves."""
    program = f"""
import math, sys
from pathlib import Path
from tuner.execution import launch, template
from tuner.execution.local import LocalExecutor
from tuner.records.codec import read
from tuner.records.outcome import Device
from tuner.records.protocol import Job
template.TEMPLATE = (sys.executable, "-c", {TEMPLATE!r})
folder = Path(sys.argv[1])
launcher = template.TemplateLauncher(folder / "cache", folder / "template.log")
with LocalExecutor([Device(name="cpu")], launcher) as executor:
    handle = executor.submit(read(folder / "given.json", Job), executor.devices[0])
    next(executor.wait(lambda: math.inf))
    process = executor.running[handle.id][1].process
    while process.poll() is None and process.pid is None:
        pass
    print(launcher.template.process.pid, process.pid, flush=True)
    list(executor.wait(lambda: math.inf))
"""
    job = make_job("sleeps")
    (tmp_path / "given.json").write_bytes(encode(job))
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(psutil.pid_exists, pids))
    parent.kill()
    parent.wait()
    started = time.monotonic()
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 10.0)
    assert time.monotonic() - started < 10
