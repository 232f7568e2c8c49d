"""What other studies know: where the model starts, what it is told from, and that measurements decide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from inline_study import DEVICE, Bench, Workers
from search_bench.contenders import agent
from search_bench.replay import Replay
from search_bench.stepping import build_one
from search_bench.table import Table, flux

from tuner.errors import BadInput
from tuner.records.codec import Values, encode_pretty
from tuner.records.outcome import Device
from tuner.records.warm_start import FILE, Effect, WarmStart
from tuner.search.agent.costs import Costs
from tuner.search.agent.features import Columns
from tuner.search.agent.learnt import learnt
from tuner.search.agent.observed import Observer
from tuner.study import warm_start
from tuner.study.course import keep_strategy
from tuner.study.store import Store
from tuner.study.warm_start import NONE, from_study, keep_warm_start, read_warm_start, warm_start_notes


def searched(table: Table, seed: int, builds: int, warm: WarmStart | None = None) -> Replay:
    """Let the agent search without advice, one build at a time."""
    replay = Replay(table, seed, area=1.0, slots=1)
    replay.history.warm_start = warm
    searching = agent(replay, ())
    for _ in range(builds):
        build_one(replay, searching)
    return replay


def taught(table: Table) -> WarmStart:
    replay = searched(table, seed=7, builds=20)
    effects, front = learnt(replay.history, flux().space)
    trials = len(replay.history.outcomes)
    return WarmStart(
        study="earlier", device_name="NVIDIA H200", is_same_device=True, trials=trials, effects=effects, front=front
    )


def test_a_search_that_starts_from_another_study_is_further_after_the_same_time() -> None:
    warm = searched(flux(), seed=1, builds=4, warm=taught(flux()))
    cold = searched(flux(), seed=1, builds=4)
    after_s = min(warm.clock_s, cold.clock_s)
    assert warm.course.share_after(after_s) > 1.05 * cold.course.share_after(after_s)


def test_what_was_measured_counts_more_than_what_another_study_taught() -> None:
    """The other study's effects are off by up to a factor of two, and hold for pairs, too: some of that is left."""
    replay = searched(flux(), seed=1, builds=12, warm=taught(flux().shuffled(3)))
    columns = Columns(flux().space)
    trials = Observer(columns).trials(replay.history)
    costs = Costs(replay.history, trials, columns, 1.0)
    measured = [trial for trial in trials if trial.is_measured]
    rows = np.array([trial.row for trial in measured])
    steps = np.array([float(trial.outcome.values["steps"]) for trial in measured])
    predicted, _ = costs.predict(rows, steps, np.zeros((1, 1200)))
    assert np.abs(np.log(predicted[:, 0] / [trial.latency_s for trial in measured])).max() < 0.02


@pytest.fixture
def earlier(bench: Bench) -> Path:
    bench.run(trials=12)
    return bench.folder / "study"


@contextmanager
def another(bench: Bench, pipeline_class: str = "FluxPipeline") -> Iterator[Store]:
    """Open a new study beside the earlier one, searched by the agent."""
    with bench.study() as study:
        request = study.store.request
    model = msgspec.structs.replace(request.model, pipeline_class=pipeline_class, source="/other")
    with Store(bench.folder / "other", msgspec.structs.replace(request, model=model)) as store:
        keep_strategy(store, "agent", "agent")
        yield store


@pytest.mark.parametrize("wanted", [None, "auto", "study"])
def test_a_study_starts_from_one_of_its_class_and_says_so(bench: Bench, earlier: Path, wanted: str | None) -> None:
    with another(bench) as store:
        keep_warm_start(store, wanted, bench.folder)
        warm = read_warm_start(store)
    assert warm is not None
    assert (warm.study, warm.is_same_device) == (str(earlier), True)
    assert {"step", "fixed", "first_call"} <= {effect.part for effect in warm.effects}
    (note,) = warm_start_notes(warm)
    assert note.startswith(f"the model starts from {warm.trials} trials of {earlier} on the same device; measurements")


def test_a_study_that_was_begun_keeps_its_start_unless_told_otherwise(bench: Bench, earlier: Path) -> None:
    with another(bench) as store:
        for wanted, starts_warm in ((NONE, False), ("study", True), (None, True), (NONE, False)):
            keep_warm_start(store, wanted, bench.folder)
            assert (read_warm_start(store) is not None) == starts_warm


def test_a_study_that_is_killed_early_still_starts_without_another(bench: Bench, earlier: Path) -> None:
    for wanted in (NONE, None):
        with another(bench) as store:
            keep_warm_start(store, wanted, bench.folder)
            assert read_warm_start(store) is None


def test_a_study_of_another_class_teaches_nothing(bench: Bench, earlier: Path) -> None:
    with another(bench, "SanaPipeline") as store:
        keep_warm_start(store, None, bench.folder)
        assert read_warm_start(store) is None
        with pytest.raises(BadInput, match="study of FluxPipeline, not of SanaPipeline"):
            keep_warm_start(store, "study", bench.folder)


def test_a_study_that_is_not_there_is_named_with_its_option(bench: Bench) -> None:
    with another(bench) as store, pytest.raises(BadInput, match="--warm-start nosuch: no such study"):
        keep_warm_start(store, "nosuch", bench.folder)


def test_a_damaged_study_teaches_nothing(bench: Bench, earlier: Path) -> None:
    with another(bench) as store:
        (earlier / "trials" / "0003" / "outcome.json").write_text("{}")
        keep_warm_start(store, None, bench.folder)
        assert read_warm_start(store) is None
        with pytest.raises(BadInput, match=r"outcome\.json"):
            keep_warm_start(store, str(earlier), bench.folder)


@pytest.mark.parametrize(
    ("damaged", "field"),
    [
        ({"effects": ({},)}, r"effects\[0\]"),
        ({"effects": (dict.fromkeys(("steps", "batch", "cache.kind"), 1),)}, r"effects\[0\]"),
        ({"front": ({"steps": 28},)}, r"front\[0\]"),
    ],
    ids=["no setting", "three settings", "half a candidate"],
)
def test_a_damaged_start_is_refused(bench: Bench, damaged: dict[str, tuple[Values, ...]], field: str) -> None:
    effects = tuple(Effect(part="step", settings=each, mean=0.0, error=0.0) for each in damaged.get("effects", ()))
    warm = WarmStart(
        study="/s", device_name="cpu", is_same_device=True, trials=8, effects=effects, front=damaged.get("front", ())
    )
    with another(bench) as store:
        (store.folder / FILE).write_bytes(encode_pretty(warm))
        with pytest.raises(BadInput, match=rf"{FILE}: {field}"):
            read_warm_start(store)


def test_what_is_learnt_of_a_slower_device_is_scaled(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.devices = (DEVICE, slower := Device(name="cpu", index=1))
    seconds = workers.seconds
    monkeypatch.setattr(
        workers, "seconds", lambda job, point: seconds(job, point) * (3.0 if bench.device_of(job) == slower else 1.0)
    )
    bench.run(trials=8)
    scales: list[float] = []
    monkeypatch.setattr(warm_start, "learnt", lambda history, space: scales.append(history.scale(slower)) or ((), ()))
    with another(bench) as store:
        from_study(store, bench.folder / "study")
    assert scales == [pytest.approx(1 / 3)]
