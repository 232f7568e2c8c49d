"""The loop, with a worker that is made up: what is predicted and then measured, what misses a latency target, what is
tried again, and how the baseline's processes become the timing noise."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest
from kinds import kind

from tuner.errors import StudyFailed
from tuner.execution.inline import InlineExecutor
from tuner.hardware import environment
from tuner.numbers import format_duration
from tuner.records.codec import Estimate, Values, read
from tuner.records.machine import Memory
from tuner.records.model import Model
from tuner.records.outcome import Build, Device, Failure, Limits, Outcome, Timing
from tuner.records.protocol import (
    BuildDone,
    CallTimed,
    Job,
    Message,
    Point,
    PointDone,
    PointFailed,
    StageStarted,
    WorkerFailed,
)
from tuner.records.quality import NoiseFloor, Quality
from tuner.report.conclusion import conclusion
from tuner.report.points import front_points
from tuner.report.renderers import RENDERERS
from tuner.report.study_report import read_report
from tuner.report.trial_text import result_text
from tuner.result.config import read_config
from tuner.result.prices import Price
from tuner.result.records import BestConfig
from tuner.search import baseline, confirmation, optuna_sampler
from tuner.search.budget import CACHED_SHARE, MIN_CALLS, Budget, pair_s, quickest_build_s, repetition_s
from tuner.search.confirmation import Confirmation, PairedRuns, by_preference
from tuner.search.gain import MAX_PAIRS, MIN_PAIRS, is_confirmed, is_in_doubt, speed_up, timing_noise
from tuner.search.history import History
from tuner.search.request import Request
from tuner.search.strategy import Proposal, repetition
from tuner.space import reader
from tuner.study import loop, narration
from tuner.study.attempt import BuildAttempt
from tuner.study.events import NoiseFloorMeasured, Note
from tuner.study.loop import Study
from tuner.study.store import Store
from tuner.timing import prediction

SPACE = """
pipelines: [FluxPipeline]
workload: {prompts: [a red circle, a blue square], height: 32, width: 32}
quality: {tolerance: 1.0}
baseline: {steps: 28, batch: 1}
knobs:
  attention.backend: [native, _native_math]
  cache.kind: [none, first-block]
  cache.threshold: [0.1]
  steps: [28, 20, 14, 10, 6]
recipes:
  - {name: math, source: here, values: {attention.backend: _native_math, steps: 14}}
"""
FIXED_S, PER_STEP_S = 0.5, 0.1
DEVICE = Device(name="cpu")


FINISHED = "this study is finished: give a longer --budget, or more --trials, to go on"


class Told:
    """A display that only remembers what was noted and recorded."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.outcomes: list[Outcome] = []
        self.limits: list[Limits] = []
        self.best: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def limited(self, limits: Limits) -> None:
        self.limits.append(limits)

    def front(self, points: Any, best: str) -> None:
        self.best.append(best)

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        self.outcomes.append(outcome)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Once:
    """A strategy that proposes one thing."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposals = [proposal]

    def propose(self, history: History, device: Device) -> Proposal | None:
        return self.proposals.pop() if self.proposals else None

    def observe(self, outcome: Outcome) -> None:
        pass


class Workers:
    """The work of an inline executor: answers each job from `seconds` and `quality`, and remembers it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.throttled: Callable[[Job, Point], bool] = lambda *_: False
        self.bad_steps: set[int] = set()
        self.first_call_s = 0.01

    def __call__(self, job: Job) -> Iterator[Message]:
        self.jobs.append(job)
        if job.is_baseline:
            yield CallTimed(steps=4, seconds=self.first_call_s)
        yield BuildDone(build=Build(changes={}, load_s=1.0, apply_s=0.0, first_call_s=1.0, trace=None, verdict=None))
        for point in job.points:
            if self.throttled(job, point):
                failure = Failure(kind="throttled", stage="time", message="6 of 6 calls were discarded")
                yield PointFailed(index=point.index, failure=failure)
            else:
                quality = self.quality(job, point) if point.score else None
                timing, memory = self.timing(job, point), Memory(peak_bytes=1 << 30, reserved_bytes=None)
                yield PointDone(index=point.index, timing=timing, memory=memory, quality=quality)

    def seconds(self, job: Job, point: Point) -> float:
        slower = 1.0 if job.build.get("attention.backend") == "native" else 0.8
        return slower * point.batch * (FIXED_S + PER_STEP_S * point.steps)

    def timing(self, job: Job, point: Point) -> Timing:
        target_s, seconds = job.workload.latency_target_s, self.seconds(job, point)
        latency = Estimate(value=seconds, low=seconds * 0.999, high=seconds * 1.001)
        return Timing(
            latency_s=latency, samples=0 if point.predict else 6, images_per_s=point.batch / seconds,
            stopped="predicted" if point.predict else "interval within target",
            predicted_from=(6, 28) if point.predict else None,
            within_target=None if target_s is None else float(seconds <= target_s),
        )  # fmt: skip

    def quality(self, job: Job, point: Point) -> Quality:
        mean = 30.0 - 0.01 * (28 - point.steps) - 5.0 * (point.steps in self.bad_steps)
        return Quality(
            metric="clip_score", scores=(mean, mean), mean=mean, psnr_db=None, ssim=None,
            difference=Estimate(value=mean - 30, low=mean - 30 - 0.05, high=mean - 30 + 0.05),
        )  # fmt: skip


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setattr(optuna_sampler, "MAX_KNOWN_PROPOSALS", 10)
    monkeypatch.setattr("tuner.board.trial_events.write", lambda *_: None)
    return Workers()


