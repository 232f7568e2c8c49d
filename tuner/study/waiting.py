"""What waits to run again: it failed because of a neighbour, or its device was taken out."""

from __future__ import annotations

from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.search.history import History
from tuner.search.strategy import Proposal
from tuner.study.attempt_factory import wanted_sweep


class Waiting:
    """Proposals whose attempts failed through no fault of theirs, with the numbers of their trials."""

    def __init__(self) -> None:
        self.to_run_alone: list[tuple[Proposal, Device]] = []
        """What failed because of a neighbour, to be run again without one on the same device."""
        self.to_move: list[Proposal] = []
        """What ran on a device that was taken out, to be run again on another."""

    def __bool__(self) -> bool:
        return bool(self.to_run_alone or self.to_move)

    @property
    def proposals(self) -> list[Proposal]:
        """All that waits."""
        return [*self.to_move, *(proposal for proposal, _ in self.to_run_alone)]

    def sweeps(self, history: History) -> list[list[Values]]:
        """Return the step sweeps of the builds that wait."""
        return [wanted_sweep(history, proposal) for proposal in self.proposals if proposal.repeats is None]

    def has_one_alone(self, device: Device) -> bool:
        """Return whether something is to run alone on a device."""
        return any(of == device for _, of in self.to_run_alone)

    def take_alone(self, device: Device) -> Proposal | None:
        """Return what is to run alone on a device next, which waits no longer, or None."""
        found = next((proposal for proposal, of in self.to_run_alone if of == device), None)
        if found is not None:
            self.to_run_alone.remove((found, device))
        return found

    def leave(self, device: Device) -> None:
        """Let builds that were to run alone on a device run elsewhere. Strategies propose repetitions by themselves."""
        self.to_move += [proposal for proposal, of in self.to_run_alone if of == device and proposal.repeats is None]
        self.to_run_alone = [(proposal, of) for proposal, of in self.to_run_alone if of != device]

    def clear(self) -> list[Proposal]:
        """Let nothing wait any more. Returns what did."""
        proposals = self.proposals
        self.to_run_alone, self.to_move = [], []
        return proposals
