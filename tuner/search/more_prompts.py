"""The strategy that judges on more prompts what is cheap and may be as good as the untouched pipeline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tuner.records.outcome import Device, Outcome, scored_prompts
from tuner.result import front
from tuner.search.budget import repetition_s
from tuner.search.confirmation import Confirmation
from tuner.search.history import BASELINE, History
from tuner.search.simplicity import margin
from tuner.search.strategy import Proposal, Strategy


class MorePrompts(Strategy):
    """Doubles the prompts of the cheapest trial whose quality is in doubt, in the last part of the search.

    It is a trial that would be chosen, and surely be as good if its mean stays where it is. The untouched pipeline
    generates the further images first, both in fresh processes, which time their calls as every repetition does. They
    run on the untouched pipeline's device, and not on a cluster. Where calls are quick all prompts were judged at once.
    """

    def __init__(self, confirmation: Confirmation, note: Callable[[str], None]) -> None:
        self.confirmation = confirmation
        self.note = note
        self.asked: set[int] = set()
        """Trials of which a process is to judge more prompts now."""
        self.failed: set[int] = set()
        """Trials of which such a process failed."""
        self.told: set[tuple[int, int]] = set()

    def propose(self, history: History, device: Device) -> Proposal | None:
        if BASELINE not in history.outcomes or history.baseline.quality is None:
            return None
        if device.node is not None or device != history.baseline.device:
            return None
        target = self.target(history)
        if target is None or any(history.is_repeating(number) for number in (BASELINE, target.number)):
            return None
        prompts = wanted(history, target)
        self.tell(target, prompts)
        is_next = history.outcomes[target.number if has_reference(history, prompts) else BASELINE]
        self.asked.add(is_next.number)
        return Proposal(is_next.values, "confirm", repeats=is_next.number, prompts=prompts)

    def observe(self, outcome: Outcome) -> None:
        if outcome.repetition is None or outcome.pair is not None or outcome.number not in self.asked:
            return
        self.asked.remove(outcome.number)
        if outcome.status != "measured":
            self.failed.add(outcome.number)

    def target(self, history: History) -> Outcome | None:
        """Return the trial to judge on more prompts, as it is settled; None if there is none, or no time for it."""
        if BASELINE in self.failed or not self.confirmation.is_search_ending(history):
            return None
        best = history.settled(self.confirmation.shortlist(history)[0])
        cheap = front.cost(best) * (1 - margin(history))
        left_s = self.confirmation.search_ends_at(history) - time.monotonic()
        for trial in sorted(filter(front.meets_target, front.measured(history.all_settled())), key=front.cost):
            if front.cost(trial) >= cheap:
                return None
            if trial.number in self.failed or not is_promising(history, trial):
                continue
            pairs_s = self.confirmation.missing_pairs_s(history, history.outcomes[trial.number])
            if left_s >= needed_s(history, trial) + pairs_s:
                return trial
        return None

    def tell(self, target: Outcome, prompts: int) -> None:
        """Tell the user why images of more prompts are generated, once."""
        if (target.number, prompts) not in self.told:
            self.told.add((target.number, prompts))
            self.note(
                f"trial {target.number}: {scored_prompts(target)} prompts leave in doubt whether it is as good as the "
                f"untouched pipeline, {prompts} are judged"
            )


def is_promising(history: History, trial: Outcome) -> bool:
    """Return whether a settled trial is in doubt, and would be as good if more prompts only narrow its interval."""
    assert trial.quality is not None
    difference, tolerance = trial.quality.difference, history.space.tolerance
    narrower = math.sqrt(scored_prompts(trial) / wanted(history, trial))
    is_in_doubt = narrower < 1 and difference.low < -tolerance <= difference.high
    return is_in_doubt and difference.value - narrower * (difference.value - difference.low) >= -tolerance


def wanted(history: History, trial: Outcome) -> int:
    """Return on how many prompts a trial is to be judged: twice as many, or all that there are."""
    return min(2 * scored_prompts(trial), len(history.space.workload.prompts))


def has_reference(history: History, prompts: int) -> bool:
    """Return whether the untouched pipeline has generated the images of so many prompts."""
    return scored_prompts(history.judged_baseline) >= prompts


def needed_s(history: History, trial: Outcome) -> float:
    """Estimate the seconds until a trial is judged on more prompts, with those of the untouched pipeline's images."""
    prompts, own, baseline = wanted(history, trial), history.outcomes[trial.number], history.baseline
    reference_s = repetition_s(history, baseline) + generation_s(history, baseline, prompts)
    is_known = has_reference(history, prompts)
    return repetition_s(history, own) + generation_s(history, own, prompts) + (0.0 if is_known else reference_s)


def generation_s(history: History, trial: Outcome, prompts: int) -> float:
    """Estimate the seconds in which a trial generates the images that it lacks of so many prompts."""
    settled = history.settled(trial)
    known = scored_prompts(history.judged_baseline if trial.number == BASELINE else settled)
    return max(0, prompts - known) * front.seconds_per_image(settled).value
