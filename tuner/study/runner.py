"""Run what strategies propose: several attempts at once, as many as there is room for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec

from tuner.execution.executor import Ended, Executor, Handle, StoodStill
from tuner.records.outcome import Device, Pair
from tuner.records.protocol import Job, Message, PointTimed, ReferenceWanted, TurnEnded
from tuner.search.history import BASELINE, History, InFlight
from tuner.search.strategy import Proposal, Strategy
from tuner.study.attempt import Attempt, BuildAttempt
from tuner.study.course import keep_building
from tuner.study.events import (
    CandidateRefused,
    Event,
    Note,
    Publisher,
    RepetitionEnded,
    TrialEnded,
    TrialStarted,
    WorkerEnded,
    WorkerStoodStill,
)
from tuner.study.flight import Flight, ran_out
from tuner.study.repetition import RepetitionAttempt

NEVER = float("inf")


class Runner:
    """Runs attempts and publishes their events.

    `room` returns how many may run at once, `stops_at` when an attempt is stopped, `follow` is called with each event
    after it was published.
    """

    def __init__(
        self, publisher: Publisher, executor: Executor, room: Callable[[], int], stops_at: Callable[[Attempt], float],
        follow: Callable[[Attempt, Event], None],
    ) -> None:  # fmt: skip
        self.store = publisher.store
        self.history = publisher.history
        self.budget = publisher.budget
        self.publisher = publisher
        self.executor = executor
        self.room = room
        self.stops_at = stops_at
        self.follow = follow
        self.flights: dict[str, Flight] = {}
        self.alone: list[Proposal] = []
        """What failed because of a neighbour, to be run again without one."""

    def exhaust(self, strategy: Strategy, is_done: Callable[[History], bool] = lambda _: False) -> None:
        """Run what a strategy proposes until it has nothing more to propose, or `is_done`.

        In the second case what runs then goes on, for the next strategy.
        """
        self.fill(strategy)
        while self.flights and not is_done(self.history):
            for handle, message in self.executor.wait(self.next_stop):
                self.take(handle, message, strategy)
                if isinstance(message, (TurnEnded, PointTimed, Ended)):
                    self.fill(strategy)
                if is_done(self.history):
                    break
            self.stop_late(strategy)
            self.fill(strategy)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, or waits to be run alone."""
        return not self.flights and not self.alone

    def close(self) -> None:
        """End what still runs."""
        for flight in list(self.flights.values()):
            self.end(flight)

    def fill(self, strategy: Strategy) -> None:
        """Start what is proposed while there is room."""
        while (device := self.free_device()) is not None:
            if self.alone:
                self.start(self.alone.pop(0), device, is_alone=True)
                continue
            proposal = strategy.propose(self.history, device)
            if proposal is None:
                return
            is_first = self.is_standing(proposal) and proposal.pair not in self.standing_pairs()
            self.begin(proposal, device)
            partner = strategy.propose(self.history, device) if is_first and device in self.executor.free() else None
            if partner is not None:
                self.begin(partner, device)

    def begin(self, proposal: Proposal, device: Device) -> None:
        """Start an attempt, or record why it is refused."""
        if proposal.refusal is None:
            self.start(proposal, device)
            return
        number = self.store.enter(proposal.values) if proposal.number is None else proposal.number
        self.publisher.publish(CandidateRefused(number, proposal.values, proposal.refusal))

    def is_standing(self, proposal: Proposal) -> bool:
        """Return whether the two of a pair run at the same time: not if one of them was measured before."""
        halves = (run for run in self.history.repetitions if run.pair == proposal.pair and run.status == "measured")
        return proposal.pair is not None and self.room() > 1 and not any(halves)

    def standing_pairs(self) -> set[Pair | None]:
        """Return the pairs that run now."""
        return {flight.standing_pair for flight in self.flights.values()}

    def free_device(self) -> Device | None:
        """Return where another attempt may start, or None. What runs alone gets no neighbour.

        The two of a pair take the room of one, since their calls alternate.
        """
        is_one_alone = bool(self.alone) or any(flight.is_alone for flight in self.flights.values())
        running = [flight for flight in self.flights.values() if not flight.has_ended]
        taken = {flight.standing_pair or flight.handle.id for flight in running}
        if len(taken) >= (1 if is_one_alone else self.room()):
            return None
        return next(iter(self.executor.free()), None)

    def start(self, proposal: Proposal, device: Device, *, is_alone: bool = False) -> None:
        """Start an attempt."""
        is_standing = self.is_standing(proposal) and not is_alone
        attempt: Attempt = (
            self.build(proposal, device)
            if proposal.repeats is None
            else self.repetition(proposal, device, is_standing=is_standing)
        )
        started = TrialStarted(attempt.number, proposal.purpose, proposal.values, attempt.points)
        self.publisher.publish(started)
        self.follow(attempt, started)
        try:
            handle = self.executor.submit(self.job(attempt), device)
        except BaseException:
            attempt.close()
            raise
        running = InFlight(attempt.number, attempt.sweep if isinstance(attempt, BuildAttempt) else ())
        flight = Flight(proposal, attempt, handle, running, is_alone, proposal.pair if is_standing else None)
        self.flights[handle.id] = flight
        self.history.running.append(running)
        self.keep_building()
        for each in self.flights.values():
            each.is_crowded = each.is_crowded or len(self.flights) > 1

    def job(self, attempt: Attempt) -> Job:
        """Return the job of an attempt. Those that compile at once on a CPU share its cores."""
        job, room = attempt.job(self.budget), self.room()
        is_shared = job.environment.device == "cpu"
        limit_s = None if job.compile_limit_s is None else job.compile_limit_s * (room if is_shared else 1)
        return msgspec.structs.replace(job, compile_limit_s=limit_s, study_pid=os.getpid(), shares_device=room > 1)

    def repetition(self, proposal: Proposal, device: Device, *, is_standing: bool = False) -> RepetitionAttempt:
        """Prepare to measure a trial again in a fresh process."""
        assert proposal.repeats is not None
        original, repetition = self.history.outcomes[proposal.repeats], self.store.reserve_repetition()
        return RepetitionAttempt(
            self.store, self.history, device, repetition, original, proposal.pair, is_standing=is_standing
        )

    def build(self, proposal: Proposal, device: Device) -> BuildAttempt:
        """Prepare to build a candidate, with the other step counts of the same build."""
        number = self.store.enter(proposal.values) if proposal.number is None else proposal.number
        _, *others = self.history.space.step_sweep(proposal.values)
        wanted = [values for values in others if proposal.steps is None or values["steps"] in proposal.steps]
        sweep = [proposal.values, *(values for values in wanted if self.history.find(values) is None)][
            : max(1, self.budget.trials_left(self.history))
        ]
        return BuildAttempt(self.store, self.history, device, number, sweep, proposal.purpose, proposal.recipe)

    def take(self, handle: Handle, message: Message | StoodStill | Ended, strategy: Strategy) -> None:
        """Publish what follows from a message of an attempt."""
        flight = self.flights.get(handle.id)
        if flight is None:
            return
        if isinstance(message, Ended):
            flight.has_ended = True
            if flight.runs_again and flight.builds_baseline:
                self.begin_again(flight)
        elif isinstance(message, ReferenceWanted):
            flight.wants_reference_s = message.seconds_per_image
        else:
            self.publish_all(flight, message)
        for each in [flight] if self.history.awaits_reference else list(self.flights.values()):
            self.go_on(each, strategy)
        self.hand_reference_on()

    def publish_all(self, flight: Flight, message: Message | StoodStill) -> None:
        """Publish the events that follow from a message."""
        if isinstance(message, StoodStill):
            self.publisher.publish(WorkerStoodStill(flight.attempt.number, message.seconds))
        for event in flight.attempt.handle(message):
            for kept in self.without_a_neighbours_fault(flight, event):
                self.publish(flight, kept)

    def publish(self, flight: Flight, event: Event) -> None:
        """Publish an event, but hold the results of others until the baseline's is recorded."""
        result = event if isinstance(event, (TrialEnded, RepetitionEnded)) else None
        if result is not None and self.must_wait(flight):
            flight.held.append(result)
            return
        self.publisher.publish(event)
        self.follow(flight.attempt, event)
        if result is not None:
            flight.outcomes.append(result.outcome)
            flight.is_judging = False

    def must_wait(self, flight: Flight) -> bool:
        """Return whether the results of an attempt wait until the baseline's is recorded."""
        return self.history.awaits_reference and not flight.builds_baseline

    def go_on(self, flight: Flight, strategy: Strategy) -> None:
        """Do what waited for the baseline: publish what was held, and end an attempt that has ended."""
        if self.must_wait(flight):
            return
        held, flight.held = flight.held, []
        for event in held:
            self.publish(flight, event)
        if flight.has_ended:
            self.end(flight, strategy)

    def hand_reference_on(self) -> None:
        """Let the quickest of the candidates that wait for the baseline's images go on, and once it is judged the next.

        If that one is as good as the baseline, those that are slower need no images of their own.
        """
        is_judged = BASELINE in self.history.outcomes and self.history.baseline.quality is not None
        if not is_judged or any(flight.is_judging for flight in self.flights.values()):
            return
        waiting = [flight for flight in self.flights.values() if flight.wants_reference_s is not None]
        flight = min(waiting, key=lambda each: each.wants_reference_s or 0.0, default=None)
        if flight is not None and isinstance(flight.attempt, BuildAttempt):
            flight.wants_reference_s, flight.is_judging = None, True
            self.executor.provide(flight.handle, flight.attempt.with_reference(flight.handle.job))

    def begin_again(self, baseline: Flight) -> None:
        """Give up what was begun beside a baseline that is built once more, alone."""
        for flight in list(self.flights.values()):
            if flight is not baseline:
                self.end(flight)
        self.history.outcomes.pop(BASELINE, None)
        self.history.awaits_reference = False

    def without_a_neighbours_fault(self, flight: Flight, event: Event) -> Iterator[Event]:
        """Yield an event, but not that memory ran out where others took some: the attempt is made again alone.

        Another step count than the candidate's is left out: it counts as not tried.
        """
        if not (flight.is_crowded and isinstance(event, (TrialEnded, RepetitionEnded)) and ran_out(event.outcome)):
            yield event
            return
        flight.runs_again = isinstance(event, RepetitionEnded) or event.folder is None
        yield Note(f"trial {flight.attempt.number} ran out of memory beside others: it is run again alone")

    def end(self, flight: Flight, strategy: Strategy | None = None) -> None:
        """End an attempt, whether or not it has come to its end, and tell the strategy what came of it."""
        del self.flights[flight.handle.id]
        self.history.running.remove(flight.running)
        self.executor.cancel(flight.handle)
        if strategy is not None and flight.runs_again:
            self.alone.append(replace(flight.proposal, number=flight.attempt.number))
        flight.attempt.close(is_recorded=not flight.held)
        self.publisher.publish(WorkerEnded(flight.attempt.number))
        if strategy is not None:
            self.keep_building()
            for outcome in flight.outcomes:
                strategy.observe(outcome)

    def keep_building(self) -> None:
        """Record what is being built: a study that is killed begins again with that."""
        builds = [flight.running.sweep for flight in self.flights.values() if flight.running.sweep]
        keep_building(self.store, builds if self.history.outcomes else [])

    def next_stop(self) -> float:
        """Return when the first of the attempts is stopped."""
        running = (flight for flight in self.flights.values() if not flight.has_ended)
        return min((self.stops_at(flight.attempt) for flight in running), default=NEVER)

    def stop_late(self, strategy: Strategy) -> None:
        """Stop the attempts whose time is up."""
        for flight in list(self.flights.values()):
            if not flight.has_ended and time.monotonic() >= self.stops_at(flight.attempt):
                self.publisher.publish(Note(f"trial {flight.attempt.number} was stopped: {self.stop_reason()}"))
                self.end(flight, strategy)

    def stop_reason(self) -> str:
        """Say why a running build is stopped."""
        return "the rest of the time is for the confirmation" if self.budget.seconds_left() > 1.0 else "the time is up"
