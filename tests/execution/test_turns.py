"""Several workers on one device: one at a time has it to itself, and nothing that the others started runs meanwhile."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil
import pytest
from execution.test_executor import pid_of
from faults.harness import stopped, wait_until

from tuner.execution import launch, process, template
from tuner.execution.executor import Ended, Handle, StoodStill
from tuner.execution.local import LocalExecutor
from tuner.records.codec import encode
from tuner.records.outcome import Device
from tuner.records.protocol import Job, ReferenceWanted, StageStarted, Standing, TurnEnded, TurnWanted, WorkerFailed

DEVICE = Device(name="cpu")
TURN_S = 0.1
EPSILON_S = 0.005

WORKER = f"""
import os, sys, time
job, pipe = open(sys.argv[1]).read(), int(sys.argv[2])
folder = os.path.dirname(sys.argv[1])

def send(text):
    os.write(pipe, text.encode() + b"\\n")

def tick(name):
    with open(folder + "/" + name, "a", buffering=1) as file:
        while True:
            print(time.monotonic(), file=file)
            time.sleep(0.001)

def turn():
    send('{{"type":"turn_wanted","in_pair":%s}}' % ("true" if '"is_first"' in job and not alone else "false"))
    open(folder + "/asked", "w").close()
    assert os.read(0, 1) == b"1"
    began = time.monotonic()
    time.sleep(3600 if '"keeps' in job else {TURN_S})
    with open(folder + "/turns", "a") as file:
        print(began, time.monotonic(), file=file)
    send('{{"type":"turn_ended"}}')

send('{{"type":"stage","stage":"load"}}')
alone = '"is_first"' in job  # a turn of its own, as for the first call on a CPU
if alone:
    turn()
    alone = False
if '"ticks' in job:
    if os.fork() == 0:
        os.setsid()
        tick("child")
    tick("parent")
if '"asks' in job:
    send('{{"type":"reference_wanted","seconds_per_image":{{"value":1.0,"low":1.0,"high":1.0}}}}')
    assert os.read(0, 1) == b"1"
    with open(folder + "/provided", "w") as file:
        print(time.monotonic(), int('"sees this"' in open(sys.argv[1]).read()), file=file)
if '"late"' in job:
    time.sleep(0.3)
while '"later"' in job and not os.path.exists(folder + "/../keeps/asked"):
    time.sleep(0.001)
for _ in range(3 if '"thrice' in job or '"is_first"' in job else 1):
    turn()
send('{{"type":"failed","failure":{{"kind":"error","stage":"load","message":"planted"}}}}')
"""

TEMPLATE = f"""
import socket, sys
from types import SimpleNamespace
from tuner.worker import template

def run(arguments, weights):
    sys.argv[1:] = arguments
    exec({WORKER!r}, globals())
    return 0

template.worker = SimpleNamespace(main=run)
template.set_threads = lambda threads: None
weights = SimpleNamespace(check=lambda: None, holder=None)
template.Template(socket.socket(fileno=int(sys.argv[1])), weights, 1).serve()
"""

LAUNCHERS: dict[str, Callable[[Path], launch.Launcher]] = {
    "fresh": lambda folder: launch.FreshLauncher(folder / "cache"),
    "forked": lambda folder: template.TemplateLauncher(folder / "cache", folder / "template.log"),
}

Submit = Callable[..., Handle]


@pytest.fixture(params=LAUNCHERS)
def executor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalExecutor]:
    monkeypatch.setattr(launch, "WORKER", (sys.executable, "-c", WORKER))
    monkeypatch.setattr(template, "TEMPLATE", (sys.executable, "-c", TEMPLATE))
    with LocalExecutor([DEVICE], LAUNCHERS[request.param](tmp_path), slots=3) as executor:
        yield executor


@pytest.fixture
def submit(executor: LocalExecutor, make_job: Callable[..., Job]) -> Submit:
    return lambda name: executor.submit(make_job(name), DEVICE)


def read_until(executor: LocalExecutor, handle: Handle, wanted: type) -> list[object]:
    """What all jobs tell until one job tells this."""
    told = []
    for of, event in executor.wait(lambda: math.inf):
        told.append(event)
        if of == handle and isinstance(event, wanted):
            return told
    raise AssertionError(f"no {wanted.__name__} among {told}")


def times(file: Path) -> list[list[float]]:
    """The numbers of each whole line."""
    return [[float(number) for number in line.split()] for line in file.read_text().split("\n")[:-1]]


def ticking(executor: LocalExecutor, submit: Submit, folder: Path) -> Handle:
    """Start a worker that never rests, with a child in a session of its own, as a compiler's."""
    handle = submit("ticks")
    read_until(executor, handle, StageStarted)
    wait_until(lambda: (folder / "ticks" / "child").exists() and (folder / "ticks" / "parent").exists())
    return handle


