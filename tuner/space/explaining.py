"""Explain in plain words what is not right in a space file: the field, what it must be, what stands there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from tuner.errors import did_you_mean
from tuner.space import elsewhere

WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "a group of NAME: VALUE", "null": "nothing",
}  # fmt: skip
PLAIN_VALUE = {"bool", "int", "float", "str"}
EXAMPLES = {
    "height": "in pixels, such as 1024",
    "width": "in pixels, such as 1024",
    "num_frames": "such as 81",
    "guidance_scale": "such as 3.5",
    "max_sequence_length": "of tokens, such as 256",
    "tolerance": "in points of the metric, such as 0.5",
    "latency_target_s": "in seconds, such as 2.5",
    "prompts": "such as [a cat, a dog], or the name of a file with one prompt a line",
    "seeds": "such as [0, 1, 2], one for each prompt",
    "arguments": "such as {true_cfg_scale: 4.0}",
    "pipelines": "such as [FluxPipeline]",
    "count_per_step": "such as {device sync: 1}",
    "max_idle_ms_per_step": "in milliseconds, such as 0.05",
}
COMPARISONS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
MAX_SHOWN = 60
ANY_KEY = "..."
"""How msgspec writes a key of a dictionary."""


def explain(error: msgspec.ValidationError, data: Any, record_type: Any) -> str:
    """Return one line for an error of msgspec: the path of the field, and what it must be."""
    message, _, where = str(error).partition(" - at `")
    steps = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", where.rpartition("$")[2])
    path, value, expected = _locate(data, record_type, [field or index for field, index in steps])
    for pattern, words in PATTERNS:
        match = re.fullmatch(pattern, message, re.DOTALL)
        if match:
            return words(_Place(path, value, expected, is_key=where.startswith("key")), match)
    return f"{path}: {message}".removeprefix(": ")


class _Place:
    """Where an error is: the path of the field, what stands there, and the types that may."""

    def __init__(self, path: str, value: Any, expected: Any, *, is_key: bool) -> None:
        self.path = path
        self.value = value
        self.expected = expected
        self.is_key = is_key

    def __str__(self) -> str:
        return f"{self.path}: " if self.path else ""

    def field(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def fields(self) -> list[str]:
        return [name for option in _options(self.expected) if _is_struct(option) for name in option.__struct_fields__]


# ---- where the error is ---------------------------------------------------------------------------------------------


def _locate(data: Any, expected: Any, steps: list[str]) -> tuple[str, Any, Any]:
    """Follow the path of an error to the value there and the types that it may have."""
    path = ""
    for step in steps:
        expected = _member_type(expected, step)
        if isinstance(data, list):
            data, path = data[int(step)], f"{path}[{step}]"
        elif isinstance(data, dict):
            name = _unfitting_key(data, expected) if step == ANY_KEY else step
            data, path = data.get(name), f"{path}.{name}"
    return path.removeprefix("."), data, expected


def _unfitting_key(data: Mapping[Any, Any], expected: Any) -> Any:
    """Find the entry of a dictionary that an error is about: msgspec does not name it."""
    return next((key for key, entry in data.items() if not _fits(entry, expected)), ANY_KEY)


def _options(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, without their constraints."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _is_struct(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, msgspec.Struct)


def _member_type(annotation: Any, step: str) -> Any:
    for option in _options(annotation):
        if _is_struct(option) and step in option.__struct_fields__:
            return get_type_hints(option, include_extras=True)[step]
        if get_origin(option) is dict and step == ANY_KEY:
            return get_args(option)[1]
        if get_origin(option) in (list, tuple) and step.isdigit():
            return get_args(option)[0]
    return Any


def _fits(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


# ---- what it must be ------------------------------------------------------------------------------------------------


def _unknown_field(place: _Place, match: re.Match[str]) -> str:
    return f"{place.field(match[1])}: unknown field; {elsewhere.hint(match[1], place.fields())}"


def _missing_field(place: _Place, match: re.Match[str]) -> str:
    return f"{place.field(match[1])}: it is missing"


def _other_type(place: _Place, match: re.Match[str]) -> str:
    if place.value is None and not place.path:
        return "the file is empty; begin with `extends: any`, or list pipelines and knobs"
    if place.is_key:
        remedy = "put it in quotes, or several values in brackets, as in [20, 28]"
        return f"{place}a name must be text, not {_shown_type(match[2])}; {remedy}"
    return f"{place}must be {_expected(match[1].split(' | '), place)}, not {_shown(place.value, match[2])}"


def _key_type(place: _Place, match: re.Match[str]) -> str:
    return f"{place}a name must be text; put it in quotes"


def _expected(types: list[str], place: _Place) -> str:
    kinds = [kind for kind in types if kind != "null" and not (kind == "object" and "float" in types)]
    if set(kinds) >= PLAIN_VALUE:
        words = ["a value", *(WORDS[kind] for kind in kinds if kind == "array")]
    else:
        words = [WORDS.get(kind, kind) for kind in kinds]
    example = EXAMPLES.get(re.sub(r"\[\d+\]$", "", place.path.rpartition(".")[2]), "")
    return f"{' or '.join(words)} {example if not place.path.endswith(']') else ''}".strip()


def _shown(value: Any, kind: str) -> str:
    if isinstance(value, str):
        return f"the text {' '.join(value.split())[:MAX_SHOWN]!r}"
    return _shown_type(kind) if value is None or isinstance(value, Mapping | list) else str(value)[:MAX_SHOWN].lower()


def _shown_type(kind: str) -> str:
    return WORDS.get(kind, f"a {kind}")


def _out_of_range(place: _Place, match: re.Match[str]) -> str:
    bound = f"must be {COMPARISONS[match[2]]} {match[3].removesuffix('.0')}"
    return f"{place}{bound}, not {str(place.value)[:MAX_SHOWN]}"


def _too_short(place: _Place, match: re.Match[str]) -> str:
    return f"{place}must list at least {match[1]}"


def _blank(place: _Place, match: re.Match[str]) -> str:
    return f"{place}must not be blank"


def _other_choice(place: _Place, match: re.Match[str]) -> str:
    types = get_args(place.expected) if get_origin(place.expected) is dict else (place.expected,)
    types = tuple(part for option in _options(place.expected) for part in (*get_args(option), option)) or types
    choices = [str(choice) for part in types if get_origin(part) is Literal for choice in get_args(part)]
    hint = did_you_mean(match[1], choices)
    return f"{place.field(match[1]) if place.is_key else place.path}: use {', '.join(choices)}{hint and f'; {hint}'}"


def _own_check(place: _Place, match: re.Match[str]) -> str:
    return f"{place.field(match[1])}: {match[2]}"


PATTERNS: tuple[tuple[str, Callable[[_Place, re.Match[str]], str]], ...] = (
    (r"Object contains unknown field `(.*)`", _unknown_field),
    (r"Object missing required field `(.*)`", _missing_field),
    (r"Expected `([^`]*)`, got `(\w+)`", _other_type),
    (r"Expected `(\w+)` (>=|<=|>|<) (\S+)", _out_of_range),
    (r"Expected `array` of length >= (\d+)", _too_short),
    (r"Expected `str` matching regex .*", _blank),
    (r"Expected `(str)`", _key_type),
    (r"Invalid enum value '(.*)'", _other_choice),
    (r"(\w+): (.*)", _own_check),
)
"""The messages of msgspec, and of the records' own checks, with what is said instead."""
