"""Several devices: by how much each is slower, worked out once, and applied once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tuner.records.codec import Estimate
from tuner.records.outcome import Build, Device, Outcome, Pair, Timing
from tuner.records.quality import Quality
from tuner.result.prices import Price
from tuner.search.confirmation import Confirmation, EarlyConfirmation, by_preference
from tuner.search.gain import speed_up
from tuner.search.history import History
from tuner.study.flight import Flight
from tuner.study.narration import best_text, disturbance_text
from tuner.study.runner import Runner

BASELINE, CANDIDATE = 0, 1
FIRST, SLOWER = Device(name="cpu"), Device(name="cpu", index=1)
SAME = Estimate(value=0.0, low=0.0, high=0.0)
QUALITY = Quality(metric="clip_score", scores=(30.0,), mean=30.0, psnr_db=None, ssim=None, difference=SAME)
BUILD = Build(changes={}, load_s=0.0, apply_s=0.0, first_call_s=0.0, trace=None, verdict=None)


def outcome(number: int, seconds: float, device: Device, repetition: int | None = None) -> Outcome:
    latency_s = Estimate(value=seconds, low=seconds, high=seconds)
    return Outcome(
        number=number, purpose="search", values={"batch": 1}, build_key=str(number), image_key="", status="measured",
        repetition=repetition, device=device, quality=QUALITY, cost_usd_per_1000_images=seconds / 3.6, build=BUILD,
        timing=Timing(latency_s=latency_s, samples=6, images_per_s=1 / seconds, stopped="interval within target"),
    )  # fmt: skip


def two_devices(candidate_s: float) -> History:
    """A candidate that was built on a device on which calls take twice as long as on the baseline's."""
    space = SimpleNamespace(tolerance=1.0, changed=lambda _: {})
    outcomes = {BASELINE: outcome(BASELINE, 2.0, FIRST), CANDIDATE: outcome(CANDIDATE, candidate_s, SLOWER)}
    known = History(cast(Any, space), Price(usd_per_hour=1.0, source="here"), outcomes)
    known.repetitions += [outcome(BASELINE, 2.0, FIRST, 0), *(outcome(BASELINE, 4.0, SLOWER, run) for run in (1, 2))]
    return known


def test_a_scale_is_worked_out_again_once_a_process_of_the_baseline_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Device | None] = []
    baseline_on = History.baseline_on
    monkeypatch.setattr(
        History, "baseline_on", lambda known, device: asked.append(device) or baseline_on(known, device)
    )
    known = two_devices(4.0)
    assert [known.scale(SLOWER) for _ in range(5)] == [0.5] * 5
    assert len(asked) == 1, "worked out once"
    known.repetitions.append(outcome(BASELINE, 5.0, SLOWER, 3))
    known.repetitions.append(outcome(BASELINE, 5.0, SLOWER, 4))
    assert known.scale(SLOWER) == pytest.approx(2.0 / 4.5)
    known.outcomes[BASELINE] = outcome(BASELINE, 3.0, FIRST)
    assert known.scale(SLOWER) == pytest.approx(2.5 / 4.5), "once its images are judged, the baseline is another"
    known.outcomes[BASELINE] = outcome(BASELINE, 4.5, SLOWER)
    assert known.scale(SLOWER) == 1.0


def test_a_candidate_of_a_slower_device_is_scaled_once() -> None:
    slow, known = two_devices(4.4), two_devices(3.0)
    assert [trial.number for trial in by_preference(slow)] == [BASELINE]
    assert [trial.number for trial in by_preference(known)] == [CANDIDATE, BASELINE]
    budget = SimpleNamespace(ends_at=1e9, seconds_left=lambda: 1e9, trials_left=lambda _: 1)
    early = EarlyConfirmation(Confirmation(cast(Any, budget), lambda _: None, lambda _: None))
    assert early.is_due(known)
    noisy = two_devices(3.9)
    noisy.repetitions.append(outcome(BASELINE, 4.2, SLOWER, 3))
    assert by_preference(noisy)[0].number == CANDIDATE
    assert not early.is_due(noisy), "its gain is within the noise of its own device"


def test_the_noise_of_every_device_that_pairs_ran_on_counts() -> None:
    quiet, noisy = two_devices(2.0), two_devices(2.0)
    for known, seconds in ((quiet, 2.0), (noisy, 2.8)):
        known.repetitions.append(outcome(BASELINE, seconds, FIRST, 3))
        for index, (device, slower) in enumerate(((FIRST, 1.0), (SLOWER, 2.0))):
            pair = Pair(candidate=CANDIDATE, index=index)
            for number in (BASELINE, CANDIDATE):
                run = outcome(number, slower * (2.0 - number * 0.1), device, len(known.repetitions))
                known.repetitions.append(msgspec.structs.replace(run, pair=pair))
    assert speed_up(quiet, quiet.outcomes[CANDIDATE]).low > 1.0
    assert speed_up(noisy, noisy.outcomes[CANDIDATE]).low < 1.0


def test_when_builds_end_is_worked_out_once_for_all_that_run() -> None:
    asked: list[int] = []
    attempts = [SimpleNamespace(number=number, can_be_stopped=number < 4) for number in range(5)]
    runner, nothing = cast(Any, Runner.__new__(Runner)), cast(Any, None)
    runner.flights = {each.number: Flight(nothing, cast(Any, each), nothing, nothing, False) for each in attempts}
    runner.builds_end_at = lambda: asked.append(1) or 5.0
    assert (runner.next_stop(), len(asked)) == (5.0, 1)
    runner.flights = {number: flight for number, flight in runner.flights.items() if number in (BASELINE, 4)}
    assert (runner.next_stop(), len(asked)) == (float("inf"), 1), "neither the baseline nor a repetition is stopped"
    runner.flights[BASELINE].is_recorded = True
    assert (runner.next_stop(), len(asked)) == (5.0, 2), "only the baseline's other step counts are measured yet"


def test_a_gain_on_another_device_is_told_beside_the_baseline_there() -> None:
    known = two_devices(2.0)
    assert "to confirm: trial 1, 2.00x" in best_text(known, known.outcomes[BASELINE])


def test_a_disturbed_process_is_told_beside_those_of_its_device() -> None:
    known = two_devices(4.0)
    known.repetitions.append(slow := outcome(BASELINE, 9.0, SLOWER, 3))
    assert "a process took 2.25 times as long as the others" in disturbance_text(known, slow)


def test_a_disturbed_process_is_told_although_the_others_of_its_device_do_not_count() -> None:
    """The baseline of the only other pair on its device was disturbed, too."""
    known = two_devices(2.0)
    for index, (device, baseline_s, seconds) in enumerate([(SLOWER, 20.0, 1.0), (SLOWER, 4.0, 9.0), (FIRST, 2.0, 1.0)]):
        for number, took_s in ((BASELINE, baseline_s), (CANDIDATE, seconds)):
            pair = Pair(candidate=CANDIDATE, index=index)
            run = outcome(number, took_s, device, len(known.repetitions))
            known.repetitions.append(msgspec.structs.replace(run, pair=pair))
    slow = known.repetitions[6]
    assert known.disturbed(known.outcomes[CANDIDATE]) == [slow]
    assert {run.device for run in known.undisturbed(known.outcomes[CANDIDATE])} == {FIRST}
    assert "a process took 9.00 times as long as the others" in disturbance_text(known, slow)
