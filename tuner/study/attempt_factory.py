"""Make an attempt of a proposal, a build with its step sweep or a repetition, and its job."""

from __future__ import annotations

import os

import msgspec

from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.records.protocol import Job
from tuner.search.budget import Budget
from tuner.search.history import History
from tuner.search.strategy import Proposal
from tuner.study.attempt import Attempt, BuildAttempt
from tuner.study.events import Publisher
from tuner.study.repetition import RepetitionAttempt


def make_attempt(publisher: Publisher, proposal: Proposal, device: Device, *, is_standing: bool) -> Attempt:
    """Prepare to build a candidate, or to measure a trial again in a fresh process."""
    if proposal.repeats is None:
        return make_build(publisher, proposal, device)
    store = publisher.store
    repetition = store.reserve_repetition()
    return RepetitionAttempt(store, publisher.history, device, repetition, proposal, is_standing=is_standing)


def make_build(publisher: Publisher, proposal: Proposal, device: Device) -> BuildAttempt:
    """Prepare to build a candidate, with the other step counts of the same build."""
    store, history = publisher.store, publisher.history
    number = store.enter(proposal.values) if proposal.number is None else proposal.number
    sweep = wanted_sweep(history, proposal)[: max(1, publisher.budget.trials_left(history))]
    return BuildAttempt(store, history, device, number, sweep, proposal.purpose, proposal.recipe)


def wanted_sweep(history: History, proposal: Proposal) -> list[Values]:
    """Return the candidate of a proposal, and of its other step counts those that are wanted and not known."""
    _, *others = history.space.step_sweep(proposal.values)
    wanted = [values for values in others if proposal.steps is None or values["steps"] in proposal.steps]
    return [proposal.values, *(values for values in wanted if history.find(values) is None)]


def make_job(attempt: Attempt, budget: Budget, *, shares_device: bool) -> Job:
    """Return the job of an attempt, whether or not others may run beside it."""
    return msgspec.structs.replace(attempt.job(budget), study_pid=os.getpid(), shares_device=shares_device)
