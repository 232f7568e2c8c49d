"""What every knob is: one axis of the search, with its conditions and what it does to a pipeline."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tuner.records.codec import Value
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.model import DENOISERS, Architecture

MAX_COUNT = 100_000
"""Steps, prompts or tokens beyond this are a slip of the hand."""


class NoEffect(Exception):
    """A knob was applied and changed nothing: measuring it would only measure the baseline again."""


class Knob(ABC):
    """One axis of the search.

    `choices` are its values, the untouched pipeline's first; where any number will do (`invalid_reason` says which),
    some that make sense. The first line of a knob's docstring is what the catalogue says of it.
    `given` says that its values are weights that a person names.
    `order` is the place in the order of application: fuse, attention backend, quantize, compile, cache.
    `image` says that the knob may change the image by more than rounding.
    """

    name: ClassVar[str]
    choices: ClassVar[tuple[Value, ...]]
    acts: ClassVar[Literal["build", "call"]] = "build"
    may_change_image: ClassVar[bool] = False
    user_supplied: ClassVar[bool] = False
    order: ClassVar[int] = 0

    def baseline(self, environment: Environment) -> Value:
        """The value of the untouched pipeline."""
        return self.choices[0]

    def invalid_reason(self, value: Value) -> str | None:
        """Why `value` can never be a value of this knob, or None."""
        return invalid_choice_reason(value, self.choices)

    def changes_image(self, value: Value) -> bool:
        """Whether this value may change the image by more than rounding: what `image` says, of one value."""
        return self.may_change_image

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        """Why `value` cannot work in this environment or on this pipeline, and the remedy, or None."""
        return None

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Whether this knob means anything beside the values chosen before it."""
        return True

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        """Why this knob's value cannot go together with the others, or None."""
        return None

    def allowances(self, values: Mapping[str, Value]) -> tuple[Allowance, ...]:
        """The syncs and breaks that are this knob's design."""
        return ()

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """What this knob's value means for the arguments of a call."""
        return {}

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        """Change the pipeline, verify the change and say what it was.

        Called only when the value differs from the baseline's. Raises NoEffect when nothing changed.
        """
        raise TypeError(f"{self.name} acts on a call, not on a pipeline")


def denoisers(pipe: Any) -> list[Any]:
    """The components of a pipeline that run once a step: one, or two as in Wan 2.2."""
    found = (getattr(pipe, name, None) for name in DENOISERS)
    return [component for component in found if component is not None]


def set_flag(holder: Any, flag: str, wanted: Value, name: str) -> str:
    """Give a flag of the whole process a value, verify it and say so; an earlier pipeline may have set it `already`."""
    if getattr(holder, flag) == wanted:
        return f"{name} = {wanted} already"
    setattr(holder, flag, wanted)
    if getattr(holder, flag) != wanted:
        raise NoEffect(f"{name} stayed {getattr(holder, flag)}")
    return f"{name} = {wanted}"


def invalid_choice_reason(value: Value, choices: tuple[Value, ...]) -> str | None:
    """The usual `invalid_reason`: a value outside a closed list (types count: 1 is not true)."""
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return None
    shown = (str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices)
    return f"must be one of {', '.join(shown)}"


def invalid_count_reason(value: Value) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT:
        return None
    return f"must be a whole number from 1 to {MAX_COUNT}"
