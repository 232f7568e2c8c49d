"""The candidates of a study: which there are, which are valid, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.knobs import KNOBS, mixes_batch
from tuner.records.codec import Record, Value, Values, fingerprint
from tuner.records.gate import GatePolicy
from tuner.records.model import Architecture, Workload


class Recipe(Record):
    """A configuration that an expert would try first, and where it comes from."""

    name: str
    source: str
    values: Values


class SearchSpace(Record):
    """The candidates of one study of a pipeline.

    `knobs` holds the values to search here, `baseline` the untouched pipeline's value of every knob, and `left_out`
    what the file lists but this machine or pipeline cannot do, with the reason.
    """

    name: str
    architecture: Architecture
    workload: Workload
    tolerance: float
    gate: GatePolicy
    baseline: Values
    knobs: dict[str, tuple[Value, ...]]
    recipes: tuple[Recipe, ...]
    left_out: dict[str, str]

    def sample(self, suggest: Callable[[str, tuple[Value, ...]], Value]) -> Values:
        """One candidate: a value for every knob that is active beside those before it, `suggest`ed where it is open."""
        values: Values = {}
        for name, knob in KNOBS.items():
            if knob.is_active(values):
                choices = self.knobs.get(name, (self.baseline[name],))
                values[name] = suggest(name, choices) if len(choices) > 1 else choices[0]
        return values

    def candidate(self, different: Mapping[str, Value]) -> Values:
        """The candidate that differs from the baseline in these values, less those that mean nothing beside others."""
        values: Values = {}
        for name, knob in KNOBS.items():
            if knob.is_active(values):
                values[name] = different.get(name, self.baseline[name])
        return values

    def conflict_reason(self, values: Mapping[str, Value]) -> str | None:
        """Why this candidate is not worth a process, or None. It names the knob."""
        for name in values:
            reason = KNOBS[name].conflict_reason(values, self.architecture)
            if reason:
                return f"{name}={format_value(values[name])}: {reason}"
        return None

    def changed(self, values: Mapping[str, Value]) -> Values:
        """What of a candidate differs from the baseline."""
        return {name: value for name, value in values.items() if self.baseline.get(name) != value}

    def step_sweep(self, values: Mapping[str, Value]) -> list[Values]:
        """The candidates that one build of `values` can measure: the candidate itself, then its other step counts."""
        others = [{**values, "steps": steps} for steps in self.knobs.get("steps", ()) if steps != values["steps"]]
        return [dict(values)] + [other for other in others if self.conflict_reason(other) is None]


def format_value(value: Value) -> str:
    """A value in one line, as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())[:80]


def build_values(values: Mapping[str, Value]) -> Values:
    return {name: value for name, value in values.items() if KNOBS[name].acts == "build"}


def build_key(values: Mapping[str, Value]) -> str:
    """Equal for candidates that one process can measure."""
    return fingerprint(build_values(values))


def image_key(values: Mapping[str, Value]) -> str:
    """Equal for candidates whose images differ by rounding at most.

    Where images of a batch depend on one another, as with a cache that decides for all at once, the batch counts too.
    """
    batch = {"batch": values["batch"]} if mixes_batch(values) else {}
    return fingerprint(batch | {name: value for name, value in values.items() if KNOBS[name].changes_image(value)})


def candidate_key(values: Mapping[str, Value]) -> str:
    return fingerprint(values)
