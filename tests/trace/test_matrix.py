"""The matrix of planted defects and clean twins: on this CPU, on a GPU, and on traces that a GPU recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import golden_traces
from golden_traces import DIAGNOSTIC, GOLDEN, TRACE
from planted_cases import BY_NAME, CASES, Case, Mode, lines_of_marks

from tuner.records.gate import Finding, FindingKind, Verdict

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
@pytest.mark.parametrize("most_bytes", [golden_traces.MAX_BYTES, 0])
def test_a_trimmed_trace_is_judged_alike(most_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_traces, "MAX_BYTES", most_bytes)
    results = tmp_path / "results.jsonl"
    golden_traces.work([("twice", "full"), ("nowhere", "full")], "cpu", tmp_path / "golden", results)
    twice, nowhere = (golden_traces.read_row(line) for line in results.read_bytes().splitlines())
    assert twice.problems == []
    assert nowhere.problems == ["ERROR KeyError: 'nowhere'"]
    (golden,) = (tmp_path / "golden").iterdir()
    assert golden.name == f"twice.full{TRACE}"
    assert str(golden_traces.ROOT).encode() not in golden_traces.gzip.decompress(golden.read_bytes())


@pytest.mark.gpu
def test_every_case_on_a_gpu(tmp_path: Path) -> None:
    program = [sys.executable, golden_traces.__file__, str(tmp_path), "--deadline", "1500"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=1600)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout


ON_A_GPU = [pytest.param(case, mode, id=f"{case.name}.{mode}") for case in CASES for mode in case.expected]


@pytest.mark.parametrize(("case", "mode"), ON_A_GPU)
def test_a_golden_trace_of_a_gpu(case: Case, mode: Mode) -> None:
    verdict, lines = golden_traces.verdict_of_golden(golden_traces.file_of(case.name, mode), "cuda", case.asks(mode))
    assert case.problems(mode, verdict, lines) == []
    places = [place for finding in verdict.findings for place in finding.source.split(", ")]
    assert not any(place.startswith("/") for place in places), places


def test_golden_traces_are_those_of_all_cases() -> None:
    files = [path for path in GOLDEN.glob(f"*{TRACE}") if not path.name.endswith(DIAGNOSTIC)]
    recorded = {(about.case, about.mode) for about in map(golden_traces.read_golden, files)}
    assert recorded == {(case.name, mode) for case in CASES for mode in case.expected}


def test_what_is_expected_is_bounded_and_at_marks_that_there_are() -> None:
    """A mark that no line has would only be looked for where it was formerly."""
    expected = [(case.status(mode), case.expected[mode]) for case in CASES for mode in case.expected]
    assert all(status == "rejected" for status, findings in expected if findings)
    unsure = [one for _, findings in expected for one in findings if not one.sure]
    assert all(one.per_step is not None for one in unsure)
    places = {one.where for _, findings in expected for one in findings}
    assert lines_of_marks().keys() == {place for place in places if place and not place.endswith(".py")}


def test_what_comes_along_is_expected_only_with_its_defect_and_no_more_often() -> None:
    def problems(name: str, mode: Mode, *found: tuple[FindingKind, str, float]) -> list[str]:
        findings = tuple(
            Finding(kind=kind, count=1, count_per_step=count, idle_ms_per_step=None, operator="", reason="", source=at)
            for kind, at, count in found
        )
        verdict = Verdict(status="rejected" if findings else "clean", findings=findings)
        return BY_NAME[name].problems(mode, verdict, {"late": "a.py:1"})

    late: tuple[FindingKind, str, float] = ("recompile", "a.py:1", 1 / 3)
    assert problems("late function", "full", late) == []
    assert problems("late function", "full", late, ("compile work", "", 1 / 3)) == []
    assert len(problems("late function", "full", late, ("compile work", "", 2 / 3))) == 1
    assert problems("late function", "full")[-1] == "is clean, not rejected"
    assert problems("automatic int", "full", ("compile work", "", 1 / 3))[-1] == "is rejected, not clean"
    assert len(problems("automatic int", "reduce-overhead")) == 4


def test_golden_traces_are_small() -> None:
    sizes = [path.stat().st_size for path in GOLDEN.iterdir()]
    assert max(sizes) <= golden_traces.MAX_BYTES
    assert sum(sizes) < 2_000_000
