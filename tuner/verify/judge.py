"""Answer the three questions of a verification from what workers reported."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.numbers import format_difference, format_gain, format_latency, format_number
from tuner.records.codec import Estimate
from tuner.records.machine import Environment
from tuner.records.outcome import Failure
from tuner.report.formatting import first_line, one_line, shorten
from tuner.report.trial_text import findings_text
from tuner.result.front import merge_timings, per_image, widen
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.timing.intervals import paired_ratio, widest_ratio
from tuner.verify.bench import Run
from tuner.verify.recorded import ROUNDED_DB, Recorded
from tuner.verify.records import Check

MARGIN = 0.01
"""A latency that is surely longer than the recorded one, but by less than this share, still counts as the same."""

NOTEWORTHY = 0.03
"""A slowdown of this share that the noise would hide is told."""

BLIND = 0.5
"""Noise that would hide a slowdown of more than this share answers nothing.

It would hide that a configuration lost a gain of 1.5x altogether, which is what an upgrade is verified for.
"""

SAME_IMAGES_DB = 25.0
"""Images of the untouched pipeline that are further from the study's than this are of another model.

Other versions of a library round otherwise, and images move. If no version changed, they must be as near as 8 bits
show.
"""

MAX_TEXT = 160

UNRELATED = frozenset({"throttled", "interrupted", "disk full", "inconclusive trace"})
"""Failures that say nothing of a configuration that was built."""


def clean(run: Run) -> Check:
    """Answer whether the configuration still runs, and the gate passes it."""
    if run.failure is not None and (run.build is None or run.failure.kind not in UNRELATED):
        what = "it does not run" if run.build is None else "it fails"
        return Check(question="clean", status="fail", text=f"{what}: {failure_text(run.failure)}")
    verdict = run.build.verdict if run.build else None
    if verdict is None or verdict.status == "inconclusive":
        reason = "; ".join(verdict.skipped) if verdict else "there is no trace"
        return Check(question="clean", status="unavailable", text=shorten(one_line(reason), MAX_TEXT))
    if verdict.status == "rejected":
        return Check(question="clean", status="fail", text=findings_text(verdict.undeclared()))
    return Check(question="clean", status="pass", text="the gate found nothing that no setting declares")


def as_fast(
    best: BestConfig, here: Environment, point: MeasuredPoint, runs: Sequence[Run], baselines: Sequence[Run]
) -> Check:
    """Answer whether the latency is not surely above the recorded one; on another machine nothing can tell."""
    gain = speed_up(point, runs, best.baseline, baselines)
    if gain is not None and gain.high < 1.0:
        text = f"it is slower than the untouched pipeline: {ratio_text(gain)} its throughput"
        return Check(question="as fast", status="fail", text=text)
    if here.device_name != best.environment.device_name:
        text = f"recorded on {best.environment.device_name}, this is {here.device_name}: latencies do not compare"
        return Check(question="as fast", status="unavailable", text=text)
    now = latency(runs)
    if now is None:
        failure = next((run.failure for run in runs if run.failure), None)
        reason = failure_text(failure) if failure else "it was not timed"
        return Check(question="as fast", status="unavailable", text=reason)
    ratio = against_record(best, now, point.latency_s)
    is_slower = ratio.low > 1.0 + MARGIN
    how = "predicted from other step counts as" if point.predicted_from else "recorded"
    text = f"{interval(now)}, {how} {interval(point.latency_s)}: {ratio_text(ratio)} the recorded latency"
    if is_slower and point.predicted_from:
        return Check(question="as fast", status="unavailable", text=f"{text}, which predictions are off, too")
    hidden = ratio.high - 1.0
    if not is_slower and hidden > NOTEWORTHY:
        text += f"; the noise would hide a slowdown of up to {hidden:.0%}"
    if not is_slower and hidden > BLIND:
        text += f", which tells nothing: verify on a quieter machine{' and without --quick' if len(runs) == 1 else ''}"
        return Check(question="as fast", status="unavailable", text=text)
    before = latency(baselines)
    if is_slower and before is not None:
        other = against_record(best, before, best.baseline.latency_s)
        same = "as recorded" if other.low <= 1.0 + MARGIN else f"slower too, {ratio_text(other)}"
        text += f"; the untouched pipeline is {same}"
    return Check(question="as fast", status="fail" if is_slower else "pass", text=text)


def as_good(
    best: BestConfig, recorded: Recorded, point: MeasuredPoint, run: Run, baseline: Run, same_db: float = SAME_IMAGES_DB
) -> Check:
    """Answer whether the images are as good as the study's reference, and whether that is still the model's."""
    if recorded.reference is None:
        return Check(question="as good", status="unavailable", text=str(recorded.unavailable_reason))
    other = other_images_text(baseline, same_db)
    if other is not None:
        return Check(question="as good", status="fail", text=other)
    failure = run.score_failure or run.failure or baseline.score_failure or baseline.failure
    if run.quality is None and not run.has_recorded_images:
        reason = failure_text(failure) if failure else "the gate rejected it, so that no image was generated"
        return Check(question="as good", status="fail" if run.score_failure else "unavailable", text=reason)
    difference = run.quality.difference if run.quality else point.quality_difference
    psnr_db = baseline.quality.psnr_db if baseline.quality else None
    is_worse = difference.low < -best.quality_tolerance
    shown = format_difference(difference.value, difference.low, difference.high)
    tolerated = format_number(best.quality_tolerance)
    text = f"{best.quality_metric} {shown} against the study's reference, -{tolerated} is tolerated"
    if run.quality is None:
        known = recorded.known_images(point.trial)
        is_near = known is not None and known.min_psnr_db < ROUNDED_DB
        near = " or near them, as those of another build that the study judged it by" if is_near else ""
        text = f"the images are the recorded ones{near}, with {text}"
    if is_worse and point.quality_difference.low < -best.quality_tolerance:
        text += "; the study did not take it for as good either"
    if psnr_db is not None and psnr_db < ROUNDED_DB:
        text += f"; the untouched pipeline's own images moved by rounding, PSNR {psnr_db:.0f} dB"
    return Check(question="as good", status="fail" if is_worse else "pass", text=text)


def other_images_text(baseline: Run, same_db: float) -> str | None:
    """Return that the untouched pipeline no longer generates the study's images, or None."""
    psnr_db = baseline.quality.psnr_db if baseline.quality else None
    if psnr_db is None or psnr_db >= same_db:
        return None
    return (
        f"the untouched pipeline generates other images than in the study (PSNR {psnr_db:.0f} dB): the model's files "
        "or a library changed, and the reference is no longer this model's; tune again with `tune run`"
    )


