"""Whether a configuration is still clean, as fast and as good: answers from workers that are made up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from inline_study import Workers

from tuner.cli import main
from tuner.commands import verify as command
from tuner.commands.verify.table import verdict
from tuner.errors import StudyFailed, Unavailable
from tuner.execution.inline import InlineExecutor
from tuner.files import StudyFolder, open_regular
from tuner.hardware.environment import detect
from tuner.quality.race import FIRST_PROMPTS
from tuner.records.codec import Estimate, decode, encode_pretty, read
from tuner.records.gate import Finding, Verdict
from tuner.records.outcome import Failure, Outcome
from tuner.records.protocol import BuildDone, Job, Message, Point, PointDone, PointFailed, WorkerFailed
from tuner.records.quality import Quality, SpotCheck
from tuner.result.config import read_best
from tuner.result.records import BestConfig, MeasuredPoint, TimingNoise
from tuner.verify import changes as changes_module
from tuner.verify.bench import SCORE, Bench
from tuner.verify.course import PAIRS, Course
from tuner.verify.recorded import ROUNDED_DB, Recorded, read_recorded
from tuner.verify.records import Change, Check, Verification

SYNC = Finding(
    kind="device sync", count=3, count_per_step=1.0, idle_ms_per_step=2.0, operator="aten::item", reason="",
    source="pipeline.py:7",
)  # fmt: skip


class Now(Workers):
    """Workers of today. The candidate is the build with the math kernel; `rejected` says whose trace has a sync."""

    def __init__(self) -> None:
        super().__init__()
        self.slower = {"candidate": 1.0, "baseline": 1.0}
        self.loss = 0.0
        self.psnr_db = 100.0
        self.rejected: set[str] = set()
        self.broken: set[str] = set()
        self.dies_in: str | None = None
        """The stage in which the candidate's worker runs out of memory."""
        self.blind = False
        self.draws_as_recorded = True

    def who(self, job: Job) -> str:
        return "baseline" if job.build["attention.backend"] == "native" else "candidate"

    def seconds(self, job: Job, point: Point) -> float:
        return super().seconds(job, point) * self.slower[self.who(job)]

    def quality(self, job: Job, point: Point) -> Quality:
        quality = super().quality(job, point)
        if self.who(job) == "baseline":
            return msgspec.structs.replace(quality, psnr_db=self.psnr_db)
        low, high = -0.05 - self.loss, 0.05 - self.loss
        return msgspec.structs.replace(quality, difference=Estimate(value=-self.loss, low=low, high=high))

    def __call__(self, job: Job) -> Iterator[Message]:
        who = self.who(job)
        if who in self.broken:
            self.jobs.append(job)
            failure = Failure(kind="error", stage="apply", message="no kernel\nand a second line")
            yield WorkerFailed(failure=failure)
            return
        for message in super().__call__(job):
            if who == "candidate" and self.dies_in and self.dies_in == stage_of(message):
                yield WorkerFailed(failure=Failure(kind="out of memory", stage=self.dies_in, message="40 GiB"))
                return
            if isinstance(message, BuildDone) and job.trace:
                verdict = self.verdict(job, who)
                yield BuildDone(build=msgspec.structs.replace(message.build, verdict=verdict))
                if verdict.status == "rejected" and not job.is_baseline:
                    return
            elif self.blind and getattr(message, "index", None) == SCORE and who == "candidate":
                yield PointFailed(
                    index=SCORE, failure=Failure(kind="invalid image", stage="score", message="all are black")
                )
            elif self.is_spot_checked(job, message) and self.draws_as_recorded:
                yield msgspec.structs.replace(message, quality=None)
            else:
                yield message

    def is_spot_checked(self, job: Job, message: Message) -> bool:
        return isinstance(message, PointDone) and job.points[message.index].spot_check is not None

    def verdict(self, job: Job, who: str) -> Verdict:
        if who not in self.rejected:
            return Verdict(status="clean")
        allowed = next((allowance.knob for allowance in job.allowed if allowance.kind == SYNC.kind), None)
        finding = msgspec.structs.replace(SYNC, allowed_by=allowed)
        return Verdict(status="clean" if allowed else "rejected", findings=(finding,))


