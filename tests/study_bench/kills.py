"""kill -9 of the parent, the holder of the weights, the template and a worker, at random instants.

Each time nothing acknowledged may be lost, and after ten seconds no process and no GPU memory may be left. A process
is known by its place: the template is a child of the parent, and what it forks into a session of its own is a worker.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from faults.harness import MARK, end, is_whole, marked

from study_bench.families import environment
from study_bench.running import Deadline, Stopped, interrupt, start

GONE_S = 10.0
"""How long processes and memory may stay."""

ON_S = 3.0
"""How long a study goes on after something other than its parent was killed."""

START_S = 900.0
"""How long the victim is waited for: a template of a large model reads the weights first."""

MEMORY_BYTES = 256 << 20
"""So much the driver may keep."""

TEMPLATE = "tuner.worker.template"


@dataclass(frozen=True)
class Kill:
    """What one kill left behind. `fault` is empty if every promise was kept."""

    role: str
    acknowledged: int
    fault: str


class Killer:
    """The study that is killed again and again. `words` is its command."""

    def __init__(self, words: Sequence[str], folder: Path, within_s: float, deadline: Deadline) -> None:
        self.words = words
        self.folder = folder
        self.within_s = within_s
        self.deadline = deadline
        self.mark = uuid.uuid4().hex
        self.chance = random.Random()
        self.memory_before = used_gpu_bytes()

    def strike(self, role: str) -> Kill | None:
        """Kill one process of a role and look at what is left; None if there is none, as no holder on a CPU."""
        log_bytes = self._log_bytes()
        process, kept = self._start(), self.acknowledged()
        try:
            awaited = "worker" if role == "holder" else role  # a holder, if any, is there before the first worker
            if not self._wait(lambda: self._victims(awaited, process), process) or not self._victims(role, process):
                return None
            self._sleep(self.chance.uniform(0.0, self.within_s))
            self._wait(lambda: self._victims(role, process), process)
            kept |= self.acknowledged()
            for victim in self._victims(role, process)[:1]:
                with suppress(psutil.Error):
                    victim.kill()
            if role != "parent":
                self._sleep(ON_S)
        finally:
            interrupt(process)
            faults = self._faults(kept)
        if b"Traceback" in self._log().read_bytes()[log_bytes:]:
            faults.append("a traceback in tune.log")
        return Kill(role, len(self.acknowledged()), "; ".join(faults))

    def resumes(self) -> Kill:
        """Let the study go on until it has one more outcome, or comes to its end."""
        process, kept = self._start(), self.acknowledged()
        try:
            self._wait(lambda: len(self.acknowledged()) > len(kept), process)
            ended, grew = process.poll(), len(self.acknowledged()) > len(kept)
        finally:
            interrupt(process)
            faults = self._faults(kept)
        if not grew and ended != 0:
            faults.append(f"it did not go on: exit code {ended}, see tune.log")
        return Kill("resumed", len(self.acknowledged()), "; ".join(faults))

    def acknowledged(self) -> dict[Path, bytes]:
        """Every outcome on disk but the failed ones: a failed baseline is tried again."""
        files = {file: file.read_bytes() for file in self.folder.glob("study/*/*/outcome.json")}
        return {file: data for file, data in files.items() if b'"status": "failed"' not in data}

    def _log(self) -> Path:
        return self.folder / "tune.log"

    def _log_bytes(self) -> int:
        return self._log().stat().st_size if self._log().exists() else 0

    def _start(self) -> subprocess.Popen[bytes]:
        return start(self.words, self._log(), environment(**{MARK: self.mark}))

    def _victims(self, role: str, parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
        return ROLES[role](marked(self.mark), parent.pid)

    def _sleep(self, seconds: float) -> None:
        self.deadline.check()
        time.sleep(seconds)

    def _wait(self, condition: Callable[[], object], process: subprocess.Popen[bytes]) -> bool:
        """Wait until a condition is true; returns whether it became so before the study ended or time was up."""
        until = time.monotonic() + START_S
        while not condition():
            if process.poll() is not None or time.monotonic() > until:
                return False
            self._sleep(0.1)
        return True

    def _faults(self, kept: dict[Path, bytes]) -> list[str]:
        """Name the promises that were broken, and end what is left."""
        until = time.monotonic() + GONE_S
        while (marked(self.mark) or self._left_memory()) and time.monotonic() < until:
            time.sleep(0.2)
        left, memory, now = marked(self.mark), self._left_memory(), self.acknowledged()
        found = [f"{file}: lost or changed" for file, data in kept.items() if now.get(file) != data]
        found += [f"{file}: torn" for file in now if not is_whole(file)]
        found += [f"{len(left)} processes left: {names(left)}"] if left else []
        found += [f"{memory >> 20} MB of GPU memory left"] if memory else []
        end(self.mark)
        return found

    def _left_memory(self) -> int:
        now = used_gpu_bytes()
        if now is None or self.memory_before is None:
            return 0
        left = now - self.memory_before
        return left if left > MEMORY_BYTES else 0


def names(processes: Sequence[psutil.Process]) -> str:
    found = []
    for process in processes:
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline())[-60:])
    return ", ".join(found)


def used_gpu_bytes() -> int | None:
    """The memory in use on all GPUs; None where NVML is not there."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
    except pynvml.NVMLError:
        return None


