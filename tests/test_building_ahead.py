"""Candidates are built while the untouched pipeline's images are generated; their results wait for these."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from inline_study import SPACE, Bench, Workers

from tuner.errors import StudyFailed
from tuner.execution.executor import Ended, Handle, StoodStill
from tuner.execution.inline import InlineExecutor
from tuner.quality.race import FIRST_PROMPTS
from tuner.records.codec import Estimate
from tuner.records.outcome import Device, Failure, Timing
from tuner.records.protocol import (
    Job,
    Message,
    Point,
    PointDone,
    PointFailed,
    PointTimed,
    ReferenceWanted,
    WorkerFailed,
)
from tuner.records.quality import Quality
from tuner.result.config import read_best
from tuner.search.history import History
from tuner.search.strategy import Proposal
from tuner.study import loop, narration, slots
from tuner.study.attempt import BuildAttempt
from tuner.study.flight import MAX_PASSED_OVER, Flight, in_turn, next_to_judge
from tuner.study.slots import PARTNER

THROTTLED = Failure(kind="throttled", stage="time", message="6 of 6 calls were discarded")
OUT_OF_MEMORY = Failure(kind="out of memory", stage="score", message="CUDA out of memory")


class TakingTurns(InlineExecutor):
    """Takes one message of each running job in turn. The baseline's images take until `is_drawn`."""

    def __init__(self, work: Callable[[Job], Iterable[Message]], slots: int, is_drawn: Callable[[], bool]) -> None:
        super().__init__(work, slots=slots + PARTNER)
        self.is_drawn = is_drawn
        self.is_held: Callable[[Job], bool] = lambda _: False
        self.left: dict[str, deque[Message | Ended]] = {}
        self.judged_at_once = 0

    def wait(self, until: Callable[[], float]) -> Iterator[tuple[Handle, Message | StoodStill | Ended]]:
        while self.running:
            for handle in list(self.running.values()):
                if handle.id not in self.left:
                    self.left[handle.id] = deque([*self.work(handle.job), Ended()])
                if handle.id not in self.running or self.must_wait(handle, self.left[handle.id][0]):
                    continue
                message = self.left[handle.id].popleft()
                if isinstance(message, Ended):
                    self.cancel(handle)
                yield handle, message

    def provide(self, handle: Handle, job: Job) -> None:
        super().provide(handle, job)
        self.judged_at_once = max(self.judged_at_once, len(self.provided.keys() & self.running.keys()))

    def must_wait(self, handle: Handle, message: object) -> bool:
        is_image = isinstance(message, (PointDone, PointFailed))
        if is_image and self.is_held(handle.job):
            return True
        if handle.job.is_baseline:
            return (is_image or isinstance(message, WorkerFailed)) and not self.is_drawn()
        asks = handle.job.awaits_reference and handle.id not in self.provided
        return is_image and asks and isinstance(message, PointDone)


class SlowWorkers(Workers):
    """Their baseline is timed before its images are generated, and candidates wait for these."""

    is_lossless = False
    """Whether fewer steps lose no quality."""

    is_composed = False
    """Whether the baseline's latency is composed from calls of fewer steps, as of a large model."""

    nothing_gains = False
    """Whether every other build, and fewer steps, take longer."""

    def seconds(self, job: Job, point: Point) -> float:
        slower_s = 1.0 + (job.build["attention.backend"] != "native") + 1 / point.steps
        return slower_s if self.nothing_gains else super().seconds(job, point)

    def timing(self, job: Job, point: Point) -> Timing:
        is_predicted = self.is_composed and job.is_baseline
        return super().timing(job, msgspec.structs.replace(point, predict=True) if is_predicted else point)

    def quality(self, job: Job, point: Point) -> Quality:
        return super().quality(job, msgspec.structs.replace(point, steps=28) if self.is_lossless else point)

    def __call__(self, job: Job) -> Iterator[Message]:
        for message in super().__call__(job):
            if isinstance(message, PointDone) and job.is_baseline and message.index == 0:
                yield PointTimed(index=0, timing=message.timing, memory=message.memory)
            if isinstance(message, PointDone) and message.index == 0 and job.awaits_reference:
                yield ReferenceWanted(seconds_per_image=message.timing.latency_s)
            yield message


