"""What other programs take of the cores, which makes latencies on a CPU too long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tuner.hardware import cpu_load
from tuner.hardware.cpu_load import Program, busy_warning, programs


@pytest.fixture
def spinning() -> Iterator[subprocess.Popen[bytes]]:
    """A program that uses a core."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        yield busy
        busy.kill()


def test_a_program_that_uses_a_core_is_told(spinning: subprocess.Popen[bytes]) -> None:
    text = busy_warning(cores=1)
    assert text is not None
    assert text.startswith("other programs use ") and " cores of 1, " in text
    assert text.endswith("latencies will be too long, and vary; end them, or wait until they have ended")


@pytest.mark.parametrize(
    ("used", "cores", "told"),
    [
        pytest.param({1: 1.0, 2: 0.2}, 2, "other programs use 1.2 cores of 2, first (process 1) most", id="most of it"),
        pytest.param({1: 0.2}, 2, None, id="little"),
        pytest.param({1: 1.0}, 64, None, id="one of many cores"),
        pytest.param({}, 2, None, id="none"),
    ],
)
def test_what_is_worth_a_warning(
    monkeypatch: pytest.MonkeyPatch, used: dict[int, float], cores: int, told: str | None
) -> None:
    names = {1: "first", 2: "second"}
    looks = iter([{}, {pid: Program(names[pid], share) for pid, share in used.items()} | {3: Program("new", 0.0)}])
    monkeypatch.setattr(cpu_load, "programs", lambda: next(looks))
    text = busy_warning(cores, sleep=lambda _: None)
    assert text is None if told is None else text is not None and text.startswith(told)


def test_this_program_does_not_count() -> None:
    assert os.getpid() not in programs()
