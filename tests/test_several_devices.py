"""Whole studies on several devices, whose workers are made up: comparisons, pairs, and devices that are taken out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from inline_study import Bench, Workers

from tuner.errors import StudyFailed
from tuner.hardware.gpus import Trouble
from tuner.records.codec import read
from tuner.records.outcome import Device, Failure, Outcome
from tuner.records.protocol import Job, Message, Point, PointFailed, WorkerFailed
from tuner.search.gain import timing_noise
from tuner.search.history import BASELINE
from tuner.space.candidates import build_key, candidate_key
from tuner.study import devices, slots

DEVICES = tuple(Device(name="cpu", index=index) for index in range(3))
SLOWER = {DEVICES[0]: 1.0, DEVICES[1]: 1.3, DEVICES[2]: 0.9}
"""How long calls take on each device: far more apart than any gain of this space."""

LOST = Trouble("it is gone", is_lost=True)


class OnDevices:
    """Made-up workers whose calls take longer on some devices; `fails` says when one comes to harm."""

    def __init__(self, bench: Bench, workers: Workers) -> None:
        self.bench = bench
        self.workers = workers
        self.seconds = workers.seconds
        self.ran: list[tuple[Device, Job]] = []
        self.harm: Callable[[Device, Job], Failure | None] = lambda *_: None

    def seconds_there(self, job: Job, point: Point) -> float:
        return SLOWER[self.bench.device_of(job)] * self.seconds(job, point)

    def __call__(self, job: Job) -> Iterator[Message]:
        device = self.bench.device_of(job)
        self.ran.append((device, job))
        failure = self.harm(device, job)
        if failure is None:
            yield from self.workers(job)
        elif failure.kind == "throttled":
            yield from (PointFailed(index=point.index, failure=failure) for point in job.points)
        else:
            yield WorkerFailed(failure=failure)

    def on(self, device: Device) -> list[Job]:
        return [job for of, job in self.ran if of == device]


@pytest.fixture
def work(bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> OnDevices:
    monkeypatch.setattr(slots, "max_slots", lambda _: 2)
    bench.slots, bench.devices = 3, DEVICES
    bench.work = work = OnDevices(bench, workers)
    monkeypatch.setattr(workers, "seconds", work.seconds_there)
    return work


def repetitions(bench: Bench) -> list[Outcome]:
    return [read(file, Outcome) for file in sorted((bench.folder / "study").glob("repetitions/*/outcome.json"))]


def built_once(bench: Bench) -> bool:
    return max(Counter(candidate_key(outcome.values) for outcome in bench.outcomes()).values()) == 1


def crash(device: Device, *, when: Callable[[Job], bool], bench: Bench) -> Callable[[Device, Job], Failure | None]:
    """The device is lost with the first such job on it."""

    def harm(of: Device, job: Job) -> Failure | None:
        if of != device or (bench.check(device) is None and not when(job)):
            return None
        bench.check = lambda each: LOST if each == device else None
        return Failure(kind="crash", stage="time", message="the worker was killed by SIGKILL")

    return harm


def test_comparisons_are_made_within_a_device(bench: Bench, work: OnDevices) -> None:
    with bench.study(trials=20) as found:
        best = found.run()
        history = found.history
        noise = timing_noise(history)
        for outcome in history.outcomes.values():
            settled = history.settled(outcome)
            assert settled.timing is not None and outcome.timing is not None and outcome.device is not None
            as_on_the_first = outcome.timing.latency_s.value / SLOWER[outcome.device]
            assert settled.timing.latency_s.value == pytest.approx(as_on_the_first, rel=0.01)
    outcomes = bench.outcomes()
    assert {outcome.device for outcome in outcomes} == set(DEVICES), "all have work"
    assert built_once(bench)
    assert sum("a call of the untouched pipeline takes +" in note for note in bench.told.notes) == 1
    assert sum("a call of the untouched pipeline takes -" in note for note in bench.told.notes) == 1
    assert noise is not None and noise.coefficient_of_variation < 1e-9, "devices differ, processes on one do not"
    for device in DEVICES:
        assert sum(run.number == BASELINE and run.device == device for run in repetitions(bench)) >= 1 + (
            device != outcomes[BASELINE].device
        )
    pairs: dict[object, set[Device | None]] = {}
    for run in repetitions(bench):
        if run.pair is not None:
            pairs.setdefault(run.pair, set()).add(run.device)
    assert pairs and all(len(devices) == 1 for devices in pairs.values())
    assert best.speed_up.value == pytest.approx(best.baseline.latency_s.value / best.chosen.latency_s.value, rel=0.01)


def test_no_result_counts_before_the_baseline_of_its_device(bench: Bench, work: OnDevices) -> None:
    with bench.study(trials=16) as found:
        publish, known = found.publisher.store.acknowledge, []

        def acknowledge(outcome: Outcome) -> None:
            known.append(outcome.number == BASELINE or bool(found.history.baseline_on(outcome.device)))
            publish(outcome)

        found.publisher.store.acknowledge = acknowledge  # type: ignore[method-assign]
        found.run()
    assert len(known) == 16 and all(known)


IS_BASELINE, IS_CANDIDATE = (lambda job: job.is_baseline), (lambda job: job.points[0].score and not job.is_baseline)


@pytest.mark.parametrize(
    ("device", "when"),
    [
        (DEVICES[0], IS_BASELINE), (DEVICES[1], lambda job: not job.points[0].score), (DEVICES[1], IS_CANDIDATE),
        (DEVICES[0], lambda job: job.standing is not None),
    ],
    ids=["building the baseline", "timing the baseline", "building a candidate", "in a pair"],
)  # fmt: skip
def test_what_ran_on_a_lost_device_is_tried_elsewhere(
    bench: Bench, work: OnDevices, device: Device, when: Callable[[Job], bool]
) -> None:
    bench.check = lambda _: None
    work.harm = crash(device, when=when, bench=bench)
    with bench.study(trials=20) as found:
        found.runner.devices.check = lambda each: bench.check(each)
        best = found.run()
    outcomes = bench.outcomes()
    assert [note for note in bench.told.notes if "taken out" in note] == [
        f"cpu {device.index} is taken out: it is gone; what ran there is tried elsewhere"
    ]
    assert len(outcomes) == 20 and built_once(bench)
    assert {outcome.status for outcome in [*outcomes, *repetitions(bench)]} == {"measured"}
    assert best.speed_up.low > 1.0
    if when is IS_BASELINE:
        assert (outcomes[0].number, outcomes[0].purpose) == (BASELINE, "baseline")
        assert outcomes[0].device != device


def test_a_candidate_that_costs_two_devices_has_failed(bench: Bench, work: OnDevices) -> None:
    culprits: set[str] = set()
    gone: set[Device] = set()

    def harm(device: Device, job: Job) -> Failure | None:
        if job.build.get("attention.backend") == "native" or culprits - {build_key(job.build)}:
            return None
        culprits.add(build_key(job.build))
        gone.add(device)
        return Failure(kind="crash", stage="warm up", message="an illegal memory access")

    work.harm = harm
    bench.check = lambda each: LOST if each in gone else None
    with bench.study(trials=8) as found:
        found.run()
    assert len(gone) == 2, "the third is kept"
    failed = [outcome for outcome in bench.outcomes() if outcome.failure is not None]
    assert {outcome.build_key for outcome in failed} == culprits
    assert sum("is taken out" in note for note in bench.told.notes) == 2


def test_a_device_whose_trouble_has_passed_is_used_again(
    bench: Bench, work: OnDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "CHECK_S", 0.0)
    monkeypatch.setattr(devices, "AGAIN_S", 0.0)
    begun: list[int] = []

    def check(device: Device) -> Trouble | None:
        if device != DEVICES[2] or len(bench.told.outcomes) <= 6 or begun:
            return None
        begun.append(len(work.ran))
        return Trouble("others use it", is_lost=False)

    bench.check = check
    bench.run(trials=16)
    notes = bench.told.notes
    assert sum("cpu 2 is taken out: others use it" in note for note in notes) == 1
    assert notes.count("cpu 2 is used again") == 1
    assert DEVICES[2] in {device for device, _ in work.ran[begun[0] :]}
    assert len(bench.outcomes()) == 16 and built_once(bench)


def test_a_busy_device_is_left_alone_from_then_on(bench: Bench, work: OnDevices) -> None:
    bench.check = lambda each: Trouble("others use it", is_lost=False) if each == DEVICES[2] else None
    bench.run(trials=12)
    assert work.on(DEVICES[2]) == []
    assert len(bench.outcomes()) == 12
    assert any("cpu 2 is taken out: others use it" in note for note in bench.told.notes)


def test_a_throttled_device_is_taken_out_but_for_the_last(bench: Bench, work: OnDevices) -> None:
    throttled = Failure(kind="throttled", stage="time", message="6 of 6 calls were discarded")
    work.harm = lambda device, job: throttled if device != DEVICES[1] else None
    bench.run(trials=12)
    outcomes = bench.outcomes()
    assert {outcome.device for outcome in outcomes} == {DEVICES[1]}
    assert {outcome.status for outcome in outcomes} == {"measured"}
    assert sum("held back" in note for note in bench.told.notes) == 2


def test_devices_that_are_all_throttled_end_a_study_without_a_baseline(bench: Bench, work: OnDevices) -> None:
    work.harm = lambda *_: Failure(kind="throttled", stage="time", message="6 of 6 calls were discarded")
    with pytest.raises(StudyFailed, match="held back"):
        bench.run(trials=12)
    assert len({device for device, _ in work.ran}) == len(DEVICES), "each was tried"


def test_a_single_device_is_used_even_if_the_baseline_cannot_be_timed_there_again(
    bench: Bench, work: OnDevices
) -> None:
    bench.devices = DEVICES[:1]
    bench.run(trials=6)
    bench.devices = DEVICES[1:2]
    broken = Failure(kind="error", stage="time", message="planted")
    work.harm = lambda _, job: None if job.points[0].score else broken
    bench.run(trials=10)
    assert len(bench.outcomes()) == 10


def test_a_study_stops_when_no_device_is_left_and_goes_on_with_those_there_are_then(
    bench: Bench, work: OnDevices
) -> None:
    def harm(device: Device, job: Job) -> Failure | None:
        return Failure(kind="crash", stage="load", message="no device") if len(bench.told.outcomes) > 12 else None

    bench.check = lambda each: LOST if len(bench.told.outcomes) > 12 else None
    work.harm = harm
    with pytest.raises(StudyFailed, match="no other is left"):
        bench.run(trials=20)
    before = {outcome.number: outcome for outcome in bench.outcomes()}
    assert before
    work.harm, bench.check, bench.devices = (lambda *_: None), (lambda _: None), DEVICES[1:2]
    with bench.study(trials=len(before) + 4) as found:
        found.run()
        assert found.history.baseline_on(DEVICES[1])
    after = {outcome.number: outcome for outcome in bench.outcomes()}
    assert before.items() <= after.items() and len(after) == len(before) + 4
    assert {after[number].device for number in after.keys() - before.keys()} == {DEVICES[1]}


def test_the_baselines_other_step_counts_may_be_throttled(bench: Bench, work: OnDevices) -> None:
    bench.devices = DEVICES[:1]
    work.workers.throttled = lambda job, point: job.is_baseline and point.steps == 20
    bench.run(trials=12)
    outcomes = bench.outcomes()
    assert outcomes[BASELINE].status == "measured"
    assert [outcome.values["steps"] for outcome in outcomes if outcome.failure] == [20]
    same = [each for each in outcomes if each.values == {**outcomes[BASELINE].values, "steps": 20}]
    assert [(each.purpose, each.status) for each in same] == [("baseline", "failed"), ("search", "measured")]
    assert sum(job.is_baseline for _, job in work.ran) == 1


def test_a_device_that_is_lost_and_comes_back_is_waited_for_where_no_other_is_left(
    bench: Bench, work: OnDevices
) -> None:
    """As an actor that Ray starts again."""
    bench.slots, bench.devices, lost = 1, DEVICES[:1], [0]
    gone = Trouble("its actor died", is_lost=True, again_s=0.1)

    def harm(device: Device, job: Job) -> Failure | None:
        if job.is_baseline or len(work.ran) % 7:
            return None
        lost.append(2)
        return Failure(kind="crash", stage="start", message="gone")

    def check(device: Device) -> Trouble | None:
        lost[-1] -= 1
        return gone if lost[-1] >= 0 else None

    work.harm, bench.check = harm, check
    bench.run(trials=12)
    assert len(bench.outcomes()) == 12 and len(lost) > 2
    assert {outcome.status for outcome in bench.outcomes()} == {"measured"}
    taken_out = [note for note in bench.told.notes if "its actor died; cpu 0 is used again" in note]
    assert len(taken_out) == len(lost) - 1