class LongWorkers(SlowWorkers):
    """Their calls take a quarter of a minute and longer, and are composed from short ones where these are enough."""

    is_composed = True

    def seconds(self, job: Job, point: Point) -> float:
        return 15.0 * super().seconds(job, point)

    def timing(self, job: Job, point: Point) -> Timing:
        return super().timing(job, msgspec.structs.replace(point, predict=not point.whole))


class Ahead(Bench):
    """Studies with three slots whose baseline's images are there once three other jobs have been begun."""

    def __init__(self, folder: Path, workers: SlowWorkers) -> None:
        super().__init__(folder, workers)
        self.workers, self.slots = workers, 3

    def run_ahead(self, drawn_after: int = 3, is_held: Callable[[Job], bool] = lambda _: False) -> TakingTurns:
        with self.study() as study:
            executor = TakingTurns(self.work, self.slots, lambda: len(self.workers.jobs) >= drawn_after)
            executor.is_held = is_held
            study.runner.executor = self.executor = executor
            study.run()
        return executor


def builds(workers: SlowWorkers) -> list[Job]:
    return [job for job in workers.jobs if job.points[0].score]


@pytest.fixture
def workers() -> SlowWorkers:
    return SlowWorkers()


@pytest.fixture
def ahead(tmp_path: Path, workers: SlowWorkers, monkeypatch: pytest.MonkeyPatch) -> Ahead:
    monkeypatch.setattr(slots, "max_slots", lambda _: 3)
    monkeypatch.setattr(slots, "memory_bytes", lambda _: 1 << 40)
    return Ahead(tmp_path, workers)


def test_candidates_begin_before_the_baselines_images_are_there(ahead: Ahead, workers: SlowWorkers) -> None:
    executor = ahead.run_ahead()

    baseline, repetition, candidate, *_ = workers.jobs
    assert baseline.is_baseline and not repetition.points[0].score
    assert candidate.awaits_reference and candidate.reference is None
    provided = [job for job in executor.provided.values() if job.build == candidate.build]
    assert provided[0].reference is not None and provided[0].reference.scores == (30.0, 30.0)
    assert provided[0].workload == candidate.workload
    assert not workers.jobs[-1].awaits_reference and len(ahead.outcomes()) == 12