class Bench:
    """Studies in one folder."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self.folder = folder
        self.work: Callable[[Job], Iterable[Message]] = workers
        self.price = Price(usd_per_hour=3.6, source="here")
        self.slots = 1
        (folder / "space.yaml").write_text(SPACE)

    @contextmanager
    def study(self, *settings: str, trials: int | None = 12, budget_s: float | None = 600.0) -> Iterator[Study]:
        here = environment.detect("cpu")
        request = Request(
            model=Model(source="/model", revision=None, pipeline_class="FluxPipeline", scorer="/scorer"),
            environment=here,
            space=reader.load(self.folder / "space.yaml", kind(), here, settings),
            price=self.price,
        )
        with Store(self.folder / "study", request) as store:
            self.told: Any = Told()
            self.executor = InlineExecutor(lambda job: self.work(job), slots=self.slots)
            yield Study(store, Limits(budget_s=budget_s, max_trials=trials), self.told, self.executor)

    def run(self, *settings: str, **limits: Any) -> BestConfig:
        with self.study(*settings, **limits) as found:
            return found.run()

    def outcomes(self) -> list[Outcome]:
        return [read(file, Outcome) for file in sorted((self.folder / "study").glob("trials/*/outcome.json"))]


def conclusion_of(study: Study) -> str:
    return conclusion(study.store.request, study.history, 0, study.store.folder)


@pytest.fixture
def bench(tmp_path: Path, workers: Workers) -> Bench:
    return Bench(tmp_path, workers)


# ---- prediction -----------------------------------------------------------------------------------------------------


def test_a_row_measures_the_candidate_and_what_spans_it_and_predicts_the_rest(bench: Bench, workers: Workers) -> None:
    bench.run(trials=10)
    rows = [[(point.steps, point.predict) for point in job.points] for job in workers.jobs if len(job.points) > 1]
    baseline, recipe = rows[0], next(row for row in rows if row[0][0] == 14)
    assert baseline == [(28, False), (6, False), (20, True), (14, True), (10, True)]
    assert recipe == [(14, False), (28, False), (6, False), (20, True), (10, True)]
    assert all(point.score for job in workers.jobs for point in job.points if len(job.points) > 1), "also if predicted"


def test_what_skips_work_in_some_steps_is_measured_at_every_step_count(bench: Bench, workers: Workers) -> None:
    bench.run("cache.kind=first-block", trials=10)
    cached = [job for job in workers.jobs if job.build.get("cache.kind") == "first-block"]
    assert cached
    assert not any(point.predict for job in cached for point in job.points)


def test_a_predicted_finalist_is_measured_before_it_is_chosen(bench: Bench, workers: Workers) -> None:
    workers.bad_steps = {6}
    best = bench.run(trials=10)
    trial = bench.outcomes()[best.chosen.trial]
    assert trial.timing is not None
    assert trial.timing.predicted_from == (6, 28), "the search only predicted it"
    assert (best.chosen.values["steps"], best.chosen.predicted_from) == (10, None)
    assert best.chosen.latency_samples >= 12
    assert best.speed_up_confirmed
    (check,) = [check for check in best.predictions if check.trial == best.chosen.trial]
    assert check.held
    assert abs(check.error) < 1e-9
    assert any(note.startswith(f"trial {check.trial}: predicted ") for note in bench.told.notes)


def test_a_prediction_that_did_not_hold_is_said_to_have_not(bench: Bench, workers: Workers) -> None:
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (0.9 if point.predict else 1.0)  # type: ignore[method-assign]
    workers.bad_steps = {6}
    best = bench.run(trials=10)
    worst = max(best.predictions, key=lambda check: abs(check.error))
    assert worst.error == pytest.approx(-0.1)
    assert not worst.held
    assert any("-10.00%" in note and "more than" in note for note in bench.told.notes)


# ---- the latency target ---------------------------------------------------------------------------------------------


def test_what_misses_the_latency_target_is_no_point_but_the_baseline_stays_shown(
    bench: Bench, workers: Workers
) -> None:
    best = bench.run("workload.latency_target_s=2.0", trials=10)
    assert best.workload.latency_target_s == 2.0
    assert (best.baseline.trial, best.baseline.within_latency_target) == (0, 0.0)
    assert best.chosen.latency_s.value <= 2.0
    assert best.front
    assert all(point.latency_s.value <= 2.0 for point in best.front)
    late = [outcome for outcome in bench.outcomes() if outcome.timing and outcome.timing.latency_s.value > 2.0]
    assert len(late) >= 3, "among them some are better in quality, and would be on the front"
    with bench.study("workload.latency_target_s=2.0", trials=10) as again:
        trials = again.store.study.get_trials()
        for outcome in bench.outcomes():
            violated = trials[outcome.number].constraints["latency target"]
            assert outcome.timing is not None
            assert (violated > 0) == (outcome.timing.latency_s.value > 2.0)
        assert front_points(again.history, best.chosen.trial)[-1].is_baseline
        assert front_points(again.history, best.chosen.trial)[-1].misses_target


def test_a_study_with_a_latency_target_resumes_and_is_another_than_without(bench: Bench, workers: Workers) -> None:
    best = bench.run("workload.latency_target_s=2.0", trials=10)
    jobs = len(workers.jobs)
    (bench.folder / "study" / "best_config.json").unlink()  # so that it is made of what is recorded
    again = bench.run("workload.latency_target_s=2.0", trials=10)
    assert len(workers.jobs) == jobs
    assert (again.chosen, again.front) == (best.chosen, best.front)
    with pytest.raises(Exception, match="another one with --study"):
        bench.run(trials=10)


def test_nothing_that_meets_the_target_leaves_the_baseline(bench: Bench, workers: Workers) -> None:
    best = bench.run("workload.latency_target_s=0.1", trials=10)
    assert (best.chosen.trial, best.front) == (0, ())
    with bench.study("workload.latency_target_s=0.1", trials=10) as again:
        assert "the baseline, although it misses the latency target" in conclusion_of(again)


def test_cost_counts_only_the_calls_that_meet_the_target(bench: Bench, workers: Workers) -> None:
    honest = workers.timing

    def mixed(job: Job, point: Point) -> Timing:
        return msgspec.structs.replace(honest(job, point), within_target=0.8)

    workers.timing = mixed  # type: ignore[method-assign]
    best = bench.run("workload.latency_target_s=2.0", trials=5)
    point = best.baseline
    assert point.cost_usd_per_1000_images == pytest.approx(1.0 * 3.3 / 0.8)
    assert point.economics is not None
    assert point.economics.images_per_hour == pytest.approx(0.8 * 3600 / 3.3)
    assert point.images_per_s == pytest.approx(1 / 3.3), "the throughput is what it is"


# ---- throttling -----------------------------------------------------------------------------------------------------


def is_math(job: Job) -> bool:
    return (job.build["attention.backend"], job.build["cache.kind"]) == ("_native_math", "none")


def test_what_was_throttled_is_tried_again_once_later(bench: Bench, workers: Workers) -> None:
    tries: list[int] = []

    def throttled(job: Job, point: Point) -> bool:
        is_it = is_math(job) and point.steps == 14 and point.score
        if is_it:
            tries.append(len(workers.jobs))
        return is_it and len(tries) == 1

    workers.throttled = throttled
    bench.run("cache.kind=[none, first-block]", trials=20)
    assert len(tries) == 2
    assert tries[1] > tries[0] + 1, "another build came between"
    same = [
        outcome
        for outcome in bench.outcomes()
        if outcome.values["steps"] == 14
        and outcome.values["attention.backend"] == "_native_math"
        and outcome.values["cache.kind"] == "none"
    ]
    assert [(outcome.status, outcome.recipe) for outcome in same] == [("failed", "math"), ("measured", "math")]


def test_what_is_throttled_twice_is_known(bench: Bench, workers: Workers) -> None:
    tries: list[Job] = []

    def throttled(job: Job, point: Point) -> bool:
        is_it = is_math(job) and point.score
        if is_it and point.steps == 14:
            tries.append(job)
        return is_it

    workers.throttled = throttled
    bench.run("cache.kind=none", trials=60)
    assert len(tries) == 2


def test_a_confirmation_that_was_throttled_is_made_once_more(bench: Bench, workers: Workers) -> None:
    def throttled(job: Job, point: Point) -> bool:
        return not point.score and len(workers.jobs) == 2

    workers.throttled = throttled
    assert bench.run(trials=5).timing_noise is not None


def test_a_throttled_baseline_is_left_to_the_next_run(bench: Bench, workers: Workers) -> None:
    workers.throttled = lambda job, point: point.index == 0
    with pytest.raises(StudyFailed, match="held back: 6 of 6 calls were discarded; run the same command again"):
        bench.run(trials=5)
    workers.throttled = lambda *_: False
    assert bench.run(trials=5).baseline.trial == 0


def test_a_baseline_whose_repetitions_are_throttled_ends_the_study(bench: Bench, workers: Workers) -> None:
    workers.throttled = lambda job, point: not point.score
    with pytest.raises(StudyFailed, match="second process"):
        bench.run(trials=5)
    assert len(workers.jobs) == 3


# ---- A/A ------------------------------------------------------------------------------------------------------------


def test_the_spread_of_the_baselines_processes_is_the_noise_of_the_study(bench: Bench, workers: Workers) -> None:
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (1 + 0.01 * (len(workers.jobs) % 2))  # type: ignore[method-assign]
    with bench.study(trials=5) as found:
        found.measure_baseline()
        noise = timing_noise(found.history)
        assert noise is not None
        assert noise.processes == baseline.MAX_BASELINES
        assert noise.coefficient_of_variation == pytest.approx(0.00575, rel=0.05)
        shown = bench.told.notes
        assert any(note.startswith("timing noise: 0.57% between 4 processes") for note in shown)
        other = next(outcome for outcome in found.history.outcomes.values() if outcome.number)
        gain = speed_up(found.history, other)
        assert gain.high / gain.value > 1.96 * 2**0.5 * 0.0057, "wide enough for another process of either"


def test_slow_processes_of_the_baseline_are_few(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=5, budget_s=1e-6) as found:
        found.measure_baseline()
        noise = timing_noise(found.history)
        assert noise is not None
        assert noise.processes == 2


def test_what_measuring_again_took_is_what_it_will_take_the_next_time(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=8) as found:
        found.measure_baseline()
        candidate = next(outcome for outcome in found.history.outcomes.values() if outcome.number)
        before_s = repetition_s(found.history, candidate)
        assert before_s > 0.2, "a share of its first call, which takes a second"
        found.exhaust(Once(repetition(candidate)))
        assert repetition_s(found.history, candidate) == found.history.repetitions[-1].wall_s < before_s


def test_the_search_leaves_time_for_a_third_turn_until_a_gain_is_sure(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=5) as found:
        found.measure_baseline()
        (first, *_) = by_preference(found.history)
        kept_s = found.budget.ends_at - found.confirmation.search_ends_at(found.history)
        assert first.number
        assert kept_s == pytest.approx(3 * pair_s(found.history, first))
        found.exhaust(found.confirmation)
        assert is_confirmed(found.history, first)
        assert found.budget.ends_at == found.confirmation.search_ends_at(found.history), (
            "nothing is kept for what is sure"
        )


def test_what_the_confirmation_leaves_of_the_time_is_searched(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first search ends at once, so that time is left for the confirmation; what follows it finds more."""
    search_ends_at = Confirmation.search_ends_at
    confirmed = baseline.MAX_BASELINES - 1 + 2 * MIN_PAIRS

    def late_enough(confirmation: Confirmation, history: History, *pairs: int) -> float:
        is_early = len(history.repetitions) < confirmed
        return search_ends_at(confirmation, history, *pairs) - (1e6 if is_early else 0.0)

    monkeypatch.setattr(Confirmation, "search_ends_at", late_enough)
    best = bench.run(trials=None)
    purposes = [outcome.purpose for outcome in bench.told.outcomes if outcome.purpose != "baseline"]
    assert best.speed_up_confirmed
    assert set(purposes[:confirmed]) == {"confirm"}
    assert {"recipe", "search"} <= set(purposes[confirmed:])


