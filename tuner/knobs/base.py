"""The base class of all knobs, and helpers that several knobs share."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tuner.knobs import aliases
from tuner.knobs.code import NOTHING, Code
from tuner.records.codec import Value
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.model import DENOISERS, Architecture
from tuner.records.text import format_value

MAX_COUNT = 100_000
"""More steps, prompts or tokens than this are taken for a typing error."""


class NoEffect(Exception):
    """A knob was applied and changed nothing, so measuring it would only measure the baseline again.

    `knob` names it, unless the knob raises this itself.
    """

    def __init__(self, message: str, knob: str | None = None) -> None:
        super().__init__(message)
        self.knob = knob


class Knob(ABC):
    """One axis of the search.

    The first line of a knob's docstring is its description in the catalogue. `choices` are its values, the baseline's
    first. Where any number is valid (see `invalid_reason`), they are a sensible selection. `order` is its place in the
    order of application: fuse, quantize, attention backend, compile, cache.

    `user_supplied` means that the values are weights which the user supplies. `may_change_image` means that some value
    may change the image by more than rounding; such a knob states all of the following itself, whatever the defaults
    here. They hold for every value but the baseline's:

    `uneven_steps`: the steps of a call cost different amounts, so other step counts cannot be predicted.
    `changes_trajectory`: the n-th call of the denoiser is not the baseline's n-th, so the two cannot be compared.
    `changes_noise`: a seed may mean another initial noise; `generates_other_noise` decides for one value.
    `other_arithmetic`: a denoising step computes another amount, or in another precision, than the roofline counts.
    `mixes_batch`: an image depends on the other images of its batch.
    """

    name: ClassVar[str]
    choices: ClassVar[tuple[Value, ...]]
    acts: ClassVar[Literal["build", "call"]] = "build"
    user_supplied: ClassVar[bool] = False
    order: ClassVar[int] = 0
    may_change_image: ClassVar[bool] = False
    uneven_steps: ClassVar[bool] = False
    changes_trajectory: ClassVar[bool] = False
    changes_noise: ClassVar[bool] = False
    other_arithmetic: ClassVar[bool] = False
    mixes_batch: ClassVar[bool] = False

    def baseline(self, environment: Environment) -> Value:
        """Return the value of the baseline, which is the pipeline as diffusers loads it."""
        return self.choices[0]

    def canonical(self, value: Value) -> Value:
        """Return the value that a person means by `value`, see `tuner.knobs.aliases`."""
        return aliases.canonical(self.name, value, self.choices)

    def invalid_reason(self, value: Value) -> str | None:
        """Return why `value` can never be a value of this knob, or None."""
        return invalid_choice_reason(value, self.choices)

    def changes_image(self, value: Value) -> bool:
        """Return whether this value may change the image by more than rounding."""
        return self.may_change_image

    def computes_otherwise(self, value: Value) -> bool:
        """Return whether this value has `other_arithmetic`."""
        return self.other_arithmetic

    def generates_other_noise(self, value: Value, baseline: Value) -> bool:
        """Return whether a seed means another initial noise with this value than with the baseline's. May use torch."""
        return self.changes_noise and value != baseline

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        """Return why `value` cannot work on this machine or with this pipeline, and the remedy, or None."""
        return None

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Return whether this knob has any meaning with the values that were chosen before it."""
        return True

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        """Return why this knob's value cannot be combined with the other values, or None."""
        return None

    def allowances(self, values: Mapping[str, Value]) -> tuple[Allowance, ...]:
        """Return the device syncs and graph breaks that are this knob's design, which the gate lets pass."""
        return ()

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Return the arguments of the pipeline's call that this knob's value sets."""
        return {}

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        """Return whether a pipeline has this value before it is applied, as far as that can be seen."""
        return False

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        """Change the pipeline, verify the change and describe it.

        Called only when the value differs from the baseline's. Raises NoEffect when nothing changed.
        """
        raise TypeError(f"{self.name} acts on a call, not on a pipeline")

    def code(self, values: Mapping[str, Value]) -> Code | None:
        """Return what `apply` does in plain Python, for `tune export`, or None if that cannot be written."""
        return NOTHING if self.acts == "call" else None

    def watch(self, pipe: Any) -> None:
        """Begin to watch anew whether this knob acts in calls of the pipeline."""
        return None

    def idle_reason(self, pipe: Any, values: Mapping[str, Value]) -> str | None:
        """Return why this knob had no effect in the calls since `watch`, or None. For knobs that act only at times."""
        return None


def denoisers(pipe: Any) -> list[Any]:
    """Return the components of a pipeline that run once a step: one, or two as in Wan 2.2."""
    components = (getattr(pipe, name, None) for name in DENOISERS)
    return [component for component in components if component is not None]


def for_each_denoiser(
    *lines: str, imports: tuple[str, ...] = (), carried: tuple[Any, ...] = (), needs: tuple[str, ...] = ()
) -> Code:
    """Return code that runs these lines for each `denoiser` of the pipeline."""
    loop = ("for denoiser in denoisers(pipe):", *(f"    {line}" for line in lines))
    return Code(loop, imports, (denoisers, *carried), needs)


def set_flag(holder: Any, flag: str, value: Value, name: str) -> str:
    """Set a flag of the whole process, verify it and describe the change.

    A flag that already has the value is no error: an earlier pipeline may have set it. Raises NoEffect when the flag
    does not take the value.
    """
    if getattr(holder, flag) == value:
        return f"{name} = {value} already"
    setattr(holder, flag, value)
    if getattr(holder, flag) != value:
        raise NoEffect(f"{name} stayed {getattr(holder, flag)}")
    return f"{name} = {value}"


def invalid_choice_reason(value: Value, choices: tuple[Value, ...]) -> str | None:
    """Return why a value is not one of `choices`, or None. Types count: 1 is not true."""
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return None
    return f"must be one of {', '.join(map(format_value, choices))}"


def invalid_count_reason(value: Value) -> str | None:
    """Return why a value is not a whole number from 1 to MAX_COUNT, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT:
        return None
    return f"must be a whole number from 1 to {MAX_COUNT}"
