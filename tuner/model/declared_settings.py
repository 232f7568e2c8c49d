"""Settings of a component against the constructor of its class: types, finite numbers, ranges.

An annotation in diffusers' source is a hint only. What published models have in spite of it passes: whole numbers for
fractions and the other way round, 0 and 1 for a switch, null, a list for a whole number of a model.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tuner.errors import BadInput
from tuner.model import diffusers_source
from tuner.model.json_file import shown

KINDS = {
    "int": "number", "float": "number", "bool": "switch", "str": "text", "None": "null",
    "dict": "object", "Dict": "object",
}  # fmt: skip
"""What JSON has for a type of an annotation."""

KINDS_OF_VALUES = {
    bool: "switch", int: "number", float: "number", str: "text", list: "list", tuple: "list", dict: "object",
}  # fmt: skip
LISTS = {"tuple", "list", "Tuple", "List", "Sequence", "np.ndarray", "torch.Tensor"}
UNIONS = {"Union", "Optional"}
TITLES = {"number": "a number", "switch": "true or false", "text": "a text", "object": "an object"}

SWITCHES = (0, 1, "true", "false")
"""What stands for true and false in published models; HunyuanVideo's has "true"."""

ALWAYS_LISTS = ("block_out_channels", "latents_mean", "latents_std")
"""Settings of models that no class takes as a single number."""

LARGEST = 1e6
RANGES: Mapping[str, tuple[float, float, bool]] = {
    "shift": (0, LARGEST, False), "flow_shift": (0, LARGEST, False), "scaling_factor": (0, LARGEST, False),
    "shift_factor": (-LARGEST, LARGEST, True), "latents_std": (0, LARGEST, False),
    "latents_mean": (-LARGEST, LARGEST, True), "beta_start": (0, 1, True), "beta_end": (0, 1, False),
    "snr_shift_scale": (0, LARGEST, False), "steps_offset": (0, 10_000, True), "solver_order": (1, 100, True),
    "sigma_min": (0, LARGEST, True), "sigma_max": (0, LARGEST, False), "sigma_data": (0, LARGEST, False),
    "clip_sample_range": (0, LARGEST, False), "sample_max_value": (0, LARGEST, False),
    "dynamic_thresholding_ratio": (0, 1, True), "base_image_seq_len": (1, LARGEST, True),
    "max_image_seq_len": (1, LARGEST, True), "dropout": (0, 1, True), "norm_eps": (0, 1, True), "eps": (0, 1, True),
    "resnet_norm_eps": (0, 1, True), "scale_factor_spatial": (1, 4096, True), "scale_factor_temporal": (1, 4096, True),
    "spatial_compression_ratio": (1, 4096, True), "temporal_compression_ratio": (1, 4096, True),
    "rope_theta": (0, math.inf, False), "theta": (0, math.inf, False), "boundary_ratio": (0, 1, True),
    "dim_mult": (0, 256, False), "ch_mult": (0, 256, False),
}  # fmt: skip
"""The least and the largest value of a setting, and whether the least itself will do."""

ANY = (-math.inf, math.inf, True)
SHARES = re.compile(r"(?:^|_)(?:eps|epsilon)$|(?:^|_)dropout(?:_|$)")
"""Settings of transformers from 0 to 1."""

SINGLE = {
    "in_channels", "num_layers", "num_single_layers", "num_attention_heads", "attention_head_dim", "latent_channels",
    "z_dim", "joint_attention_dim", "layers_per_block",
}  # fmt: skip
"""Sizes that are no list unless their declaration says so."""

NEEDED = {
    "num_train_timesteps", "scaling_factor", "block_out_channels", "latent_channels", "z_dim", "in_channels",
    "num_layers", "num_single_layers", "act_fn",
}  # fmt: skip
"""Settings for which null will not do where their default is a value."""

CHANNELS = ("z_dim", "latent_channels")
PER_CHANNEL = {
    "AutoencoderKL": ("latents_mean", "latents_std"), "AutoencoderKLWan": ("latents_mean", "latents_std"),
    "AutoencoderKLQwenImage": ("latents_mean", "latents_std"), "AutoencoderKLMochi": ("latents_mean", "latents_std"),
}  # fmt: skip
"""Lists with a value for each channel of the latents."""