def stage_of(message: Message) -> str | None:
    """The stage that ends with a message."""
    if not isinstance(message, PointDone):
        return None
    return "score" if message.index == SCORE else "time"


@pytest.fixture(scope="module")
def study(recorded_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study whose choice is the math kernel, with a folder for the reference images."""
    folder = tmp_path_factory.mktemp("verify") / "study"
    shutil.copytree(recorded_study, folder, ignore=shutil.ignore_patterns("cache"))
    (folder / "trials" / "0000" / "images").mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "model_changes", lambda *_: ())


@pytest.fixture
def verified(study: Path, tmp_path: Path) -> Callable[..., Verification]:
    def run(
        now: Now, *, quick: bool = False, edit: Callable[[BestConfig], BestConfig] = lambda best: best,
        recorded: Recorded | None = None, trial: int | None = None,
    ) -> Verification:  # fmt: skip
        best = edit(read_best(study / "best_config.json"))
        point = next((point for point in best.front if point.trial == trial), best.chosen)
        known = recorded or read_recorded(study / "best_config.json", best)
        bench = Bench(InlineExecutor(now), best, detect("cpu"), known, tmp_path, 1.0, spot_check=quick)
        return Course("best_config.json", bench, point, lambda _: None, quick=quick).verify()

    return run


def answers(verification: Verification) -> dict[str, str]:
    return {check.question: check.status for check in verification.checks}


def text(verification: Verification, question: str) -> str:
    (found,) = [check.text for check in verification.checks if check.question == question]
    assert "\n" not in found
    return found


def scaled(factor: float) -> Callable[[BestConfig], BestConfig]:
    """Edit the recorded latency of the chosen configuration."""

    def edit(best: BestConfig) -> BestConfig:
        latency = best.chosen.latency_s
        edited = Estimate(value=latency.value * factor, low=latency.low * factor, high=latency.high * factor)
        return msgspec.structs.replace(best, chosen=msgspec.structs.replace(best.chosen, latency_s=edited))

    return edit


CLEAN, FAST, GOOD = "clean", "as fast", "as good"


# ---- the answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [True, False])
def test_what_did_not_change_passes(verified: Callable[..., Verification], quick: bool) -> None:
    now = Now()
    verification = verified(now, quick=quick)
    assert answers(verification) == {CLEAN: "pass", FAST: "pass", GOOD: "pass"}
    assert verification.passed and verification.changes == () and verification.repair is None
    assert verification.speed_up and verification.speed_up.low > 1.0
    assert [now.who(job) for job in now.jobs] == (
        ["baseline", "candidate"]
        if quick
        else ["baseline", "candidate", "candidate", "baseline", "baseline", "candidate"]
    )
    assert [job.trace for job in now.jobs] == [False, True, *[False] * (2 * PAIRS - 2)][: len(now.jobs)]
    assert [len(job.points) for job in now.jobs] == [2, 2, *[1] * (2 * PAIRS - 2)][: len(now.jobs)]
    assert not any(job.is_baseline for job in now.jobs)


@pytest.mark.parametrize(("factor", "status"), [(0.95, "fail"), (1.0, "pass"), (1.05, "pass"), (0.995, "pass")])
def test_a_recorded_latency_that_was_edited(verified: Callable[..., Verification], factor: float, status: str) -> None:
    verification = verified(Now(), edit=scaled(factor))
    assert answers(verification) == {CLEAN: "pass", FAST: status, GOOD: "pass"}
    assert [change.name for change in verification.changes] == (["best_config.json"] if factor != 1.0 else [])
    if status == "fail":
        assert "1.05x [" in text(verification, FAST)
        assert text(verification, FAST).endswith("the untouched pipeline is as recorded")


def test_a_machine_that_is_slower_as_a_whole_is_told(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.slower = {"candidate": 1.2, "baseline": 1.2}
    verification = verified(now)
    assert answers(verification)[FAST] == "fail"
    assert "the untouched pipeline is slower too, 1.20x" in text(verification, FAST)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("spread", "status"), [(0.05, "pass"), (0.5, "unavailable")])
def test_noise_that_hides_any_slowdown_answers_nothing(
    verified: Callable[..., Verification], spread: float, status: str, quick: bool
) -> None:
    noise = TimingNoise(processes=3, coefficient_of_variation=spread)
    verification = verified(Now(), quick=quick, edit=lambda best: msgspec.structs.replace(best, timing_noise=noise))
    assert answers(verification) == {CLEAN: "pass", FAST: status, GOOD: "pass"}
    assert "the noise would hide a slowdown of up to" in text(verification, FAST)
    assert ("verify on a quieter machine" in text(verification, FAST)) == (status == "unavailable")
    assert ("without --quick" in text(verification, FAST)) == (status == "unavailable" and quick)
    faster = Now()
    faster.slower = {"candidate": 0.1, "baseline": 0.1}
    again = verified(faster, quick=quick, edit=lambda best: msgspec.structs.replace(best, timing_noise=noise))
    assert answers(again)[FAST] == "pass", "whatever the noise hides, it is no slowdown"
    last = "verified" if status == "pass" else "partly verified, these could not be checked: as fast"
    assert verdict(verification).plain == last


def test_another_machine_has_no_recorded_latency(verified: Callable[..., Verification]) -> None:
    def edit(best: BestConfig) -> BestConfig:
        elsewhere = msgspec.structs.replace(best.environment, device_name="Another CPU")
        return msgspec.structs.replace(scaled(0.5)(best), environment=elsewhere)

    verification = verified(Now(), quick=True, edit=edit)
    assert answers(verification) == {CLEAN: "pass", FAST: "unavailable", GOOD: "pass"}
    assert text(verification, FAST).startswith("recorded on Another CPU, this is ")
    now = Now()
    now.slower = {"candidate": 9.0, "baseline": 1.0}
    verification = verified(now, quick=True, edit=edit)
    assert answers(verification)[FAST] == "fail"
    assert text(verification, FAST).startswith("it is slower than the untouched pipeline: 0.")


def test_another_model_in_the_folder_is_seen_by_its_images(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.psnr_db = 11.0
    verification = verified(now)
    assert answers(verification) == {CLEAN: "pass", FAST: "pass", GOOD: "fail"}
    assert "generates other images than in the study (PSNR 11 dB)" in text(verification, GOOD)
    assert verification.repair is None and verification.tried == {}, "the front is of another model"


def other_versions(best: BestConfig) -> BestConfig:
    there = best.environment
    libraries = {**there.libraries, "diffusers": "0.41.0"}
    return msgspec.structs.replace(
        best, environment=msgspec.structs.replace(there, libraries=libraries, driver="535.1"), tuner_version="0.0.1"
    )


def test_images_that_moved_by_rounding_pass_if_a_version_changed(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.psnr_db = 33.0
    verification = verified(now, quick=True, edit=other_versions)
    assert answers(verification)[GOOD] == "pass"
    assert "moved by rounding, PSNR 33 dB" in text(verification, GOOD)
    assert answers(verified(now, quick=True))[GOOD] == "fail", "no version changed, so the model did"


@pytest.mark.parametrize(("age_s", "status"), [(-60, "pass"), (60, "fail")])
def test_files_of_the_model_that_are_newer_than_the_record_are_told(
    age_s: int, status: str, tmp_path: Path, verified: Callable[..., Verification], study: Path
) -> None:
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(b"")
    best = read_best(study / "best_config.json")
    recorded_s = datetime.fromisoformat(best.created_at).timestamp()
    os.utime(weights, (recorded_s + age_s, recorded_s + age_s))

    def edit(best: BestConfig) -> BestConfig:
        model = msgspec.structs.replace(best.model, source=str(tmp_path / "model"))
        return other_versions(msgspec.structs.replace(best, model=model))

    now = Now()
    now.psnr_db = 33.0
    known = read_recorded(study / "best_config.json", best)
    verification = verified(now, quick=True, edit=edit, recorded=known)
    assert answers(verification)[GOOD] == status
    told = [change.now for change in verification.changes if change.name == "model files"]
    assert told == (["1 of 1 files are newer, such as model/weights.safetensors"] if status == "fail" else [])


def test_other_versions_are_listed_and_fail_nothing(verified: Callable[..., Verification]) -> None:
    verification = verified(Now(), quick=True, edit=other_versions)
    assert verification.passed
    assert {change.name for change in verification.changes} == {"diffusers", "driver", "diffusion-tuner"}
    (found,) = [change for change in verification.changes if change.name == "diffusers"]
    assert found == Change(name="diffusers", recorded="0.41.0", now=str(detect("cpu").libraries["diffusers"]))


def test_worse_images_fail(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.loss = 2.0
    verification = verified(now, quick=True)
    assert answers(verification) == {CLEAN: "pass", FAST: "pass", GOOD: "fail"}
    assert "clip_score -2.000 [-2.050, -1.950]" in text(verification, GOOD)


def with_images_of_the_choice(study: Path, folder: Path) -> Recorded:
    """Return what the study has, with images of the chosen trial in its folder."""
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("cache"))
    best = read_best(folder / "best_config.json")
    (folder / "trials" / f"{best.chosen.trial:04}" / "images").mkdir(parents=True)
    return read_recorded(folder / "best_config.json", best)


@pytest.mark.parametrize(("is_same", "loss"), [(True, 2.0), (False, 0.0), (False, 2.0)])
def test_a_quick_one_judges_images_only_if_they_are_not_those_of_the_record(
    is_same: bool, loss: float, study: Path, tmp_path: Path, verified: Callable[..., Verification]
) -> None:
    recorded, now = with_images_of_the_choice(study, tmp_path / "copy"), Now()
    now.draws_as_recorded, now.loss = is_same, loss
    verification = verified(now, quick=True, recorded=recorded)
    (spot_check,) = [job.points[SCORE].spot_check for job in now.jobs if now.who(job) == "candidate"]
    assert spot_check and spot_check.min_psnr_db == ROUNDED_DB
    assert answers(verification)[GOOD] == ("fail" if loss and not is_same else "pass")
    assert text(verification, GOOD).startswith("the images are the recorded ones, with clip_score ") == is_same
    verified(now, recorded=recorded)
    assert not any(job.points[-1].spot_check for job in now.jobs[2:]), "a full one judges them all"


def test_images_of_another_build_are_known_as_nearly_as_the_study_asked_for(study: Path, tmp_path: Path) -> None:
    recorded = with_images_of_the_choice(study, tmp_path / "copy")
    owner = read_best(study / "best_config.json").chosen.trial
    images = StudyFolder(tmp_path / "copy").images(owner)
    assert recorded.known_images(owner) == SpotCheck(images=str(images), min_psnr_db=ROUNDED_DB)
    file = tmp_path / "copy" / "trials" / f"{owner:04}" / "outcome.json"
    outcome = read(file, Outcome)
    quality = msgspec.structs.replace(outcome.quality, reused_from=owner)
    other = tmp_path / "copy" / "trials" / "0999"
    other.mkdir()
    (other / "outcome.json").write_bytes(encode_pretty(msgspec.structs.replace(outcome, number=999, quality=quality)))
    assert recorded.known_images(999) == SpotCheck(images=str(images))
    shutil.rmtree(images)
    assert recorded.known_images(999) is None


def test_a_quick_one_says_that_images_are_near_those_of_another_build(
    study: Path, tmp_path: Path, verified: Callable[..., Verification]
) -> None:
    recorded = with_images_of_the_choice(study, tmp_path / "copy")
    chosen = read_best(study / "best_config.json").chosen.trial
    file = tmp_path / "copy" / "trials" / f"{chosen:04}" / "outcome.json"
    outcome = read(file, Outcome)
    quality = msgspec.structs.replace(outcome.quality, reused_from=999)
    file.write_bytes(encode_pretty(msgspec.structs.replace(outcome, quality=quality)))
    StudyFolder(tmp_path / "copy").images(999).mkdir(parents=True)
    now = Now()
    verification = verified(now, quick=True, recorded=recorded)
    (spot_check,) = [job.points[SCORE].spot_check for job in now.jobs if now.who(job) == "candidate"]
    assert spot_check and spot_check.min_psnr_db < ROUNDED_DB
    assert text(verification, GOOD).startswith(
        "the images are the recorded ones or near them, as those of another build"
    )


def test_few_images_of_the_untouched_pipeline_tell_whether_it_is_still_the_model(
    study: Path, verified: Callable[..., Verification]
) -> None:
    best = read_best(study / "best_config.json")
    known = read_recorded(study / "best_config.json", best)
    workload = msgspec.structs.replace(known.workload, prompts=tuple("abcdefgh"), seeds=tuple(range(8)))
    now = Now()
    verified(now, recorded=msgspec.structs.replace(known, workload=workload))
    generated = {now.who(job): len(job.workload.prompts) for job in now.jobs}
    assert generated == {"baseline": FIRST_PROMPTS, "candidate": 8}


def test_a_recorded_loss_fails_though_the_images_are_the_same(
    study: Path, tmp_path: Path, verified: Callable[..., Verification]
) -> None:
    def worse(best: BestConfig) -> BestConfig:
        lost = Estimate(value=-2.0, low=-2.1, high=-1.9)
        return msgspec.structs.replace(best, chosen=msgspec.structs.replace(best.chosen, quality_difference=lost))

    recorded = with_images_of_the_choice(study, tmp_path / "copy")
    assert answers(verified(Now(), quick=True, edit=worse, recorded=recorded))[GOOD] == "fail"


def test_images_that_are_none_fail(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.blind = True
    verification = verified(now, quick=True)
    assert answers(verification) == {CLEAN: "pass", FAST: "pass", GOOD: "fail"}
    assert text(verification, GOOD) == "invalid image in score: all are black"


def test_a_rejected_trace_fails_unless_the_untouched_pipeline_does_the_same(
    verified: Callable[..., Verification],
) -> None:
    now = Now()
    now.rejected = {"candidate"}
    verification = verified(now, quick=True)
    assert answers(verification) == {CLEAN: "fail", FAST: "unavailable", GOOD: "unavailable"}
    assert text(verification, CLEAN) == "device sync x3 at pipeline.py:7 (2.0 ms idle a step)"
    assert [job.is_baseline for job in now.jobs] == [False, False, True]
    now = Now()
    now.rejected = {"candidate", "baseline"}
    verification = verified(now, quick=True)
    assert answers(verification) == {CLEAN: "pass", FAST: "pass", GOOD: "pass"}
    assert len(now.jobs) == 4, "it was measured again, with what the untouched pipeline does allowed"


def test_what_does_not_run_any_more_fails(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.broken = {"candidate"}
    verification = verified(now, quick=True)
    assert answers(verification) == {CLEAN: "fail", FAST: "unavailable", GOOD: "unavailable"}
    assert text(verification, CLEAN) == "it does not run: error in apply: no kernel"


@pytest.mark.parametrize("stage", ["time", "score"])
def test_what_is_built_and_then_runs_out_of_memory_fails(verified: Callable[..., Verification], stage: str) -> None:
    now = Now()
    now.dies_in = stage
    verification = verified(now, quick=True)
    assert answers(verification)[CLEAN] == "fail" and not verification.passed
    assert text(verification, CLEAN) == f"it fails: out of memory in {stage}: 40 GiB"


def test_an_untouched_pipeline_that_does_not_run_is_an_error(verified: Callable[..., Verification]) -> None:
    now = Now()
    now.broken = {"baseline"}
    with pytest.raises(StudyFailed, match=r"^best_config\.json: the untouched pipeline cannot be measured here: error"):
        verified(now)


# ---- the repair -----------------------------------------------------------------------------------------------------


def only_native_is_whole(now: Now) -> None:
    """Break every build of the math kernel, but not those of fewer steps with the other one."""
    now.broken = {"candidate"}


def test_a_quick_verification_names_the_next_point_without_measuring_it(
    verified: Callable[..., Verification],
) -> None:
    now = Now()
    only_native_is_whole(now)
    verification = verified(now, quick=True)
    assert verification.repair is not None and not verification.repair.measured
    assert "not measured now" in verification.repair.text
    assert len(now.jobs) == 2


def test_the_next_point_that_passes_is_measured(study: Path, verified: Callable[..., Verification]) -> None:
    best = read_best(study / "best_config.json")
    others = [point.trial for point in best.front if point.trial not in (best.chosen.trial, best.baseline.trial)]
    assert len(others) >= 2

    class Picky(Now):
        """Images of the chosen step count, and of the next one, are bad now."""

        def quality(self, job: Job, point: Point) -> Quality:
            bad = {best.chosen.values["steps"], by_cost[0].values["steps"]}
            self.loss = 3.0 if point.steps in bad else 0.0
            return super().quality(job, point)

    by_cost = sorted(
        (point for point in best.front if point.trial in others), key=lambda point: point.cost_usd_per_1000_images
    )
    picky = Picky()
    verification = verified(picky)
    assert not verification.passed
    assert list(verification.tried) == [by_cost[0].trial]
    assert verification.repair is not None
    assert (verification.repair.trial, verification.repair.measured) == (by_cost[1].trial, True)
    assert verification.repair.text.startswith("passes, ")
    assert sum(picky.who(job) == "baseline" for job in picky.jobs) == 3 * PAIRS, "each point has pairs of its own"


def test_a_point_that_is_slower_than_the_choice_is_no_repair_of_its_speed(
    verified: Callable[..., Verification],
) -> None:
    verification = verified(Now(), edit=scaled(0.9))
    assert verification.repair is None
    assert verification.tried and all("is quicker even so" in reason for reason in verification.tried.values())


def others_of(best: BestConfig) -> list[MeasuredPoint]:
    """The points of the front that are neither the choice nor the untouched pipeline."""
    return [point for point in best.front if point.trial not in (best.chosen.trial, best.baseline.trial)]


def test_the_choice_is_a_repair_of_another_point(study: Path, verified: Callable[..., Verification]) -> None:
    best = read_best(study / "best_config.json")
    other = min(others_of(best), key=lambda point: point.cost_usd_per_1000_images)

    class Picky(Now):
        """Only the chosen step count still has good images."""

        def quality(self, job: Job, point: Point) -> Quality:
            self.loss = 0.0 if point.steps == best.chosen.values["steps"] else 3.0
            return super().quality(job, point)

    verification = verified(Picky(), trial=other.trial)
    assert (verification.trial, text(verification, GOOD).count("did not take it")) == (other.trial, 0)
    assert verification.repair is not None
    assert (verification.repair.trial, verification.repair.measured) == (best.chosen.trial, True)


def test_a_point_that_the_study_did_not_take_for_as_good_is_told_as_such(
    study: Path, verified: Callable[..., Verification]
) -> None:
    other = others_of(read_best(study / "best_config.json"))[0]
    lost = Estimate(value=-2.0, low=-2.1, high=-1.9)

    def worse(best: BestConfig) -> BestConfig:
        points = (msgspec.structs.replace(point, quality_difference=lost) for point in best.front)
        return msgspec.structs.replace(best, front=tuple(points))

    now = Now()
    now.loss = 2.0
    verification = verified(now, quick=True, edit=worse, trial=other.trial)
    assert answers(verification)[GOOD] == "fail"
    assert text(verification, GOOD).endswith("is tolerated; the study did not take it for as good either")


def test_a_predicted_latency_is_said_to_be_one(study: Path, verified: Callable[..., Verification]) -> None:
    other = others_of(read_best(study / "best_config.json"))[0]

    def predicted(best: BestConfig) -> BestConfig:
        points = (msgspec.structs.replace(point, predicted_from=(6, 28)) for point in best.front)
        return msgspec.structs.replace(best, front=tuple(points))

    as_before = verified(Now(), quick=True, edit=predicted, trial=other.trial)
    assert "predicted from other step counts as" in text(as_before, FAST)

    def optimistic(best: BestConfig) -> BestConfig:
        half = Estimate(
            value=0.5 * other.latency_s.value, low=0.5 * other.latency_s.low, high=0.5 * other.latency_s.high
        )
        points = (
            msgspec.structs.replace(point, predicted_from=(6, 28), latency_s=half)
            if point.trial == other.trial
            else point
            for point in best.front
        )
        return msgspec.structs.replace(best, front=tuple(points))

    missed = verified(Now(), quick=True, edit=optimistic, trial=other.trial)
    assert answers(missed)[FAST] == "unavailable"
    assert text(missed, FAST).endswith("which predictions are off, too")


# ---- what the study has ---------------------------------------------------------------------------------------------


def test_the_study_beside_the_file_has_the_reference(study: Path) -> None:
    found = read_recorded(study / "best_config.json", read_best(study / "best_config.json"))
    assert found.reference is not None and found.unavailable_reason is None
    assert found.reference.images == str(study / "trials" / "0000" / "images")
    assert found.folder == str(study)


@pytest.mark.parametrize("case", ["no study", "no images", "another model", "damaged"])
def test_without_the_reference_the_answer_is_unavailable_with_the_reason(
    case: str, study: Path, tmp_path: Path, verified: Callable[..., Verification]
) -> None:
    best = read_best(study / "best_config.json")
    copy = tmp_path / "copy"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("cache"))
    if case == "no study":
        (copy / "study.json").unlink()
    elif case == "no images":
        shutil.rmtree(copy / "trials" / "0000" / "images")
    elif case == "another model":
        best = msgspec.structs.replace(best, model=msgspec.structs.replace(best.model, source="/other"))
    else:
        (copy / "trials" / "0000" / "outcome.json").write_text("{}")
        (copy / "trials" / "0001" / "outcome.json").write_text("{}")
    found = read_recorded(copy / "best_config.json", best)
    assert found.reference is None and found.unavailable_reason
    now = Now()
    verification = verified(now, quick=True, recorded=found)
    assert answers(verification) == {CLEAN: "pass", FAST: "pass", GOOD: "unavailable"}
    assert text(verification, GOOD) == found.unavailable_reason
    assert verification.passed, "nothing here could tell"
    assert all(len(job.points) == 1 for job in now.jobs), "no image is generated for nothing"


def test_code_of_the_study_is_not_run(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("cache"))
    data = json.loads((copy / "study.json").read_text())
    data["quality"]["metric"] = "evil:function"
    (copy / "study.json").write_text(json.dumps(data))
    found = read_recorded(copy / "best_config.json", read_best(copy / "best_config.json"))
    assert found.reference is None
    assert "evil:function" in str(found.unavailable_reason) or "quality" in str(found.unavailable_reason)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_command(study: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(now: Now, *options: str) -> int:
        monkeypatch.setattr(command, "make_executor", lambda *_: InlineExecutor(now))
        monkeypatch.setattr(command, "check_model", lambda *_: None)
        monkeypatch.setattr(command, "with_scorer", lambda recorded, _: recorded)
        return main(["verify", str(study), *options])

    return run


def test_the_command_prints_answers_and_ends_with_their_code(
    run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Now(), "--quick") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "is it still because" in shown and shown.endswith("verified") and "NOT" not in shown
    bad = Now()
    bad.psnr_db = 9.0
    assert run_command(bad, "--quick") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "as good fail" in shown and "tune again with `tune run`" in shown and shown.endswith("NOT verified")


def test_a_file_whose_latency_alone_was_edited_is_verified(
    run_command: Callable[..., int], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study / "best_config.json"
    kept = file.read_bytes()
    try:
        file.write_bytes(encode_pretty(scaled(0.95)(read_best(file))))
        assert run_command(Now(), "--quick") == 1
    finally:
        file.write_bytes(kept)
    shown = " ".join(capsys.readouterr().out.split())
    assert "as fast fail" in shown and "1.05x [" in shown and "edited: chosen.images_per_s" in shown


def test_another_point_of_the_front_is_verified_as_export_takes_it(
    run_command: Callable[..., int], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = read_best(study / "best_config.json")
    other = next(point for point in others_of(best) if not point.predicted_from)
    assert run_command(Now(), "--quick", "--json", "--trial", str(other.trial)) == 0
    found = decode(capsys.readouterr().out.encode(), Verification, "here")
    assert (found.trial, found.changed, found.recorded_latency_s) == (other.trial, other.changed, other.latency_s)
    assert not [change for change in found.changes if change.name == "best_config.json"], "nobody edited the file"


def test_a_trial_that_cannot_be_verified_is_refused_as_by_export(
    run_command: Callable[..., int], study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best_config.json"
    best = read_best(study / "best_config.json")
    other = min(others_of(best), key=lambda point: point.trial)
    alone = msgspec.structs.replace(best, front=(best.baseline,))
    file.write_bytes(encode_pretty(alone))
    assert main(["verify", str(file), "--trial", "0"]) == 2
    refused = capsys.readouterr().err
    assert f"take another point with --trial: {best.chosen.trial} (attention.backend=_native_math steps=6, " in refused
    assert refused.endswith("ms, chosen)\n") and refused.count("\n") == 1
    for number in ("0", "999"):
        assert run_command(Now(), "--trial", number) == 2
        refused = capsys.readouterr().err
        assert main(["export", str(study), "--to", "python", "--trial", number]) == 2
        assert refused.replace("nothing to verify", "nothing to export") == capsys.readouterr().err
    assert f"trial 999: the study has recorded no such trial; take {other.trial} (" in refused


def test_a_strict_verification_needs_every_answer(
    run_command: Callable[..., int], study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = command.with_scorer
    assert run_command(Now(), "--quick", "--strict") == 0  # sets the stand-ins
    capsys.readouterr()
    no_scorer = "owner/clip: the CLIP model that scores the images is not in the local cache"

    def without_scorer(*_: object) -> None:
        raise Unavailable(no_scorer)

    monkeypatch.setattr(command, "with_scorer", scored)
    monkeypatch.setattr("tuner.commands.checks.check_scorer", without_scorer)
    monkeypatch.setattr(command, "make_executor", lambda *_: InlineExecutor(Now()))
    for options, code, last in (
        ((), 0, "partly verified, these could not be checked: as good"),
        (("--strict",), 1, "NOT verified, these could not be checked: as good; --strict asks for every answer"),
    ):
        assert main(["verify", str(study), "--quick", *options]) == code
        shown = " ".join(capsys.readouterr().out.split())
        assert shown.endswith(last) and no_scorer in shown


def test_what_failed_and_what_could_not_be_checked_are_both_named() -> None:
    def of(*statuses: str) -> str:
        checks = tuple(Check(question=q, status=s, text="") for q, s in zip((CLEAN, FAST, GOOD), statuses, strict=True))
        return verdict(Verification(file="f", trial=1, changed={}, quick=True, checks=checks)).plain

    assert of("fail", "unavailable", "unavailable") == "NOT verified, these could not be checked: as fast, as good"
    assert of(*["unavailable"] * 3) == "NOTHING verified, these could not be checked: clean, as fast, as good"
    assert of("pass", "pass", "pass") == "verified"


@pytest.mark.parametrize("options", [(), ("--trial",)])
def test_the_file_is_read_once(
    options: tuple[str, ...], run_command: Callable[..., int], study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counting(path: Path) -> int:
        opened.append(Path(path).name)
        return open_regular(path)

    monkeypatch.setattr("tuner.files.open_regular", counting)
    other = others_of(read_best(study / "best_config.json"))[0]
    opened.clear()
    assert run_command(Now(), "--quick", *options, *[str(other.trial) for _ in options]) == 0
    assert opened.count("best_config.json") == 1


def test_the_command_prints_json(run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(Now(), "--quick", "--json") == 0
    printed = capsys.readouterr().out
    found = decode(printed.encode(), Verification, "here")
    assert found.quick and answers(found) == {CLEAN: "pass", FAST: "pass", GOOD: "pass"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda _: b"{}", "best_config.json"),
        (lambda _: b"\x00", "best_config.json"),
        (lambda best: encode_pretty(best), "model.source: /model: "),
        (lambda best: encode_pretty(untouched(best)), "is the untouched pipeline"),
    ],
)
def test_bad_input_is_one_line(
    edit: Callable[[BestConfig], bytes], words: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best_config.json"
    file.write_bytes(edit(read_best(study / "best_config.json")))
    assert main(["verify", str(file)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert words in printed.err


def untouched(best: BestConfig) -> BestConfig:
    even: Any = Estimate(value=1.0, low=1.0, high=1.0)
    return msgspec.structs.replace(best, chosen=best.baseline, speed_up=even, speed_up_confirmed=True)
