"""What few prompts leave in doubt is judged on more: the untouched pipeline's images first, then the candidate's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import msgspec
import pytest
from inline_study import Bench, Workers

from tuner.errors import BadInput
from tuner.records.codec import Estimate
from tuner.records.outcome import Failure, Timing, scored_prompts
from tuner.records.protocol import Job, Message, Point, PointDone, PointFailed
from tuner.records.quality import Quality
from tuner.records.stages import read_stages
from tuner.report.conclusion import conclusion
from tuner.report.time_account import make_account
from tuner.search.confirmation import Confirmation, by_preference
from tuner.search.more_prompts import is_promising
from tuner.verify.recorded import read_recorded

FEW, ALL = 4, 8
SPACE = """
pipelines: [FluxPipeline]
workload: {prompts: [a, b, c, d, e, f, g, h], height: 32, width: 32}
quality: {tolerance: 1.0}
baseline: {steps: 28, batch: 1}
knobs:
  cache.kind: [none, first-block]
  cache.threshold: [0.1]
  steps: [28]
"""


class Doubtful(Workers):
    """The untouched pipeline has the images of four prompts, which leave the quality of a cache in doubt."""

    loss = 0.2
    is_slow = True
    fails = ""

    def seconds(self, job: Job, point: Point) -> float:
        return super().seconds(job, point) * (1.0 if self.is_baseline(job) else 0.7)

    def timing(self, job: Job, point: Point) -> Timing:
        is_composed = self.is_slow and job.is_baseline
        return super().timing(job, msgspec.structs.replace(point, predict=True) if is_composed else point)

    def quality(self, job: Job, point: Point) -> Quality:
        """The second four prompts are harder, and the candidate loses a little less on them."""
        count = ALL if point.drawn or not self.is_slow else FEW
        known = ((30.0,) * FEW + (29.0,) * FEW)[:count]
        loss = 0.0 if self.is_baseline(job) else self.loss
        scores = tuple(score - loss * (1.0 if score == 30.0 else 0.9) for score in known)
        difference = fmean(scores) - fmean(known)
        half = 0.0 if self.is_baseline(job) else {FEW: 0.95, ALL: 0.7}[count]
        return Quality(
            metric="clip_score", scores=scores, mean=fmean(scores), psnr_db=None, ssim=None,
            difference=Estimate(value=difference, low=difference - half, high=difference + half),
        )  # fmt: skip

    def is_baseline(self, job: Job) -> bool:
        return job.build["cache.kind"] == "none"

    def __call__(self, job: Job) -> Iterator[Message]:
        who = "baseline" if self.is_baseline(job) else "candidate"
        if job.points[0].drawn is not None and (who, self.fails) == ("candidate", "killed"):
            self.jobs.append(job)
            raise KeyboardInterrupt
        if job.points[0].drawn is not None and who == self.fails:
            self.jobs.append(job)
            yield PointFailed(index=0, failure=Failure(kind="out of memory", stage="score", message="no memory"))
            return
        for message in super().__call__(job):
            is_checked = isinstance(message, PointDone) and job.points[message.index].spot_check is not None
            yield msgspec.structs.replace(message, quality=None) if is_checked else message


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Doubtful:
    monkeypatch.setattr(Confirmation, "is_search_ending", lambda *_: True)
    return Doubtful()


@pytest.fixture
def bench(tmp_path: Path, workers: Doubtful) -> Bench:
    made = Bench(tmp_path, workers)
    (tmp_path / "space.yaml").write_text(SPACE)
    return made


def further(workers: Doubtful) -> list[Job]:
    return [job for job in workers.jobs if job.points[0].drawn is not None]


@pytest.mark.usefixtures("real_database")
def test_what_few_prompts_leave_in_doubt_is_judged_on_twice_as_many_and_chosen(bench: Bench, workers: Doubtful) -> None:
    best = bench.run(trials=8)
    paths = bench.folder / "study"
    baseline, candidate = further(workers)
    assert workers.is_baseline(baseline) and not workers.is_baseline(candidate)
    for job, trial in ((baseline, "0000"), (candidate, "0001")):
        assert job.points[0].drawn is not None and job.points[0].score and job.points[0].whole
        assert (job.points[0].drawn.images, job.points[0].drawn.prompts) == (
            str(paths / "trials" / trial / "images"),
            FEW,
        )
        assert len(job.workload.prompts) == ALL and job.tolerance is None
    assert baseline.reference is None and candidate.reference is not None
    assert candidate.reference.images == str(Path(baseline.points[0].folder) / "images")
    assert len(candidate.reference.scores) == ALL
    assert best.chosen.trial == 1 and best.speed_up_confirmed
    assert best.chosen.quality_difference.low == pytest.approx(-0.89)
    (told,) = [note for note in bench.told.notes if "leave in doubt" in note]
    assert told.startswith("trial 1: 4 prompts leave in doubt") and told.endswith("8 are judged")
    with bench.study(trials=8) as again:
        known = again.history.settled(again.history.outcomes[1])
        assert known.quality is not None and len(known.quality.scores) == ALL
        assert again.store.study.get_trials()[1].values[1] == pytest.approx(29.81)
        assert again.run() == best, "a finished study of them is opened again"


def test_what_more_prompts_would_not_settle_is_left(bench: Bench, workers: Doubtful) -> None:
    workers.loss = 0.9
    assert bench.run(trials=8).chosen.trial == 0
    assert further(workers) == []


@pytest.mark.parametrize(("value", "low", "is_one"), [(-0.2, -1.2, True), (0.6, -1.2, True), (-0.6, -1.4, False),
                                                      (-0.2, -0.9, False), (-2.0, -3.0, False)])  # fmt: skip
def test_what_is_in_doubt_and_would_be_as_good_is_promising(
    bench: Bench, workers: Doubtful, value: float, low: float, is_one: bool
) -> None:
    with bench.study(trials=8) as study:
        study.measure_baseline()
        baseline = study.history.baseline
        assert baseline.quality is not None
        difference = Estimate(value=value, low=low, high=max(value, -1.5))
        judged = msgspec.structs.replace(baseline.quality, difference=difference)
        assert is_promising(study.history, msgspec.structs.replace(baseline, quality=judged)) is is_one


def test_quick_calls_have_all_prompts_from_the_start(bench: Bench, workers: Doubtful) -> None:
    workers.is_slow = False
    bench.run(trials=8)
    assert further(workers) == []


@pytest.mark.parametrize(("who", "tries"), [("baseline", 1), ("candidate", 2)])
def test_a_process_that_fails_is_not_tried_again(bench: Bench, workers: Doubtful, who: str, tries: int) -> None:
    workers.fails = who
    assert bench.run(trials=8).chosen.trial == 0
    assert len(further(workers)) == tries


def test_no_time_is_taken_from_what_ends_the_study(
    bench: Bench, workers: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.search.more_prompts.needed_s", lambda *_: 1e9)
    bench.run(trials=8)
    assert further(workers) == []


@pytest.mark.usefixtures("real_database")
@pytest.mark.parametrize("field", ["value", "scores"])
def test_scores_on_more_prompts_that_were_edited_are_refused(bench: Bench, workers: Doubtful, field: str) -> None:
    bench.run(trials=8)
    files = sorted((bench.folder / "study" / "repetitions").glob("*/outcome.json"))
    data = {file: json.loads(file.read_text()) for file in files}
    (file,) = [file for file, outcome in data.items() if outcome["quality"] and outcome["number"] == 1]
    quality = data[file]["quality"]
    if field == "value":
        quality["difference"]["value"] = 0.5
    else:
        quality["scores"] = [*quality["scores"], 29.0]
    file.write_text(json.dumps(data[file]))
    with pytest.raises(BadInput, match=r"outcome\.json: quality\."), bench.study(trials=8):
        pass


def vary(workers: Doubtful, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each process take another time."""
    honest = workers.seconds
    monkeypatch.setattr(workers, "seconds", lambda job, point: honest(job, point) * (1 + 0.001 * len(workers.jobs)))


