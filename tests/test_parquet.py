"""`tune show --format parquet`: a row for each trial, in columns of one type."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tuner import cli
from tuner.report import parquet
from tuner.report.study_report import read_report


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2], [1, None, 2]),
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([True, "full", None, 0.1], ["true", "full", None, "0.1"]),
        ([True, 1], ["true", "1"]),
        ([None, None], [None, None]),
    ],
)
def test_a_column_has_one_type(values: list[object], expected: list[object]) -> None:
    assert parquet.typed_columns([{"a": value} for value in values]) == {"a": expected}


def test_a_knob_that_is_not_always_active_is_none() -> None:
    assert parquet.typed_columns([{"a": 1}, {"b": "x"}]) == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize("engine", ["pyarrow", "fastparquet"])
def test_it_is_read_back(study_copy: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip(engine)
    monkeypatch.setattr(parquet, "_has", lambda name: name in (engine, "pandas"))
    report = read_report(study_copy)
    outcomes = report.outcomes
    frame = pandas.read_parquet(io.BytesIO(parquet.parquet(report)), engine=engine)
    assert list(frame["trial"]) == [outcome.number for outcome in outcomes]
    latencies = [outcome.timing.latency_s.value for outcome in outcomes if outcome.timing]
    assert list(frame[frame["is_chosen"]]["trial"]) == [report.best.chosen.trial]
    assert list(frame["latency_s"].dropna()) == latencies


def test_without_a_library_it_says_what_to_install(
    study_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parquet, "_has", lambda name: False)
    assert cli.main(["show", str(study_copy), "--format", "parquet"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1) and "pip install pyarrow" in error
