"""What a study has measured, as plain data, and the queries that strategies and reports share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import compress
from statistics import median

import msgspec

from tuner.records.advice import Advice
from tuner.records.codec import Values
from tuner.records.gate import Allowance
from tuner.records.model import Workload
from tuner.records.outcome import Device, Outcome, Timing, scored_prompts
from tuner.records.quality import NoiseFloor, Quality
from tuner.records.warm_start import WarmStart
from tuner.result import front
from tuner.result.prices import Price, cost_of
from tuner.search.remembering import Memory, remembered
from tuner.space.candidates import SearchSpace, build_key, candidate_key, image_key
from tuner.timing import disturbance
from tuner.timing.measure import SLOW_CALL_S

BASELINE = 0
"""The number of the untouched pipeline's trial."""

MAX_TRIES = 2
"""How often a candidate is measured while the GPU is held back by heat or its power supply."""


@dataclass(frozen=True, eq=False)
class InFlight:
    """What a worker does now: the trial, the step sweep of its build, and where. A repetition has no sweep."""

    number: int
    sweep: Sequence[Values] = ()
    device: Device | None = None


@dataclass
class History:
    """The trials of a study by number, its repetitions in the order in which they ended, and its refused candidates.

    `late_noise_floor` is the part of the quality noise floor that was measured after the baseline was acknowledged.
    `running` is what workers do now. `advice` is what the baseline's measurements let one expect, once it is measured,
    `warm_start` what another study taught.
    With `awaits_reference` the baseline is timed but not recorded yet: its images are still being generated.
    `devices` are those that can be used now. `compile_limit_s` is how long a build may compile now.
    """

    space: SearchSpace
    price: Price
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    repetitions: list[Outcome] = field(default_factory=list)
    refused: list[Values] = field(default_factory=list)
    late_noise_floor: NoiseFloor | None = None
    running: list[InFlight] = field(default_factory=list)
    advice: Advice | None = None
    warm_start: WarmStart | None = None
    awaits_reference: bool = False
    devices: list[Device] = field(default_factory=list)
    compile_limit_s: float = 0.0
    memory: Memory = field(default_factory=Memory, init=False, repr=False, compare=False)

    @property
    def baseline(self) -> Outcome:
        """The untouched pipeline's trial. Raises KeyError before it is recorded."""
        return self.outcomes[BASELINE]

    @property
    def judged_workload(self) -> Workload:
        """The workload with the prompts whose images the baseline has."""
        baseline = self.outcomes.get(0)
        if baseline is None or baseline.quality is None:
            return self.space.workload
        return self.space.workload.first(len(baseline.quality.scores))

    @property
    def judged_baseline(self) -> Outcome:
        """The process of the untouched pipeline that has the images of most prompts."""
        processes = [self.baseline, *(run for run in self.repetitions if run.number == BASELINE and run.quality)]
        return max(processes, key=scored_prompts)

    def find(self, values: Values) -> Outcome | None:
        """Return the outcome that already answers for a candidate: its own, or that of its build if the build failed.

        A throttled outcome says nothing about its candidate until it was tried again.
        """
        key, batch = build_key(values), values["batch"]
        of_build = [o for o in self.outcomes.values() if o.build_key == key and o.values["batch"] == batch]
        works = any(outcome.status == "measured" for outcome in of_build)
        failed = [outcome for outcome in of_build if not was_built(outcome, works=works)]
        matches = [*failed, *(outcome for outcome in of_build if outcome.values == values)]
        return matches[-1] if len(matches) >= MAX_TRIES or not all(map(was_throttled, matches)) else None

    def was_tried(self, values: Values) -> bool:
        """Return whether a candidate needs no trial of its own: it had one, its build runs, or is known to fail."""
        has_trial = any(outcome.values == values for outcome in self.outcomes.values())
        return has_trial or self.find(values) is not None or self.find_running(values) is not None

    def find_running(self, values: Values) -> int | None:
        """Return the trial that runs now and has the build of a candidate, of which it measures the other steps."""
        wanted = (build_key(values), values["batch"])
        builds = (running for running in self.running if running.sweep)
        return next((r.number for r in builds if (build_key(r.sweep[0]), r.sweep[0]["batch"]) == wanted), None)

    def builders(self, values: Values) -> set[Device | None]:
        """Return the devices on which the build of a candidate runs now."""
        number = self.find_running(values)
        return {running.device for running in self.running if running.sweep and running.number == number}

    def is_repeating(self, number: int, device: Device | None = None) -> bool:
        """Return whether a trial is measured again now, on this device if one is given."""
        repeating = (running for running in self.running if running.number == number and not running.sweep)
        return any(device in (None, running.device) for running in repeating)

    @property
    def pending(self) -> int:
        """How many trials are still to come of the builds that run."""
        known = self.tried_candidates()
        return sum(candidate_key(values) not in known for running in self.running for values in running.sweep)

    @remembered
    def tried_candidates(self) -> AbstractSet[str]:
        """Return the keys of the candidates that have a trial."""
        return {candidate_key(outcome.values) for outcome in self.outcomes.values()}

    def throttled_trial(self) -> Outcome | None:
        """Return a throttled trial to try again, once other builds gave the GPU time to recover."""
        last = max(self.outcomes.values(), key=lambda outcome: outcome.number)
        throttled = filter(was_throttled, self.outcomes.values())
        waiting = (o for o in throttled if o.build_key != last.build_key and self.find(o.values) is None)
        return next((o for o in waiting if self.find_running(o.values) is None), None)

    def scored(self, values: Values) -> Outcome | None:
        """Return a trial whose own images were scored and have the same image key."""
        key = image_key(values)
        for outcome in self.outcomes.values():
            if outcome.image_key == key and outcome.quality is not None and outcome.quality.reused_from is None:
                return outcome
        return None

    def allowances(self) -> tuple[Allowance, ...]:
        """Return what the untouched pipeline itself does in each step: no candidate is rejected for that."""
        baseline = self.outcomes.get(0)
        verdict = baseline.build.verdict if baseline is not None and baseline.build is not None else None
        return verdict.as_allowances() if verdict is not None else ()

    def noise_floors(self) -> list[NoiseFloor]:
        """Return the measured parts of the quality noise floor."""
        baseline = self.outcomes.get(0)
        early = baseline.quality.noise if baseline is not None and baseline.quality is not None else None
        return [noise for noise in (early, self.late_noise_floor) if noise is not None]

    @property
    def has_slow_calls(self) -> bool:
        """Whether a call of the baseline takes a second or more on a GPU, or was composed from shorter calls."""
        timing, device = self.baseline.timing, self.baseline.device
        if timing is None:
            return False
        is_on_gpu = device is not None and device.name == "cuda"
        return bool(timing.predicted_from) or (is_on_gpu and timing.latency_s.value >= SLOW_CALL_S)

    @property
    def quality_floor(self) -> float | None:
        """How far harmless variations of rounding move the baseline's mean score; None if none was measured."""
        differences = [noise.max_difference for noise in self.noise_floors()]
        return max((difference for difference in differences if difference is not None), default=None)

    def repetitions_of(self, outcome: Outcome) -> list[Outcome]:
        """Return the measured repetitions of a trial."""
        return [r for r in self.repetitions if r.number == outcome.number and r.status == "measured"]

    def processes_of(self, outcome: Outcome) -> list[Outcome]:
        """Return the processes that a trial's latency is known from: each measured it on its own, in whole calls.

        A candidate is repeated because its first process was quick, and so on average too quick. It counts no more once
        there are repetitions. Nothing selected the baseline, so all of its processes count.
        """
        runs = [outcome, *self.repetitions_of(outcome)]
        measured = [run for run in runs if run.has_whole_calls]
        repeated = [run for run in measured if run.repetition is not None]
        return measured if outcome.number == BASELINE else repeated or measured

    def disturbed(self, outcome: Outcome) -> list[Outcome]:
        """Return the processes of a trial that something else on the machine slowed: they do not count."""
        slowed: list[Outcome] = []
        for processes in by_device(self.processes_of(outcome)):
            flags = disturbance.disturbed([front.seconds_per_image(process).value for process in processes])
            slowed += compress(processes, flags)
        return slowed

    @remembered
    def disturbed_baselines(self) -> Sequence[Outcome]:
        """Return the untouched pipeline's processes that something else on the machine slowed."""
        return self.disturbed(self.baseline)

    def undisturbed(self, outcome: Outcome) -> list[Outcome]:
        """Return the processes of a trial that count; the search's alone if each had a disturbed partner in its pair.

        What disturbed the partner slowed both, but maybe one of them by less than shows.
        """
        disturbed = self.disturbed(outcome)
        counting = [process for process in self.processes_of(outcome) if process not in disturbed]
        if outcome.number == BASELINE or not any(process.pair for process in counting):
            return counting
        lost = {run.pair for run in self.disturbed_baselines() if run.pair is not None}
        kept = [process for process in counting if process.pair not in lost]
        return kept or ([outcome] if outcome.has_whole_calls else counting)

    def pairs_of(self, candidate: Outcome) -> list[tuple[Outcome, Outcome]]:
        """Return the complete pairs of a candidate that count: neither of their processes was disturbed."""
        tried = self.tried_pairs_of(candidate)
        disturbed = [*self.disturbed_baselines(), *self.disturbed(candidate)] if tried else []
        return [pair for pair in tried if not any(run in disturbed for run in pair)]

    def tried_pairs_of(self, candidate: Outcome) -> list[tuple[Outcome, Outcome]]:
        """Return the complete pairs of baseline and candidate that were measured for a candidate, by their index."""
        pairs: dict[int, dict[bool, Outcome]] = {}
        for repetition in self.repetitions:
            pair = repetition.pair
            if pair is not None and pair.candidate == candidate.number and repetition.status == "measured":
                pairs.setdefault(pair.index, {})[repetition.number == self.baseline.number] = repetition
        return [(pair[True], pair[False]) for _, pair in sorted(pairs.items()) if len(pair) == 2]

    def settled(self, outcome: Outcome) -> Outcome:
        """Return an outcome with the latency that is shown, exported and compared everywhere, and the cost of that.

        It is the median over the medians of the processes that count, with the widest of their intervals. With several
        devices it is that of the baseline's.
        """
        further = self.further_scores().get(outcome.image_owner)
        if not self.repetitions_of(outcome):  # most trials have none, and all are settled after each event
            return self._with_scores(self.comparable(outcome), further)
        processes = [self.comparable(process) for process in self.undisturbed(outcome) or [outcome]]
        return self._with_scores(self._merged(outcome, processes), further)

    def as_measured(self, outcome: Outcome) -> Outcome:
        """Return an outcome with the latency of the processes that count on its own device."""
        own = [process for process in self.undisturbed(outcome) if process.device == outcome.device]
        last = max(self.repetitions_of(outcome), key=scored_prompts, default=outcome)
        further = last.quality if last is not outcome else None
        return self._with_scores(self._merged(outcome, own or [outcome]), further)

    @remembered
    def further_scores(self) -> Mapping[int, Quality]:
        """Return the scores on most prompts that repetitions gave, by the trial that generated the first images."""
        found: dict[int, Quality] = {}
        for run in sorted(self.repetitions, key=scored_prompts):
            if run.quality is not None and run.number in self.outcomes:
                found[self.outcomes[run.number].image_owner] = run.quality
        return found

    def _with_scores(self, outcome: Outcome, further: Quality | None) -> Outcome:
        """Return an outcome with further scores. Its mean stays beside those of trials that have fewer prompts."""
        own, known = outcome.quality, self.baseline.quality
        if further is None or own is None or known is None or outcome.number == BASELINE:
            return outcome
        mean = known.mean + further.difference.value
        quality = msgspec.structs.replace(further, mean=mean, reused_from=own.reused_from)
        return msgspec.structs.replace(outcome, quality=quality)

    def _merged(self, outcome: Outcome, processes: Sequence[Outcome]) -> Outcome:
        """Return an outcome with the merged timings of processes; the parts are of its own call if they have none."""
        if len(processes) == 1 and processes[0].repetition == outcome.repetition:
            return processes[0]
        timing = front.merge_timings([process.timing for process in processes if process.timing is not None])
        if timing.components is None and outcome.timing is not None:
            timing = msgspec.structs.replace(timing, components=outcome.timing.components)
        return msgspec.structs.replace(outcome, timing=timing, cost_usd_per_1000_images=self.cost(timing))

    # ---- several devices --------------------------------------------------------------------------------------------

    def can_use(self, device: Device | None) -> bool:
        """Return whether a device was not taken out."""
        return not self.devices or device in self.devices

    def baseline_on(self, device: Device | None) -> list[Outcome]:
        """Return the untouched pipeline's processes on a device that count, else those with a predicted latency."""
        found = [run for run in self.undisturbed(self.baseline) if run.device == device]
        runs = [self.baseline, *self.repetitions_of(self.baseline)]
        return found or [run for run in runs if run.device == device and run.timing is not None]

    def scale(self, device: Device | None) -> float:
        """Return how much longer a call of the untouched pipeline takes on the baseline's device than on this one.

        It is 1 where that is not known.
        """
        if device is None or BASELINE not in self.outcomes or device == self.baseline.device:
            return 1.0
        return self.scales().get(device, 1.0)

    @remembered
    def scales(self) -> Mapping[Device | None, float]:
        """Return the scale of each device on which the untouched pipeline was measured."""
        there = self.baseline_on(self.baseline.device)
        if not there:
            return {}
        own_s, groups = median_s(there), by_device(self.undisturbed(self.baseline))
        return {group[0].device: own_s / median_s(group) for group in groups}

    def comparable(self, process: Outcome) -> Outcome:
        """Return what a process measured, as on the baseline's device: its ratio to the baseline on its own counts."""
        scale = self.scale(process.device)
        if scale == 1.0 or process.timing is None:
            return process
        timing = front.scaled(process.timing, scale)
        return msgspec.structs.replace(process, timing=timing, cost_usd_per_1000_images=self.cost(timing))

    def all_comparable(self) -> list[Outcome]:
        """Return every trial as it was measured first, as on the baseline's device."""
        return [self.comparable(outcome) for outcome in self.outcomes.values()]

    @remembered
    def all_settled(self) -> Sequence[Outcome]:
        """Return every trial with the latency that is shown of it."""
        return tuple(self.settled(outcome) for outcome in self.outcomes.values())

    def cost(self, timing: Timing) -> float:
        """Return US dollars for 1000 images; with a latency target only images that meet it count."""
        return cost_of(timing, self.price)


def median_s(processes: Sequence[Outcome]) -> float:
    """Return the median of the seconds per image of some processes."""
    return median(front.seconds_per_image(process).value for process in processes)


def by_device(processes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Divide processes by the device that they ran on."""
    found: dict[Device | None, list[Outcome]] = {}
    for process in processes:
        found.setdefault(process.device, []).append(process)
    return list(found.values())


def was_built(outcome: Outcome, *, works: bool = False) -> bool:
    """Return whether other points of the build can be measured. If one was, it `works`, and what fails is a point."""
    if outcome.failure is not None:
        of_point = (works or outcome.failure.kind == "no effect") and outcome.failure.stage in ("time", "score")
        return of_point or outcome.failure.kind in ("invalid image", "recompile", "throttled")
    return outcome.status == "measured"


def was_throttled(outcome: Outcome) -> bool:
    """Return whether heat or the power supply kept the GPU from being timed."""
    return outcome.failure is not None and outcome.failure.kind == "throttled"
