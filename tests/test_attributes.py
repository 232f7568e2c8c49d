"""optuna-dashboard and pandas see of a trial what was measured, and why it has no result."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline_study import Bench
from test_board import outcome, rejected

from tuner.records.codec import Estimate
from tuner.records.machine import Memory
from tuner.records.outcome import Failure, Outcome, Timing
from tuner.study.attributes import MAX_REASON, attributes

TIMING = Timing(
    latency_s=Estimate(value=0.15, low=0.14, high=0.16), samples=9, images_per_s=6.5, stopped="interval within target"
)


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (outcome(), None),
        (rejected(1, "device sync"), "device sync x3 at model.py:7: waits"),
        (rejected(1, "graph break", source=""), "graph break x3: waits"),
        (
            outcome(status="failed", failure=Failure(kind="timeout", stage="warm up", message="still\nin 'warm up'")),
            "timeout in warm up: still in 'warm up'",
        ),
    ],
)
def test_the_reason_is_one_line(ended: Outcome, reason: str | None) -> None:
    assert attributes(ended).get("reason") == reason


def test_a_long_reason_is_cut() -> None:
    failure = Failure(kind="error", stage="load", message="x" * 5000)
    assert len(str(attributes(outcome(status="failed", failure=failure))["reason"])) == MAX_REASON


def test_only_what_was_measured_is_there() -> None:
    assert attributes(outcome()) == {"status": "measured", "purpose": "search"}
    measured = attributes(outcome(timing=TIMING, memory=Memory(peak_bytes=7, reserved_bytes=None)))
    assert measured.items() >= {"latency_s": 0.15, "latency_low_s": 0.14, "peak_memory_bytes": 7}.items()


@pytest.mark.usefixtures("real_database")
def test_pandas_has_a_column_for_each(bench: Bench) -> None:
    pytest.importorskip("pandas")
    import optuna

    with bench.study(trials=6) as study:
        study.run()
        values = study.history.space.candidate({})
        study.store.refuse(study.store.enter(values), values, "compile.mode needs compile.scope")
    database = Path(bench.folder) / "study" / "study.db"
    table = optuna.load_study(study_name="study", storage=f"sqlite:///{database}").trials_dataframe()
    measured = table[table.user_attrs_status == "measured"]
    assert (measured.user_attrs_latency_s > 0).all()
    assert (measured.user_attrs_peak_memory_bytes > 0).all()
    assert list(table[table.user_attrs_status == "refused"].user_attrs_reason) == ["compile.mode needs compile.scope"]
