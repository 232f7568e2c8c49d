"""Run what strategies propose: several attempts at once, as many as there is room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tuner.execution.executor import Ended, Executor, Handle, StoodStill
from tuner.hardware.gpus import Trouble
from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.records.protocol import Message, PointTimed, ReferenceWanted, TurnEnded
from tuner.search.history import BASELINE, History, InFlight
from tuner.search.strategy import Proposal, Strategy
from tuner.study import narration
from tuner.study.attempt import Attempt, BuildAttempt
from tuner.study.attempt_factory import make_attempt, make_job
from tuner.study.course import keep_building
from tuner.study.devices import Check, Devices
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
from tuner.study.flight import Flight, is_whole, next_to_judge
from tuner.study.stops import stop_if_throttled
from tuner.study.waiting import Waiting

NEVER = float("inf")


class Runner:
    """Runs attempts and publishes their events.

    `room` returns how many may live on a device when so many of them wait to be judged, `builds_end_at` when builds are
    stopped. `follow` is called with each event after it was published. `check` says what is wrong with a device.
    """

    def __init__(
        self, publisher: Publisher, executor: Executor, room: Callable[[int], int], builds_end_at: Callable[[], float],
        follow: Callable[[Attempt, Event], None], check: Check = lambda _: None,
    ) -> None:  # fmt: skip
        self.store = publisher.store
        self.history = publisher.history
        self.budget = publisher.budget
        self.publisher = publisher
        self.executor = executor
        self.room = room
        self.builds_end_at = builds_end_at
        self.follow = follow
        self.interrupted: Callable[[], Sequence[Sequence[Values]]] = lambda: ()
        """What was being built when the study was killed, and does not run again yet."""
        self.flights: dict[str, Flight] = {}
        self.devices = Devices(self.history, check)
        self.strategy: Strategy
        """What is run now."""
        self.waiting = Waiting()

    def exhaust(self, strategy: Strategy, is_done: Callable[[History], bool] = lambda _: False) -> None:
        """Run what a strategy proposes until it has nothing more to propose, or `is_done`.

        In the second case what runs then goes on, for the next strategy.
        """
        self.strategy = strategy
        while not is_done(self.history):
            self.fill()
            if not self.flights:
                break
            for handle, message in self.executor.wait(self.next_stop):
                self.take(handle, message)
                if isinstance(message, (TurnEnded, PointTimed, ReferenceWanted, Ended)):
                    self.fill()
                if is_done(self.history):
                    break
            for flight in list(self.flights.values()):
                self.go_on(flight)
            self.stop_late()
            self.judge_next()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, or waits to run again."""
        return not self.flights and not self.waiting

    def close(self, but: Flight | None = None) -> None:
        """End what runs, but for one, and what was to run again: candidates without a result count as not tried."""
        for flight in [flight for flight in self.flights.values() if flight is not but]:
            flight.runs_again = False
            self.end(flight)
        for proposal in self.waiting.clear():
            if proposal.repeats is None and proposal.number is not None:
                self.store.abandon(proposal.number)

    def fill(self) -> None:
        """Start what is proposed while there is room: one after the other on each device, so that all have work."""
        for text in self.devices.put_back():
            self.note(text)
        while sum(self.start_next(device) for device in filter(self.has_room, self.executor.free())):
            pass

    def start_next(self, device: Device) -> bool:
        """Start what a device does next. Returns whether there was anything."""
        if self.is_taken_out(device):
            return False
        alone, to_move = self.waiting.take_alone(device), self.waiting.to_move
        if alone is not None:
            self.start(alone, device, is_alone=True)
            return True
        if to_move and not self.devices.may_move(to_move[0], device, list(self.flights.values())):
            return False
        proposal = to_move.pop(0) if to_move else self.strategy.propose(self.history, device)
        if proposal is None:
            return False
        begun = {flight.pair_side_by_side for flight in self.flights.values()}
        is_first = self.runs_side_by_side(proposal) and proposal.pair not in begun
        self.begin(proposal, device)
        partner = self.strategy.propose(self.history, device) if is_first and device in self.executor.free() else None
        if partner is not None:
            self.begin(partner, device)
        return True

    def begin(self, proposal: Proposal, device: Device) -> None:
        """Start an attempt, or record why it is refused."""
        if proposal.refusal is None:
            self.start(proposal, device)
            return
        number = self.store.enter(proposal.values) if proposal.number is None else proposal.number
        self.publisher.publish(CandidateRefused(number, proposal.values, proposal.refusal))

    def runs_side_by_side(self, proposal: Proposal) -> bool:
        """Return whether the two of a pair run at the same time: not if one of them was measured before."""
        halves = (run for run in self.history.repetitions if run.pair == proposal.pair and run.status == "measured")
        return proposal.pair is not None and self.room(0) > 1 and not any(halves)

    def has_room(self, device: Device) -> bool:
        """Return whether another attempt may start on a device. What runs alone gets no neighbour.

        The two of a pair take the room of one, since their calls alternate.
        """
        flights = [flight for flight in self.flights.values() if flight.device == device]
        is_one_alone = any(flight.is_alone for flight in flights) or self.waiting.has_one_alone(device)
        taken = {flight.pair_side_by_side or flight.handle.id for flight in flights if not flight.has_ended}
        room = 1 if is_one_alone else self.room(sum(flight.waits_to_be_judged for flight in flights))
        return device in self.history.devices and len(taken) < room

    def start(self, proposal: Proposal, device: Device, *, is_alone: bool = False) -> None:
        """Start an attempt."""
        is_side_by_side = self.runs_side_by_side(proposal) and not is_alone
        attempt = make_attempt(self.publisher, proposal, device, is_standing=is_side_by_side)
        started = TrialStarted(attempt.number, proposal.purpose, proposal.values, attempt.points)
        self.publisher.publish(started)
        self.follow(attempt, started)
        try:
            handle = self.executor.submit(make_job(attempt, self.budget, shares_device=self.room(0) > 1), device)
        except BaseException:
            attempt.close()
            raise
        running = InFlight(attempt.number, attempt.sweep if isinstance(attempt, BuildAttempt) else (), device)
        flight = Flight(proposal, attempt, handle, running, is_alone, proposal.pair if is_side_by_side else None)
        self.flights[handle.id] = flight
        self.history.running.append(running)
        self.keep_building()
        for each in self.flights.values():
            each.neighbours |= {other.device for other in self.flights.values() if other is not each}

    def take(self, handle: Handle, message: Message | StoodStill | Ended) -> None:
        """Publish what follows from a message of an attempt."""
        flight = self.flights.get(handle.id)
        if flight is None:
            return
        if isinstance(message, Ended):
            flight.has_ended = True
            if flight.runs_again and flight.builds_baseline:
                self.begin_again(flight)
        else:
            if isinstance(message, ReferenceWanted):
                flight.wants_reference, flight.seconds_per_image = True, message.seconds_per_image
            self.publish_all(flight, message)
        for each in [flight] if self.history.awaits_reference else list(self.flights.values()):
            self.go_on(each)
        self.judge_next()

    def publish_all(self, flight: Flight, message: Message | StoodStill) -> None:
        """Publish the events that follow from a message."""
        if isinstance(message, StoodStill):
            self.publisher.publish(WorkerStoodStill(flight.attempt.number, message.seconds))
        for event in flight.attempt.handle(message):
            if flight.handle.id in self.flights and not self.is_excused(flight, event):
                self.publish(flight, event)

    def publish(self, flight: Flight, event: Event) -> None:
        """Publish an event, but hold the results of others until the baseline's is recorded."""
        result = event if isinstance(event, (TrialEnded, RepetitionEnded)) else None
        if result is not None and self.must_wait(flight):
            flight.held.append(result)
            return
        if result is not None and is_whole(result):
            if flight.builds_baseline and result.outcome.failure is not None:
                stop_if_throttled(result.outcome.failure)
            flight.is_recorded = True  # before it is: what is interrupted halfway must not be removed
        event = self.publisher.numbered(event)
        self.publisher.publish(event)
        self.follow(flight.attempt, event)
        if isinstance(event, (TrialEnded, RepetitionEnded)):
            flight.outcomes.append(event.outcome)
        if isinstance(event, RepetitionEnded):
            self.take_out(flight.device, self.devices.trouble_of_baseline(flight.device, event.outcome))

    def must_wait(self, flight: Flight) -> bool:
        """Return whether the results of an attempt wait: until the baseline is recorded, and timed on their device."""
        history, device = self.history, flight.device
        if flight.builds_baseline or (BASELINE in history.outcomes and not history.awaits_reference):
            is_first = flight.builds_baseline or flight.proposal.repeats == BASELINE
            return not is_first and history.is_repeating(BASELINE, device) and not history.baseline_on(device)
        return True

    def go_on(self, flight: Flight) -> None:
        """Do what waited for the baseline: publish what was held, and end an attempt that has ended."""
        if flight.handle.id not in self.flights or self.must_wait(flight):
            return
        held, flight.held = flight.held, []
        for event in held:
            self.publish(flight, event)
        if flight.has_ended and flight.handle.id in self.flights:
            self.conclude(flight)

    def judge_next(self) -> None:
        """Let each device's quickest candidate go on that waits for the baseline's images, or stop it if it is late."""
        if BASELINE in self.history.outcomes and self.history.baseline.quality is not None:
            flights = list(self.flights.values())
            for flight, attempt, is_too_slow in next_to_judge(flights):
                if not is_too_slow and not flight.can_be_judged_by(self.builds_end_at()):
                    self.stop(flight)
                    self.judge_next()
                    return
                flight.begin_to_judge(flights, is_too_slow=is_too_slow)
                self.executor.provide(flight.handle, attempt.with_reference(flight.handle.job))

    def begin_again(self, baseline: Flight) -> None:
        """Give up what was begun beside a baseline that is built once more, alone, or was to run again."""
        self.close(but=baseline)
        self.history.outcomes.pop(BASELINE, None)
        self.history.awaits_reference = False

    def is_excused(self, flight: Flight, event: Event) -> bool:
        """Return whether a failure is that of the device, or of memory that others took: the attempt is made again.

        That of a build that ran on two devices as they were lost is recorded. Another step count than the candidate's
        is left out: it counts as not tried.
        """
        if not isinstance(event, (TrialEnded, RepetitionEnded)) or event.outcome.failure is None:
            return False
        trouble = self.devices.trouble_after(flight.device, event.outcome.failure)
        if trouble is not None:
            if trouble.is_lost and self.devices.is_suspect(flight.proposal):
                self.publish(flight, event)  # before the device is taken out, with which the study may end
            self.take_out(flight.device, trouble)
        elif flight.device not in self.history.devices:
            return False
        elif flight.lacked_memory(event.outcome):
            flight.runs_again |= is_whole(event)
            if is_whole(event):
                self.note(f"trial {flight.attempt.number} ran out of memory beside others: it is run again alone")
        else:
            return False
        return True

    # ---- several devices --------------------------------------------------------------------------------------------

    def is_taken_out(self, device: Device) -> bool:
        """Return whether a device cannot be used, after a look at it if the last one was some time ago."""
        self.take_out(device, self.devices.trouble_before(device))
        return device not in self.history.devices

    def take_out(self, device: Device, trouble: Trouble | None) -> None:
        """Take out a device if it is in trouble. Builds that run there, or were to run there alone, run elsewhere."""
        if trouble is None:
            return
        text = self.devices.take_out(device, trouble)
        for flight in self.devices.excused(device, trouble, list(self.flights.values())):
            self.move(flight)
        self.waiting.leave(device)
        self.note(text)

    def move(self, flight: Flight) -> None:
        """End an attempt whose device was taken out. A strategy proposes what it repeated again by itself."""
        if flight.handle.id not in self.flights:
            return
        runs_again = flight.proposal.repeats is None and not flight.is_recorded
        if runs_again and flight.builds_baseline:
            self.begin_again(flight)
        if runs_again:
            self.waiting.to_move.append(flight.again)
        flight.runs_again = runs_again
        self.end(flight)
        self.observe_outcomes(flight)

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.publisher.publish(Note(text))

    def conclude(self, flight: Flight) -> None:
        """End an attempt that has come to its end or is stopped, and tell the strategy what came of it."""
        if flight.runs_again:
            self.waiting.to_run_alone.append((flight.again, flight.device))
        self.end(flight)
        self.keep_building()
        self.observe_outcomes(flight)

    def end(self, flight: Flight) -> None:
        """End an attempt, whether or not it has come to its end."""
        del self.flights[flight.handle.id]
        self.history.running.remove(flight.running)
        self.executor.cancel(flight.handle)
        flight.attempt.close(is_recorded=flight.is_recorded, runs_again=flight.runs_again)
        self.publisher.publish(WorkerEnded(flight.attempt.number))

    def observe_outcomes(self, flight: Flight) -> None:
        """Let the strategy know what came of an attempt."""
        for outcome in flight.outcomes:
            self.strategy.observe(outcome)

    def keep_building(self) -> None:
        """Record what is being built, or waits to be built again: a study that is killed begins again with that."""
        running = [flight.running.sweep for flight in self.flights.values() if flight.running.sweep]
        keep_building(self.store, [*self.interrupted(), *self.waiting.sweeps(self.history), *running])

    def next_stop(self) -> float:
        """Return when the builds that run are stopped."""
        return self.builds_end_at() if any(flight.can_be_stopped for flight in self.flights.values()) else NEVER

    def stop_late(self) -> None:
        """Stop the builds that run once their time is up."""
        is_late = time.monotonic() >= self.next_stop()
        for flight in [flight for flight in self.flights.values() if is_late and flight.can_be_stopped]:
            self.stop(flight)

    def stop(self, flight: Flight) -> None:
        """Stop a build for which no time is left."""
        number, left_s, takes_s = flight.attempt.number, self.budget.seconds_left(), flight.seconds_per_image
        self.note(narration.stop_text(number, left_s, takes_s, is_recorded=flight.is_recorded))
        flight.runs_again = False
        self.conclude(flight)
