"""The result of a study while it goes on, after an interrupt at any trial, and at another price."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from inline_study import Bench, Workers

from tuner import files
from tuner.errors import BadInput
from tuner.records.codec import encode_pretty, read
from tuner.records.outcome import Outcome
from tuner.records.protocol import Job, Message
from tuner.records.quality import Panel
from tuner.report.conclusion import interruption
from tuner.result.config import read_config
from tuner.result.prices import Price
from tuner.result.records import BestConfig
from tuner.study import reprice
from tuner.study.store import Store


def result(bench: Bench) -> BestConfig:
    return read_config(bench.folder / "study" / "best_config.json")


@pytest.fixture
def no_examiner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.study.loop.judge_finalists", lambda *_: Panel(finalists={}, unavailable_reasons={}))


# ---- while it goes on -----------------------------------------------------------------------------------------------


def interrupt_at(workers: Workers, job_number: int) -> Callable[[Job], Iterator[Message]]:
    """Workers of which the last is interrupted by Ctrl-C."""
    last = len(workers.jobs) + job_number

    def work(job: Job) -> Iterator[Message]:
        if len(workers.jobs) + 1 == last:
            raise KeyboardInterrupt
        yield from workers(job)

    return work


@pytest.mark.usefixtures("no_examiner")
def test_ctrl_c_at_any_time_leaves_a_result_that_claims_no_more_than_is_confirmed(
    bench: Bench, workers: Workers
) -> None:  # fmt: skip
    gains: list[float] = []
    folder = bench.folder / "study"
    assert "the baseline is not measured yet; `tune resume" in interruption(folder)
    for trials in (8, 8, 8, 8, 20, 20):
        bench.work = interrupt_at(workers, 6)
        with contextlib.suppress(KeyboardInterrupt):
            bench.run(trials=trials)
        best = result(bench)
        assert best.chosen.confirmed and best.speed_up_confirmed
        assert (best.speed_up.low > 1) == (best.chosen.trial != 0)
        gains.append(best.speed_up.value)
        what = (
            f"trial {best.chosen.trial}, {gains[-1]:.2f}x" if best.chosen.trial else "the untouched pipeline: no gain"
        )
        assert f"{folder / 'best_config.json'} has {what}" in interruption(folder)
    assert gains[0] == 1.0 < gains[-1]
    assert gains == sorted(gains), "a confirmed gain stays"


@pytest.mark.usefixtures("no_examiner")
def test_the_choice_is_written_before_the_run_ends(bench: Bench, workers: Workers) -> None:
    seen: list[int] = []

    def look(job: Job) -> Iterator[Message]:
        if bench.outcomes():
            seen.append(result(bench).chosen.trial)
        yield from workers(job)

    bench.work = look
    with bench.study() as found:
        found.measure_baseline()
        chosen = found.choose()
        assert result(bench).chosen.trial == chosen.number != 0
    assert set(seen[:5]) == {0}, "the baseline, until a gain is confirmed"
    assert seen[-1] != 0, "which is before the search ends"


@pytest.mark.usefixtures("no_examiner")
def test_a_resumed_study_keeps_the_finalists_metrics(bench: Bench) -> None:
    bench.run(trials=6)
    reasons = {"fid": "no file"}
    panel = encode_pretty(Panel(finalists={}, unavailable_reasons=reasons))
    (bench.folder / "study" / "panel.json").write_bytes(panel)
    with bench.study(trials=20) as found:
        found.export_so_far()
    assert result(bench).quality_unavailable_reasons == reasons


def test_a_damaged_panel_is_named(bench: Bench) -> None:
    (bench.folder / "study").mkdir()
    (bench.folder / "study" / "panel.json").write_text('{"finalists": {}, "unavailable_reasons": 3}')
    with pytest.raises(BadInput, match=r"panel\.json: .*unavailable_reasons"), bench.study():
        pass


# ---- another price --------------------------------------------------------------------------------------------------


def at(bench: Bench, usd_per_hour: float) -> None:
    """Have the bench's studies cost so much an hour."""
    bench.price = Price(usd_per_hour=usd_per_hour, source="--price")


def told(folder: Path) -> dict[int, float]:
    """The costs in study.db, by trial."""
    query = "SELECT number, value FROM trial_values JOIN trials USING (trial_id) WHERE objective = 0"
    with closing(sqlite3.connect(folder / "study.db")) as database:
        return dict(database.execute(query))


