"""The course of a verification: the pair, further pairs, the answers, and a repair if one of them is no."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from tuner.errors import StudyFailed
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.verify import judge
from tuner.verify.bench import Bench, Run
from tuner.verify.changes import changes, may_be_another_model
from tuner.verify.recorded import ROUNDED_DB
from tuner.verify.records import Check, Repair, Verification

PAIRS = 3
"""Pairs of fresh processes of a full verification; a quick one has one."""


class Course:
    """Verifies a point of a result, the chosen one or another. `note` is told what is measured next."""

    def __init__(
        self, file: str, bench: Bench, point: MeasuredPoint, note: Callable[[str], None], *, quick: bool
    ) -> None:
        self.file = file
        self.bench = bench
        self.best: BestConfig = bench.best
        self.point = point
        self.note = note
        self.quick = quick
        self.untouched: Run | None = None
        """The untouched pipeline with its images."""
        self.baselines: list[Run] = []
        """The untouched pipeline beside the point that is measured, one for each pair."""
        self.same_db = judge.SAME_IMAGES_DB
        self.has_traced_baseline = False

    def verify(self) -> Verification:
        """Measure and answer. Raises StudyFailed if the untouched pipeline itself cannot be measured."""
        best, point = self.best, self.point
        found = changes(best, self.bench.here, self.bench.recorded.request)
        if may_be_another_model(found):
            self.same_db = ROUNDED_DB
        runs = self.measure(point)
        checks = self.answer(point, runs)
        verification = Verification(
            file=self.file,
            trial=point.trial,
            changed=point.changed,
            quick=self.quick,
            checks=checks,
            changes=tuple(found),
            recorded_latency_s=point.latency_s,
            latency_s=judge.latency(runs),
            speed_up=judge.speed_up(point, runs, best.baseline, self.baselines),
        )
        return verification if verification.passed else self.repaired(verification)

    def measure(self, point: MeasuredPoint) -> list[Run]:
        """Measure a point beside the untouched pipeline, in pairs of processes that alternate in order."""
        self.baselines = [self.first_baseline()]
        self.note(f"trial {point.trial}: build, gate, latency, images")
        first = self.bench.run(point, trace=True, score=True)
        if first.was_rejected and not self.has_traced_baseline:
            self.note("the gate rejects it: does the untouched pipeline do the same?")
            self.has_traced_baseline = True
            if self.bench.learn_allowances():
                first = self.bench.run(point, trace=True, score=True)
        runs = [first]
        if first.timing is None or self.quick:
            return runs
        for pair in range(1, PAIRS):
            self.note(f"trial {point.trial}: pair {pair + 1} of {PAIRS}")
            runs.append(self.pair(point, pair))
        return runs

    def pair(self, point: MeasuredPoint, pair: int) -> Run:
        """Time a point and the untouched pipeline once more: in turn one or the other first."""
        run = self.bench.run(point) if pair % 2 else None
        self.baselines.append(self.bench.run(self.best.baseline))
        return run or self.bench.run(point)

    def first_baseline(self) -> Run:
        """Measure the untouched pipeline, the first time with its images, which are compared with the study's."""
        if self.untouched is not None:
            return self.bench.run(self.best.baseline)
        self.note("the untouched pipeline: latency, images")
        run = self.bench.run(self.best.baseline, score=True)
        if run.timing is None:
            reason = judge.failure_text(run.failure) if run.failure else "it was not timed"
            raise StudyFailed(f"{self.file}: the untouched pipeline cannot be measured here: {reason}")
        self.untouched = run
        return run

    def answer(self, point: MeasuredPoint, runs: list[Run]) -> tuple[Check, ...]:
        """Answer the three questions of a point."""
        first, recorded = runs[0], self.bench.recorded
        assert self.untouched is not None
        return (
            judge.clean(first),
            judge.as_fast(self.best, self.bench.here, point, runs, self.baselines),
            judge.as_good(self.best, recorded, point, first, self.untouched, self.same_db),
        )

    # ---- repair ------------------------------------------------------------------------------------------------------

    def repaired(self, verification: Verification) -> Verification:
        """Add the cheapest other point of the front that passes; a quick verification names the next one only."""
        assert self.untouched is not None
        if judge.other_images_text(self.untouched, self.same_db) is not None:
            return verification  # the front is of another model
        tried: dict[int, str] = {}
        for point in self.others():
            if self.quick:
                text = f"the next point of the front was {self.recorded_text(point)}; not measured now"
                repair = Repair(trial=point.trial, changed=point.changed, measured=False, text=text)
                return msgspec.structs.replace(verification, repair=repair)
            reason, text = self.try_repair(point, verification)
            if reason is None:
                repair = Repair(trial=point.trial, changed=point.changed, measured=True, text=text)
                return msgspec.structs.replace(verification, repair=repair, tried=tried)
            tried[point.trial] = reason
        return msgspec.structs.replace(verification, tried=tried)

    def others(self) -> Iterator[MeasuredPoint]:
        """Yield the other points, the choice and the front, whose images were as good, cheapest first."""
        known, tolerance = (self.point.trial, self.best.baseline.trial), self.best.quality_tolerance
        others = {point.trial: point for point in (*self.best.front, self.best.chosen)}
        for point in sorted(others.values(), key=lambda point: point.cost_usd_per_1000_images):
            is_as_good = point.quality_difference.low >= -tolerance
            if point.trial not in known and not point.doubtful and is_as_good:
                yield point

    def try_repair(self, point: MeasuredPoint, verification: Verification) -> tuple[str | None, str]:
        """Measure a point; return why it is no repair, or None, and what was measured.

        It need not be as fast as its own record, but surely quicker than the untouched pipeline; and than the
        configuration that is verified if that is only slower than recorded.
        """
        runs = self.measure(point)
        checks = [check for check in self.answer(point, runs) if check.question != "as fast"]
        failed = [check.text for check in checks if check.status == "fail"]
        gain = judge.speed_up(point, runs, self.best.baseline, self.baselines)
        if gain is None or failed:
            return (failed or ["it was not timed"])[0], ""
        is_only_slower = all(check.status != "fail" for check in verification.checks if check.question != "as fast")
        if is_only_slower and verification.speed_up and gain.value <= verification.speed_up.value:
            return f"{judge.ratio_text(gain)}: trial {verification.trial} is quicker even so", ""
        if gain.low <= 1.0:
            return f"{judge.ratio_text(gain)} the untouched pipeline's throughput is no sure gain", ""
        return None, f"passes, {judge.ratio_text(gain)} the untouched pipeline's throughput"

    def recorded_text(self, point: MeasuredPoint) -> str:
        """Write what was recorded of a point."""
        return f"{judge.interval(point.latency_s)}, US$ {point.cost_usd_per_1000_images:.4f} for 1000 images"
