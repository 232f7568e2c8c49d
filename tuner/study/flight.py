"""An attempt that runs, and what the runner knows of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tuner.execution.executor import Handle
from tuner.quality.race import FIRST_PROMPTS
from tuner.records.codec import Estimate
from tuner.records.outcome import Device, Failure, Outcome, Pair
from tuner.search.history import BASELINE, InFlight
from tuner.search.strategy import Proposal
from tuner.study.attempt import Attempt, BuildAttempt
from tuner.study.events import RepetitionEnded, TrialEnded

MAX_PASSED_OVER = 2
"""How often quicker candidates are judged before one that waits: it keeps a slot and memory."""


@dataclass
class Flight:
    """An attempt that runs. `neighbours` are the devices of those that ran beside it.

    It `runs_again` if one of them, or its device, made it fail. It `is_recorded` once its trial, or its repetition, has
    its outcome; other step counts may still be measured then.

    `pair_side_by_side` is its pair if both of that run at the same time. Results are `held` until the baseline's is
    recorded, also those of a worker that `has_ended`. An image of it takes `seconds_per_image`, once that is timed.
    While it `wants_reference` it waits to be judged against the baseline's images; `passed_over` is how often another
    one was judged before it. With `is_judging` it is judged, and no other one of its device; with `is_too_slow` it
    generates no images.
    """

    proposal: Proposal
    attempt: Attempt
    handle: Handle
    running: InFlight
    is_alone: bool
    pair_side_by_side: Pair | None = None
    neighbours: set[Device] = field(default_factory=set)
    runs_again: bool = False
    is_recorded: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    held: list[TrialEnded | RepetitionEnded] = field(default_factory=list)
    seconds_per_image: Estimate | None = None
    wants_reference: bool = False
    passed_over: int = 0
    is_judging: bool = False
    is_too_slow: bool = False
    has_ended: bool = False

    @property
    def device(self) -> Device:
        """The device that it runs on."""
        return self.handle.device

    @property
    def settings(self) -> int:
        """How many values differ from the untouched pipeline's."""
        return len(self.attempt.history.space.changed(self.proposal.values))

    @property
    def again(self) -> Proposal:
        """What it was proposed as, with the number of its trial: to make it again."""
        return replace(self.proposal, number=self.attempt.number)

    @property
    def waits_to_be_judged(self) -> bool:
        """Whether it stands idle until others were judged, or the baseline's images exist."""
        return self.wants_reference and not self.has_ended

    @property
    def can_be_stopped(self) -> bool:
        """Whether this is a running build that is stopped when the time for builds is up.

        The baseline's is, once its trial is recorded and the attempt can be stopped, and so is one that needs no
        images: its result comes in a moment.
        """
        is_needed = (self.attempt.number == BASELINE or self.is_too_slow) and not self.is_recorded
        return self.attempt.can_be_stopped and not is_needed and not self.has_ended

    def can_be_judged_by(self, ends_at: float) -> bool:
        """Return whether the images that a first look needs are there before builds are stopped."""
        assert self.seconds_per_image is not None
        return time.monotonic() + FIRST_PROMPTS * self.seconds_per_image.value <= ends_at

    def begin_to_judge(self, flights: Sequence[Flight], *, is_too_slow: bool) -> None:
        """Take note that it goes on, and which others of its device it passes over."""
        self.wants_reference, self.is_judging, self.is_too_slow = False, True, is_too_slow
        for other in flights:
            other.passed_over += other.device == self.device and other.wants_reference and not is_too_slow

    def lacked_memory(self, outcome: Outcome) -> bool:
        """Return whether an outcome may be that others took too much memory: of the device, or of the host."""
        if self.is_alone or outcome.failure is None:
            return False
        return (outcome.failure.kind == "out of memory" and self.device in self.neighbours) or (
            was_killed(outcome.failure) and bool(self.neighbours)
        )

    @property
    def builds_baseline(self) -> bool:
        """Whether it builds the untouched pipeline and generates the images that all others wait for."""
        return self.attempt.number == BASELINE and isinstance(self.attempt, BuildAttempt)


def is_whole(result: TrialEnded | RepetitionEnded) -> bool:
    """Return whether a result is that of the candidate itself, or of a repetition: not of another step count."""
    return isinstance(result, RepetitionEnded) or result.folder is None


def was_killed(failure: Failure) -> bool:
    """Return whether the worker was killed, as the system does when the host's memory runs out."""
    return failure.kind == "crash" and "SIGKILL" in failure.message


def next_to_judge(flights: Sequence[Flight]) -> list[tuple[Flight, BuildAttempt, bool]]:
    """Return the quickest candidate of each device that waits to be judged, unless one is being judged.

    Two that share the GPU take as long as one after the other, and the first result comes later. If that one is as good
    as the baseline, those that are slower need no images of their own: they are returned at once, with True. Of those
    that may be as quick the one with the fewest settings comes first, and before all one that was passed over twice.
    """
    alive = [flight for flight in flights if not flight.has_ended]
    judging = {flight.device for flight in alive if flight.is_judging or flight.proposal.prompts is not None}
    too_slow: list[tuple[Flight, BuildAttempt, bool]] = []
    found: dict[Device, tuple[Flight, BuildAttempt, bool]] = {}
    for flight in in_turn([each for each in alive if each.waits_to_be_judged]):
        assert isinstance(flight.attempt, BuildAttempt) and flight.seconds_per_image is not None
        if flight.attempt.is_too_slow(flight.seconds_per_image):
            too_slow.append((flight, flight.attempt, True))
        elif flight.device not in judging:
            found.setdefault(flight.device, (flight, flight.attempt, False))
    return [*too_slow, *found.values()]


def in_turn(waiting: Sequence[Flight]) -> list[Flight]:
    """Return the candidates that wait to be judged in the order in which they are."""
    timed = [flight.seconds_per_image for flight in waiting if flight.seconds_per_image is not None]
    quickest_s = min((seconds.high for seconds in timed), default=0.0)

    def order(flight: Flight) -> tuple[bool, bool, int, float]:
        seconds = flight.seconds_per_image
        assert seconds is not None
        is_slower = seconds.low > quickest_s
        return flight.passed_over < MAX_PASSED_OVER, is_slower, 0 if is_slower else flight.settings, seconds.value

    return sorted(waiting, key=order)
