"""Replay a search against a table: GPU seconds are accounted as a study's engine spends them."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna

from search_bench.table import Point, Table, noise_of
from tuner.records.codec import Estimate, Values
from tuner.records.machine import Memory
from tuner.records.outcome import Build, Components, Device, Failure, Outcome, Timing
from tuner.records.quality import Quality
from tuner.result.prices import Price
from tuner.search.history import History, InFlight
from tuner.search.strategy import Proposal, Strategy
from tuner.search.unknown import every
from tuner.space.candidates import build_key, image_key

DEVICE = Device(name="cuda")
PRICE = Price(usd_per_hour=3.6, source="the bench: a second of a GPU costs 0.1 cent")

START_S = 4.0
"""A worker begins, with the weights lent to it."""

SLOTS = 4
"""Builds in the works at once. They compile while another's images are generated, and stand still while it is timed."""

TIMING_CALLS, MIN_TIMING_S = 7.0, 8.0
"""Calls to warm up and time a build, in whole calls of its batch: every step count is composed from one timing. As 24
builds of FLUX.1-dev took on an H200, 2026-11-30."""

NEW_IMAGES, KNOWN_IMAGES = 8, 2
"""Images that are drawn where the image key is new, and where it is known."""

BASELINE_CALLS = 7
"""Calls of the untouched pipeline by which a further device is known: one to warm up, six that are timed."""

PENALTY_LIMIT = 2.0
"""Twice the tolerance: what loses more is of no use to anybody. With the baseline's latency the reference point."""

SHARES = (0.90, 0.95, 0.99)


class Front:
    """Non-dominated points of latency and penalty, and the area that they dominate."""

    def __init__(self, latency_limit: float) -> None:
        self.limit = latency_limit
        self.points: list[tuple[float, float]] = []

    def add(self, penalty: float, latency_s: float) -> bool:
        """Add a point; return whether the front moved."""
        if penalty >= PENALTY_LIMIT or latency_s >= self.limit:
            return False
        place = bisect.bisect_right(self.points, (penalty, latency_s))
        if place and self.points[place - 1][1] <= latency_s:
            return False
        end = place
        while end < len(self.points) and self.points[end][1] >= latency_s:
            end += 1
        self.points[place:end] = [(penalty, latency_s)]
        return True

    @property
    def area(self) -> float:
        """The hypervolume."""
        ends = [*(penalty for penalty, _ in self.points), PENALTY_LIMIT][1:]
        return sum((end - at) * (self.limit - s) for (at, s), end in zip(self.points, ends, strict=False))


def exhaustive_area(table: Table) -> float:
    """Return the hypervolume of all candidates."""
    front = Front(table.point(table.space.candidate({})).latency_s)
    for values in every(table.space):
        point = table.point(values)
        if point.status == "measured":
            front.add(point.penalty, point.latency_s)
    return front.area


class Trials:
    """Optuna's part of a study, in memory, told as the store tells it."""

    def __init__(self, table: Table) -> None:
        self.space = table.space
        self.study: Any = optuna.create_study(directions=("minimize", "maximize"))
        self.known: dict[int, Any] = {}

    def use(self, sampler: Any) -> None:
        self.study.sampler = sampler

    def ask(self) -> tuple[int, Values]:
        trial = self.study.ask()
        self.known[trial.number] = trial
        return trial.number, self.space.sample(trial.suggest_categorical)

    def enter(self, values: Values) -> int:
        choices = self.space.knobs
        self.study.enqueue_trial({name: value for name, value in values.items() if value in choices.get(name, ())})
        trial = self.study.ask()
        for name, value in values.items():
            if value in choices.get(name, ()) and len(choices[name]) > 1:
                trial.suggest_categorical(name, choices[name])
        self.known[trial.number] = trial
        return int(trial.number)

    def abandon(self, number: int) -> None:
        self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def tell(self, number: int, values: list[float] | None, status: str) -> None:
        trial = self.known.pop(number)
        trial.set_constraint(status, 0.0 if values else 1.0)
        state = optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.PRUNED
        self.study.tell(number, values, state=state)


@dataclass
class Course:
    """What came of a replay: the seconds at which each share of the hypervolume was reached, and what it took."""

    reached_s: dict[float, float] = field(default_factory=dict)
    share_at: list[tuple[float, float]] = field(default_factory=list)
    builds: int = 0
    trials: int = 0
    proposal_s: list[float] = field(default_factory=list)
    ended: str = "time"

    def share_after(self, seconds: float) -> float:
        """Return the share of the hypervolume after so many seconds."""
        return max((share for at, share in self.share_at if at <= seconds), default=0.0)


