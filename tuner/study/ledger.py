"""What a study knows: its outcomes, and the questions that the loop asks of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from tuner import files
from tuner.board import trial_events
from tuner.knobs import other_arithmetic
from tuner.quality.metrics import get_metric
from tuner.records.codec import Estimate, Values
from tuner.records.gate import Allowance
from tuner.records.machine import Roofline
from tuner.records.outcome import Outcome, PredictionCheck, Timing
from tuner.records.quality import NoiseFloor, Panel, Reference, SpotCheck
from tuner.report import points
from tuner.report.live import Display
from tuner.result import config, front
from tuner.result.economics import economics, goodput
from tuner.result.prices import cost_usd_per_1000_images
from tuner.space.candidates import build_key, candidate_key, image_key
from tuner.study.store import Store
from tuner.timing import prediction, roofline
from tuner.timing.intervals import coefficient_of_variation, paired_ratio

CONFIRMATIONS = 2
"""How often baseline and candidate are measured again in turns, each time in a fresh process."""

MAX_TRIES = 2
"""How often a candidate is measured while the GPU is held back by heat or its power supply."""


class Ledger:
    """The outcomes of a study, as they are and as they come in."""

    def __init__(self, store: Store, display: Display) -> None:
        self.store = store
        self.display = display
        self.space = store.request.space
        self.outcomes = {outcome.number: outcome for outcome in store.outcomes()}
        self.repeats = store.repeats()
        self.late_noise_floor = store.noise_floor()
        self.started = time.monotonic() - store.spent_s
        self.panel_s = 0.0
        """Seconds in which the finalists' other metrics were measured."""

    # ---- what is known ----------------------------------------------------------------------------------------------

    @property
    def baseline(self) -> Outcome:
        return self.outcomes[0]

    def known(self, values: Values) -> Outcome | None:
        """The outcome that already answers for a candidate: its own, or that of its build when the build failed. One
        that was throttled says nothing of the candidate until it is tried again."""
        candidate, build = candidate_key(values), build_key(values)
        found = []
        for outcome in self.outcomes.values():
            same_build = outcome.build_key == build and outcome.values["batch"] == values["batch"]
            if candidate_key(outcome.values) == candidate or (same_build and not was_built(outcome)):
                found.append(outcome)
        return found[-1] if len(found) >= MAX_TRIES or not all(map(was_throttled, found)) else None

    def to_retry(self) -> Outcome | None:
        """A throttled trial to try again, once other builds were tried since and the GPU had time to recover."""
        last = max(self.outcomes.values(), key=lambda outcome: outcome.number)
        throttled = filter(was_throttled, self.outcomes.values())
        return next((o for o in throttled if o.build_key != last.build_key and self.known(o.values) is None), None)

    def scored(self, values: Values) -> Outcome | None:
        """An outcome whose own images were scored and have the same image key."""
        key = image_key(values)
        for outcome in self.outcomes.values():
            if outcome.image_key == key and outcome.quality is not None and outcome.quality.reused_from is None:
                return outcome
        return None

    def reference(self) -> Reference | None:
        """The baseline's images, once there are some."""
        baseline = self.outcomes.get(0)
        if baseline is None or baseline.quality is None:
            return None
        found = files.baseline_reference(self.store.trial_folder(0), baseline.quality)
        return msgspec.structs.replace(found, floor=self.quality_floor)

    def spot_check(self, values: Values) -> SpotCheck | None:
        """Images that a new build of a candidate should draw again."""
        scored = self.scored(values)
        return SpotCheck(images=str(self.store.trial_folder(scored.number) / "images")) if scored else None

    def allowed(self) -> tuple[Allowance, ...]:
        """What the untouched pipeline does of itself in each step, so that no candidate is rejected for it."""
        baseline = self.outcomes.get(0)
        verdict = baseline.build.verdict if baseline is not None and baseline.build is not None else None
        found = verdict.undeclared() if verdict is not None else []
        return tuple(Allowance(kind=f.kind, count_per_step=f.count_per_step, knob="untouched pipeline") for f in found)

    def noise(self) -> config.TimingNoise | None:
        """How far fresh processes of the baseline differ (A/A); None before there are two."""
        runs = [self.baseline, *self.repeats_of(self.baseline)]
        if len(runs) < 2:
            return None
        spread = coefficient_of_variation([front.seconds_per_image(run).value for run in runs])
        return config.TimingNoise(processes=len(runs), coefficient_of_variation=spread)

    def predictions(self) -> list[PredictionCheck]:
        """The predicted latencies of trials that were measured later, in fresh processes."""
        noise = self.noise()
        spread = noise.coefficient_of_variation if noise else 0.0
        return [
            prediction.check(number, outcome.timing.latency_s, settled.latency_s, spread)
            for number, outcome in self.outcomes.items()
            if outcome.timing and outcome.timing.predicted_from
            and (settled := self.settled(outcome).timing) and not settled.predicted_from
        ]  # fmt: skip

    def roofline(self) -> Roofline | None:
        """What bounds a step here, as the baseline's worker found."""
        build = self.baseline.build
        return build.roofline if build else None

    def cost(self, timing: Timing) -> float:
        """US dollars for 1000 images, of which with a latency target only those count that meet it."""
        images_per_s = goodput(timing.images_per_s, timing.within_target)
        return cost_usd_per_1000_images(self.store.request.price, images_per_s)

    @property
    def metric_title(self) -> str:
        """The name of the search's objective."""
        return get_metric(self.store.request.quality.metric).title

    @property
    def quality_floor(self) -> float | None:
        """By how much harmless variations of rounding move the baseline's mean score; None where none was drawn."""
        differences = [noise.max_difference for noise in self.noise_floors()]
        return max((difference for difference in differences if difference is not None), default=None)

    def noise_floors(self) -> list[NoiseFloor]:
        """What was drawn to find that."""
        baseline = self.outcomes.get(0)
        early = baseline.quality.noise if baseline is not None and baseline.quality is not None else None
        return [noise for noise in (early, self.late_noise_floor) if noise is not None]

    @property
    def tolerance(self) -> float:
        """How much worse than the baseline's mean score is as good."""
        return self.space.tolerance

    def quality_time_share(self) -> float:
        """The share of the study's time that went into drawing and judging images, 0 to 1; looking whether two
        images of a known build are the same counts as part of the build."""
        own = [o.quality.spent_s for o in self.outcomes.values() if o.quality and o.quality.reused_from is None]
        late_s = self.late_noise_floor.spent_s if self.late_noise_floor else 0.0
        return min(1.0, (sum(own) + late_s + self.panel_s) / max(time.monotonic() - self.started, 1e-9))

    def repeats_of(self, outcome: Outcome) -> list[Outcome]:
        return [repeat for repeat in self.repeats if repeat.number == outcome.number and repeat.status == "measured"]

    def confirmations_of(self, candidate: Outcome) -> list[tuple[Outcome, Outcome]]:
        """The measurements of baseline and candidate that were made in turns for this candidate."""
        turns: list[tuple[Outcome, Outcome]] = []
        before: Outcome | None = None
        for repeat in (repeat for repeat in self.repeats if repeat.beside == candidate.number):
            if repeat.number == candidate.number and before is not None and repeat.status == "measured":
                turns.append((before, repeat))
            is_baseline = repeat.number == self.baseline.number and repeat.status == "measured"
            before = repeat if is_baseline else None
        return turns

    def speed_up(self, outcome: Outcome) -> Estimate:
        """Over the baseline, from fresh processes in turns; where there are none from the search, and as wide as the
        baseline's processes spread."""
        if outcome.number == self.baseline.number:
            return Estimate(value=1.0, low=1.0, high=1.0)
        turns = self.confirmations_of(outcome)
        if len(turns) < CONFIRMATIONS:
            found = front.speed_up(self.repeats_of(self.baseline) or [self.baseline], [outcome])
            noise = self.noise()
            return front.widen(found, noise.coefficient_of_variation if noise else 0.0)
        paired = [baseline for baseline, _ in turns]
        others = [self.baseline, *(repeat for repeat in self.repeats_of(self.baseline) if repeat not in paired)]
        return paired_ratio(
            [front.seconds_per_image(baseline).value for baseline, _ in turns],
            [front.seconds_per_image(candidate).value for _, candidate in turns],
            [front.seconds_per_image(other).value for other in others],
        )

    def is_confirmed(self, outcome: Outcome) -> bool:
        """Whether a gain over the baseline was seen again, surely, in fresh processes. The baseline needs none."""
        if outcome.number == self.baseline.number:
            return True
        return len(self.confirmations_of(outcome)) >= CONFIRMATIONS and self.speed_up(outcome).low > 1.0

    def settled(self, outcome: Outcome) -> Outcome:
        """The outcome with the latency of all its fresh processes: the median of their medians, the widest interval."""
        runs = self.repeats_of(outcome)
        if not runs:
            return outcome
        timing = front.merge_timings([run.timing for run in runs if run.timing is not None])
        return msgspec.structs.replace(outcome, timing=timing, cost_usd_per_1000_images=self.cost(timing))

    def front(self) -> list[Outcome]:
        """The non-dominated trials, cheapest first."""
        return front.pareto_front([self.settled(outcome) for outcome in self.outcomes.values()])

    def point(self, outcome: Outcome, panel: Panel | None = None) -> config.MeasuredPoint:
        """What is exported of a trial, with all metrics if it is one of the `panel`'s finalists."""
        point, baseline = self._plain_point(outcome), self._plain_point(self.baseline)
        point = msgspec.structs.replace(point, panel=panel.finalists.get(outcome.number) if panel else None)
        otherwise = other_arithmetic(outcome.values, self.baseline.values)
        limit = roofline.limit_share(
            self.roofline(), point.components, outcome.values, self.baseline.values, other_arithmetic=otherwise
        )
        price = self.store.request.price.usd_per_hour
        found = economics(price, config.measurement(point), config.measurement(baseline))
        return msgspec.structs.replace(point, limit=limit, economics=found)

    def _plain_point(self, outcome: Outcome) -> config.MeasuredPoint:
        return config.measured_point(
            self.settled(outcome), self.space.changed(outcome.values), self.is_confirmed(outcome)
        )

    def front_points(self, chosen: int | None) -> list[points.FrontPoint]:
        """The baseline and the front, as the display and the report show them."""
        baseline = self.outcomes.get(0)
        if baseline is None or baseline.quality is None:
            return []
        baseline = self.settled(baseline)
        shown = {outcome.number: outcome for outcome in self.front()}
        shown[0] = baseline
        if chosen is not None:
            shown[chosen] = self.settled(self.outcomes[chosen])
        return [
            points.front_point(o, baseline, self.space.changed(o.values), is_chosen=o.number == chosen)
            for o in shown.values()
        ]

    # ---- what comes in ----------------------------------------------------------------------------------------------

    def record(self, outcome: Outcome, remark: str = "") -> None:
        """Acknowledge an outcome, show it to TensorBoard and to whoever is watching."""
        self.store.acknowledge(outcome)
        self.outcomes[outcome.number] = outcome
        self.keep_time()
        trial_events.write(self.store.trial_folder(outcome.number), outcome, self.space)
        points = self.front_points(None)
        on_front = any(point.number == outcome.number for point in points if not point.is_baseline)
        flags = outcome.quality.flags if outcome.quality else ()
        self.display.trial_ended(outcome, "; ".join(filter(None, (remark, "on the front" if on_front else "", *flags))))
        self.display.front(points)

    def show_result(self, chosen: Outcome, finalists: Sequence[Outcome]) -> None:
        """Show TensorBoard which trials the result is of, with their strips of images, and no more those of a former
        result; of all trials what all their processes together took, as the result has it."""
        places: dict[int, trial_events.Place] = {**{o.number: "front" for o in finalists}, chosen.number: "chosen"}
        for number, outcome in self.outcomes.items():
            folder = self.store.trial_folder(number)
            if number not in places:
                trial_events.strip_path(folder).unlink(missing_ok=True)
            trial_events.write(folder, self.settled(outcome), self.space, places.get(number))

    def record_repeat(self, index: int, outcome: Outcome) -> None:
        """Keep a measurement that was repeated in a fresh process."""
        self.store.keep_repeat(index, outcome)
        self.repeats.append(outcome)
        self.keep_time()
        self.display.trial_ended(outcome, "measured again in a fresh process")

    def record_noise_floor(self, noise: NoiseFloor) -> None:
        """Keep what was found of the baseline's rounding when its points were done."""
        self.store.keep_noise_floor(noise)
        self.late_noise_floor = noise

    def refuse(self, number: int, values: Values, reason: str) -> None:
        self.store.refuse(number, values, reason)
        self.display.refused(self.space.changed(values), reason)

    def keep_time(self) -> None:
        """So that a study that is resumed goes on with what is left of its budget."""
        self.store.spent_s = time.monotonic() - self.started


def was_built(outcome: Outcome) -> bool:
    """Whether other points of an outcome's build can be measured: not if the build itself failed or was rejected."""
    if outcome.failure is not None:
        return outcome.failure.kind in ("invalid image", "recompile", "throttled")
    return outcome.status == "measured"


def was_throttled(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind == "throttled"
