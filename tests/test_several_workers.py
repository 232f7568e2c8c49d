"""The loop with several attempts in flight, whose workers are made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from inline_study import DEVICE, Bench, Workers

from tuner.execution.executor import Ended, StoodStill
from tuner.execution.process import WorkerProcess
from tuner.hardware import environment
from tuner.records.machine import Memory
from tuner.records.outcome import Failure, Outcome
from tuner.records.protocol import Job, Message, NoiseFound, PointFailed, StageStarted, WorkerFailed
from tuner.records.quality import NoiseFloor
from tuner.report.renderers import RENDERERS
from tuner.report.study_report import read_report
from tuner.search.bounds import slow_compile_reason
from tuner.search.strategy import Proposal
from tuner.space.candidates import candidate_key
from tuner.study import slots
from tuner.study.attempt import BuildAttempt
from tuner.study.course import building
from tuner.study.events import BudgetChosen, TrialEnded
from tuner.study.flight import Flight
from tuner.study.loop import Study

CPU = msgspec.structs.replace(environment.detect("cpu"), cpu_count=8)


@pytest.fixture
def several(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Studies with two workers at a time."""
    monkeypatch.setattr(slots, "max_slots", lambda _: 2)
    bench.slots = 2
    return bench


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What ran at each submission, that one included."""
    seen: list[list[str]] = []
    make = BuildAttempt.job

    def job(attempt: BuildAttempt, budget: Any) -> Job:
        running = [str(running.number) for running in attempt.history.running]
        seen.append([*running, str(attempt.number)])
        return make(attempt, budget)

    monkeypatch.setattr(BuildAttempt, "job", job)
    return seen


@pytest.mark.parametrize("trials", [7, 18])
def test_nothing_is_proposed_twice_and_no_limit_is_passed(
    several: Bench, workers: Workers, in_flight: list[list[str]], trials: int
) -> None:
    several.strategy = "tpe"  # the agent asks for single step counts, and so for a build more than once
    best = several.run(trials=trials)
    built = Counter(candidate_key(outcome.values) for outcome in several.outcomes())
    assert max(built.values()) == 1
    builds = Counter(str(sorted(job.build.items())) for job in workers.jobs if job.points[0].score)
    assert max(builds.values()) <= 2, "a build whose sweep was cut short by the limit may come twice"
    assert len(several.outcomes()) <= trials
    assert in_flight[0] == ["0"], "the baseline runs alone"
    assert trials < 12 or max(map(len, in_flight)) == 2
    assert best.chosen.trial in built or best.speed_up_confirmed


def test_the_baselines_repetitions_run_alone_and_pairs_together(
    several: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int | None, int]] = []
    observe = Study.follow

    def follow(study: Study, attempt: Any, event: Any) -> None:
        if type(event).__name__ == "RepetitionEnded":
            outcome: Outcome = event.outcome
            seen.append((outcome.number, outcome.pair.index if outcome.pair else None, len(study.history.running)))
        observe(study, attempt, event)

    monkeypatch.setattr(Study, "follow", follow)
    best = several.run(trials=12)
    assert {count for _, pair, count in seen if pair is None} == {1}
    paired = [(number, pair, count) for number, pair, count in seen if pair is not None]
    assert paired[0] == (0, 0, 2), "its candidate runs, too"
    assert {count for _, _, count in paired} <= {1, 2}
    assert best.speed_up_confirmed


def test_what_ran_out_of_memory_beside_another_is_tried_once_more_alone(
    several: Bench, workers: Workers, in_flight: list[list[str]]
) -> None:
    failed: list[Job] = []

    def greedy(job: Job) -> Iterator[Message]:
        if job.build["attention.backend"] == "_native_math" and len(failed) < 1:
            failed.append(job)
            yield WorkerFailed(failure=Failure(kind="out of memory", stage="load", message="CUDA out of memory"))
        else:
            yield from workers(job)

    several.work = greedy
    several.run(trials=20)
    number = Path(failed[0].points[0].folder).name.lstrip("0")
    assert not [outcome for outcome in several.outcomes() if outcome.failure]
    assert [number] in in_flight, "the second time alone"
    assert any("it is run again alone" in note for note in several.told.notes)


def test_what_runs_out_of_memory_alone_has_failed(several: Bench, workers: Workers) -> None:
    def greedy(job: Job) -> Iterator[Message]:
        if job.build["attention.backend"] == "_native_math":
            yield WorkerFailed(failure=Failure(kind="out of memory", stage="load", message="CUDA out of memory"))
        else:
            yield from workers(job)

    several.work = greedy
    several.run(trials=20)
    failures = [outcome.failure.kind for outcome in several.outcomes() if outcome.failure]
    assert failures and set(failures) == {"out of memory"}


def test_an_interruption_ends_all_of_them(several: Bench, workers: Workers) -> None:
    def interrupted(job: Job) -> Iterator[Message]:
        if not job.is_baseline and job.points[0].score:
            raise KeyboardInterrupt
        yield from workers(job)

    several.work = interrupted
    with several.study(trials=12) as study:
        with pytest.raises(KeyboardInterrupt):
            study.run()
        assert study.history.running == []
        assert several.executor.running == {}
        states = [trial.state.name for trial in study.store.study.get_trials()]
        assert "RUNNING" not in states
    several.work = workers
    assert several.run(trials=12).baseline.trial == 0


@pytest.mark.parametrize(
    ("device", "cores", "memory_gb", "peak_gb", "lent_gb", "expected"),
    [
        ("cpu", 2, 16, 2, 0, 2),
        ("cpu", 1, 16, 2, 0, 1),
        ("cpu", 8, 3, 2, 0, 1),
        ("cuda", 16, 80, 30, 0, 2),
        ("cuda", 32, 141, 30, 0, 4),
        ("cuda", 16, 141, 34, 0, 3),
        ("cuda", 16, 141, 34, 32, 4),
        ("cuda", 16, 80, 34, 32, 2),
        ("cuda", 16, 24, 34, 32, 1),
    ],
)
def test_as_many_workers_live_as_fit(
    monkeypatch: pytest.MonkeyPatch,
    device: Any,
    cores: int,
    memory_gb: int,
    peak_gb: int,
    lent_gb: int,
    expected: int,
) -> None:
    monkeypatch.setattr(slots, "memory_bytes", lambda _: memory_gb << 30)
    monkeypatch.setitem(slots.MAX_SLOTS, "cpu", 2)
    here = msgspec.structs.replace(CPU, device=device, cpu_count=cores)
    baseline = Outcome(
        number=0, purpose="baseline", values={}, build_key="", image_key="", status="measured",
        memory=Memory(peak_bytes=peak_gb << 30, reserved_bytes=None, lent_bytes=lent_gb << 30),
    )  # fmt: skip
    assert slots.slots(here, baseline) == expected
    assert slots.slots(here, None) == 1


def test_those_that_wait_leave_room_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = msgspec.structs.replace(CPU, device="cuda", cpu_count=16)
    baseline = Outcome(
        number=0, purpose="baseline", values={}, build_key="", image_key="", status="measured",
        memory=Memory(peak_bytes=34 << 30, reserved_bytes=None, lent_bytes=32 << 30),
    )  # fmt: skip
    monkeypatch.setattr(slots, "max_slots", lambda _: 4)
    for memory_gb, expected in ((141, [4, 5, 5, 5]), (180, [4, 5, 6, 7]), (400, [4, 5, 6, 7, 8, 8]), (80, [2, 2, 2])):
        monkeypatch.setattr(slots, "memory_bytes", lambda _, found=memory_gb: found << 30)
        assert [slots.slots(here, baseline, waiting) for waiting in range(len(expected))] == expected
    assert slots.max_alive(here) == 9
    assert slots.max_alive(CPU) == slots.max_slots(CPU) + slots.PARTNER


def test_no_time_is_left_to_run_again_what_is_stopped(several: Bench) -> None:
    with several.study(trials=12) as found:
        found.measure_baseline()
        values = found.history.space.candidate({"steps": 14, "attention.backend": "_native_math"})
        found.runner.start(Proposal(values, "search"), DEVICE)
        (flight,) = found.runner.flights.values()
        flight.runs_again = True
        found.runner.builds_end_at = lambda: 0.0
        found.runner.stop_late()
        assert found.runner.is_idle
        states = [trial.state.name for trial in found.store.study.get_trials()]
        assert "RUNNING" not in states


def test_a_study_ends_with_what_was_stopped_without_a_result(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=7) as found:
        runner, builds_end_at, stopped = found.runner, found.runner.builds_end_at, list[int]()

        def work(job: Job) -> Iterator[Message]:
            if stopped or job.is_baseline or not job.trace:
                yield from workers(job)
                return
            yield StageStarted(stage="compile")
            stopped.extend(flight.attempt.number for flight in runner.flights.values())
            runner.builds_end_at = lambda: 0.0
            runner.stop_late()
            runner.builds_end_at = builds_end_at

        bench.work = work
        found.run()
    (number,) = stopped
    text = f"stopped without a result: trial {number} (compiling)"
    assert bench.told.notes[-1] == text
    assert f"trial {number} was stopped: the rest of the time is for the confirmation" in bench.told.notes
    report = read_report(bench.folder / "study")
    assert number not in {outcome.number for outcome in report.outcomes}
    for name in ("terminal", "md", "html"):
        assert text in RENDERERS[name]().render(report)
    assert report.time is not None and report.time.unfinished == {number: "compile"}


def test_what_waits_to_run_again_is_given_up_with_the_baseline_it_waited_for(several: Bench) -> None:
    with several.study(trials=12) as found:
        runner = found.runner
        runner.strategy = found.baseline
        runner.fill()
        (baseline,) = runner.flights.values()
        other = {**baseline.proposal.values, "steps": 14}
        waiting = [Proposal(other, "search", number=found.store.enter(other)) for _ in range(2)]
        runner.waiting.to_run_alone, runner.waiting.to_move = [(waiting[0], baseline.device)], [waiting[1]]
        runner.begin_again(baseline)
        assert list(runner.flights.values()) == [baseline]
        runner.end(baseline)
        assert runner.is_idle
        assert {trial.state.name for trial in found.store.study.get_trials()} == {"FAIL"}


def begin(found: Study, **settings: Any) -> Flight:
    """Begin to build a candidate."""
    found.runner.start(Proposal(found.history.space.candidate(settings), "search"), DEVICE)
    return list(found.runner.flights.values())[-1]


@pytest.fixture
def two_begun(several: Bench) -> Iterator[tuple[Study, Flight, Flight]]:
    """A study whose baseline is known, and two builds that it begins."""
    with several.study(trials=None) as found:
        found.measure_baseline()
        yield (
            found,
            begin(found, **{"attention.backend": "_native_math", "steps": 14}),
            begin(found, **{"attention.backend": "_native_math", "cache.kind": "first-block"}),
        )


TwoBegun = tuple[Study, Flight, Flight]
LACKS_MEMORY = Failure(kind="out of memory", stage="score", message="CUDA out of memory")


def test_what_waits_for_its_end_to_run_again_is_given_up_with_all_else(two_begun: TwoBegun) -> None:
    found, first, _ = two_begun
    found.runner.take(first.handle, WorkerFailed(failure=LACKS_MEMORY))
    assert first.runs_again
    found.runner.close()
    assert found.runner.is_idle
    assert "RUNNING" not in [trial.state.name for trial in found.store.study.get_trials()]


def test_what_is_to_run_again_leaves_no_files_but_keeps_its_trial(two_begun: TwoBegun) -> None:
    found, first, _ = two_begun
    folder = Path(first.handle.job.points[0].folder)
    (folder / "images").mkdir(parents=True)
    found.runner.take(first.handle, WorkerFailed(failure=LACKS_MEMORY))
    found.runner.take(first.handle, Ended())
    assert [proposal.number for proposal in found.runner.waiting.proposals] == [first.attempt.number]
    assert not folder.exists()
    assert found.store.study.get_trials()[first.attempt.number].state.name == "RUNNING"


def test_a_candidate_is_built_elsewhere_although_another_step_count_of_its_build_is_recorded(
    two_begun: TwoBegun, workers: Workers
) -> None:
    found, first, _ = two_begun
    built, _, other, *_ = workers(first.handle.job)
    for message in (built, other):
        found.runner.take(first.handle, message)
    assert not first.is_recorded
    found.runner.move(first)
    assert found.runner.waiting.to_move == [first.again]


def test_another_step_count_that_lacks_memory_is_left_out_without_a_word(two_begun: TwoBegun) -> None:
    found, first, _ = two_begun
    told = [(1, False, 0), (0, True, 1), (2, True, 1)]
    for index, runs_again, notes in told:
        found.runner.take(first.handle, PointFailed(index=index, failure=LACKS_MEMORY))
        assert first.runs_again is runs_again
        assert sum("it is run again alone" in note for note in found.publisher.display.notes) == notes  # type: ignore[attr-defined]


def test_what_waits_to_run_again_is_kept_for_the_next_run_if_the_study_is_killed(two_begun: TwoBegun) -> None:
    found, to_move, alone = two_begun
    found.runner.move(to_move)
    alone.runs_again = True
    found.runner.conclude(alone)
    kept = building(found.store)
    assert [sweep[0] for sweep in kept] == [to_move.proposal.values, alone.proposal.values]
    assert [len(sweep) for sweep in kept] == [to_move.attempt.points, alone.attempt.points] == [5, 5]


def test_strategies_are_told_the_trials_as_they_are_recorded(several: Bench) -> None:
    seen: list[Outcome] = []
    with several.study(trials=18) as found:
        observe = found.search.observe
        found.search.observe = lambda outcome: seen.append(outcome) or observe(outcome)  # type: ignore[method-assign]
        found.run()
        told = {outcome.number: outcome for outcome in seen if outcome.repetition is None}
        assert len(told) == sum(outcome.repetition is None for outcome in seen) > 5
        assert told.items() <= found.history.outcomes.items()


def test_builds_that_share_a_cpu_may_compile_for_longer_by_one_limit(several: Bench, workers: Workers) -> None:
    with several.study(trials=12) as found:
        found.run()
        assert found.history.compile_limit_s == 2 * found.budget.compile_limit_s == 200.0
        limits = {job.compile_limit_s for job in workers.jobs if job.points[0].score and not job.is_baseline}
        assert limits == {200.0}
        found.publisher.publish(BudgetChosen(900.0))
        assert found.history.compile_limit_s == 300.0


def test_what_compiled_for_too_long_in_a_long_study_is_not_compiled_again(several: Bench, workers: Workers) -> None:
    with several.study(trials=12, budget_s=3600.0) as found:
        found.run()
        worker = WorkerProcess.__new__(WorkerProcess)
        worker.job, worker.stage = next(job for job in workers.jobs[1:] if job.points[0].score), "compile"
        limit_s = worker._deadline_s()
        assert limit_s == found.history.compile_limit_s == 1200.0
        values = {**found.history.space.candidate({}), "compile.scope": "full"}
        failure = Failure(kind="timeout", stage="compile", message="too long", limit_s=limit_s)
        found.history.outcomes[99] = Outcome(
            number=99, purpose="search", values=values, build_key="", image_key="", status="failed", failure=failure
        )
        assert slow_compile_reason(found.history, values) == "compile.scope=full: trial 99 was too long"


@pytest.mark.parametrize(
    ("dtype", "call_s", "is_stopped"), [("bfloat16", 0.5, False), ("float32", 0.5, True), ("bfloat16", 1.0, True)]
)
def test_the_baseline_is_not_stopped_before_all_of_its_noise_floor_is_there(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, dtype: str, call_s: float, is_stopped: bool
) -> None:
    noise = NoiseFloor(max_difference=0.3, variations={})
    monkeypatch.setattr(workers, "seconds", lambda *_: call_s)
    with bench.study(trials=12) as found:
        runner = found.runner
        runner.strategy, runner.builds_end_at = found.baseline, lambda: 0.0
        runner.fill()
        (flight,) = runner.flights.values()
        flight.attempt.sweep[0]["precision.dtype"] = dtype  # type: ignore[union-attr]
        for message in (*workers(flight.handle.job), NoiseFound(noise=noise)):
            assert not runner.is_idle or is_stopped
            runner.take(flight.handle, message)
            runner.stop_late()
        assert runner.is_idle
        assert found.history.late_noise_floor == (None if is_stopped else noise)


def test_a_step_count_without_a_number_of_its_own_is_not_published(bench: Bench) -> None:
    bench.run(trials=7)
    with bench.study() as found:
        event = TrialEnded(found.history.outcomes[1], "told", bench.folder / "nowhere")
        with pytest.raises(AssertionError, match="number"):
            found.publisher.publish(event)


def test_the_baselines_other_step_counts_are_measured_only_while_there_is_time(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=12) as found:
        runner = found.runner
        runner.strategy, runner.builds_end_at = found.baseline, lambda: 0.0
        runner.fill()
        (flight,) = runner.flights.values()
        for message in workers(flight.handle.job):
            runner.take(flight.handle, message)
            runner.stop_late()
        assert runner.is_idle
        assert [outcome.status for outcome in found.history.outcomes.values()] == ["measured"]
        assert [trial.state.name for trial in found.store.study.get_trials()] == ["COMPLETE"]
    assert [note for note in bench.told.notes if "stopped" in note] == [
        "the rest of trial 0 was stopped: the rest of the time is for the confirmation"
    ]


def test_what_stood_still_before_its_last_result_took_no_time(bench: Bench, workers: Workers) -> None:
    def work(job: Job) -> Iterator[Any]:
        yield StoodStill(3600.0)
        yield from workers(job)

    bench.work = work
    bench.run(trials=3)
    assert bench.outcomes()[0].wall_s == 0.0