def test_nothing_runs_in_anothers_turn(executor: LocalExecutor, submit: Submit, tmp_path: Path) -> None:
    ticks = ticking(executor, submit, tmp_path)
    first, second = submit("thrice"), submit("once")
    told: list[tuple[Handle, object]] = []
    stood_s, limit = 0.0, time.monotonic() + 60.0
    for of, event in executor.wait(lambda: limit):
        told.append((of, event))
        stood_s += event.seconds if of == ticks and isinstance(event, StoodStill) else 0.0
        has_ended = {of.id for of, event in told if event == Ended()} == {first.id, second.id}
        if has_ended and stood_s >= 3 * TURN_S:  # the last time may be told after both have ended
            break
    turns = sorted(times(tmp_path / "thrice" / "turns") + times(tmp_path / "once" / "turns"))
    assert len(turns) == 4
    assert all(before[1] <= after[0] for before, after in pairwise(turns)), "one at a time"
    for name in ("parent", "child"):
        file = tmp_path / "ticks" / name
        disturbed = [tick for (tick,) in times(file) for began, ended in turns if began + EPSILON_S < tick < ended]
        assert disturbed == [], name
        wait_until(lambda: times(file)[-1][0] > turns[-1][1], 5.0)  # noqa: B023
    assert stood_s >= 3 * TURN_S
    executor.cancel(ticks)
    assert not stopped(psutil.Process().children(recursive=True))


def test_turns_are_granted_in_the_order_of_request(executor: LocalExecutor, submit: Submit, tmp_path: Path) -> None:
    handles = [submit(name) for name in ("a", "b", "c")]
    wanted = [of.job.workload.prompts[0] for of, event in executor.wait(lambda: math.inf) if event == TurnWanted()]
    assert len(handles) == len(wanted) == 3
    began = {name: times(tmp_path / name / "turns")[0] for name in wanted}
    assert sorted(began, key=began.__getitem__) == wanted


