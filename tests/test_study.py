"""The loop, with a worker that is made up: what is predicted and then measured, what misses a latency target, what is
tried again, and what is chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest
from inline_study import DEVICE, Bench, Told, Workers

from tuner.commands.conduct import with_last_budget
from tuner.errors import StudyFailed
from tuner.numbers import format_duration
from tuner.records.codec import Estimate, Values, read
from tuner.records.machine import GpuUse, Roofline
from tuner.records.outcome import Components, Failure, Limits, Outcome, Timing
from tuner.records.protocol import (
    BuildDone,
    Job,
    Message,
    Point,
    PointDone,
    PointFailed,
    PointLeftOut,
    StageStarted,
    WorkerFailed,
)
from tuner.records.quality import NoiseFloor
from tuner.report.conclusion import conclusion
from tuner.report.points import front_points
from tuner.report.renderers import RENDERERS
from tuner.report.study_report import read_report
from tuner.report.trial_text import result_text
from tuner.result.config import read_best, read_config
from tuner.result.records import BestConfig, TimingNoise
from tuner.search import baseline, confirmation, gain
from tuner.search.budget import Budget
from tuner.search.confirmation import Confirmation
from tuner.search.gain import MAX_PAIRS, MIN_PAIRS
from tuner.study import loop, narration
from tuner.study.attempt import BuildAttempt
from tuner.study.attempt_factory import make_build
from tuner.study.course import building, keep_building
from tuner.study.events import NoiseFloorMeasured, Note
from tuner.study.loop import Study
from tuner.study.store import Store


def conclusion_of(study: Study) -> str:
    return conclusion(study.store.request, study.history, 0, study.store.folder)


FINISHED = re.compile(
    r"this study is finished, it has used [0-9:]+: give a longer --budget, or more --trials, to go on"
)


def test_the_conclusion_warns_where_processes_differ(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.study(trials=2) as found:
        found.run()
        assert "Noise" not in conclusion_of(found)
        noise = TimingNoise(processes=4, coefficient_of_variation=0.48)
        monkeypatch.setattr("tuner.report.conclusion.timing_noise", lambda _: noise)
        assert "Noise    48% between processes of the baseline" in conclusion_of(found)


@pytest.mark.parametrize(("prompts", "warned"), [(2, True), (15, True), (16, False)])
def test_a_choice_that_few_prompts_judged_is_said_to_be(bench: Bench, prompts: int, warned: bool) -> None:
    with bench.study(trials=2) as study:
        study.run()
        trial = study.history.outcomes[1]
        assert trial.quality is not None
        quality = msgspec.structs.replace(trial.quality, scores=(30.0,) * prompts)
        study.history.outcomes[1] = msgspec.structs.replace(trial, quality=quality)
        text = conclusion(study.store.request, study.history, 1, study.store.folder)
        assert (f"Only {prompts} prompts judged it" in text) is warned
        assert "judged it" not in conclusion_of(study), "the untouched pipeline"


@pytest.mark.parametrize(
    ("source", "scorer", "warned"), [("/model", "demo", True), ("demo", "demo", False), ("/model", "/clip", False)]
)
def test_another_pipeline_that_the_demos_scorer_judged_is_said_to_be(
    bench: Bench, source: str, scorer: str, warned: bool
) -> None:
    with bench.study(trials=2) as study:
        study.run()
        request = study.store.request
        model = msgspec.structs.replace(request.model, source=source, scorer=scorer)
        text = conclusion(msgspec.structs.replace(request, model=model), study.history, 1, study.store.folder)
        assert ("The demo's scorer judged it" in text) is warned


def test_a_choice_whose_calls_take_longer_is_said_to_be(bench: Bench) -> None:
    with bench.study(trials=2) as study:
        study.run()
        trial = study.history.outcomes[1]
        several = msgspec.structs.replace(trial, values={**trial.values, "batch": 400})
        baseline = study.history.baseline.timing
        assert baseline is not None and several.timing is not None
        long_s = 3 * baseline.latency_s.value
        longer = Estimate(value=long_s, low=long_s, high=long_s)
        timing = msgspec.structs.replace(several.timing, latency_s=longer, predicted_from=None)
        study.history.repetitions.clear()
        for batch, is_said in ((400, True), (1, False)):
            values = {**trial.values, "batch": batch}
            study.history.outcomes[1] = msgspec.structs.replace(several, values=values, timing=timing)
            text = conclusion(study.store.request, study.history, 1, study.store.folder)
            assert (", though a call of 400 images takes 3.00x as long:" in text) is is_said


# ---- prediction -----------------------------------------------------------------------------------------------------


def test_a_row_measures_the_candidate_and_what_spans_it_and_predicts_the_rest(bench: Bench, workers: Workers) -> None:
    bench.strategy = "tpe"  # the agent asks for single step counts
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
    bench.strategy = "tpe"  # the agent asks for single step counts
    best = bench.run(trials=10)
    trial = bench.outcomes()[best.chosen.trial]
    assert trial.timing is not None
    assert trial.timing.predicted_from == (6, 28), "the search only predicted it"
    assert (best.chosen.values["steps"], best.chosen.predicted_from) == (10, None)
    assert best.chosen.latency_samples >= 6
    assert best.speed_up_confirmed
    (check,) = [check for check in best.predictions if check.trial == best.chosen.trial]
    assert check.held
    assert abs(check.error) < 1e-9
    assert any(note.startswith(f"trial {check.trial}: predicted ") for note in bench.told.notes)


@pytest.mark.usefixtures("real_database")
def test_a_prediction_that_did_not_hold_is_said_to_have_not(bench: Bench, workers: Workers) -> None:
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (0.9 if point.predict else 1.0)  # type: ignore[method-assign]
    workers.bad_steps = {6}
    best = bench.run(trials=10)
    worst = max(best.predictions, key=lambda check: abs(check.error))
    assert worst.error == pytest.approx(-0.1)
    assert not worst.held
    assert any("-10.00%" in note and "more than" in note for note in bench.told.notes)


# ---- slow calls -----------------------------------------------------------------------------------------------------


def test_a_candidate_need_not_be_judged_if_a_quicker_one_is_as_good(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BuildAttempt, "_is_judged_in_turn", lambda self: 0 in self.history.outcomes)

    def work(job: Job) -> Iterator[Message]:
        for message in workers(job):
            worth_s = job.points[message.index].worth_s if isinstance(message, PointDone) else None
            if isinstance(message, PointDone) and worth_s is not None and message.timing.latency_s.low > worth_s:
                message = msgspec.structs.replace(message, quality=None, is_dominated=True)
            yield message

    honest, bench.work = workers.seconds, work
    workers.seconds = lambda job, point: honest(job, point) * (2.0 if point.steps == 20 else 1.0)  # type: ignore[method-assign]
    bench.strategy = "tpe"  # the agent asks for single step counts
    best = bench.run(trials=14)
    unjudged = [outcome for outcome in bench.outcomes() if outcome.quality is None]
    assert unjudged
    assert all(outcome.status == "measured" for outcome in unjudged)
    quickest_s = min(
        outcome.timing.latency_s.high for outcome in bench.outcomes() if outcome.quality and outcome.timing
    )
    assert all(outcome.timing and outcome.timing.latency_s.low > quickest_s for outcome in unjudged)
    assert best.chosen.trial not in {outcome.number for outcome in unjudged}
    assert bench.run(trials=14) == best, "a finished study of them is opened again"


def test_where_calls_are_quick_all_candidates_are_judged(bench: Bench, workers: Workers) -> None:
    bench.run(trials=10)
    assert len(workers.jobs) > 2
    assert all(point.worth_s is None for job in workers.jobs for point in job.points)
    assert all(outcome.quality is not None for outcome in bench.outcomes() if outcome.status == "measured")


class CoolAtFirst(Workers):
    """The GPU's clock is lower in a repetition than in the search, and a product's rate is known."""

    def __call__(self, job: Job) -> Iterator[Message]:
        for message in super().__call__(job):
            if isinstance(message, BuildDone):
                limits = Roofline(flop_per_step=1e12, flop_per_s={"float32": 2e13}, weight_bytes=None)
                message = msgspec.structs.replace(
                    message, build=msgspec.structs.replace(message.build, roofline=limits)
                )
            yield message

    def timing(self, job: Job, point: Point) -> Timing:
        timing = super().timing(job, point)
        parts = Components(
            total_s=timing.latency_s.value,
            text_encoders_s=None,
            denoiser_s=timing.latency_s.value,
            vae_s=None,
            rest_s=0,
        )
        gpu = GpuUse(sm_clock_mhz=1920.0 if point.score else 1620.0, power_w=680.0, calls=6)
        return msgspec.structs.replace(timing, components=parts, gpu=gpu)


def test_the_result_says_the_same_of_the_chosen_point_and_of_it_on_the_front(tmp_path: Path) -> None:
    best = Bench(tmp_path, CoolAtFirst()).run(trials=10)
    assert best.speed_up_confirmed
    (on_front,) = [point for point in best.front if point.trial == best.chosen.trial]
    assert best.chosen.limit is not None and best.chosen.limit.sm_clock_mhz == 1620.0
    assert best.chosen == on_front
    assert read_best(tmp_path / "study" / "best_config.json") == best


def test_step_counts_that_were_left_out_are_tried_on_the_best_build(bench: Bench, workers: Workers) -> None:
    def work(job: Job) -> Iterator[Message]:
        for message in workers(job):
            if isinstance(message, PointDone) and message.index > 0:
                yield PointLeftOut(index=message.index)
            else:
                yield message

    bench.work = work
    bench.run(trials=12)
    kept = [outcome for outcome in bench.outcomes() if outcome.purpose != "confirm"]
    assert [outcome.values["steps"] for outcome in kept if outcome.purpose == "baseline"] == [28]
    assert {outcome.values["steps"] for outcome in kept} == {28, 20, 14, 10, 6}


# ---- the latency target ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "late_trials"), [("tpe", 3), ("agent", 1)])
def test_what_misses_the_latency_target_is_no_point_but_the_baseline_stays_shown(
    bench: Bench, workers: Workers, strategy: str, late_trials: int
) -> None:
    bench.strategy = strategy
    best = bench.run("workload.latency_target_s=2.0", trials=10)
    assert best.workload.latency_target_s == 2.0
    assert (best.baseline.trial, best.baseline.within_latency_target) == (0, 0.0)
    assert best.chosen.latency_s.value <= 2.0
    assert best.front
    assert all(point.latency_s.value <= 2.0 for point in best.front)
    late = [outcome for outcome in bench.outcomes() if outcome.timing and outcome.timing.latency_s.value > 2.0]
    assert len(late) >= late_trials, "among them some are better in quality, and would be on the front"
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


@pytest.mark.usefixtures("real_database")
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
    assert [outcome.status for outcome in same] == ["failed", "measured"]


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


# ---- the choice, and builds that fail -------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_database")
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


@pytest.mark.usefixtures("real_database")
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
    monkeypatch.setattr(gain, "QUIET", -1.0)
    best = bench.run("steps=28", trials=8)
    assert best.chosen.trial == 0
    assert any("it may be no faster" in note for note in bench.told.notes)
    with bench.study("steps=28", trials=8) as found:
        told = conclusion_of(found)
    assert re.search(
        r"certainly cheaper; trial \d+ had [\d.]+x .* \[0\.\d+, .*\]: a longer --budget measures more", told
    )
    assert re.search(r"measures more pairs, \d+ s each$", told.splitlines()[0])


@pytest.mark.usefixtures("real_database")
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
        assert bench.run("steps=28", "attention.backend=_native_math", trials=2).chosen.trial == 0
    before = len(workers.jobs)
    bench.run("steps=28", "attention.backend=_native_math", trials=14, budget_s=900.0)
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
@pytest.mark.usefixtures("real_database")
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
    monkeypatch.setattr("tuner.board.trial_events.write_row", write)
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


@pytest.mark.usefixtures("real_database")
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


@pytest.mark.usefixtures("real_database")
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
    text = "cache.kind=first-block: it skipped nothing in 40 steps, as if it were not set"

    def idle(job: Job) -> Iterator[Message]:
        is_cached = job.build["cache.kind"] != "none"
        for message in workers(job):
            if is_cached and isinstance(message, PointDone) and job.points[message.index].steps <= 20:
                failure = Failure(kind="no effect", stage="score", message=text, knob="cache.kind")
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
    assert any(map(FINISHED.fullmatch, bench.told.notes))
    with bench.study(trials=10, budget_s=700.0) as again:  # longer, but no longer than what the study has taken
        again.store.spent_s = 800.0
    assert bench.run(trials=10, budget_s=700.0) == best
    with bench.study(trials=10, budget_s=700.0) as again:
        again.store.spent_s = 1.0
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
    assert not any(map(FINISHED.fullmatch, bench.told.notes))
    assert best.trials.measured == len(bench.outcomes()) == 12


@pytest.mark.usefixtures("real_database")
def test_a_study_whose_finalists_could_not_be_judged_is_not_finished(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "judge_finalists", lambda *_: None)
    bench.run(trials=10)
    monkeypatch.undo()
    bench.run(trials=10)
    assert not any(map(FINISHED.fullmatch, bench.told.notes))


def test_what_is_interrupted_while_its_result_is_shown_stays_recorded(bench: Bench, workers: Workers) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with bench.study(trials=6) as found:
        bench.told.trial_ended = interrupted
        with pytest.raises(KeyboardInterrupt):
            found.run()
    assert [outcome.number for outcome in bench.outcomes()] == [0]
    bench.run(trials=6)
    assert sum(job.is_baseline for job in workers.jobs) == 1


def test_the_time_of_a_build_that_was_interrupted_counts(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=12) as found:

        def interrupted(job: Job) -> Iterator[Message]:
            if len(workers.jobs) > 5:
                found.budget.started -= 50.0
                raise KeyboardInterrupt
            yield from workers(job)

        bench.work = interrupted
        with pytest.raises(KeyboardInterrupt):
            found.run()
        assert found.store.spent_s > 50.0
    bench.work = workers
    bench.run(trials=12)
    with bench.study(trials=12) as again:
        spent_s = again.store.spent_s
        again.run()
        assert any(map(FINISHED.fullmatch, bench.told.notes))
        assert again.store.spent_s == spent_s > 50.0, "a result that is only shown again takes nothing"


def test_tensorboard_is_told_which_trials_the_result_is_of(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[int, str | None] = {}

    def write(folder: Path, outcome: Outcome, _: Any, place: str | None = None) -> None:
        places[outcome.number] = place

    monkeypatch.setattr("tuner.board.trial_events.write_row", write)
    best = bench.run(trials=10)
    assert [number for number, place in places.items() if place == "chosen"] == [best.chosen.trial]
    shown = {best.chosen.trial, *(point.trial for point in best.front)}
    assert {number for number, place in places.items() if place} == shown


@pytest.mark.usefixtures("real_database")
def test_tensorboard_is_told_the_latency_of_all_processes_as_the_result_has_it(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, told = workers.seconds, dict[int, float]()

    def write(folder: Path, outcome: Outcome, *_: Any) -> None:
        if outcome.timing is not None:
            told[outcome.number] = outcome.timing.latency_s.value

    monkeypatch.setattr("tuner.board.trial_events.write_row", write)
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
        "tuner.board.trial_events.write_row", lambda _, outcome, __, place=None: places.update({outcome.number: place})
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
        reference = make_build(again.publisher, proposal, DEVICE).job(again.budget).reference
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


@pytest.mark.usefixtures("real_database")
def test_a_study_that_chose_its_budget_is_resumed_with_it(bench: Bench, workers: Workers) -> None:
    workers.first_call_s = 0.8
    bench.run(trials=3, budget_s=None)
    (plan,) = [note for note in bench.told.notes if "--budget sets another" in note]
    chosen_s = next(limits.budget_s for limits in bench.told.limits)
    assert f"a budget of {format_duration(chosen_s)}, enough for about " in plan
    taken_over = with_last_budget(bench.folder / "study", Limits(budget_s=None, max_trials=5))
    assert taken_over == Limits(budget_s=chosen_s, max_trials=5)
    assert with_last_budget(bench.folder / "study", Limits(budget_s=60.0, max_trials=5)).budget_s == 60.0


def test_what_a_kill_interrupted_is_kept_until_it_runs_again(bench: Bench) -> None:
    bench.run(trials=6)
    with bench.study(trials=12) as found:
        sweep = found.history.space.step_sweep(found.history.space.candidate({"cache.kind": "first-block"}))
        keep_building(found.store, [sweep])
    with bench.study(trials=12) as again:
        again.runner.keep_building()  # as when a repetition of the baseline begins
    with bench.study(trials=12) as last:
        assert building(last.store) == [sweep]
        proposal = last.search.propose(last.history, DEVICE)
        assert proposal is not None and proposal.values == sweep[0]
        last.runner.keep_building()
        assert building(last.store) == []