# ---- figures --------------------------------------------------------------------------------------------------------


def latency(runs: Sequence[Run]) -> Estimate | None:
    """Return the latency over the processes that were timed, or None."""
    timings = [run.timing for run in runs if run.timing is not None]
    return merge_timings(timings).latency_s if timings else None


def against_record(best: BestConfig, now: Estimate, then: Estimate) -> Estimate:
    """Return the ratio of a latency to the recorded one, with an interval that also covers how processes differ."""
    noise = best.timing_noise.coefficient_of_variation if best.timing_noise else 0.0
    return widen(widest_ratio(now, then), noise)


def speed_up(
    point: MeasuredPoint, runs: Sequence[Run], baseline: MeasuredPoint, others: Sequence[Run]
) -> Estimate | None:
    """Return the throughput over the untouched pipeline's, from pairs of processes, or None if none was timed."""
    pairs = [(a.timing, b.timing) for a, b in zip(others, runs, strict=False) if a.timing and b.timing]
    if not pairs:
        return None
    before = [per_image(timing.latency_s, baseline.batch, baseline.devices) for timing, _ in pairs]
    after = [per_image(timing.latency_s, point.batch, point.devices) for _, timing in pairs]
    if len(pairs) > 1:
        return paired_ratio([each.value for each in before], [each.value for each in after])
    return widest_ratio(before[0], after[0])


def interval(estimate: Estimate) -> str:
    """Write a latency with its interval."""
    return f"{format_latency(estimate.value)} [{format_latency(estimate.low)}, {format_latency(estimate.high)}]"


def ratio_text(ratio: Estimate) -> str:
    """Write a ratio with its interval."""
    return format_gain(ratio.value, ratio.low, ratio.high)


def failure_text(failure: Failure) -> str:
    """Write a failure in one line."""
    return f"{failure.kind} in {one_line(failure.stage)}: {shorten(first_line(failure.message), MAX_TEXT)}"
