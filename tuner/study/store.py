"""The study folder: Optuna on SQLite, outcomes as files, whole after a crash at any instant.

An outcome is acknowledged by an atomic write of its file; Optuna is told after that. What a crash left between the two
is finished when the study is opened again.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tuner.errors import BadInput
from tuner.files import NOISE_FLOOR, atomic_write, lock_study, storage_errors
from tuner.knobs import KNOBS
from tuner.records.codec import Record, Values, decode, encode_pretty, fingerprint, read
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.outcome import Limits, Outcome, Timing
from tuner.records.quality import NoiseFloor, QualityPolicy
from tuner.result.prices import Price
from tuner.space.candidates import SearchSpace
from tuner.timing.target import MIN_WITHIN, meets_latency_target

METRICS = ("cost_usd_per_1000_images", "quality")


class Request(Record):
    """What a study is about. Two requests with the same fingerprint are the same study."""

    model: Model
    environment: Environment
    space: SearchSpace
    price: Price
    quality: QualityPolicy = QualityPolicy()

    def fingerprint(self) -> str:
        """Of all but words: what was left out and why, and where recipes and the price are from."""
        recipes = tuple(msgspec.structs.replace(recipe, source="") for recipe in self.space.recipes)
        space = msgspec.structs.replace(self.space, left_out={}, recipes=recipes)
        price = msgspec.structs.replace(self.price, source="")
        return fingerprint(msgspec.to_builtins(msgspec.structs.replace(self, space=space, price=price)))


class Refusal(Record):
    """A candidate that was refused before it cost anything."""

    values: Values
    reason: str


class Store:
    """One study's folder. The parent process is its only writer; use it as a context manager, which holds a lock."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.request = request

    def __enter__(self) -> Store:
        with ExitStack() as stack:
            stack.enter_context(storage_errors(self.folder))
            (self.folder / "trials").mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_study(self.folder / "lock"))
            self._claim()
            self.study = _open_study(self.folder)
            self.reconcile()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _claim(self) -> None:
        """Write the request on the first start, and refuse a folder that holds another study."""
        file = self.folder / "study.json"
        if file.exists():
            if read(file, Request).fingerprint() != self.request.fingerprint():
                raise BadInput(f"{file}: this folder holds a study of something else; name another one with --study")
            return
        atomic_write(file, encode_pretty(self.request))

    @property
    def cache(self) -> Path:
        """Compiled code. Whoever can write it can run code here, so it is the owner's alone."""
        path = self.folder / "cache"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"

    def repeat_folder(self, index: int) -> Path:
        return self.folder / "repeats" / f"{index:04}"

    @property
    def spent_s(self) -> float:
        """Seconds of the budget that this study has used, over all its runs, up to what it recorded last."""
        return float(self.study.user_attrs.get("spent_s", 0.0))

    @spent_s.setter
    def spent_s(self, seconds: float) -> None:
        self.study.set_user_attr("spent_s", seconds)

    @property
    def finished(self) -> Limits | None:
        """The limits within which the last run of this study came to its end; None while one goes on."""
        text = self.study.user_attrs.get("finished")
        return decode(str(text), Limits, f"{self.folder / 'study.db'}: finished") if text else None

    @finished.setter
    def finished(self, limits: Limits | None) -> None:
        self.study.set_user_attr("finished", encode_pretty(limits).decode() if limits else None)

    # ---- trials -----------------------------------------------------------------------------------------------------

    def ask(self) -> tuple[int, Values]:
        """A new trial, with the sampler's candidate."""
        trial = self.study.ask()
        values = self.request.space.sample(trial.suggest_categorical)
        return trial.number, values

    def enter(self, values: Values) -> int:
        """A new trial with a given candidate."""
        choices = self.request.space.knobs
        self.study.enqueue_trial({name: value for name, value in values.items() if value in choices.get(name, ())})
        trial = self.study.ask()
        for name, value in values.items():
            if value in choices.get(name, ()) and len(choices[name]) > 1:
                trial.suggest_categorical(name, choices[name])
        return int(trial.number)

    def acknowledge(self, outcome: Outcome) -> None:
        """Keep an outcome for good, then tell the sampler."""
        folder = self.trial_folder(outcome.number)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "outcome.json", encode_pretty(outcome))
        self._tell(outcome)

    def refuse(self, number: int, values: Values, reason: str) -> None:
        """End a trial whose candidate is invalid: it cost nothing, and the sampler learns to stay away."""
        self._end(number, {"refused": encode_pretty(Refusal(values=values, reason=reason)).decode()}, {"refused": 1.0})

    def duplicate(self, number: int, of: int) -> None:
        """End a trial whose candidate was tried before. The sampler must not count it a second time: it is failed."""
        self._trial(number).set_user_attr("duplicate_of", of)
        self.abandon(number)

    def abandon(self, number: int) -> None:
        """End a trial that was interrupted; its candidate counts as not tried."""
        from optuna.trial import TrialState

        self.study.tell(number, state=TrialState.FAIL)

    def outcomes(self) -> list[Outcome]:
        """Every acknowledged outcome, by number."""
        outcomes = []
        for file in sorted((self.folder / "trials").glob("[0-9]*/outcome.json")):
            outcome = self._read(file)
            if file.parent != self.trial_folder(outcome.number):
                raise BadInput(f"{file}: number: it is that of another trial, {outcome.number}")
            outcomes.append(outcome)
        return outcomes

    def repeats(self) -> list[Outcome]:
        """Every repeated measurement in a fresh process; `number` is the trial that it repeats."""
        return [self._read(file) for file in sorted((self.folder / "repeats").glob("[0-9]*/outcome.json"))]

    def _read(self, file: Path) -> Outcome:
        outcome = read(file, Outcome)
        values = outcome.values
        if self.request.space.candidate(values) != values or any(
            KNOBS[name].invalid_reason(values[name]) for name in values
        ):
            raise BadInput(f"{file}: values: not a candidate of this study's search space")
        return outcome

    def keep_repeat(self, index: int, outcome: Outcome) -> None:
        folder = self.repeat_folder(index)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "outcome.json", encode_pretty(outcome))

    def keep_noise_floor(self, noise: NoiseFloor) -> None:
        atomic_write(self.trial_folder(0) / NOISE_FLOOR, encode_pretty(noise))

    def noise_floor(self) -> NoiseFloor | None:
        """What was found of the baseline's rounding after its outcome was acknowledged."""
        file = self.trial_folder(0) / NOISE_FLOOR
        return read(file, NoiseFloor) if file.exists() else None

    def refusals(self) -> list[Refusal]:
        texts = [trial.user_attrs.get("refused") for trial in self._trials()]
        return [decode(str(text), Refusal, f"{self.folder / 'study.db'}: refused") for text in texts if text]

    # ---- after a crash ----------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Finish what a crash interrupted: tell Optuna the outcomes that it missed, abandon trials without one, clear
        away what they left. Raises BadInput when Optuna and the outcomes disagree: something else wrote to the folder.
        """
        from optuna.trial import TrialState

        outcomes = {outcome.number: outcome for outcome in self.outcomes()}
        baseline_failed = 0 in outcomes and outcomes[0].status == "failed"
        if baseline_failed:
            self._forget(outcomes)
        if baseline_failed or not (outcomes or any(trial.values for trial in self._trials())):
            # Nothing is known yet, and the baseline is to be trial 0, also after it was interrupted or failed.
            self.study = _open_study(self.folder, afresh=True)
        for trial in self._trials():
            if trial.state == TrialState.WAITING:
                self.abandon(self.study.ask().number)
            elif trial.state == TrialState.RUNNING and trial.number in outcomes:
                self._tell(outcomes[trial.number])
            elif trial.state == TrialState.RUNNING:
                self.abandon(trial.number)
        self._compare(outcomes)
        self._clear_away()

    def _forget(self, outcomes: dict[int, Outcome]) -> None:
        """Remove outcomes that mean nothing without a baseline, whose own failure goes last: what made it fail may have
        passed."""
        for number in sorted(outcomes, reverse=True):
            (self.trial_folder(number) / "outcome.json").unlink()
            del outcomes[number]

    def _trials(self) -> list[Any]:
        with _damage(self.folder / "study.db"):
            return list(self.study.get_trials(deepcopy=False))

    def _compare(self, outcomes: Mapping[int, Outcome]) -> None:
        """Refuse a study whose record in Optuna is not the one that its outcomes make."""
        database, knobs = self.folder / "study.db", self.request.space.knobs
        trials = {trial.number: trial for trial in self._trials()}
        for number, outcome in outcomes.items():
            trial, values = trials.get(number), _values(outcome)
            told = ("COMPLETE" if values else "PRUNED", values)
            if (
                trial is None
                or (trial.state.name, trial.values) != told
                or not trial.params.items() <= outcome.values.items()
            ):
                raise BadInput(f"{database}: trial {number} is not what its outcome.json says")
        for number, trial in trials.items():
            if trial.values and number not in outcomes:
                raise BadInput(f"{self.trial_folder(number) / 'outcome.json'}: missing, although {database} has it")
            if any(getattr(kind, "choices", None) != knobs.get(name) for name, kind in trial.distributions.items()):
                raise BadInput(f"{database}: trial {number} has choices that are not those of the search space")

    def _clear_away(self) -> None:
        """Remove what killed processes left: temporary files, trials and repetitions without an outcome."""
        for folder in (self.folder, *self.folder.glob("trials/[0-9]*"), *self.folder.glob("repeats/[0-9]*")):
            if folder != self.folder and not (folder / "outcome.json").exists():
                # A worker whose parent was killed a moment ago may still be writing: what it leaves does no harm.
                shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder / "row", ignore_errors=True)
            for temporary in folder.glob(".*.json.*"):
                temporary.unlink(missing_ok=True)

    # ---- Optuna -----------------------------------------------------------------------------------------------------

    def _tell(self, outcome: Outcome) -> None:
        attributes: dict[str, Any] = {"status": outcome.status, "purpose": outcome.purpose}
        values = _values(outcome)
        constraints: dict[str, float] = {outcome.status: 0.0 if values else 1.0}
        target_s = self.request.space.workload.latency_target_s
        if target_s is not None and outcome.timing is not None:
            constraints["latency target"] = _excess(outcome.timing, target_s)
        self._end(outcome.number, attributes, constraints, values)

    def _trial(self, number: int) -> Any:
        from optuna.trial import Trial

        return Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)

    def _end(
        self, number: int, attributes: Mapping[str, Any], constraints: Mapping[str, float],
        values: list[float] | None = None,
    ) -> None:  # fmt: skip
        from optuna.trial import TrialState

        trial = self._trial(number)
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        for name in constraints.keys() - trial.constraints.keys():  # some are there if a crash came between them
            trial.set_constraint(name, constraints[name])
        self.study.tell(number, values, state=TrialState.COMPLETE if values else TrialState.PRUNED)


def _excess(timing: Timing, target_s: float) -> float:
    """By how much a configuration misses its latency target, above 0 if it does: a share of the target."""
    if timing.within_target is None or meets_latency_target(timing.within_target):
        return 0.0
    return (MIN_WITHIN - timing.within_target) + max(0.0, timing.latency_s.value / target_s - 1)


def _values(outcome: Outcome) -> list[float] | None:
    """What Optuna is told of an outcome, in the order of METRICS: None when it has no place on the front."""
    cost, quality = outcome.cost_usd_per_1000_images, outcome.quality
    return [cost, quality.mean] if outcome.status == "measured" and cost is not None and quality is not None else None


def _open_study(folder: Path, afresh: bool = False) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _damage(folder / "study.db"), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
        if afresh:
            optuna.delete_study(study_name=folder.name, storage=storage)
        study = optuna.create_study(
            storage=storage,
            study_name=folder.name,
            directions=("minimize", "maximize"),
            load_if_exists=True,
        )
        # A resumed study must not draw the same random numbers again.
        seed = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=12, multivariate=True, group=True, seed=seed)
        if [direction.name for direction in study.directions] != ["MINIMIZE", "MAXIMIZE"]:
            raise ValueError("its directions are not those of cost and quality")
        study.set_metric_names(list(METRICS))
    return study


@contextmanager
def _damage(database: Path) -> Iterator[None]:
    """Turn what Optuna raises for a study that it did not write like that into one line."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        what = (str(error).splitlines() or [""])[0][:200]
        raise BadInput(f"{database}: damaged: {type(error).__name__}: {what}") from None
