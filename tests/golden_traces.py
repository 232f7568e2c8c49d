"""Traces of the planted cases as a GPU gives them, trimmed and kept: golden traces.

As a program, on a machine with a GPU, `python tests/golden_traces.py FOLDER --archive golden.tar.gz` runs every case of
`planted_cases.py`, writes FOLDER/golden and the archive of it, and prints what was found and what was missed. The
traces in it belong into `tests/data/golden`, where `tests/trace/test_matrix.py` judges them without a GPU:

    mkdir -p tests/data/golden && tar xzf golden.tar.gz -C tests/data --wildcards 'golden/*.gz'

A trace remembers the lines of its marks, so that the cases' file can be edited. What is expected stands there alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from tuner.records.gate import Verdict
from tuner.trace import events, read, sources, waits
from tuner.trace.compile_log import CompileLog
from tuner.trace.events import Event
from tuner.trace.gate import add_source_lines, judge
from tuner.trace.read import Trace

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden"
TRACE, DIAGNOSTIC = ".pt.trace.json.gz", ".stacks.pt.trace.json.gz"

MAX_BYTES = 60_000
LONGEST_NAME = 160
DEADLINE_S = 3600.0
"""For all of the program, unless it is told another; half of it for one process, so that what it was to run can be run
once more."""

Device = Literal["cuda", "cpu"]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept beside the events of a trace. `lines` says where each mark was in the cases' file."""

    case: str
    mode: str
    torch: str
    gpu: str
    log: CompileLog
    lines: dict[str, str]


class _File(msgspec.Struct):
    golden: Golden


# ---- one case -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A case that ran: its traces, with stacks only where a line was missing, and what the compiler said."""

    trace: Path
    diagnostic: Path | None
    log: CompileLog


def judged(trace: Path, diagnostic: Path | None, log: CompileLog, device: Device, asks: bool) -> Verdict:
    """The verdict, with the lines that only a second trace, with stacks, can name."""
    verdict = judge(read.load(trace), log, (), device, asks_for_graphs=asks)
    return add_source_lines(verdict, read.load(diagnostic)) if diagnostic else verdict


def record(case: Any, mode: Any, device: Device, folder: Path) -> Recorded:
    """Run a case as a worker does: warm up, trace, judge, and once more with stacks when a line is missing."""
    import torch

    from tuner.trace.capture import capture, diagnose
    from tuner.trace.dynamo import start_compile_log

    torch._dynamo.reset()
    with case.settings():
        listener = start_compile_log()
        pipe = case.build(mode, device)
        for _ in range(2):
            pipe(4)
        trace = capture(pipe, pipe.scheduler, folder, "denoise")
        log = listener.read()
        verdict = judged(trace, None, log, device, case.asks(mode))
        named = all(finding.source for finding in verdict.undeclared())
        diagnostic = None if named else diagnose(pipe, pipe.scheduler, folder)
    return Recorded(trace, diagnostic, log)


# ---- trimming -------------------------------------------------------------------------------------------------------


def write_golden(recorded: Recorded, about: Golden, folder: Path) -> list[Path]:
    """The golden traces of a case, at most two files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path, suffix in ((recorded.trace, TRACE), (recorded.diagnostic, DIAGNOSTIC)):
        if path:
            target = file_of(about.case, about.mode, folder, suffix)
            target.write_bytes(_trimmed(read.load(path), about))
            files.append(target)
    return files


def file_of(case: str, mode: str, folder: Path = GOLDEN, suffix: str = TRACE) -> Path:
    return folder / f"{case}.{mode}{suffix}".replace(" ", "-")


def read_golden(path: Path) -> Golden:
    return msgspec.json.decode(gzip.decompress(path.read_bytes()), type=_File).golden


def _trimmed(trace: Trace, about: Golden) -> bytes:
    """The steps of a trace as a gzipped file, without the quiet operators if these make it too large."""
    inside = set(trace.step_indices)
    if trace.first:
        inside.update(trace.indices_between(trace.first.ts, trace.first.end))
    whole = _zipped(trace, inside, about)
    return whole if len(whole) <= MAX_BYTES else _zipped(trace, _telling(trace, inside), about)


def _telling(trace: Trace, inside: Iterable[int]) -> set[int]:
    """Marks, compiled code, waits and copies, with all around them, and now and then a launch."""
    telling: set[int] = set()
    for number, index in enumerate(sorted(inside)):
        event = trace.host[index]
        is_call = waits.is_wait_call(event.name) or "emcpy" in event.name
        is_mark = event.cat == "user_annotation" or event.name.startswith(("Torch", "## Call"))
        if is_call or is_mark or number % 100 == 0:
            while index >= 0 and index not in telling:
                telling.add(index)
                index = trace.parents[index]
    launches = [index for index in inside if waits.is_launch(trace.host[index].name)]
    return telling | set(launches[::50])


def _zipped(trace: Trace, inside: Iterable[int], about: Golden) -> bytes:
    host = [trace.host[index] for index in sorted(inside)]
    started = {event.correlation for event in host if event.cat in events.RUNTIME} - {0}
    device = [event for event in trace.device if event.correlation in started]
    zero = min(event.ts for event in host) - 1 if host else 0.0
    content = {
        "golden": about,
        "deviceProperties": [{"name": about.gpu}] if about.gpu else [],
        "traceEvents": [_slim(event, zero) for event in (*host, *device)],
    }
    data = msgspec.json.encode(content).replace(f"{ROOT}/".encode(), b"")
    return gzip.compress(data, 9, mtime=0)


def _slim(event: Event, zero: float) -> dict[str, Any]:
    slim = {
        "ph": "X", "cat": event.cat, "name": event.name[:LONGEST_NAME], "pid": event.pid, "tid": event.tid,
        "ts": round(event.ts - zero, 3), "dur": round(event.dur, 3),
    }  # fmt: skip
    arguments = {"correlation": event.correlation, "bytes": event.bytes, "Call stack": _short_stack(event.stack)}
    kept = {name: value for name, value in arguments.items() if value}
    return {**slim, "args": kept} if kept else slim


def _short_stack(stack: str) -> str:
    """The one entry of a stack that is looked for."""
    return next((entry for entry in stack.split(";") if sources.from_call_stack(entry)), "")


# ---- the program ----------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one case in one mode."""

    case: str
    mode: str
    problems: list[str]
    seconds: float
    kernels: int = 0
    largest_bytes: int = 0
    error: bool = False
    verdict: Verdict | None = None

    @property
    def wants_a_process_of_its_own(self) -> bool:
        return self.error or not self.kernels


