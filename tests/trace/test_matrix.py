"""The matrix of planted defects and clean twins: on this CPU, on a GPU, and on traces that a GPU recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import golden_traces  # noqa: E402
from golden_traces import DIAGNOSTIC, GOLDEN, TRACE  # noqa: E402
from planted_cases import BY_NAME, CASES, Case, Mode, lines_of_marks  # noqa: E402

ON_A_CPU = [
    pytest.param(case, mode, id=f"{case.name}.{mode}")
    for case in CASES
    for mode in case.expected
    if not case.needs_gpu and mode != "reduce-overhead" and not case.is_of_diffusers
]


@pytest.mark.usefixtures("fresh_dynamo", "only_dynamo")
@pytest.mark.parametrize(("case", "mode"), ON_A_CPU)
def test_what_a_cpu_can_show(case: Case, mode: Mode, tmp_path: Path) -> None:
    recorded = golden_traces.record(case, mode, "cpu", tmp_path)
    verdict = golden_traces.judged(recorded.trace, recorded.diagnostic, recorded.log, "cpu", case.asks(mode))
    assert case.problems(mode, verdict, lines_of_marks(), on_a_cpu=True) == []


@pytest.mark.usefixtures("fresh_dynamo", "only_dynamo")
@pytest.mark.parametrize("most_bytes", [golden_traces.MOST_BYTES, 0])
def test_a_trimmed_trace_is_judged_alike(most_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_traces, "MOST_BYTES", most_bytes)
    results = tmp_path / "results.jsonl"
    golden_traces.work([("twice", "full"), ("nowhere", "full")], "cpu", tmp_path / "golden", results)
    twice, nowhere = (golden_traces.read_row(line) for line in results.read_bytes().splitlines())
    assert twice.problems == []
    assert nowhere.problems == ["ERROR KeyError: 'nowhere'"]
    (golden,) = (tmp_path / "golden").iterdir()
    assert golden.name == f"twice.full{TRACE}"
    assert str(golden_traces.ROOT).encode() not in golden_traces.gzip.decompress(golden.read_bytes())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_every_case_on_a_gpu(tmp_path: Path) -> None:
    program = [sys.executable, golden_traces.__file__, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout


def golden_files() -> list[Any]:
    """Those of `tests/data/golden`, once it has been filled from an archive of `golden_traces.py`."""
    files = sorted(GOLDEN.glob(f"*{TRACE}"))
    return [path for path in files if not path.name.endswith(DIAGNOSTIC)]


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.name.removesuffix(TRACE))
def test_a_golden_trace_of_a_gpu(path: Path) -> None:
    about = golden_traces.read_golden(path)
    case = BY_NAME[about.case]
    mode: Mode = about.mode  # type: ignore[assignment]
    verdict, lines = golden_traces.verdict_of_golden(path, "cuda", case.asks(mode))
    assert case.problems(mode, verdict, lines) == []


@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden traces were recorded yet")
def test_golden_traces_are_many_and_small() -> None:
    sizes = [path.stat().st_size for path in GOLDEN.iterdir()]
    assert len({golden_traces.read_golden(path).case for path in golden_files()}) >= 30
    assert max(sizes) <= golden_traces.MOST_BYTES
    assert sum(sizes) < 2_000_000