def test_a_pair_begins_when_both_are_ready_with_its_first(
    executor: LocalExecutor, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    for name, is_first in (("early", False), ("late", True)):
        job = msgspec.structs.replace(make_job(name), standing=Standing(pair="7 0", is_first=is_first))
        executor.submit(job, DEVICE)
    list(executor.wait(lambda: math.inf))
    turns = [(began, name) for name in ("early", "late") for began, _ in times(tmp_path / name / "turns")[1:]]
    names = [name for _, name in sorted(turns)]
    assert names[:2] == ["late", "early"], "its first begins, although the other asked first"
    assert sorted(names) == ["early"] * 3 + ["late"] * 3, "then whoever asks first: one that was stopped may be slow to"


@pytest.mark.parametrize("victim", ["early", "late"])
def test_one_of_a_pair_goes_on_alone_if_the_other_is_killed(
    executor: LocalExecutor, make_job: Callable[..., Job], tmp_path: Path, victim: str
) -> None:
    job = msgspec.structs.replace(make_job("early"), standing=Standing(pair="7 0", is_first=True))
    late = msgspec.structs.replace(make_job("late"), standing=Standing(pair="7 0", is_first=False))
    handles = {"early": executor.submit(job, DEVICE), "late": executor.submit(late, DEVICE)}
    while read_until(executor, handles["early"], TurnWanted)[-1] != TurnWanted(in_pair=True):
        pass
    os.kill(pid_of(executor, handles[victim]), signal.SIGKILL)
    list(executor.wait(lambda: math.inf))
    (survivor,) = {"early", "late"} - {victim}
    assert len(times(tmp_path / survivor / "turns")) == 4


def test_a_job_that_wants_the_reference_goes_on_with_it_but_not_in_anothers_turn(
    executor: LocalExecutor, submit: Submit, tmp_path: Path
) -> None:
    asking = submit("asks")
    read_until(executor, asking, ReferenceWanted)
    holder = submit("once")
    read_until(executor, holder, TurnWanted)
    workload = msgspec.structs.replace(asking.job.workload, prompts=("asks", "sees this"), seeds=(0, 1))
    executor.provide(asking, msgspec.structs.replace(asking.job, workload=workload))
    told = read_until(executor, asking, Ended)

    ((_, ended),) = times(tmp_path / "once" / "turns")
    ((provided, has_new_job),) = times(tmp_path / "asks" / "provided")
    assert ended < provided and has_new_job
    assert sum(event.seconds for event in told if isinstance(event, StoodStill)) >= TURN_S
    assert [e.failure.message for e in told if isinstance(e, WorkerFailed)] == ["planted"] * 2


def test_nothing_starts_in_a_turn(executor: LocalExecutor, submit: Submit) -> None:
    holder = submit("keeps")
    read_until(executor, holder, TurnWanted)
    assert list(executor.free()) == []
    with pytest.raises(ValueError, match="not free"):
        submit("other")
    executor.cancel(holder)
    assert list(executor.free()) == [DEVICE]


def test_no_deadline_counts_while_a_worker_stands_still(
    executor: LocalExecutor, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = ticking(executor, submit, tmp_path)
    holder, later = submit("keeps"), submit("later")
    read_until(executor, holder, TurnWanted)
    monkeypatch.setitem(process.DEADLINES_S, "load", 0.2)
    told = read_until(executor, holder, Ended)
    assert [event.failure.message for event in told if isinstance(event, WorkerFailed)] == [
        "still in stage 'load' after 0 s"
    ], "the one in its turn"
    monkeypatch.setitem(process.DEADLINES_S, "load", 60.0)
    assert read_until(executor, later, TurnEnded)
    executor.cancel(ticks)


@pytest.mark.parametrize("victim", ["holder", "stands still"])
def test_a_worker_that_is_killed_gives_its_turn_to_the_next(
    executor: LocalExecutor, submit: Submit, tmp_path: Path, victim: str
) -> None:
    ticks = ticking(executor, submit, tmp_path)
    holder, later = submit("keeps"), submit("later")
    read_until(executor, holder, TurnWanted)
    wait_until((tmp_path / "keeps" / "asked").exists)  # what the later one waits for
    killed = {"holder": holder, "stands still": ticks}[victim]
    os.kill(pid_of(executor, killed), signal.SIGKILL)
    (failed,) = [event for event in read_until(executor, killed, Ended) if isinstance(event, WorkerFailed)]
    assert failed.failure.kind == "crash"
    if killed != holder:
        executor.cancel(holder)
    read_until(executor, later, TurnEnded)
    assert len(times(tmp_path / "later" / "turns")) == 1
    if killed != ticks:
        ticked = len(times(tmp_path / "ticks" / "child"))
        wait_until(lambda: len(times(tmp_path / "ticks" / "child")) > ticked, 5.0)
        executor.cancel(ticks)
    assert not stopped(psutil.Process().children(recursive=True))


def test_a_template_may_die_while_one_of_its_workers_has_its_turn(
    executor: LocalExecutor, submit: Submit, tmp_path: Path
) -> None:
    launcher = executor.launchers[DEVICE]
    if not isinstance(launcher, template.TemplateLauncher):
        return
    ticks = ticking(executor, submit, tmp_path)
    thrice = submit("thrice")
    read_until(executor, thrice, TurnWanted)
    assert launcher.template is not None
    launcher.template.process.kill()
    read_until(executor, thrice, Ended)
    assert len(times(tmp_path / "thrice" / "turns")) == 3
    executor.cancel(ticks)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_stands_still_ends_with_the_parent(launcher: str, make_job: Callable[..., Job], tmp_path: Path) -> None:
    program = f"""
import math, sys
from pathlib import Path
from execution import test_turns
from tuner.execution import launch, template
from tuner.execution.local import LocalExecutor
from tuner.records.codec import read
from tuner.records.protocol import Job, TurnWanted
launch.WORKER = (sys.executable, "-c", test_turns.WORKER)
template.TEMPLATE = (sys.executable, "-c", test_turns.TEMPLATE)
folder = Path(sys.argv[1])
with LocalExecutor([test_turns.DEVICE], test_turns.LAUNCHERS[{launcher!r}](folder), slots=2) as executor:
    executor.submit(read(folder / "ticks.json", Job), test_turns.DEVICE)
    test_turns.wait_until((folder / "ticks" / "child").exists)
    executor.submit(read(folder / "keeps.json", Job), test_turns.DEVICE)
    for _, message in executor.wait(lambda: math.inf):
        if message == TurnWanted():
            print("turn", flush=True)
"""
    for name in ("ticks", "keeps"):
        (tmp_path / f"{name}.json").write_bytes(encode(make_job(name)))
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == "turn\n"
    started = psutil.Process(parent.pid).children(recursive=True)
    still = stopped(started)
    assert len(still) == 2, "the worker and its child"
    parent.kill()
    parent.wait()
    wait_until(lambda: not [p for p in still if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 10.0)
    for other in started:  # a simulated worker that has its turn knows no lifeline
        if other.is_running():
            other.kill()