def read_row(line: bytes) -> Row:
    return msgspec.json.decode(line, type=Row)


Job = tuple[str, str]


def work(jobs: Sequence[Job], device: Device, golden: Path, results: Path) -> None:
    """Run some cases one after the other, writing a row for each as soon as it is known."""
    for name, mode in jobs:
        start = time.perf_counter()
        try:
            row = _run(name, mode, device, golden)
        except Exception as error:
            traceback.print_exc()
            problems = [f"ERROR {type(error).__name__}: {sources.first_line(str(error), 300)}"]
            row = Row(case=name, mode=mode, problems=problems, seconds=0.0, error=True)
        row = msgspec.structs.replace(row, seconds=time.perf_counter() - start)
        with results.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def _run(name: str, mode: str, device: Device, golden: Path) -> Row:
    import torch
    from planted_cases import BY_NAME, lines_of_marks

    case, asks = BY_NAME[name], BY_NAME[name].asks(mode)  # type: ignore[arg-type]
    on_a_cpu = device == "cpu"
    about = Golden(
        case=name, mode=mode, torch=str(torch.__version__), gpu="" if on_a_cpu else torch.cuda.get_device_name(),
        log=CompileLog(), lines=lines_of_marks(),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        recorded = record(case, mode, device, Path(scratch))
        verdict = judged(recorded.trace, recorded.diagnostic, recorded.log, device, asks)
        problems = case.problems(mode, verdict, about.lines, on_a_cpu)
        kernels = len(read.load(recorded.trace).kernels)
        about = msgspec.structs.replace(about, log=recorded.log)
        files = write_golden(recorded, about, golden)
    again, lines = verdict_of_golden(files[0], device, asks)
    later = case.problems(mode, again, lines, on_a_cpu)
    problems += [f"TRIMMED {text}" for text in later if text.replace("tests/", f"{ROOT}/tests/") not in problems]
    return Row(
        case=name, mode=mode, problems=problems, seconds=0.0, kernels=kernels, verdict=verdict,
        largest_bytes=max(file.stat().st_size for file in files),
    )  # fmt: skip


def verdict_of_golden(path: Path, device: Device, asks: bool) -> tuple[Verdict, dict[str, str]]:
    """The verdict on a golden trace, and where its marks were when it was recorded."""
    about = read_golden(path)
    diagnostic = path.with_name(path.name.removesuffix(TRACE) + DIAGNOSTIC)
    verdict = judged(path, diagnostic if diagnostic.exists() else None, about.log, device, asks)
    return verdict, {mark: line.replace(f"{ROOT}/", "") for mark, line in about.lines.items()}


def shares(jobs: Iterable[Job]) -> list[list[Job]]:
    """Which cases share a process: what replays CUDA graphs has one of its own, as a build of `tune` has."""
    from planted_cases import BY_NAME

    alone: list[list[Job]] = []
    together: dict[str, list[Job]] = {}
    for name, mode in jobs:
        case = BY_NAME[name]
        key = f"diffusers {mode}" if case.is_of_diffusers else mode
        if case.asks(mode):  # type: ignore[arg-type]
            alone.append([(name, mode)])
        else:
            together.setdefault(key, []).append((name, mode))
    size = {"eager": 18, "regional": 5, "full": 5, "diffusers eager": 4, "diffusers regional": 2, "diffusers full": 2}
    shared = [
        jobs[start : start + size.get(key, 1)]
        for key, jobs in sorted(together.items())
        for start in range(0, len(jobs), size.get(key, 1))
    ]
    return [*shared, *alone]


class Pool:
    """A few processes at a time, none for longer than it may be, none beyond the deadline."""

    def __init__(self, folder: Path, device: str, processes: int, deadline_s: float) -> None:
        self.folder, self.device, self.most = folder, device, processes
        self.alone_s, self.until = deadline_s / 2, time.monotonic() + deadline_s
        self.running: dict[subprocess.Popen[bytes], float] = {}
        self.started = 0

    def run(self, groups: Sequence[Sequence[Job]]) -> None:
        waiting = list(groups)
        while (waiting or self.running) and time.monotonic() < self.until:
            while waiting and len(self.running) < self.most:
                self._start(waiting.pop(0))
            self._reap()
            time.sleep(0.1)
        for process in self.running:
            process.kill()
            process.wait()
        self.running.clear()

    def _start(self, jobs: Sequence[Job]) -> None:
        self.started += 1
        log = (self.folder / f"{self.started:03}.log").open("wb")
        command = [sys.executable, __file__, str(self.folder), "--device", self.device, "--work", json.dumps(jobs)]
        command += ["--results", str(self.folder / f"{self.started:03}.jsonl")]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=_environment())
        self.running[process] = time.monotonic() + self.alone_s

    def _reap(self) -> None:
        for process, until in list(self.running.items()):
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                process.wait()
                del self.running[process]

    def rows(self) -> dict[Job, Row]:
        """The last row of each case."""
        lines = (line for file in sorted(self.folder.glob("*.jsonl")) for line in file.read_bytes().splitlines())
        rows = (read_row(line) for line in lines if line.endswith(b"}"))
        return {(row.case, row.mode): row for row in rows}