# ---- a result before the search ends --------------------------------------------------------------------------------


def purposes(bench: Bench) -> list[str]:
    """What was measured after the baseline and its repetitions, without repeats in a row."""
    known = [outcome.purpose for outcome in bench.told.outcomes]
    rest = known[known.index("confirm") + baseline.MAX_BASELINES - 1 :]
    return [purpose for index, purpose in enumerate(rest) if index == 0 or rest[index - 1] != purpose]


def test_the_first_clear_gain_is_confirmed_at_once(bench: Bench, workers: Workers) -> None:
    files: list[BestConfig] = []
    with bench.study(trials=14) as found:
        export = found.write
        found.write = lambda best: (files.append(best), export(best))[1]  # type: ignore[method-assign]
        found.run()
    assert purposes(bench)[:2] == ["confirm", "recipe"], "a step count of the baseline's own build was clearly cheaper"
    chosen = [best.chosen.trial for best in files]
    assert chosen[0] == 0, "the baseline, as soon as it is measured"
    first = next(best for best in files if best.chosen.trial)
    assert first.speed_up_confirmed
    assert first.trials.measured < files[-1].trials.measured, "the search went on"
    costs = [best.chosen.cost_usd_per_1000_images for best in files]
    assert costs == sorted(costs, reverse=True), "it only gets better"
    best = [text for index, text in enumerate(bench.told.best) if text not in bench.told.best[:index]]
    assert best[0] == "best so far: the baseline"
    assert best[1].startswith(f"best so far: the baseline; to confirm: trial {first.chosen.trial}, ")
    assert any(re.fullmatch(rf"best so far: trial {first.chosen.trial}, .*, confirmed", text) for text in best[2:])
    (told,) = [note for note in bench.told.notes if f"trial {first.chosen.trial}: a gain is confirmed" in note]
    assert "best_config.json" in told