def check_costs(bench: Bench, usd_per_hour: float) -> None:
    folder = bench.folder / "study"
    outcomes = [read(file, Outcome) for file in folder.glob("*/*/outcome.json")]
    for outcome in outcomes:
        assert outcome.timing and outcome.cost_usd_per_1000_images == pytest.approx(
            usd_per_hour / 3.6 / outcome.timing.images_per_s
        )
    assert told(folder) == {o.number: o.cost_usd_per_1000_images for o in bench.outcomes()}
    assert json.loads((folder / "study.json").read_text())["price"]["usd_per_hour"] == usd_per_hour
    assert not (folder / "repricing").exists()


@pytest.mark.usefixtures("no_examiner")
@pytest.mark.usefixtures("real_database")
def test_another_price_rescales_a_finished_study_without_measuring_anything(
    bench: Bench, workers: Workers
) -> None:  # fmt: skip
    before = bench.run(trials=12)
    jobs, count = len(workers.jobs), len(bench.outcomes())
    at(bench, 7.2)
    after = bench.run(trials=12)
    assert (len(workers.jobs), len(bench.outcomes())) == (jobs, count)
    assert after == result(bench)
    assert (after.chosen.trial, after.speed_up, after.price.usd_per_hour) == (before.chosen.trial, before.speed_up, 7.2)
    assert after.quality_time_share == before.quality_time_share
    for old, new in zip((before.baseline, *before.front), (after.baseline, *after.front), strict=True):
        assert new.cost_usd_per_1000_images == pytest.approx(2 * old.cost_usd_per_1000_images)
    check_costs(bench, 7.2)


@pytest.mark.usefixtures("no_examiner")
@pytest.mark.usefixtures("real_database")
def test_a_longer_run_at_another_price_goes_on(bench: Bench, workers: Workers) -> None:
    bench.run(trials=6)
    known, at_first = len(bench.outcomes()), len(workers.jobs)
    at(bench, 0.5)
    bench.run(trials=14)
    assert len(bench.outcomes()) > known and len(workers.jobs) > at_first
    check_costs(bench, 0.5)


@pytest.mark.usefixtures("no_examiner")
@pytest.mark.parametrize("writes", range(0, 12, 2))
@pytest.mark.usefixtures("real_database")
def test_a_crash_while_costs_are_rescaled_is_made_good(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:  # fmt: skip
    bench.run(trials=6)
    left = writes

    def dies(path: Path, data: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        files.atomic_write(path, data)

    at(bench, 7.2)
    with monkeypatch.context() as patch:
        patch.setattr("tuner.study.store.atomic_write", dies)
        patch.setattr(reprice, "atomic_write", dies)
        with pytest.raises(KeyboardInterrupt):
            bench.run(trials=6)
    at(bench, 1.8)
    bench.run(trials=6)
    check_costs(bench, 1.8)


@pytest.mark.usefixtures("no_examiner")
def test_what_is_only_words_keeps_the_study(bench: Bench, workers: Workers) -> None:
    bench.run(trials=6)
    jobs = len(workers.jobs)
    space = bench.folder / "space.yaml"
    space.write_text(space.read_text().replace("name: math, source: here", "name: other, source: a paper"))
    bench.run(trials=6)
    with bench.study() as found:
        request = found.store.request
    renamed = msgspec.structs.replace(request, space=msgspec.structs.replace(request.space, name="renamed"))
    with Store(bench.folder / "study", renamed) as store:
        assert store.outcomes()
    assert len(workers.jobs) == jobs


@pytest.mark.usefixtures("no_examiner")
@pytest.mark.parametrize(
    ("setting", "differs"),
    [
        ("steps=20", r"knobs\.steps is \[28, 20, 14, 10, 6\] there, \[20\] is asked for"),
        ("quality.tolerance=0.5", r"tolerance is 1 there, 0\.5 is asked for"),
        ("workload.height=64", r"workload\.height is 32 there, 64 is asked for"),
        ("workload.seeds=[5, 6]", r"workload\.seeds is \[0, 1\] there, \[5, 6\] is asked for"),
    ],
)
def test_what_trials_depend_on_makes_another_study(bench: Bench, setting: str, differs: str) -> None:
    bench.run(trials=3)
    words = rf"the study here has another search space: space\.{differs}; give its options"
    with pytest.raises(BadInput, match=words), bench.study(setting):
        pass


def test_a_price_is_not_part_of_the_name(bench: Bench) -> None:
    fingerprints: set[Any] = set()
    for usd in (1.0, 2.5):
        at(bench, usd)
        with bench.study() as found:
            fingerprints.add(found.store.request.fingerprint())
    assert len(fingerprints) == 1
