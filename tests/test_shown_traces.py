"""Which traces a study leaves to TensorBoard, and what is left of each."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden_traces import GOLDEN
from test_board import outcome, rejected

from tuner.board import shown_traces
from tuner.files import atomic_write
from tuner.records.outcome import Outcome
from tuner.trace import read
from tuner.trace.summary import summarise
from tuner.trace.trim import trim

TRACES = Path(__file__).parent / "data" / "traces"
LOOP = TRACES / "cpu-2.13-loop.pt.trace.json.gz"
OF_A_GPU = GOLDEN / "sd3-as-it-is.full.pt.trace.json.gz"


@pytest.fixture
def study(tmp_path: Path) -> dict[int, Outcome]:
    """Six trials, all but the last with a trace."""
    outcomes = [
        outcome(0),
        rejected(1, "device sync"),
        rejected(2, "device sync"),
        rejected(3, "graph break"),
        outcome(4, different={"compile.scope": "regional"}),
        rejected(5, "cuda graph"),
    ]
    for one in outcomes:
        (tmp_path / f"{one.number:04}").mkdir()
        if one.number < 5:
            shutil.copy(LOOP, tmp_path / f"{one.number:04}" / "denoise.1.pt.trace.json.gz")
    return {one.number: one for one in outcomes}


def tidy(folder: Path, study: dict[int, Outcome], *finalists: int) -> dict[str, list[str]]:
    shown_traces.tidy(study.values(), [study[number] for number in finalists], lambda number: folder / f"{number:04}")
    return {trial.name: sorted(file.name for file in trial.iterdir()) for trial in sorted(folder.iterdir())}


SHOWN, WHOLE = "denoise.1.pt.trace.json.gz", "denoise.1.trace.json.gz"


def test_the_finalists_and_one_of_each_kind_of_rejection_are_shown(tmp_path: Path, study: dict[int, Outcome]) -> None:
    assert tidy(tmp_path, study, 0) == {
        "0000": [SHOWN, WHOLE], "0001": [SHOWN, WHOLE], "0002": [WHOLE], "0003": [SHOWN, WHOLE], "0004": [], "0005": [],
    }  # fmt: skip


def test_the_whole_trace_stays_beside_what_is_shown(tmp_path: Path, study: dict[int, Outcome]) -> None:
    tidy(tmp_path, study, 0, 4)
    assert (tmp_path / "0004" / WHOLE).read_bytes() == LOOP.read_bytes()
    assert len(gzip.decompress((tmp_path / "0004" / SHOWN).read_bytes())) < len(gzip.decompress(LOOP.read_bytes()))


def test_a_study_that_goes_on_is_tidied_again(tmp_path: Path, study: dict[int, Outcome]) -> None:
    tidy(tmp_path, study, 0, 4)
    files = {file: file.read_bytes() for file in tmp_path.glob("*/*") if file.parent.name != "0004"}
    assert tidy(tmp_path, study, 0)["0004"] == []
    assert {file: file.read_bytes() for file in tmp_path.glob("*/*")} == files


def test_a_trace_that_cannot_be_read_costs_only_itself(tmp_path: Path, study: dict[int, Outcome]) -> None:
    (tmp_path / "0001" / SHOWN).write_bytes(b"\x1f\x8b cut off")
    (tmp_path / "0003" / SHOWN).write_bytes(gzip.compress(b'{"traceEvents": [{"ph": "M", "ts": "soon"}]}'))
    left = tidy(tmp_path, study, 0)
    assert (left["0001"], left["0003"], left["0000"]) == ([WHOLE], [WHOLE], [SHOWN, WHOLE])


@pytest.mark.parametrize("writes", [0, 1])
def test_what_was_killed_in_between_is_finished_by_the_next_run(
    writes: int, tmp_path: Path, study: dict[int, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def dies(path: Path, data: bytes) -> None:
        if len(made) == writes:
            raise KeyboardInterrupt
        made.append(path)
        atomic_write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(shown_traces, "atomic_write", dies)
        with pytest.raises(KeyboardInterrupt):
            tidy(tmp_path, study, 0)
    assert tidy(tmp_path, study, 0)["0000"] == [SHOWN, WHOLE]
    assert (tmp_path / "0000" / WHOLE).read_bytes() == LOOP.read_bytes()
    assert len(events((tmp_path / "0000" / SHOWN).read_bytes())) < len(events(LOOP.read_bytes()))


def events(content: bytes, phase: str = "X") -> list[dict[str, Any]]:
    return [event for event in json.loads(gzip.decompress(content))["traceEvents"] if event["ph"] == phase]


@pytest.mark.parametrize("source", [LOOP, OF_A_GPU], ids=lambda path: path.name.partition(".")[0])
def test_the_steps_are_whole(source: Path, tmp_path: Path) -> None:
    target = tmp_path / source.name
    target.write_bytes(trim(source))
    before, after = read.load(source), read.load(target)
    assert after.steps == before.steps
    assert [after.host[index] for index in after.step_indices] == [before.host[index] for index in before.step_indices]
    assert after.gpu_work == before.gpu_work
    assert len(after.host) < len(before.host)
    assert summarise(after).launches_per_step == summarise(before).launches_per_step
    kept = events(target.read_bytes())
    assert [event for event in events(source.read_bytes()) if event in kept] == kept, "with all their fields"
    assert events(target.read_bytes(), "M") == events(source.read_bytes(), "M")


def test_an_arrow_stays_with_its_kernel(tmp_path: Path) -> None:
    mark = {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#2", "ts": 100, "dur": 50, "pid": 1, "tid": 1}
    content: list[dict[str, Any]] = [mark]
    for number, start in ((7, 90), (8, 110)):
        call = {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": start, "dur": 5}
        late = {"ph": "X", "cat": "kernel", "name": f"k{number}", "pid": 0, "tid": 7, "ts": start + 80, "dur": 5}
        arrow = {"ph": "s", "cat": "ac2g", "name": "ac2g", "id": number, "pid": 1, "tid": 1, "ts": start}
        content += [event | {"args": {"correlation": number}} for event in (call, late)]
        content += [arrow, arrow | {"ph": "f", "ts": start + 80, "bp": "e"}]
    path = tmp_path / "a.pt.trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": content}).encode()))
    shown = trim(path)
    assert [event["name"] for event in events(shown)] == ["ProfilerStep#2", "cudaLaunchKernel", "k8"]
    assert [event["id"] for event in (*events(shown, "s"), *events(shown, "f"))] == [8, 8]


def test_a_trace_without_steps_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.pt.trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": [{"ph": "X", "name": "a", "ts": 1, "dur": 1}]}).encode()))
    assert gzip.decompress(trim(path)) == gzip.decompress(path.read_bytes())