def test_a_gain_that_is_not_clear_at_once_waits_for_the_end(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (1 + 0.5 * (len(workers.jobs) % 2))  # type: ignore[method-assign]
    bench.run("steps=28", trials=4)
    assert purposes(bench)[0] in ("recipe", "search")


@pytest.mark.parametrize(("left_s", "is_due"), [(1000.0, True), (50.0, False)])
def test_a_repetition_that_costs_much_of_the_time_left_waits_for_the_end(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, left_s: float, is_due: bool
) -> None:
    with bench.study(trials=12) as found:
        found.measure_baseline()
        found.history.repetitions[:] = [msgspec.structs.replace(r, wall_s=10.0) for r in found.history.repetitions]
        monkeypatch.setattr(found.budget, "seconds_left", lambda: left_s)
        assert found.early.is_due(found.history) is is_due


def test_a_gain_that_two_early_pairs_leave_in_doubt_may_be_looked_at_again_at_the_end(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first candidate's first repetition is slow."""
    honest, slowed = workers.seconds, list[Job]()
    monkeypatch.setattr(baseline, "MAX_BASELINES", 2)

    def uneven(job: Job, point: Point) -> float:
        if not point.score and point.steps != 28 and not slowed:
            slowed.append(job)
        return honest(job, point) * (1.9 if job in slowed else 1.0)

    monkeypatch.setattr(workers, "seconds", uneven)
    with bench.study(trials=6) as found, found.stages.run():
        found.measure_baseline()
        found.exhaust(found.early)
        assert not found.early.is_due(found.history), "once in a study"
        candidate = found.history.outcomes[found.early.runs.candidate] if found.early.runs else None
        assert candidate is not None and is_in_doubt(found.history, candidate)
        assert len(found.history.tried_pairs_of(candidate)) == MIN_PAIRS
        assert candidate.number in [outcome.number for outcome in found.confirmation.shortlist(found.history)]
        later = PairedRuns(candidate.number)
        assert found.confirmation.wants_another_pair(found.history, later)
    with bench.study(trials=6) as again:
        assert not again.early.is_due(again.history)


def test_a_build_that_runs_may_use_the_time_of_a_third_pair(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmation, "EARLY_SHARE", 0.0)
    with bench.study(trials=12) as found:
        found.measure_baseline()
        (first, *_) = by_preference(found.history)
        assert first.number
        proposal = found.search.propose(found.history, DEVICE)
        assert proposal is not None and proposal.recipe == "math"
        search_ends_at, pair = found.confirmation.search_ends_at(found.history), pair_s(found.history, first)
        bench.executor.deadlines.clear()
        found.exhaust(Once(proposal))
        assert bench.executor.deadlines[0] - search_ends_at == pytest.approx(pair, rel=0.05)


def test_a_trial_that_stays_unconfirmed_is_left_alone_and_leaves_time_for_another(
    bench: Bench, workers: Workers
) -> None:
    """No repetition but the baseline's succeeds."""
    repeated: list[Job] = []

    def failing(job: Job) -> Iterator[Message]:
        untouched = job.build["attention.backend"] == "native" and job.points[0].steps == 28
        if not job.points[0].score and not untouched:
            repeated.append(job)
            yield WorkerFailed(failure=Failure(kind="crash", stage="time", message="SIGSEGV"))
        else:
            yield from workers(job)

    bench.work = failing
    with bench.study(trials=None) as found:
        found.measure_baseline()
        (first, *_) = by_preference(found.history)
        found.choose()
        settling = found.confirmation
        assert first.number in settling.unconfirmed
        of_first = [r for r in found.history.repetitions if r.number == first.number]
        assert len(of_first) == 1, "a repetition that crashed is not tried again"
        assert len(repeated) == len(settling.unconfirmed)
        assert settling.shortlist(found.history)[0].number not in settling.unconfirmed
        kept_s = found.budget.ends_at - settling.search_ends_at(found.history)
        expected_s = 3 * pair_s(found.history, found.history.baseline)
        assert kept_s == pytest.approx(expected_s), "for what may still be found"
    notes = [note for note in bench.told.notes if note.startswith(f"trial {first.number}:")]
    assert len(notes) == len(set(notes))


def test_no_time_is_spent_on_confirming_another_than_what_is_sure(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.study(trials=8) as found:
        found.measure_baseline()
        found.choose()
        sure = next(outcome for outcome in by_preference(found.history) if is_confirmed(found.history, outcome))
        assert sure.number
        cheaper = msgspec.structs.replace(
            sure, number=99, cost_usd_per_1000_images=sure.cost_usd_per_1000_images / 2, build_key="another"
        )
        found.history.outcomes[99] = cheaper
        monkeypatch.setattr(found.budget, "seconds_left", lambda: 0.0)
        found.exhaust(found.confirmation)
        assert found.confirmation.choose(found.history).number == sure.number
    assert "no time is left to confirm a cheaper configuration" in bench.told.notes


def test_what_is_slower_than_the_baseline_takes_longer_to_measure_again(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=8) as found:
        found.measure_baseline()
        baseline = found.history.baseline
        assert baseline.timing is not None
        seconds = baseline.timing.latency_s.value + 1.0
        slower = msgspec.structs.replace(baseline.timing, latency_s=Estimate(value=seconds, low=seconds, high=seconds))
        other = msgspec.structs.replace(baseline, number=99, timing=slower)
        expected = repetition_s(found.history, baseline) + CACHED_SHARE * 1.0 + MIN_CALLS * 1.0
        assert repetition_s(found.history, other) == pytest.approx(expected)


@pytest.mark.parametrize(("left_s", "is_over"), [(8.0, False), (6.0, True)])
def test_the_search_goes_on_while_the_quickest_build_would_nearly_fit(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, left_s: float, is_over: bool
) -> None:
    bench.run("cache.kind=none", trials=8)
    with bench.study("cache.kind=none", trials=60) as found:
        builds = list(dict.fromkeys(outcome.build_key for outcome in found.history.outcomes.values()))
        assert len(builds) > 1
        walls = dict.fromkeys(builds, 50.0) | {builds[-1]: 10.0}
        for number, outcome in found.history.outcomes.items():
            found.history.outcomes[number] = msgspec.structs.replace(outcome, wall_s=walls[outcome.build_key])
        repeats = [msgspec.structs.replace(repeat, wall_s=20.0) for repeat in found.history.repetitions]
        found.history.repetitions[:] = repeats
        assert quickest_build_s(found.history) == 10.0
        monkeypatch.setattr(found.confirmation, "search_ends_at", lambda _: time.monotonic() + left_s)
        assert found.confirmation.is_search_over(found.history) is is_over


def test_the_baseline_is_as_quick_as_it_was_when_nothing_was_drawn_beside_it(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=5) as found:
        found.measure_baseline()
        baseline = found.history.baseline
        found.history.outcomes[0] = msgspec.structs.replace(baseline, wall_s=40.0)
        found.history.repetitions[0] = msgspec.structs.replace(found.history.repetitions[0], wall_s=15.0)
        assert quickest_build_s(found.history) == 15.0


def test_only_the_baseline_is_asked_what_bounds_a_step(bench: Bench, workers: Workers) -> None:
    bench.run(trials=10)
    assert [job.probe for job in workers.jobs].count(True) == 1
    assert workers.jobs[0].probe


def test_steps_that_span_a_row() -> None:
    assert prediction.step_counts_to_measure([14, 28, 20, 6]) == {14, 28, 6}
    assert prediction.step_counts_to_measure([28]) == {28}


# ---- the choice, and builds that fail -------------------------------------------------------------------------------


def test_a_choice_that_turns_out_dearer_makes_room_for_the_next(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = workers.seconds
    first: list[tuple[Values, int]] = []

    def dearer(job: Job, point: Point) -> float:
        """The first that is measured again, but for the baseline, takes half as long again as it did in the search."""
        asked = (job.build, point.steps)
        if not point.score and point.steps != 28 and not first:
            first.append(asked)
        return seconds(job, point) * (1.5 if not point.score and asked in first else 1.0)

    monkeypatch.setattr(workers, "seconds", dearer)
    best = bench.run(trials=10)
    assert first
    assert best.speed_up_confirmed
    assert {**first[0][0], "steps": first[0][1]}.items() - best.chosen.values.items(), "another is chosen"
    cheaper = [point for point in best.front if point.cost_usd_per_1000_images < best.chosen.cost_usd_per_1000_images]
    assert not [point for point in cheaper if point.quality_difference.low >= -best.quality_tolerance]


def test_a_gain_that_stays_in_doubt_is_told_and_how_to_resolve_it(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workers.seconds
    monkeypatch.setattr(baseline, "MAX_BASELINES", 2)
    monkeypatch.setattr(Budget, "seconds_left", lambda _: 0.0)  # no time but for the first two pairs
    monkeypatch.setattr(Confirmation, "search_ends_at", lambda *_: float("inf"))

    def noisy(job: Job, point: Point) -> float:
        return honest(job, point) * (1.0 if point.score or len(workers.jobs) % 4 else 1.9)

    monkeypatch.setattr(workers, "seconds", noisy)
    best = bench.run("steps=28", trials=8)
    assert best.chosen.trial == 0
    assert any("a gain is not certain" in note for note in bench.told.notes)
    with bench.study("steps=28", trials=8) as found:
        told = conclusion_of(found)
    assert re.search(
        r"certainly cheaper; trial \d+ had [\d.]+x .* \[0\.\d+, .*\]: a longer --budget measures more", told
    )
    assert re.search(r"measures more pairs, \d+ s each$", told.splitlines()[0])


def test_what_was_left_in_doubt_is_measured_again_before_anything_else_is_tried(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workers.seconds
    monkeypatch.setattr(baseline, "MAX_BASELINES", 2)

    def noisy(job: Job, point: Point) -> float:
        return honest(job, point) * (1.0 if point.score or len(workers.jobs) % 4 else 1.9)

    with monkeypatch.context() as short:
        short.setattr(workers, "seconds", noisy)
        short.setattr(Budget, "seconds_left", lambda _: 0.0)
        short.setattr(Confirmation, "search_ends_at", lambda *_: float("inf"))
        assert bench.run("steps=28", trials=2).chosen.trial == 0
    before = len(workers.jobs)
    bench.run("steps=28", trials=14, budget_s=900.0)
    scored = [any(point.score for point in job.points) for job in workers.jobs[before:]]
    more_turns = MAX_PAIRS - MIN_PAIRS
    assert not any(scored[: 2 * more_turns])
    assert scored[2 * more_turns]


def latencies_of_trials(best: BestConfig, folder: Path) -> dict[str, dict[int, float]]:
    """The latency of each trial, or its cost as one of an hour at 3.6 US$ for a batch of one, as each place has it."""
    report = read_report(folder)
    database = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}")
    points = {point.trial: point for point in (best.baseline, best.chosen, *best.front)}
    return {
        "best_config.json": {number: point.latency_s.value for number, point in points.items()},
        "its cost": {number: point.cost_usd_per_1000_images for number, point in points.items()},
        "table": {point.number: point.latency_s for point in report.points},
        "cost in the table": {point.number: point.cost_usd_per_1000_images for point in report.points},
        "study.db": {number: database.trials[number].values[0] for number in points},
        "its attributes": {number: database.trials[number].user_attrs["latency_s"] for number in points},
    }


@pytest.mark.parametrize("stalls", [False, True])
def test_a_trial_has_one_latency_wherever_it_is_shown(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, stalls: bool
) -> None:
    """Fresh processes measure other latencies than the search, and of the first pair the candidate's stalls."""
    honest, told, shown = workers.seconds, dict[int, float](), dict[int, float]()

    def write(folder: Path, outcome: Outcome, *_: Any) -> None:
        if outcome.timing is not None:
            told[outcome.number] = outcome.timing.latency_s.value

    def seconds(job: Job, point: Point) -> float:
        repeated = [job for job in workers.jobs if not job.points[0].score]
        is_stalled = stalls and not point.score and len(repeated) == baseline.MAX_BASELINES + 1
        return honest(job, point) * (1.0 if point.score else 1.3 + 0.01 * len(repeated)) * (4.0 if is_stalled else 1.0)

    monkeypatch.setattr(confirmation, "EARLY_SHARE", 0.0)
    monkeypatch.setattr("tuner.board.trial_events.write", write)
    monkeypatch.setattr(workers, "seconds", seconds)
    monkeypatch.setattr(
        Told, "front", lambda _, points, best: shown.update({p.number: p.latency_s for p in points}), False
    )
    best = bench.run(trials=10)
    assert (best.chosen.trial, best.chosen.disturbed_processes) == (best.chosen.trial or 1, int(stalls))
    assert stalls == any("something else disturbed it, and it does not count" in note for note in bench.told.notes)
    found = latencies_of_trials(best, bench.folder / "study")
    expected = found.pop("best_config.json")
    assert expected.keys() >= {0, best.chosen.trial}
    for place, latencies in found.items():
        assert latencies == pytest.approx(expected), place
    for number, latency_s in expected.items():
        assert told[number] == latency_s, "TensorBoard"
        assert shown[number] == latency_s, "live"
    with bench.study(trials=10) as again:
        assert again.store.study.get_trials()[0].values == [pytest.approx(expected[0]), 30.0]


def test_an_update_of_the_database_that_was_interrupted_is_made_up_for(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workers.seconds
    monkeypatch.setattr(workers, "seconds", lambda job, point: honest(job, point) * (1.0 if point.score else 1.3))
    with monkeypatch.context() as killed:
        killed.setattr(Store, "correct", lambda *_: None)
        best = bench.run(trials=5)
    with bench.study(trials=5) as again:
        told = again.store.study.get_trials()[best.chosen.trial].values
        assert told == [pytest.approx(best.chosen.cost_usd_per_1000_images), best.chosen.quality]


def test_a_doubtful_trial_can_be_loaded(bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was quick in the search, and of its two repetitions one was slow: no time is left for a third."""
    honest = workers.seconds
    monkeypatch.setattr(baseline, "MAX_BASELINES", 2)
    monkeypatch.setattr(Budget, "seconds_left", lambda _: 0.0)
    monkeypatch.setattr(Confirmation, "search_ends_at", lambda *_: float("inf"))

    def noisy(job: Job, point: Point) -> float:
        repeated = [j for j in workers.jobs if not j.points[0].score and j.build != workers.jobs[0].build]
        is_slow = job in repeated and len(repeated) == 1
        return honest(job, point) * (1.9 if is_slow else 1.0)

    monkeypatch.setattr(workers, "seconds", noisy)
    best = bench.run("steps=28", trials=8)
    doubtful = [point for point in best.front if point.doubtful]
    assert doubtful and best.chosen.trial == 0
    file = bench.folder / "study" / "best_config.json"
    for point in doubtful:
        assert (point.confirmed, point.processes) == (False, 2)
        assert read_config(file, trial=point.trial).chosen.values == point.values
    table = RENDERERS["terminal"]().render(read_report(file.parent))
    assert "x?" in table and "? in doubt" in table


def test_a_knob_that_never_acted_is_told_and_not_chosen(bench: Bench, workers: Workers) -> None:
    """At 20 steps or less the cache skips nothing; with it, every point seems to be quicker."""
    text = "cache.kind=first-block: it never skipped anything in 40 steps"

    def idle(job: Job) -> Iterator[Message]:
        is_cached = job.build["cache.kind"] != "none"
        for message in workers(job):
            if is_cached and isinstance(message, PointDone) and job.points[message.index].steps <= 20:
                failure = Failure(kind="no effect", stage="score", message=text)
                yield PointFailed(index=message.index, failure=failure)
            elif is_cached and isinstance(message, PointDone):
                yield msgspec.structs.replace(message, skipped_share=0.25)
            else:
                yield message

    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (0.9 if job.build["cache.kind"] != "none" else 1.0)  # type: ignore[method-assign]
    bench.work = idle
    best = bench.run("attention.backend=native", trials=10)
    cached = [outcome for outcome in bench.outcomes() if outcome.values["cache.kind"] != "none"]
    assert {(o.status, o.skipped_share) for o in cached if int(o.values["steps"]) > 20} == {("measured", 0.25)}
    few = [outcome.failure for outcome in cached if int(outcome.values["steps"]) <= 20]
    assert len(few) == 4 and {failure.kind for failure in few if failure} == {"no effect"}
    assert (best.chosen.values["cache.kind"], best.chosen.values["steps"]) == ("none", 6)
    screen = " ".join(result_text(outcome) for outcome in bench.told.outcomes)
    assert f"no effect in score: {text}" in screen and "work skipped in 25% of the steps" in screen
    assert text in " ".join(RENDERERS["terminal"]().render(read_report(bench.folder / "study")).split())


def test_a_finished_study_measures_nothing_until_it_is_given_more(bench: Bench, workers: Workers) -> None:
    best = bench.run(trials=10)
    measured = len(workers.jobs)
    assert bench.run(trials=10) == best
    assert bench.run(trials=5, budget_s=300.0) == best
    assert len(workers.jobs) == measured
    assert FINISHED in bench.told.notes
    bench.run(trials=12)
    assert len(bench.outcomes()) == 12


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda file: file.write_bytes(file.read_bytes()[:500]) and None,
        lambda file: file.write_bytes(file.read_bytes().replace(b'"steps": 28', b'"steps": 27')) and None,
    ],
    ids=["removed", "cut off", "of other trials"],
)
def test_a_result_that_is_damaged_is_made_again_of_what_is_known(
    bench: Bench, workers: Workers, harm: Callable[[Path], None]
) -> None:
    best = bench.run(trials=10)
    measured, file = len(workers.jobs), bench.folder / "study" / "best_config.json"
    harm(file)
    again = bench.run(trials=10)
    assert (again.chosen, again.front, again.speed_up) == (best.chosen, best.front, best.speed_up)
    assert len(workers.jobs) == measured
    assert read(file, BestConfig) == again


def test_a_wider_run_that_was_interrupted_leaves_no_finished_study(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(trials=3)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Study, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.run(trials=12)
    best = bench.run(trials=3)
    assert FINISHED not in bench.told.notes
    assert best.trials.measured == len(bench.outcomes()) == 12


def test_a_study_whose_finalists_could_not_be_judged_is_not_finished(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "judge_finalists", lambda *_: None)
    bench.run(trials=10)
    monkeypatch.undo()
    bench.run(trials=10)
    assert FINISHED not in bench.told.notes


def test_tensorboard_is_told_which_trials_the_result_is_of(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[int, str | None] = {}

    def write(folder: Path, outcome: Outcome, _: Any, place: str | None = None) -> None:
        places[outcome.number] = place

    monkeypatch.setattr("tuner.board.trial_events.write", write)
    best = bench.run(trials=10)
    assert [number for number, place in places.items() if place == "chosen"] == [best.chosen.trial]
    shown = {best.chosen.trial, *(point.trial for point in best.front)}
    assert {number for number, place in places.items() if place} == shown


def test_tensorboard_is_told_the_latency_of_all_processes_as_the_result_has_it(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, told = workers.seconds, dict[int, float]()

    def write(folder: Path, outcome: Outcome, *_: Any) -> None:
        if outcome.timing is not None:
            told[outcome.number] = outcome.timing.latency_s.value

    monkeypatch.setattr("tuner.board.trial_events.write", write)
    monkeypatch.setattr(workers, "seconds", lambda job, point: honest(job, point) * (1.2 if point.score else 1.0))
    best = bench.run(trials=10)
    for point in (best.baseline, best.chosen):
        assert told[point.trial] == point.latency_s.value
    first = next(outcome for outcome in bench.outcomes() if outcome.number == 0)
    assert first.timing is not None
    assert told[0] != first.timing.latency_s.value


def test_the_marks_of_a_former_result_go_with_its_strips(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[int, str | None] = {}
    monkeypatch.setattr(
        "tuner.board.trial_events.write", lambda _, outcome, __, place=None: places.update({outcome.number: place})
    )
    bench.run(trials=1)
    assert places == {0: "chosen"}
    strip = bench.folder / "study" / "strips" / "0000.png"
    strip.parent.mkdir(exist_ok=True)
    strip.touch()
    best = bench.run(trials=10)
    assert [number for number, place in places.items() if place == "chosen"] == [best.chosen.trial] != [0]
    assert strip.exists() == (0 in {point.trial for point in best.front})


def test_a_variation_that_was_drawn_late_counts_in_the_floor(bench: Bench, workers: Workers) -> None:
    bench.run(trials=3)
    assert (
        "the quality noise floor (how far rounding alone moves the score) is unknown: nothing to vary"
        in bench.told.notes
    )
    with bench.study() as found:
        assert found.history.quality_floor is None
        no_floor = NoiseFloor(max_difference=None, variations={}, unavailable_reasons=("compiled: no compiler",))
        found.publisher.publish(NoiseFloorMeasured(no_floor))
        assert found.history.quality_floor is None
        assert "compiled: no compiler" in str(narration.noise_floor_text(found.history))
        found.publisher.publish(NoiseFloorMeasured(NoiseFloor(max_difference=0.3, variations={"compiled": "/folder"})))
        assert found.history.quality_floor == 0.3
    with bench.study() as again:
        assert again.history.quality_floor == 0.3
        (proposal,) = [again.search.propose(again.history, DEVICE)]
        assert proposal is not None
        reference = again.runner.build(proposal, DEVICE).job(again.budget).reference
        assert reference is not None and reference.floor == 0.3


def test_a_late_variation_that_cannot_be_drawn_is_told(bench: Bench, workers: Workers) -> None:
    bench.run(trials=1)
    with bench.study() as found:
        values = found.history.space.candidate({})
        attempt = BuildAttempt(found.store, found.history, DEVICE, 0, [values], "baseline")
        attempt.settled.add(0)
        failure = Failure(kind="timeout", stage="vary", message="took too long")
        (note,) = attempt.handle(WorkerFailed(failure=failure))
        assert isinstance(note, Note)
        assert note.text.endswith("could not be generated: took too long")
    assert len(bench.outcomes()) == 1


def test_it_says_when_nothing_more_can_be_tried(bench: Bench, workers: Workers) -> None:
    bench.run(trials=1)
    assert "nothing more is tried: the number of trials is reached: give more --trials" in bench.told.notes
    with bench.study() as found:
        assert "the baseline: nothing else was tried" in conclusion_of(found)


def test_it_says_how_much_time_a_build_would_take(bench: Bench, workers: Workers) -> None:
    bench.run(budget_s=1e-6, trials=None)
    said = "the quickest build so far took 0 s: give a longer --budget"
    assert any(note.endswith(said) for note in bench.told.notes)


def test_a_build_that_dies_later_in_its_sweep_is_known_by_its_candidate(bench: Bench) -> None:
    def dies(job: Job) -> Iterator[Message]:
        for index in (0, 1):
            yield StageStarted(stage="time", index=index)
        yield WorkerFailed(failure=Failure(kind="crash", stage="time", message="SIGSEGV"))

    bench.work = dies
    with pytest.raises(StudyFailed, match="SIGSEGV"):
        bench.run(trials=10)
    assert [outcome.number for outcome in bench.outcomes()] == [0]


def test_the_first_call_tells_what_the_study_will_take(bench: Bench, workers: Workers) -> None:
    workers.first_call_s = 30.0
    with bench.study(budget_s=120.0) as study:
        study.run()
        (plan,) = [note for note in bench.told.notes if "each further build" in note]
    assert "the budget of 2:00 has room for no build; give --budget" in plan


def test_a_study_that_chose_its_budget_is_resumed_with_it(bench: Bench, workers: Workers) -> None:
    workers.first_call_s = 0.8
    bench.run(trials=3, budget_s=None)
    (plan,) = [note for note in bench.told.notes if "--budget sets another" in note]
    chosen_s = next(limits.budget_s for limits in bench.told.limits)
    assert f"a budget of {format_duration(chosen_s)}, enough for about " in plan
    with bench.study(trials=5, budget_s=None) as again:
        taken_over = again.store.with_last_budget(Limits(budget_s=None, max_trials=5))
        assert taken_over == Limits(budget_s=chosen_s, max_trials=5)
        assert again.store.with_last_budget(Limits(budget_s=60.0, max_trials=5)).budget_s == 60.0