def _environment() -> dict[str, str]:
    # Each process compiles by itself: a pool of compilers for each would be hundreds of processes.
    alone = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **alone}


def table(jobs: Sequence[Job], rows: Mapping[Job, Row]) -> str:
    """A line a case, then what was wrong."""
    lines, invalid_reason = [], []
    for name in dict.fromkeys(name for name, _ in jobs):
        cells = []
        for mode in (mode for other, mode in jobs if other == name):
            row = rows.get((name, mode))
            cells.append(f"{mode} {'ok' if row and not row.problems else 'WRONG' if row else 'NOT RUN'}")
            invalid_reason += [f"{name}, {mode}: {text}" for text in (row.problems if row else ["did not finish"])]
        lines.append(f"{name:24} {', '.join(cells)}")
    good = sum(not row.problems for row in rows.values())
    seconds = sorted((row.seconds for row in rows.values()), reverse=True)[:3]
    missed = sum("MISSED" in text for text in invalid_reason)
    surplus = sum("FALSE" in text for text in invalid_reason)
    total = f"{good} of {len(jobs)} as expected; {missed} missed, {surplus} false, slowest {seconds}"
    return "\n".join([*lines, "", *(text[:400] for text in invalid_reason), "", total])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="a new folder for the golden traces, in golden/, and for logs")
    parser.add_argument("--archive", type=Path, help="a .tar.gz of golden/; the table is written beside it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds, after which no case goes on")
    parser.add_argument("--only", nargs="+", default=[""], help="cases with one of these in `NAME.MODE`")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    golden = arguments.folder / "golden"
    if arguments.work:
        work([tuple(job) for job in json.loads(arguments.work)], arguments.device, golden, arguments.results)
        return 0
    return run_all(arguments, golden)


def run_all(arguments: argparse.Namespace, golden: Path) -> int:
    from planted_cases import CASES

    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir(parents=True)
    for old in (*arguments.folder.glob("*.jsonl"), *arguments.folder.glob("*.log")):
        old.unlink()
    jobs = [
        (case.name, mode)
        for case in CASES
        for mode in case.expected
        if any(text in f"{case.name}.{mode}" for text in arguments.only)
        if arguments.device == "cuda" or (not case.needs_gpu and mode != "reduce-overhead")
    ]
    pool = Pool(arguments.folder, arguments.device, arguments.processes, arguments.deadline)
    pool.run(shares(jobs))
    first = pool.rows()
    again = [job for job in jobs if job not in first or first[job].error]
    if arguments.device == "cuda":
        again = [job for job in jobs if job not in first or first[job].wants_a_process_of_its_own]
    pool.run([[job] for job in again])
    rows = pool.rows()
    text = table(jobs, rows)
    (golden / "table.txt").write_text(text)
    (golden / "rows.json").write_bytes(msgspec.json.format(msgspec.json.encode(list(rows.values()))))
    if arguments.archive:
        with tarfile.open(arguments.archive, "w:gz") as archive:
            archive.add(golden, "golden")
            for log in sorted(arguments.folder.glob("*.log")):
                archive.add(log, f"logs/{log.name}")
        arguments.archive.with_name("golden_table.txt").write_text(text)
    files = list(golden.glob("*.gz"))
    sizes = [file.stat().st_size for file in files] or [0]
    print(f"{len(files)} golden files, {sum(sizes):,} bytes, the largest {max(sizes):,}")
    print(text)
    return 0 if all(job in rows and not rows[job].problems for job in jobs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
