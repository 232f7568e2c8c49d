"""The candidates of a study: which there are, which are valid, and their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.knobs import KNOBS, mixes_batch
from tuner.records.codec import NonNegative, Record, Value, Values, fingerprint
from tuner.records.gate import GatePolicy
from tuner.records.model import Architecture, Workload
from tuner.records.text import shown


class Recipe(Record):
    """A configuration that an expert would try first, and its source."""

    name: str
    source: str
    values: Values


def recipe_title(name: str) -> str:
    """Return how a recipe is called beside values that are left out; its name may have commas."""
    return f'recipe "{name}"'


class SearchSpace(Record):
    """The search space of a study: the candidates of one pipeline on this machine.

    `knobs` holds the values to search, `baseline` the untouched pipeline's value of every knob that the catalogue had
    when the study began. `left_out` maps the
    values and recipes of the file that do not work here to the reason.
    """

    name: str
    architecture: Architecture
    workload: Workload
    tolerance: NonNegative
    gate: GatePolicy
    baseline: Values
    knobs: dict[str, tuple[Value, ...]]
    recipes: tuple[Recipe, ...]
    left_out: dict[str, str]

    def sample(self, suggest: Callable[[str, tuple[Value, ...]], Value]) -> Values:
        """Sample a candidate: a value for every active knob, by `suggest(name, choices)` if there are several."""
        values: Values = {}
        for name, knob in KNOBS.items():
            if name in self.baseline and knob.is_active(values):
                choices = self.knobs.get(name, (self.baseline[name],))
                values[name] = suggest(name, choices) if len(choices) > 1 else choices[0]
        return values

    def candidate(self, different: Mapping[str, Value]) -> Values:
        """Return the candidate that differs from the baseline in these values, without knobs that are not active."""
        values: Values = {}
        for name, knob in KNOBS.items():
            if name in self.baseline and knob.is_active(values):
                values[name] = different.get(name, self.baseline[name])
        return values

    def without(self, values: Mapping[str, Value], name: str) -> Values:
        """Return a candidate without one of its settings, and without what that makes inactive."""
        return self.candidate({other: value for other, value in self.changed(values).items() if other != name})

    def conflict_reason(self, values: Mapping[str, Value]) -> str | None:
        """Return why the values of a candidate do not go together, with the knob, or None if they do."""
        for name in values:
            reason = KNOBS[name].conflict_reason(values, self.architecture)
            if reason:
                return f"{name}={shown(values[name])}: {reason}"
        return None

    def changed(self, values: Mapping[str, Value]) -> Values:
        """Return the values of a candidate that differ from the baseline."""
        return {name: value for name, value in values.items() if self.baseline.get(name) != value}

    def step_sweep(self, values: Mapping[str, Value]) -> list[Values]:
        """Return the step sweep of a candidate: itself, then its other step counts, all of one build."""
        others = [{**values, "steps": steps} for steps in self.knobs.get("steps", ()) if steps != values["steps"]]
        return [dict(values)] + [other for other in others if self.conflict_reason(other) is None]


def build_values(values: Mapping[str, Value]) -> Values:
    """Return the values of the build knobs, which act before the first call."""
    return {name: value for name, value in values.items() if KNOBS[name].acts == "build"}


def build_key(values: Mapping[str, Value]) -> str:
    """Hash the values that the build depends on. Candidates with equal keys can be measured in one process."""
    return fingerprint(build_values(values))


def image_key(values: Mapping[str, Value]) -> str:
    """Hash the values that the images depend on. Images of candidates with equal keys differ by rounding only.

    Where images of a batch depend on one another, as with a cache that decides for all at once, the batch counts too.
    """
    batch = {"batch": values["batch"]} if mixes_batch(values) else {}
    return fingerprint(batch | {name: value for name, value in values.items() if KNOBS[name].changes_image(value)})


def candidate_key(values: Mapping[str, Value]) -> str:
    """Hash all values of a candidate."""
    return fingerprint(values)