# ---- who is who -----------------------------------------------------------------------------------------------------


def templates(processes: Sequence[psutil.Process], parent: int) -> list[psutil.Process]:
    return [process for process in processes if is_run_by(process, TEMPLATE, parent)]


def forks(processes: Sequence[psutil.Process], parent: int, leads_session: bool) -> list[psutil.Process]:
    """What the template forked: a worker leads a session of its own, the holder does not."""
    found = []
    for template in templates(processes, parent):
        for process in processes:
            with suppress(psutil.Error, OSError):
                is_leader = os.getsid(process.pid) == process.pid
                if is_run_by(process, TEMPLATE, template.pid) and is_leader == leads_session:
                    found.append(process)
    return found


def workers(processes: Sequence[psutil.Process], parent: int) -> list[psutil.Process]:
    """Forked workers, and those that run as a program of their own."""
    fresh = [process for process in processes if is_run_by(process, "tuner.worker", parent)]
    return fresh + forks(processes, parent, leads_session=True)


def is_run_by(process: psutil.Process, module: str, parent: int) -> bool:
    with suppress(psutil.Error):
        return module in process.cmdline() and process.ppid() == parent
    return False


ROLES: dict[str, Callable[[Sequence[psutil.Process], int], list[psutil.Process]]] = {
    "parent": lambda processes, parent: [process for process in processes if process.pid == parent],
    "worker": workers,
    "template": templates,
    "holder": lambda processes, parent: forks(processes, parent, leads_session=False),
}


# ---- all of them ----------------------------------------------------------------------------------------------------


def strikes(killer: Killer, times: int, known: list[Kill]) -> Iterator[Kill]:
    """Strike every role so many times, in turn, those of an earlier call counted; then the study goes on.

    Without an outcome there would be nothing to lose: the study gets its first one before.
    """
    missing: set[str] = set()
    if not killer.acknowledged():
        yield killer.resumes()
    for _ in range(times):
        for role in ROLES:
            if role in missing or sum(kill.role == role for kill in known) >= times:
                continue
            kill = killer.strike(role)
            if kill is None:
                missing.add(role)
            else:
                known.append(kill)
                yield kill
    yield killer.resumes()


def kill_all(killer: Killer, times: int) -> int:
    """Strike, keep what each kill showed in kills.jsonl, and print a line for each and a table. Returns the faults."""
    file = killer.folder / "kills.jsonl"
    known = [Kill(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    with suppress(Stopped):
        for kill in strikes(killer, times, [kill for kill in known if kill.role != "resumed"]):
            known.append(kill)
            with file.open("a") as log:
                log.write(json.dumps(asdict(kill)) + "\n")
            print(f"{kill.role}: {kill.acknowledged} outcomes, {kill.fault or 'all kept'}", flush=True)
    print(f"\n{'kill -9 of':12} tried  kept all promises")
    for role in (*ROLES, "resumed"):
        own = [kill for kill in known if kill.role == role]
        print(f"{role:12} {len(own):5}  {sum(not kill.fault for kill in own)}")
    return sum(bool(kill.fault) for kill in known)