def test_what_waits_to_be_judged_leaves_its_slot_to_others(
    ahead: Ahead, workers: SlowWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(slots.MAX_WAITING, "cpu", 2)
    ahead.slots = 5
    ahead.run_ahead(drawn_after=5)  # with three slots there are four, and the baseline's images would never be there

    baseline, repetition, *others = workers.jobs[:5]
    assert is_repetition(repetition, baseline)
    assert all(job.awaits_reference for job in others)
    assert ahead.executor.judged_at_once == 1


def test_latencies_are_told_while_the_images_are_still_to_come(ahead: Ahead) -> None:
    def timed() -> list[str]:
        return [text for text in ahead.told.notes if "is timed: " in text]

    ahead.run_ahead(is_held=lambda job: job.is_baseline and len(timed()) < 3)
    baseline, *candidates = timed()
    assert baseline.startswith("trial 0 is timed: ") and baseline.endswith("it generates the images to compare with")
    assert len(candidates) >= 2
    assert all("the baseline's throughput; its images are judged" in each for each in candidates)


def test_what_was_stopped_keeps_its_latency() -> None:
    text = narration.stop_text(9, 60.0, Estimate(value=39.1, low=39.0, high=39.2), is_recorded=False)
    assert text.endswith("; it takes 39.1 s an image, whose quality is not known yet")


def is_repetition(job: Job, of: Job) -> bool:
    is_same = (job.build, job.points[0].steps) == (of.build, of.points[0].steps)
    return is_same and not job.points[0].score


def test_slow_calls_are_not_repeated_while_what_was_built_ahead_waits(ahead: Ahead, workers: SlowWorkers) -> None:
    workers.is_composed = True
    workers.nothing_gains = True
    repeated_meanwhile: list[bool] = []

    def is_held(job: Job) -> bool:
        """The first candidate is being judged for a while after the baseline has ended."""
        if job not in workers.jobs[1:2] or len(repeated_meanwhile) > 50:
            return False
        if ahead.told.outcomes:  # the baseline's
            repeated_meanwhile.append(any(is_repetition(each, workers.jobs[0]) for each in workers.jobs))
        return True

    ahead.run_ahead(is_held=is_held)

    baseline, first, second, *others = workers.jobs
    assert first.awaits_reference and second.awaits_reference
    assert repeated_meanwhile and not any(repeated_meanwhile)
    assert sum(is_repetition(job, baseline) for job in others) == 1


def test_a_gain_found_meanwhile_is_confirmed_in_whole_pairs(ahead: Ahead, workers: SlowWorkers) -> None:
    workers.is_composed = True
    ahead.run_ahead()

    baseline = workers.jobs[0]
    halves = [job for job in workers.jobs if job.standing is not None]
    pairs = {job.standing.pair for job in halves if job.standing is not None}
    assert pairs
    for name in pairs:
        both = [job for job in halves if job.standing is not None and job.standing.pair == name]
        assert [is_repetition(job, baseline) for job in both] == [True, False]


def test_slow_calls_are_repeated_alone_if_nothing_gains(ahead: Ahead, workers: SlowWorkers) -> None:
    workers.is_composed = True
    workers.nothing_gains = True
    ahead.run_ahead()

    repeated = [job for job in workers.jobs[1:] if is_repetition(job, workers.jobs[0])]
    assert [job.standing for job in repeated] == [None]


def test_nothing_is_recorded_before_the_baseline(ahead: Ahead) -> None:
    ahead.run_ahead()

    assert next(outcome.number for outcome in ahead.told.outcomes) == 0
    assert ahead.told.outcomes[0].quality is not None
    assert all(outcome.quality is not None for outcome in ahead.outcomes() if outcome.status == "measured")


def test_a_candidate_that_fails_meanwhile_gives_its_slot_to_another(ahead: Ahead, workers: SlowWorkers) -> None:
    broken = Failure(kind="error", stage="apply", message="no such kernel")

    def work(job: Job) -> Iterator[Message]:
        messages = list(workers(job))
        is_first = job.awaits_reference and job.build["attention.backend"] == "_native_math"
        yield from [WorkerFailed(failure=broken)] if is_first else messages

    ahead.work = work
    ahead.run_ahead(drawn_after=4)  # with three slots the fourth job begins only if one of them ended

    failed = [outcome for outcome in ahead.told.outcomes if outcome.status == "failed"]
    assert ahead.told.outcomes[0].number == 0
    assert failed and all(outcome.failure == broken for outcome in failed)


def test_a_baseline_whose_images_fail_ends_the_study(ahead: Ahead, workers: SlowWorkers) -> None:
    black = Failure(kind="invalid image", stage="score", message="image 0 is black")

    def work(job: Job) -> Iterator[Message]:
        for message in workers(job):
            is_image = job.is_baseline and isinstance(message, PointDone)
            yield PointFailed(index=message.index, failure=black) if is_image else message

    ahead.work = work
    with pytest.raises(StudyFailed, match="image 0 is black"):
        ahead.run_ahead()
    assert not ahead.executor.running


def test_a_baseline_that_runs_out_of_memory_beside_others_is_built_again_alone(
    ahead: Ahead, workers: SlowWorkers
) -> None:
    baselines: list[Job] = []

    def work(job: Job) -> Iterator[Message]:
        messages = list(workers(job))
        if job.is_baseline:
            baselines.append(job)
            if len(baselines) == 1:
                messages = [*messages[:3], WorkerFailed(failure=OUT_OF_MEMORY)]
        yield from messages

    ahead.work = work
    ahead.run_ahead()

    assert len(baselines) == 2
    assert ahead.told.outcomes[0].number == 0 and ahead.outcomes()[0].status == "measured"
    assert any("alone" in note for note in ahead.told.notes)


def test_what_is_expected_is_told_once(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = loop.make_advice
    monkeypatch.setattr(loop, "make_advice", lambda *each: made.append(1) or make(*each))

    ahead.run_ahead()

    assert len(made) == 1 and (ahead.folder / "study" / "advice.json").exists()


def test_a_resumed_study_whose_baseline_is_known_settles_what_is_in_doubt_before_it_builds(
    ahead: Ahead, workers: SlowWorkers
) -> None:
    workers.is_composed = True
    ahead.run_ahead()
    before = len(workers.jobs)
    with ahead.study(trials=20) as study:
        asked: list[int] = []
        propose = study.open_doubt.propose
        study.open_doubt.propose = lambda *each: asked.append(len(workers.jobs)) or propose(*each)  # type: ignore[method-assign]
        study.run()
    assert asked and asked[0] == before
    assert len(workers.jobs) > before


def known_of(history: History) -> tuple[bool, int]:
    return history.advice is not None, len(history.repetitions)


def test_what_a_resumed_study_builds_beside_the_baselines_repetition_is_chosen_with_advice(
    ahead: Ahead, workers: SlowWorkers
) -> None:
    workers.is_composed = workers.nothing_gains = True
    known: list[tuple[bool, int]] = []

    def interrupted(job: Job) -> Iterator[Message]:
        if workers.jobs and is_repetition(job, workers.jobs[0]):
            raise KeyboardInterrupt
        yield from workers(job)

    ahead.work = interrupted
    with pytest.raises(KeyboardInterrupt):
        ahead.run_ahead()
    ahead.work = workers
    with ahead.study(trials=20) as study:
        assert not study.history.repetitions
        propose = study.search.propose
        study.search.propose = lambda *each: known.append(known_of(study.history)) or propose(*each)  # type: ignore[method-assign]
        study.run()
    assert all(has_advice for has_advice, _ in known)
    assert (True, 0) in known, "one was proposed while the baseline was repeated"


def test_the_quickest_is_judged_first_and_what_is_slower_need_not_be(ahead: Ahead, workers: SlowWorkers) -> None:
    workers.is_lossless = workers.is_composed = True
    ahead.strategy = "tpe"  # begins with the recipe
    executor = ahead.run_ahead()

    first, second = list(executor.provided.values())[:2]
    assert first.points[0].worth_s == pytest.approx(3.3, rel=0.01)  # a call of the baseline
    assert first.build["attention.backend"] == "_native_math"
    assert second.points[0].worth_s == pytest.approx(0.5 + 0.1 * 6, rel=0.01)  # of the baseline, at six steps


def test_slow_candidates_are_judged_one_after_the_other_to_the_end(ahead: Ahead, workers: SlowWorkers) -> None:
    workers.is_composed = True
    executor = ahead.run_ahead()

    _, *others = builds(workers)
    assert all(job.awaits_reference for job in others)
    assert len(executor.provided) > 2 and executor.judged_at_once == 1


@pytest.mark.parametrize("gains", [True, False])
def test_long_calls_are_made_whole_only_in_pairs(ahead: Ahead, gains: bool) -> None:
    """The baseline by itself is composed: a study that ends with it has no process with whole calls."""
    ahead.workers = ahead.work = workers = LongWorkers()
    workers.nothing_gains = not gains
    with ahead.study(budget_s=7200.0) as study:
        study.runner.executor = TakingTurns(ahead.work, ahead.slots, lambda: len(workers.jobs) >= 3)
        best = study.run()
    repeated = [job.points[0].whole for job in workers.jobs if not job.points[0].score]
    assert repeated == ([True, True] if gains else [False])
    assert best.baseline.processes == (1 if gains else 0)
    assert (best.baseline.predicted_from is None) == gains
    assert best.timing_noise.processes > 1
    assert best.chosen.confirmed and (best.chosen.trial != 0) == gains
    assert read_best(ahead.folder / "study" / "best_config.json") == best


class AnAttempt(BuildAttempt):
    """An attempt that needs no images if one of its own takes longer than `worth_s`."""

    number = 3
    can_be_stopped = True
    history: Any = SimpleNamespace(space=SimpleNamespace(changed=dict))

    def __init__(self, worth_s: float = 100.0) -> None:
        self.worth_s = worth_s

    def is_too_slow(self, seconds_per_image: Estimate) -> bool:
        return seconds_per_image.low > self.worth_s


def flight_of(attempt: BuildAttempt, device: Device, waits_s: float | None, **more: Any) -> Flight:
    handle: Any = SimpleNamespace(id=str(waits_s), device=device)
    running: Any = None
    waits = {} if waits_s is None else {"seconds_per_image": exactly(waits_s), "wants_reference": True}
    return Flight(Proposal({}, "search"), attempt, handle, running, is_alone=False, **waits, **more)


def exactly(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def test_each_device_judges_the_quickest_or_who_was_passed_over_twice_but_none_that_has_ended() -> None:
    attempt = AnAttempt()
    one, other = Device(name="cuda"), Device(name="cuda", index=1)
    slow, quick, ended, there = (
        flight_of(attempt, one, 3.0),
        flight_of(attempt, one, 1.0),
        flight_of(attempt, one, 0.5, has_ended=True),
        flight_of(attempt, other, 2.0),
    )
    flights = [slow, quick, ended, there]
    assert [flight for flight, *_ in next_to_judge(flights)] == [quick, there]
    slow.passed_over = MAX_PASSED_OVER
    assert [flight for flight, *_ in next_to_judge(flights)] == [slow, there]
    judged = flight_of(attempt, one, None, is_judging=True)
    assert [flight for flight, *_ in next_to_judge([*flights, judged])] == [there]
    judged.has_ended = True
    assert [flight for flight, *_ in next_to_judge([*flights, judged])] == [slow, there]


def test_of_those_that_may_be_as_quick_the_simplest_is_judged_first() -> None:
    attempt, device = AnAttempt(), Device(name="cuda")

    def timed(value: float, settings: int) -> Flight:
        flight = flight_of(attempt, device, value)
        flight.seconds_per_image = Estimate(value=value, low=value - 0.5, high=value + 0.5)
        flight.proposal = Proposal(dict.fromkeys(map(str, range(settings)), True), "search")
        return flight

    many, few, slow = timed(38.53, 5), timed(38.58, 3), timed(40.6, 1)
    assert in_turn([slow, many, few]) == [few, many, slow]
    slow.passed_over = MAX_PASSED_OVER
    assert in_turn([slow, many, few]) == [slow, few, many]


def test_what_needs_no_images_goes_on_at_once_and_is_not_stopped_before_its_result() -> None:
    attempt, device = AnAttempt(worth_s=1.5), Device(name="cuda")
    slower, slow, quick = (flight_of(attempt, device, seconds) for seconds in (4.0, 2.0, 1.0))
    flights = [slower, slow, quick]
    chosen = next_to_judge(flights)
    assert [(flight, needless) for flight, _, needless in chosen] == [(slow, True), (slower, True), (quick, False)]
    for flight, _, is_too_slow in chosen:
        flight.begin_to_judge(flights, is_too_slow=is_too_slow)
    assert [flight.can_be_stopped for flight in flights] == [False, False, True]
    assert quick.passed_over == 0, "they take no time from it"
    slow.is_recorded = True
    assert slow.can_be_stopped, "the rest of it may take images"


def test_a_first_look_must_fit_before_builds_are_stopped() -> None:
    flight = flight_of(AnAttempt(), Device(name="cuda"), 10.0)
    now = time.monotonic()
    assert flight.can_be_judged_by(now + 10.0 * FIRST_PROMPTS + 5.0)
    assert not flight.can_be_judged_by(now + 10.0 * FIRST_PROMPTS - 5.0)


def test_what_cannot_be_judged_in_time_is_stopped_before_its_images(
    ahead: Ahead, workers: SlowWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one was stopped too little time seems to be left for any."""
    workers.is_composed = True
    judged: list[bool] = []

    def stopped() -> list[str]:
        return [note for note in ahead.told.notes if " was stopped" in note]

    def fits(flight: Flight, ends_at: float) -> bool:
        judged.append(bool(stopped()))
        return bool(stopped())

    monkeypatch.setattr(Flight, "can_be_judged_by", fits)
    ahead.run_ahead()
    (text,) = stopped()
    assert text.startswith("trial 1 was stopped: ") and text.endswith("an image, whose quality is not known yet")
    assert not judged[0] and all(judged[1:])
    assert len(ahead.outcomes()) == 12, "the others were judged"


def test_what_was_timed_is_recorded_when_the_time_for_the_confirmation_comes(
    ahead: Ahead, workers: SlowWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time comes as soon as one is as good as the baseline: slow pairs take all that is left."""
    workers.is_lossless = workers.is_composed = True

    def timed() -> set[int]:
        return {int(note.split()[1]) for note in ahead.told.notes if " is timed: " in note}

    with ahead.study() as study:
        runner, history, stopped = study.runner, study.history, list[bool]()
        take, ends_at = runner.take, runner.builds_end_at

        def take_and_stop_once(handle: Any, message: Any) -> None:
            take(handle, message)
            if not stopped and 0 in history.outcomes and study.confirmation.shortlist(history)[0].number:
                stopped.append(True)
                runner.builds_end_at = lambda: 0.0
                runner.stop_late()
                runner.builds_end_at = ends_at

        runner.executor = TakingTurns(ahead.work, ahead.slots, lambda: len(timed()) > 2)
        monkeypatch.setattr(runner, "take", take_and_stop_once)
        study.run()
    assert stopped
    assert timed() <= {outcome.number for outcome in ahead.told.outcomes}


def test_the_search_goes_on_beside_what_was_begun_ahead(ahead: Ahead, workers: SlowWorkers) -> None:
    with ahead.study(trials=20) as study:
        executor = TakingTurns(ahead.work, ahead.slots, lambda: len(workers.jobs) >= 4)
        executor.is_held = lambda job: workers.jobs.index(job) == 2 and len(builds(workers)) < 4
        study.runner.executor = executor
        study.run()

    _, slow, _, other, *_ = builds(workers)
    assert slow.awaits_reference and not other.awaits_reference
    assert ahead.told.outcomes[-1].status == "measured"


@pytest.mark.parametrize("failure", [OUT_OF_MEMORY, THROTTLED], ids=lambda failure: failure.kind)
def test_a_repetition_that_fails_beside_candidates_is_made_again(
    ahead: Ahead, workers: SlowWorkers, failure: Failure
) -> None:
    failed: list[Job] = []

    def work(job: Job) -> Iterator[Message]:
        messages = list(workers(job))
        if "repetitions" in job.points[0].folder and not failed:
            failed.append(job)
            messages = [*messages[:1], PointFailed(index=0, failure=failure)]
        yield from messages

    ahead.work = work
    ahead.run_ahead(drawn_after=4)

    assert failed and ahead.told.outcomes[0].number == 0
    assert len(ahead.outcomes()) == 12


def test_a_candidate_with_the_baselines_image_key_is_compared_with_its_images(
    ahead: Ahead, workers: SlowWorkers
) -> None:
    (ahead.folder / "space.yaml").write_text(SPACE.replace(", steps: 14", ""))
    ahead.strategy = "tpe"  # begins with the recipe
    executor = ahead.run_ahead()

    first = next(iter(executor.provided.values()))
    assert first.points[0].spot_check is not None
    assert first.points[0].spot_check.images.endswith("trials/0000/images")
    assert not first.awaits_reference


def test_a_result_that_is_held_counts_as_not_tried_if_the_baseline_fails_to_come(
    ahead: Ahead, workers: SlowWorkers
) -> None:
    broken = Failure(kind="error", stage="apply", message="no such kernel")
    with ahead.study() as study:
        executor = TakingTurns(ahead.work, ahead.slots, lambda: False)
        study.runner.executor = executor

        def work(job: Job) -> Iterator[Message]:
            if len(workers.jobs) == 3:
                raise KeyboardInterrupt
            messages = list(workers(job))
            yield from [WorkerFailed(failure=broken)] if job.awaits_reference else messages

        executor.work = work
        with pytest.raises(KeyboardInterrupt):
            study.run()
        states = [trial.state.name for trial in study.store.study.get_trials()]
        assert states and set(states) == {"FAIL"}
    assert ahead.outcomes() == []