@dataclass(eq=False)
class Flying:
    """A build that was begun, and the device that it runs on. `begun_s` counts as later by what it stood still."""

    running: InFlight
    proposal: Proposal
    device: int
    begun_s: float = 0.0


class Replay:
    """One search against a table. `has_sweep` says whether a build is measured at its other step counts, too.

    Up to `slots` builds are in flight on each of `devices`, which work at the same time. `clock_s` counts the seconds
    of all of them, idle or not.
    """

    def __init__(
        self, table: Table, seed: int, area: float, *, has_sweep: bool = True, slots: int = SLOTS, devices: int = 1
    ) -> None:
        self.table = table
        self.seed = seed
        self.area = area
        self.has_sweep = has_sweep
        self.slots = slots
        self.devices = [Device(name="cuda", index=index) for index in range(devices)]
        self.until_s = [0.0] * devices
        """When each device has done the builds that have ended."""
        self.history = History(space=table.space, price=PRICE)
        self.trials = Trials(table)
        self.clock_s = 0.0
        self.codes: set[str] = set()
        self.images: set[str] = set()
        self.flying: list[Flying] = []
        self.course = Course()
        baseline = table.space.candidate({})
        self.front = Front(table.point(baseline).latency_s)
        number = self.trials.enter(baseline)
        self.build(Flying(InFlight(number, tuple(self.sweep(baseline))), Proposal(baseline, "baseline"), 0))
        self.course.builds = 0
        # Each further device times the untouched pipeline itself.
        others_s = START_S + BASELINE_CALLS * self.table.point(baseline).latency_s
        self.until_s = [0.0] + [others_s] * (devices - 1)
        self.clock_s = 0.0
        self.course.share_at = [(0.0, share) for _, share in self.course.share_at]

    def sweep(self, values: Values, steps: Sequence[int] | None = None) -> list[Values]:
        """Return what a build of a candidate is measured at."""
        if not self.has_sweep:
            return [values]
        first, *others = self.table.space.step_sweep(values)
        wanted = [other for other in others if steps is None or other["steps"] in steps]
        return [first, *(other for other in wanted if self.history.find(other) is None)]

    def run(self, strategy: Strategy, until_s: float) -> Course:
        """Search until the time is up, 99 % are reached, or nothing is proposed any more."""
        while self.clock_s < until_s and len(self.course.reached_s) < len(SHARES):
            self.fill(strategy)
            if not self.flying:
                self.course.ended = "nothing more to propose"
                break
            before = len(self.history.outcomes)
            self.land(self.next_to_land())
            for outcome in list(self.history.outcomes.values())[before:]:
                strategy.observe(outcome)
        self.course.trials = len(self.history.outcomes)
        return self.course

    def fill(self, strategy: Strategy) -> None:
        """Start what is proposed while there is room."""
        while (device := self.least_busy()) is not None:
            started = time.perf_counter()
            proposal = strategy.propose(self.history, self.devices[device])
            self.course.proposal_s.append(time.perf_counter() - started)
            if proposal is None:
                return
            number = self.trials.enter(proposal.values) if proposal.number is None else proposal.number
            if proposal.refusal is not None:
                self.trials.tell(number, None, "refused")
                self.history.refused.append(proposal.values)
                continue
            running = InFlight(number, tuple(self.sweep(proposal.values, proposal.steps)), self.devices[device])
            self.history.running.append(running)
            self.flying.append(Flying(running, proposal, device, self.until_s[device]))

    def least_busy(self) -> int | None:
        """Return the device with the fewest builds in flight, None if there is no room."""
        flying = [sum(each.device == device for each in self.flying) for device in range(len(self.devices))]
        return flying.index(min(flying)) if min(flying) < self.slots else None

    def compile_s(self, flying: Flying) -> float:
        """Return what the first call of a build takes beyond a warm one."""
        first = self.table.point(flying.running.sweep[0])
        return first.build_s * (self.table.cached_share if first.code in self.codes else 1.0)

    def timing_s(self, values: Values) -> float:
        """Return what it takes to warm up and time a build."""
        return max(TIMING_CALLS * self.table.point(values).latency_s * int(values["batch"]), MIN_TIMING_S)

    def ready_s(self, flying: Flying) -> float:
        """Return when a build has compiled, and waits for its device."""
        return flying.begun_s + START_S + self.compile_s(flying)

    def end_s(self, flying: Flying) -> float:
        """Return when the build that is next on its device ends, but for its images."""
        return max(self.until_s[flying.device], self.ready_s(flying)) + self.timing_s(flying.running.sweep[0])

    def next_to_land(self) -> Flying:
        """Return the build that ends next: each device takes the one that is ready first."""
        firsts: dict[int, Flying] = {}
        for flying in sorted(self.flying, key=self.ready_s):
            firsts.setdefault(flying.device, flying)
        return min(firsts.values(), key=self.end_s)

    def land(self, flying: Flying) -> None:
        """Let a build that flies come to its end."""
        self.flying.remove(flying)
        self.history.running.remove(flying.running)
        self.build(flying)

    def build(self, flying: Flying) -> None:
        """Let a build come to its end: pass its time, and record its outcomes."""
        running, proposal = flying.running, flying.proposal
        compile_s, now_s = self.compile_s(flying), self.end_s(flying)
        timing_s = self.timing_s(running.sweep[0])
        for other in self.flying:
            if other.device == flying.device and self.ready_s(other) > now_s - timing_s:
                other.begun_s += timing_s
        self.codes.add(self.table.point(running.sweep[0]).code)
        self.course.builds += 1
        for index, values in enumerate(running.sweep):
            point = self.table.point(values)
            number = running.number if index == 0 else None
            if point.status != "measured":
                if number is not None:
                    self.record(number, values, proposal, point, compile_s)
                break
            key = image_key(values)
            now_s += point.latency_s * (KNOWN_IMAGES if key in self.images else NEW_IMAGES)
            self.clock_s = max(self.clock_s, len(self.devices) * now_s)
            self.images.add(key)
            self.record(self.trials.enter(values) if number is None else number, values, proposal, point, compile_s)
        self.until_s[flying.device] = now_s
        self.clock_s = max(self.clock_s, len(self.devices) * now_s)

    def record(self, number: int, values: Values, proposal: Proposal, point: Point, compile_s: float) -> None:
        """Record an outcome, with noise, and look how much of the hypervolume is reached without noise."""
        is_measured = point.status == "measured"
        outcome = Outcome(
            number=number, purpose=proposal.purpose, recipe=proposal.recipe, values=values, build_key=build_key(values),
            image_key=image_key(values), status=point.status, device=DEVICE,  # type: ignore[arg-type]
            build=Build(changes={}, load_s=START_S, apply_s=0.0, first_call_s=compile_s, trace=None, verdict=None),
            failure=None if point.status != "failed" else Failure(kind="error", stage="warm up", message="the table"),
            **self.measured(values, point) if is_measured else {},
        )  # fmt: skip
        self.history.outcomes[number] = outcome
        told = [outcome.cost_usd_per_1000_images, outcome.quality.mean] if outcome.quality else None
        self.trials.tell(number, told, point.status)
        if is_measured and self.front.add(point.penalty, point.latency_s):
            share = self.front.area / self.area
            self.course.share_at.append((self.clock_s, share))
            for wanted in SHARES:
                if share >= wanted:
                    self.course.reached_s.setdefault(wanted, self.clock_s)

    def measured(self, values: Values, point: Point) -> dict[str, Any]:
        """Return what a worker measures of a candidate."""
        of_timing, of_image = noise_of(self.table, values, self.seed)
        baseline = values == self.table.space.candidate({})
        batch, seconds = int(values["batch"]), point.latency_s * (1 + of_timing)
        mean = 30.0 - point.penalty - (0.0 if baseline else of_image)
        half = 1.96 * self.table.noise["penalty"]
        latency = Estimate(value=seconds * batch, low=seconds * batch * 0.998, high=seconds * batch * 1.002)
        timing = Timing(
            latency_s=latency, samples=6, images_per_s=1 / seconds, stopped="interval within target",
            components=components(point, latency.value),
        )  # fmt: skip
        difference = Estimate(value=mean - 30, low=mean - 30 - half, high=mean - 30 + half)
        quality = Quality(
            metric="clip_score", scores=(mean,) * NEW_IMAGES, mean=mean, difference=difference, psnr_db=None, ssim=None,
        )  # fmt: skip
        return {
            "timing": timing,
            "memory": Memory(peak_bytes=34 << 30, reserved_bytes=None),
            "quality": quality,
            "cost_usd_per_1000_images": self.history.cost(timing),
        }


def components(point: Point, call_s: float) -> Components | None:
    """Return how a measured call divides between the denoiser and the rest."""
    if point.denoiser_s is None:
        return None
    denoiser_s = call_s * point.denoiser_s / point.latency_s
    return Components(
        total_s=call_s, text_encoders_s=None, denoiser_s=denoiser_s, vae_s=None, rest_s=call_s - denoiser_s
    )


Contender = Callable[[Replay], Strategy]
