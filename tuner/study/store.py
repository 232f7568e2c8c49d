"""The study folder: Optuna on SQLite, outcomes as files, whole after a crash at any instant.

An outcome is acknowledged by an atomic write of its file; Optuna is told after that. What a crash left between the two
is finished when the study is opened again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.files import StudyFolder, atomic_write, numbered, require_own_tree, storage_errors
from tuner.records.codec import Values, decode, encode_pretty, read
from tuner.records.database import check as check_database
from tuner.records.outcome import Limits, Outcome
from tuner.records.quality import NoiseFloor
from tuner.records.study_lock import lock_study
from tuner.search.history import History
from tuner.search.recorded import read_outcomes, read_repetitions
from tuner.search.request import Refusal, Request, read_same_request
from tuner.study import trial_rows
from tuner.study.artifacts import keep_images
from tuner.study.attributes import Attribute, attributes
from tuner.study.compiled_code import own_cache
from tuner.study.database import damage, open_study
from tuner.study.reprice import reprice
from tuner.study.told import excess, is_told, possibly_known, values_of

ASKED_FOR = ("strategy", "warm_start")
"""What was asked for stays when a study is begun anew."""

MAX_SPENT_S = 1e8
"""Three years."""


class Store:
    """One study's folder. The parent process is its only writer; use it as a context manager, which holds a lock."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.paths = StudyFolder(folder)
        self.request = request
        self._last_repetition = -1

    def __enter__(self) -> Store:
        with ExitStack() as stack:
            stack.enter_context(storage_errors(self.folder))
            require_own_tree(self.folder)
            self.paths.trials.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_study(self.paths.lock))
            check_database(self.paths.database)
            self._claim()
            own_cache(self.folder)
            self.study = open_study(self.folder)
            self.reconcile()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _claim(self) -> None:
        """Write the request, and refuse a folder that holds another study. Another price only scales the costs."""
        recorded = read_same_request(self.paths, self.request)
        if recorded is not None and recorded.price.usd_per_hour != self.request.price.usd_per_hour:
            atomic_write(self.paths.repricing, b"")  # stays until all costs are those of the new price
        if recorded != self.request:
            atomic_write(self.paths.request, encode_pretty(self.request))
        if self.paths.repricing.exists():
            reprice(self.paths, self.request.price)
            self.paths.repricing.unlink()

    @property
    def spent_s(self) -> float:
        """Seconds of the budget that this study has used, over all its runs, up to what it recorded last."""
        spent_s = self.study.user_attrs.get("spent_s", 0.0)
        if not isinstance(spent_s, int | float) or not 0 <= spent_s <= MAX_SPENT_S:
            raise BadInput(f"{self.paths.database}: spent_s: {str(spent_s)[:40]} is no time that a study took")
        return float(spent_s)

    @spent_s.setter
    def spent_s(self, seconds: float) -> None:
        """Record the seconds that were used."""
        self.study.set_user_attr("spent_s", seconds)

    @property
    def finished(self) -> Limits | None:
        """The limits within which the last run of this study came to its end; None while one goes on."""
        text = self.study.user_attrs.get("finished")
        return decode(str(text), Limits, f"{self.paths.database}: finished") if text else None

    @finished.setter
    def finished(self, limits: Limits | None) -> None:
        """Record the limits within which a run came to its end, or that one goes on."""
        self.study.set_user_attr("finished", encode_pretty(limits).decode() if limits else None)

    def begin(self, limits: Limits) -> None:
        """Record the limits of a run that goes on now, which the next one takes over if it is given none."""
        self.study.set_user_attr("limits", encode_pretty(limits).decode())
        self.finished = None

    # ---- trials -----------------------------------------------------------------------------------------------------

    def use(self, sampler: Any) -> None:
        """Let an Optuna sampler suggest the candidates from now on."""
        self.study.sampler = sampler

    def ask(self) -> tuple[int, Values]:
        """Start a trial and return its number and the sampler's candidate."""
        trial = self.study.ask()
        values = self.request.space.sample(trial.suggest_categorical)
        return trial.number, values

    def enter(self, values: Values) -> int:
        """Start a trial with this candidate and return its number."""
        from optuna.distributions import CategoricalDistribution
        from optuna.trial import TrialState, create_trial

        knobs = self.request.space.knobs
        choices = {name: knobs[name] for name, value in values.items() if value in knobs.get(name, ())}
        searched = {name: CategoricalDistribution(each) for name, each in choices.items() if len(each) > 1}
        params = {name: values[name] for name in searched}
        trial = create_trial(state=TrialState.RUNNING, params=params, distributions=searched)
        storage = self.study._storage
        return int(storage.get_trial_number_from_id(storage.create_new_trial(self.study._study_id, trial)))

    def adopt(self, values: Values, folder: Path) -> int:
        """Start a trial with this candidate, which was measured in another's folder, and return its number."""
        number = self.enter(values)
        if folder.exists():
            folder.rename(self.paths.trial(number))
        return number

    def acknowledge(self, outcome: Outcome) -> None:
        """Keep an outcome for good, then tell the sampler."""
        folder = self.paths.trial(outcome.number)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "outcome.json", encode_pretty(outcome))
        self._tell(outcome)

    def correct(self, outcome: Outcome) -> None:
        """Tell Optuna what is known of a trial now that it was repeated, unless it has been told that."""
        values, known, told = values_of(outcome), attributes(outcome), self._trials()[outcome.number]
        if values is not None and (told.values != values or not known.items() <= told.user_attrs.items()):
            trial_rows.write(self.study, self.paths.database, outcome.number, known, values)
            sampler, self.study = self.study.sampler, open_study(self.folder)
            self.study.sampler = sampler

    def refuse(self, number: int, values: Values, reason: str) -> None:
        """End a trial whose candidate is invalid: it cost nothing, and the sampler learns to stay away."""
        refused = encode_pretty(Refusal(values=values, reason=reason)).decode()
        self._end(number, {"refused": refused, "status": "refused", "reason": reason}, {"refused": 1.0})

    def abandon(self, number: int) -> None:
        """End a trial that was interrupted, or whose candidate is known. It is failed: samplers do not count it."""
        from optuna.trial import TrialState

        self.study.tell(number, state=TrialState.FAIL)

    def outcomes(self) -> dict[int, Outcome]:
        """Return every acknowledged outcome, by number."""
        return read_outcomes(self.paths, self.request)

    def repetitions(self, outcomes: Mapping[int, Outcome]) -> list[Outcome]:
        """Return every repetition of these trials, in the order of their ids."""
        return read_repetitions(self.paths, self.request, outcomes)

    def reserve_repetition(self) -> int:
        """Return an id for a new repetition, whose folder no other has."""
        self._last_repetition = max([self._last_repetition, *numbered(self.paths.repetitions)]) + 1
        return self._last_repetition

    def keep_repetition(self, outcome: Outcome) -> None:
        """Write a repetition into its folder."""
        assert outcome.repetition is not None
        folder = self.paths.repetition(outcome.repetition)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "outcome.json", encode_pretty(outcome))

    def keep_noise_floor(self, noise: NoiseFloor) -> None:
        """Write the part of the noise floor that was measured after the baseline was acknowledged."""
        atomic_write(self.paths.noise_floor, encode_pretty(noise))

    def noise_floor(self) -> NoiseFloor | None:
        """Return the part of the noise floor that was measured after the baseline was acknowledged."""
        file = self.paths.noise_floor
        return read(file, NoiseFloor) if file.exists() else None

    def refusals(self) -> list[Refusal]:
        """Return every candidate that was refused, with the reason."""
        texts = [trial.user_attrs.get("refused") for trial in self._trials()]
        return [decode(str(text), Refusal, f"{self.paths.database}: refused") for text in texts if text]

    # ---- after a crash ----------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Finish what a crash interrupted: tell Optuna the outcomes that it missed, abandon trials without one, clear
        away what they left. Raises BadInput when Optuna and the outcomes disagree: something else wrote to the folder.
        """
        from optuna.trial import TrialState

        outcomes = self.outcomes()
        baseline_failed = 0 in outcomes and outcomes[0].status == "failed"
        if baseline_failed:
            self._forget(outcomes)
        if baseline_failed or not (outcomes or any(trial.values for trial in self._trials())):
            # Nothing is known yet, and the baseline is to be trial 0, also after it was interrupted or failed.
            asked_for = {name: value for name, value in self.study.user_attrs.items() if name in ASKED_FOR}
            self.study = open_study(self.folder, afresh=True)
            for name, value in asked_for.items():
                self.study.set_user_attr(name, value)
            shutil.rmtree(self.paths.repetitions, ignore_errors=True)
            shutil.rmtree(self.paths.artifacts, ignore_errors=True)
        for trial in self._trials():
            if trial.state == TrialState.WAITING:
                self.abandon(self.study.ask().number)
            elif trial.state == TrialState.RUNNING and trial.number in outcomes:
                self._tell(outcomes[trial.number])
            elif trial.state == TrialState.RUNNING:
                self.abandon(trial.number)
        repetitions = self.repetitions(outcomes)
        history = History(self.request.space, self.request.price, outcomes, repetitions)
        self._compare(history)
        for number in {repetition.number for repetition in repetitions}:
            self.correct(history.as_measured(outcomes[number]))
        self._clear_away()

    def _forget(self, outcomes: dict[int, Outcome]) -> None:
        """Remove outcomes that mean nothing without a baseline, whose own failure goes last: what made it fail may have
        passed."""
        for number in sorted(outcomes, reverse=True):
            (self.paths.trial(number) / "outcome.json").unlink()
            del outcomes[number]

    def _trials(self) -> list[Any]:
        with damage(self.paths.database):
            return list(self.study.get_trials(deepcopy=False))

    def _compare(self, history: History) -> None:
        """Refuse a study whose record in Optuna is not one that its outcomes made, with some of the repetitions."""
        database, knobs, outcomes = self.paths.database, self.request.space.knobs, history.outcomes
        trials = {trial.number: trial for trial in self._trials()}
        for number, outcome in outcomes.items():
            trial = trials.get(number)
            if (
                trial is None
                or not is_told(trial, possibly_known(history, outcome))
                or not trial.params.items() <= outcome.values.items()
            ):
                raise BadInput(f"{database}: trial {number} is not what its outcome.json says")
        for number, trial in trials.items():
            if trial.values and number not in outcomes:
                raise BadInput(f"{self.paths.trial(number) / 'outcome.json'}: missing, although {database} has it")
            if any(getattr(kind, "choices", None) != knobs.get(name) for name, kind in trial.distributions.items()):
                raise BadInput(f"{database}: trial {number} has choices that are not those of the search space")

    def _clear_away(self) -> None:
        """Remove what killed processes left: temporary files, trials and repetitions without an outcome."""
        own = (numbered(folder).values() for folder in (self.paths.trials, self.paths.repetitions))
        for folder in (self.folder, *chain.from_iterable(own)):
            if folder != self.folder and not (folder / "outcome.json").exists():
                # A worker whose parent was killed a moment ago may still be writing: what it leaves does no harm.
                shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder / "sweep", ignore_errors=True)
            for temporary in folder.glob(".*.json.*"):
                temporary.unlink(missing_ok=True)

    # ---- Optuna -----------------------------------------------------------------------------------------------------

    def _tell(self, outcome: Outcome) -> None:
        values = values_of(outcome)
        constraints: dict[str, float] = {outcome.status: 0.0 if values else 1.0}
        target_s = self.request.space.workload.latency_target_s
        if target_s is not None and outcome.timing is not None:
            constraints["latency target"] = excess(outcome.timing, target_s)
        keep_images(self._trial(outcome.number), self.paths)
        self._end(outcome.number, attributes(outcome), constraints, values)

    def _trial(self, number: int) -> Any:
        from optuna.trial import Trial

        found = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        return Trial(self.study, found)

    def _end(
        self, number: int, attributes: Mapping[str, Attribute], constraints: Mapping[str, float],
        values: list[float] | None = None,
    ) -> None:  # fmt: skip
        from optuna.trial import TrialState

        shown = {f"constraint: {name}": value for name, value in constraints.items()}  # all that optuna-dashboard shows
        trial_rows.write(self.study, self.paths.database, number, {**attributes, **shown})
        trial = self._trial(number)
        for name in constraints.keys() - trial.constraints.keys():  # some are there if a crash came between them
            trial.set_constraint(name, constraints[name])
        self.study.tell(number, values, state=TrialState.COMPLETE if values else TrialState.PRUNED)
