"""An attempt that runs, and what the runner knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuner.execution.executor import Handle
from tuner.records.outcome import Failure, Outcome, Pair
from tuner.search.history import InFlight
from tuner.search.strategy import Proposal
from tuner.study.attempt import Attempt
from tuner.study.events import RepetitionEnded, TrialEnded


@dataclass
class Flight:
    """An attempt that runs. It is `crowded` if another ran beside it, and runs `again` if that made it fail.

    `standing_pair` is its pair if both of that run at the same time. Results are `held` until the baseline's is
    recorded, also those of a worker that `has_ended`. With `wants_reference_s` it waits for the baseline's images, and
    an image of its own takes so long; with `is_judging` it has them, and is the only one that is judged against them.
    """

    proposal: Proposal
    attempt: Attempt
    handle: Handle
    running: InFlight
    is_alone: bool
    standing_pair: Pair | None = None
    is_crowded: bool = False
    runs_again: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    held: list[TrialEnded | RepetitionEnded] = field(default_factory=list)
    wants_reference_s: float | None = None
    is_judging: bool = False
    has_ended: bool = False

    @property
    def builds_baseline(self) -> bool:
        """Whether it builds the untouched pipeline and generates the images that all others wait for."""
        return self.proposal.purpose == "baseline"


def ran_out(outcome: Outcome) -> bool:
    """Return whether an attempt may have failed because there was too little memory."""
    failure = outcome.failure
    return failure is not None and (failure.kind == "out of memory" or was_killed(failure))


def was_killed(failure: Failure) -> bool:
    """Return whether the worker was killed, as the system does when the host's memory runs out."""
    return failure.kind == "crash" and "SIGKILL" in failure.message
