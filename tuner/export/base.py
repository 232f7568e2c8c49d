"""What every target of an export has in common."""

from __future__ import annotations

import keyword
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec

from tuner.errors import BadInput
from tuner.knobs import KNOBS, changed
from tuner.knobs.attention import BACKENDS
from tuner.model import architecture, pipeline
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Values
from tuner.records.text import shown
from tuner.result.config import of_trial, read_config
from tuner.result.front import per_image
from tuner.result.records import BestConfig
from tuner.result.source import check_source
from tuner.result.trials import listed, point_of, points_by_trial
from tuner.search.its_study import require_its_study
from tuner.timing.intervals import widest_ratio


class Target(ABC):
    """A program in whose words a configuration is written.

    The first line of its docstring is its description.
    """

    name: ClassVar[str]

    @abstractmethod
    def render(self, best: BestConfig) -> str:
        """Return the file. Raises BadInput if the target cannot have this configuration."""


def read_tuned(file: Path, trial: int | None = None, *, may_contradict: bool = False, to: str = "export") -> BestConfig:
    """Read the chosen configuration, or that of a trial, from a best_config.json.

    With `may_contradict` its figures need not agree. `to` says what it is read for. Raises BadInput if it is not valid,
    if diffusers has no such pipeline, if a setting could not have been measured, or if it is the untouched pipeline.
    """
    return tuned(file, read_config(file, may_contradict=may_contradict), trial, may_contradict=may_contradict, to=to)


def tuned(
    file: Path, recorded: BestConfig, trial: int | None = None, *, may_contradict: bool = False, to: str = "export"
) -> BestConfig:
    """Return what was read from a best_config.json with a trial's point as the chosen one; see `read_tuned`."""
    best = recorded
    if trial is not None:
        point_of(recorded, trial, file, with_baseline=False)
        best = _of_trial(recorded, of_trial(recorded, file, trial, may_contradict=may_contradict))
    name = best.model.pipeline_class
    if not name.isidentifier() or keyword.iskeyword(name) or not class_source("pipelines", name):
        raise BadInput(f"{file}: model.pipeline_class: diffusers has no pipeline class {name}")
    check_source(file, best, must_be_here=False)
    require_its_study(file, best)
    for name, reason in refusals(best):
        raise BadInput(f"{file}: chosen.values.{name}: {shown(best.chosen.values[name])}: {reason}")
    if not differing(best):
        raise BadInput(
            f"{file}: trial {best.chosen.trial} is the untouched pipeline, as diffusers loads it: there is nothing to "
            f"{to}; {_another(recorded)}"
        )
    return best


def _another(best: BestConfig) -> str:
    """Return what else can be taken from a result than the untouched pipeline."""
    others = [point for trial, point in points_by_trial(best).items() if trial != best.baseline.trial]
    if not others:
        return "the front has no other point; a longer --budget of `tune resume` searches on"
    return f"take another point with --trial: {listed(best, others)}"


def refusals(best: BestConfig) -> Iterator[tuple[str, str]]:
    """Yield the settings that the pipeline could not have had where it was measured, and why.

    If the pipeline's configuration is not on this machine, only attention backends that are never used are known.
    """
    values, folder = best.chosen.values, pipeline.settings_folder(best.model)
    backend = BACKENDS[str(values.get("attention.backend", "native"))]
    if backend.refused:
        yield "attention.backend", backend.refused
    if folder is None:
        return
    known = architecture.read(folder / "model_index.json")
    for name, value in differing(best).items():
        knob = KNOBS[name]
        reason = knob.conflict_reason(values, known)
        if reason is None and not knob.user_supplied:
            reason = knob.unavailable_reason(value, best.environment, known)
        if reason:
            yield name, reason


def _of_trial(recorded: BestConfig, best: BestConfig) -> BestConfig:
    """Return the result with the speed-up of its point, from the latencies if an earlier version wrote the file."""
    if best.chosen.trial == recorded.chosen.trial:
        return best
    known = best.chosen.speed_up
    if known is not None:
        return msgspec.structs.replace(best, speed_up=known, speed_up_confirmed=best.chosen.confirmed)
    before, after = (per_image(point.latency_s, point.batch, point.devices) for point in (best.baseline, best.chosen))
    speed_up = widest_ratio(before, after)
    return msgspec.structs.replace(best, speed_up=speed_up, speed_up_confirmed=False)


def differing(best: BestConfig) -> Values:
    """Return the chosen values that are not the untouched pipeline's, in the order in which they are applied.

    Steps and batch count where they are not the baseline's of the study.
    """
    chosen, baseline = best.chosen.values, best.baseline.values
    values = {
        name: value
        for name, value in changed(chosen, best.environment).items()
        if name not in ("steps", "batch") or value != baseline.get(name)
    }
    return {name: values[name] for name in sorted(values, key=lambda name: KNOBS[name].order)}


def build_settings(best: BestConfig) -> Values:
    """Return the values that are applied to the pipeline, not to its calls."""
    return {name: value for name, value in differing(best).items() if KNOBS[name].acts == "build"}