@pytest.mark.usefixtures("real_database")
def test_the_study_opens_again_at_another_price(
    bench: Bench, workers: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    vary(workers, monkeypatch)
    assert bench.run(trials=8).chosen.trial == 1
    bench.price = msgspec.structs.replace(bench.price, usd_per_hour=7.2)
    best = bench.run(trials=8)
    assert best.chosen.trial == 1 and best.chosen.quality_difference.low == pytest.approx(-0.89)
    with bench.study(trials=8) as again:
        assert again.store.study.get_trials()[1].values[1] == pytest.approx(29.81)


@pytest.mark.usefixtures("real_database")
def test_builds_with_the_same_images_share_what_more_prompts_show(bench: Bench, workers: Doubtful) -> None:
    """A later trial has the images of the one that was judged on more, by another attention kernel."""
    (bench.folder / "space.yaml").write_text(SPACE + "  attention.backend: [native, _native_math]\n")
    best = bench.run(trials=8)
    with bench.study(trials=8) as study:
        reused = [trial for trial in study.history.outcomes.values() if trial.image_owner not in (trial.number, 0)]
        assert reused, "a build of the same images was tried"
        for trial in map(study.history.settled, reused):
            assert scored_prompts(trial) == ALL
            assert trial.quality is not None and trial.quality.reused_from is not None
            assert trial.number in [each.number for each in by_preference(study.history)]
    assert len(further(workers)) == 2, "nothing is generated twice"
    assert best.chosen.trial


@pytest.mark.usefixtures("real_database")
def test_verify_and_the_conclusion_know_the_images_of_more_prompts(bench: Bench, workers: Doubtful) -> None:
    best = bench.run(trials=8)
    baseline, _ = further(workers)
    for folder in (bench.folder / "study" / "trials" / "0000", Path(baseline.points[0].folder)):
        (folder / "images").mkdir(parents=True, exist_ok=True)
    recorded = read_recorded(bench.folder / "study" / "best_config.json", best)
    assert recorded.reference is not None
    assert recorded.reference.images == str(Path(baseline.points[0].folder) / "images")
    assert (len(recorded.reference.scores), len(recorded.workload.prompts)) == (ALL, ALL)
    with bench.study(trials=8) as study:
        assert "Only 8 prompts judged it" in conclusion(
            study.store.request, study.history, best.chosen.trial, bench.folder
        )
        account = make_account(read_stages(study.store.paths.stages), study.history)
        assert account is not None and account.builds == 2


def test_what_was_generated_before_a_kill_is_not_generated_again(bench: Bench, workers: Doubtful) -> None:
    """The study is killed between the untouched pipeline's further images and the candidate's."""
    workers.fails = "killed"
    with bench.study(trials=8) as study, pytest.raises(KeyboardInterrupt):
        study.run()
    baseline, _ = further(workers)
    workers.fails = ""
    assert bench.run(trials=8).chosen.trial == 1
    _, _, again = further(workers)
    assert not workers.is_baseline(again)
    assert again.reference is not None and again.reference.images == str(Path(baseline.points[0].folder) / "images")