class Accepted(NamedTuple):
    """What a parameter takes: kinds of single values, kinds inside lists if those are known, lists at all.

    `length` is that of every list, None if it is open.
    """

    single: frozenset[str]
    listed: frozenset[str]
    lists: bool
    length: int | None = None


def check_settings(file: Path, folder: str, class_name: str, config: Mapping[str, Any]) -> None:
    """Check settings against the constructor of a class below a folder of diffusers.

    Raises BadInput with the file and the field. A setting that the constructor does not name is not used.
    """
    for name, parameter in diffusers_source.parameters(folder, class_name).items():
        if name not in config:
            continue
        value, accepted = config[name], _accepted(parameter)
        if value is None and name in NEEDED and _has_value(parameter.default):
            raise BadInput(f"{file}: {name}: null, and {class_name} needs a value")
        if accepted is not None:
            expected = _mismatch(name, value, accepted, folder)
            if expected:
                raise BadInput(f"{file}: {name}: {_shown(value)}: {class_name} takes {expected} here")
        _check_numbers(file, name, value, parameter)
    _check_per_channel(file, class_name, config)


def check_finite(file: Path, settings: Mapping[str, Any]) -> None:
    """Check that no number is NaN or infinite. Raises BadInput with the file and the field."""
    for name, value in settings.items():
        for number in numbers(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise BadInput(f"{file}: {shown(name)}: {number} is not a finite number")


def check_fields(file: Path, declared: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check settings against the annotated fields of a configuration class of transformers.

    Only a text in place of a number, and the other way round, is refused.
    """
    for name, parameter in declared.items():
        accepted, value = _accepted(parameter), config.get(name)
        single = accepted.single if accepted else frozenset[str]()
        allowed = {"text": {"text"}, "number": {"number", "switch"}}.get(_kind(value))
        if accepted and single and allowed and not allowed & (single | accepted.listed):
            raise BadInput(f"{file}: {name}: {_shown(value)} is not {_title(accepted)}")
        if "number" in single and not _may_be_infinite(parameter):
            check_finite(file, {name: value})
            for number in numbers(value) if SHARES.search(name) else ():
                _check_range(file, name, number, (0, 1, True))


# ---- types ----------------------------------------------------------------------------------------------------------


def _accepted(parameter: diffusers_source.Parameter) -> Accepted | None:
    """Return what a parameter takes by its annotation and its default, None if that is not known for certain."""
    if parameter.annotation is None:
        return None
    single, listed, lists, lengths = set[str](), set[str](), False, set[int | None]()
    for node in _alternatives(parameter.annotation):
        name = ast.unparse(node.value if isinstance(node, ast.Subscript) else node)
        if name == "Literal":
            single.add("text")
        elif name in LISTS:
            lists = True
            lengths.add(_length(node))
            listed |= set(_names(node)) if isinstance(node, ast.Subscript) else {"unknown"}
        elif name in KINDS:
            single.add(KINDS[name])
        else:
            return None
    default = _literal(parameter.default)
    if isinstance(default, list | tuple):
        lists = True
    elif default is not None:
        single.add(_kind(default))
    return Accepted(frozenset(single), frozenset(listed), lists, lengths.pop() if len(lengths) == 1 else None)


def _length(node: ast.expr) -> int | None:
    """Return how many values a tuple has by its annotation. `tuple[int]` is often written for any number of them."""
    match node:
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=values)):
            is_open = any(isinstance(value, ast.Constant) and value.value is Ellipsis for value in values)
            return None if is_open or len(values) < 2 else len(values)
    return None


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the types that an annotation joins."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _alternatives(left)
            yield from _alternatives(right)
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in UNIONS:
            for each in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                yield from _alternatives(each)
        case _:
            yield node


def _names(node: ast.Subscript) -> Iterator[str]:
    """Yield the kinds of values in a list, by its annotation."""
    for each in ast.walk(node.slice):
        if isinstance(each, ast.Name) and each.id not in LISTS | UNIONS:
            yield KINDS.get(each.id, "unknown")


def _mismatch(name: str, value: Any, accepted: Accepted, folder: str) -> str | None:
    """Return what a parameter takes instead of a value, None if the value will do."""
    kind = _kind(value)
    if kind == "list" and name.endswith(ALWAYS_LISTS) and any(isinstance(item, list) for item in value):
        return _title(accepted)
    if kind == "list":
        return _mismatch_of_list(value, accepted, folder == "models" and name not in RANGES.keys() | SINGLE)
    if kind == "null" or kind in accepted.single or _is_switch(value, accepted.single):
        return None
    is_single_of_list = kind in accepted.listed and folder == "models" and not name.endswith(ALWAYS_LISTS)
    if kind == "number" and (is_single_of_list or "unknown" in accepted.listed):
        return None
    return _title(accepted)


def _mismatch_of_list(value: list[Any], accepted: Accepted, is_lenient: bool) -> str | None:
    if not accepted.lists:
        is_lenient = is_lenient and "number" in accepted.single
        return None if is_lenient and all(_kind(leaf) == "number" for leaf in _leaves(value)) else _title(accepted)
    if accepted.length is not None and len(value) != accepted.length:
        return f"a list of {accepted.length}"
    if "unknown" in accepted.listed or not accepted.listed:
        return None
    kinds = accepted.listed | accepted.single | {"null"}
    return None if all(_kind(leaf) in kinds or _is_switch(leaf, kinds) for leaf in _leaves(value)) else _title(accepted)


def _is_switch(value: Any, kinds: frozenset[str]) -> bool:
    return "switch" in kinds and _kind(value) in ("number", "text") and value in SWITCHES


def _title(accepted: Accepted) -> str:
    single = [title for kind, title in TITLES.items() if kind in accepted.single]
    inside = " or ".join(title.removeprefix("a ") + "s" for kind, title in TITLES.items() if kind in accepted.listed)
    lists = [f"a list of {inside}" if inside else "a list"] if accepted.lists else []
    return " or ".join([*single, *lists]) or "another type"


def _kind(value: Any) -> str:
    return KINDS_OF_VALUES.get(type(value), "null")


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _has_value(default: ast.expr | None) -> bool:
    return default is not None and _literal(default) is not None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _shown(value: Any) -> str:
    return repr(value)[:40]


# ---- numbers --------------------------------------------------------------------------------------------------------


def numbers(value: Any) -> Iterator[float]:
    """Yield the numbers in nested lists and objects."""
    if isinstance(value, dict):
        value = list(value.values())
    for leaf in _leaves(value):
        if isinstance(leaf, dict):
            yield from numbers(leaf)
        elif _kind(leaf) == "number":
            yield leaf


def _check_numbers(file: Path, name: str, value: Any, parameter: diffusers_source.Parameter) -> None:
    if not _may_be_infinite(parameter):
        check_finite(file, {name: value})
    for number in numbers(value):
        _check_range(file, name, number, RANGES.get(name, ANY))


def _may_be_infinite(parameter: diffusers_source.Parameter) -> bool:
    return parameter.default is not None and "inf" in ast.unparse(parameter.default)


def _check_range(file: Path, name: str, number: float, limits: tuple[float, float, bool]) -> None:
    least, largest, is_least_included = limits
    if not least <= number <= largest or (number == least and not is_least_included):
        until = f"{'to' if is_least_included else 'and at most'} {largest:,.0f}"
        above = f"{'from' if is_least_included else 'above'} {least:,.0f}"
        raise BadInput(f"{file}: {name}: {_shown(number)} is not {above}{f' {until}' if largest < math.inf else ''}")


def _check_per_channel(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    """Check that the lists with a value for each channel are as long as the latents have channels."""
    channels = next((config[name] for name in CHANNELS if isinstance(config.get(name), int)), None)
    for name in PER_CHANNEL.get(class_name, ()):
        value = config.get(name)
        if isinstance(value, list) and channels is not None and len(value) != channels:
            raise BadInput(f"{file}: {name}: {len(value)} values for {channels} channels of the latents")
