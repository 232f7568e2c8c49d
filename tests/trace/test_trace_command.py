"""`tune trace`: for a person and for a program, whatever the file holds."""

from __future__ import annotations

import gzip
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner import cli
from tuner.commands.trace.report import TraceReport, examine_trace
from tuner.commands.trace.text import TraceText
from tuner.records.codec import decode
from tuner.report.console import make_console

MEMORY = 2 << 30


def busy(planted: Any) -> None:
    """Three steps with a GEMM at 100-400 us and attention at 600-900 us, and a `.item()` between them."""
    for step in range(3):
        planted.region("0/0", step * 1000 + 50, 800)
        planted.kernel(step * 1000 + 100, 300, name="nvjet_hsh_128x256")
        planted.item(step * 1000 + 420, 60)
        planted.kernel(step * 1000 + 600, 300, operator="aten::sdpa", name="flash_fwd_kernel", stream=13)


def shown(path: Path, width: int, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    make_console(stream, width=width).print(TraceText(examine_trace(path)))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_the_lines_fit_the_terminal(width: int, planted: Any, tmp_path: Path) -> None:
    busy(planted)
    for line in shown(planted.save(tmp_path), width).splitlines():
        assert len(line) <= width


def test_the_time_line_shows_each_lane_and_the_wait(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    lines = shown(planted.save(tmp_path), 114, "ascii").splitlines()
    lanes = {line[:13].strip(): line[14:] for line in lines}
    # A column is ten microseconds wide.
    assert lanes["GPU stream 7"] == "." * 10 + "G" * 30 + "." * 2 + "c" + "." * 57
    assert lanes["GPU stream 13"] == "." * 60 + "A" * 30 + "." * 10
    assert lanes["CPU waits"].rstrip() == " " * 42 + "~" * 5 + "1"
    assert lanes["compiled"] == "." * 5 + "=" * 80 + "." * 15
    assert "1 device sync, 1 per step: the GPU idles 0.0500 ms" in "\n".join(lines)


def test_a_python_function_does_not_keep_the_cpu_busy(planted: Any, tmp_path: Path) -> None:
    planted.host("nn.Module: Block_0", 100, 800, cat="python_function")
    planted.host("aten::mm", 200, 100)
    planted.host("note", 220, 60, cat="user_annotation")
    planted.host("aten::mm", 230, 20)
    lines = shown(planted.save(tmp_path), 113, "ascii").splitlines()
    lanes = {line[:12].strip(): line[13:] for line in lines}
    assert lanes["CPU"] == "." * 20 + "#" * 10 + "." * 70


def test_the_total_idle_time_needs_that_of_every_finding(planted: Any, tmp_path: Path) -> None:
    planted.item(402, 60)
    planted.host("TorchDynamo Cache Lookup", 500, 5)
    planted.events = [event for event in planted.events if event["cat"] != "gpu_memcpy"]
    planted.top = {"deviceProperties": [{"name": "GPU"}]}
    text = shown(planted.save(tmp_path), 200)
    assert "REJECTED: 2 findings\n" in text
    assert "the GPU idle" not in text


def test_the_exit_code_is_the_verdict(planted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(3):
        planted.kernel(step * 1000 + 100, 300)
    clean = planted.save(tmp_path, "clean.json")
    planted.item(402, 60)
    rejected = planted.save(tmp_path, "rejected.json.gz")
    assert cli.main(["trace", str(clean)]) == 0
    assert "CLEAN" in capsys.readouterr().out
    assert cli.main(["trace", str(rejected)]) == 1
    assert "REJECTED: 1 finding" in capsys.readouterr().out
    assert cli.main(["trace", str(rejected), "--max-idle-ms", "1"]) == 0
    assert "1 accepted finding" in capsys.readouterr().out


def test_the_json_is_the_record(planted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy(planted)
    path = planted.save(tmp_path)
    assert cli.main(["trace", str(path), "--json"]) == 1
    report = decode(capsys.readouterr().out, TraceReport, "stdout")
    assert report.verdict.status == "rejected"
    assert report.summary.steps == 3
    assert report.file == str(path)


def test_a_profiler_that_missed_the_gpu_does_not_pass(unmarked: Any, tmp_path: Path) -> None:
    unmarked.host("aten::mm", 100, 50)
    unmarked.top = {"deviceProperties": [{"id": 0, "name": "NVIDIA H200"}]}
    assert cli.main(["trace", str(unmarked.save(tmp_path))]) == 3


def test_control_characters_do_not_reach_the_terminal(planted: Any, tmp_path: Path) -> None:
    busy(planted)
    planted.host("sync at \x1b[31mred\nline", 425, 1, cat="user_annotation")
    planted.top = {"deviceProperties": [{"name": "\x1b]0;title\x07GPU"}]}
    text = shown(planted.save(tmp_path, "a\x1b[1mb.json"), 100)
    assert "\x1b" not in text


# ---- malformed files ------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b'{"traceEvents": [{"ph": "X", "args": {"Input Dims": ' + b"[" * depth + b"]" * depth + b"}}]}"


def one_event(**fields: Any) -> bytes:
    event = {"ph": "X", "cat": "cpu_op", "name": "n", "ts": 1, "dur": 1} | fields
    return json.dumps({"traceEvents": [event]}).encode()


MALFORMED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no JSON": lambda: b"<html>",
    "truncated JSON": lambda: one_event()[:-5],
    "truncated gzip": lambda: gzip.compress(one_event() * 100)[:-20],
    "gzip of nothing": lambda: gzip.compress(b""),
    "rubbish in gzip": lambda: b"\x1f\x8b\x08\x00" + bytes(range(200)),
    "no events": lambda: b'{"traceEvents": {}}',
    "wrong types": lambda: one_event(ts="soon"),
    "wrong arguments": lambda: one_event(args=[1]),
    "wrong correlation": lambda: one_event(args={"correlation": "one"}),
    "huge correlation": lambda: one_event(args={"correlation": 10**400}),
    "huge size": lambda: one_event(cat="gpu_memcpy", args={"bytes": 10**400}),
    "negative size": lambda: one_event(cat="gpu_memcpy", args={"bytes": -1}),
    "negative time": lambda: one_event(dur=-1),
    "negative beginning": lambda: one_event(ts=-5),
    "no name": lambda: one_event(name=None),
    "infinite time": lambda: one_event(ts=1e300),
    "unknown phase": lambda: one_event(ph="?"),
    "deeply nested": lambda: nested(1_000_000),
    "one long name": lambda: one_event(name="n" * 50_000_000, dur=-1),
    "a bomb": lambda: gzip.compress(b" " * (1 << 20), 1) * 1100,
    "events without end": lambda: b'{"traceEvents": [' + b'{"ph":"i"},' * 5_000_001 + b'{"ph":"i"}]}',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_file_gives_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(MALFORMED[what]())
    done = bounded(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tune: {path}: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 600


def test_a_study_has_its_traces_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"tune: {tmp_path}: a trace is expected here, and this is a folder; "
    assert cli.main(["trace", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{expected}it has no *.trace.json.gz\n"
    (tmp_path / "trials" / "0007").mkdir(parents=True)
    for name in ("denoise.1.pt.trace.json.gz", "denoise.1.trace.json.gz"):  # the second one is whole
        trace = tmp_path / "trials" / "0007" / name
        trace.touch()
        assert cli.main(["trace", str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"{expected}name a trace in it, such as {trace}\n"


def test_one_name_of_fifty_megabytes_is_judged_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_bytes(one_event(name="aten::" + "n" * 50_000_000))
    done = bounded(path)
    assert done.returncode == 0
    assert len(done.stdout) < 5000


@pytest.mark.parametrize("name", ["nowhere.json", ".", "pipe"])
def test_a_path_that_is_no_file_gives_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name if name != "pipe" else Path("/dev/zero")
    done = bounded(path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def bounded(path: Path) -> subprocess.CompletedProcess[str]:
    """The command with at most two gigabytes of memory."""
    return subprocess.run(
        [sys.executable, "-m", "tuner", "trace", str(path)],
        capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip
