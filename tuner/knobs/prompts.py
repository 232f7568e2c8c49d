"""The text encoders' result, kept for prompts that were encoded before."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect
from tuner.knobs.code import Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

MAX_KEPT_BYTES = 512 * 2**20
"""A prompt of FLUX.1 takes 4 MB in bfloat16."""


class KeepPrompts(Knob):
    """Whether embeddings of the last prompts are kept on the device, so that a repeated one is not encoded again.

    It gains only where prompts repeat, as a fixed negative prompt does. Timing repeats its prompts, so it shows the
    gain for those.
    """

    name = "text.keep_prompts"
    choices = (False, True)
    order = 60  # around compiled and offloaded text encoders

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        name = architecture.pipeline_class
        if value and not re.search(r"\bself\.encode_prompt\(", class_source("pipelines", name)):
            return f"{name} has no encode_prompt whose result could be kept"
        return None

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        return hasattr(pipe.encode_prompt, "kept")

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        if not hasattr(pipe, "encode_prompt"):
            raise NoEffect("the pipeline has no encode_prompt")
        keep_prompts(pipe)
        return f"{type(pipe).__name__}.encode_prompt keeps up to {MAX_KEPT_BYTES // 2**20} MiB of embeddings"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("keep_prompts(pipe)",), carried=(keep_prompts,))


def keep_prompts(pipe: Any, max_bytes: int = MAX_KEPT_BYTES) -> None:
    """Give the pipeline an `encode_prompt` that keeps the results of its last calls, which `kept` then has."""
    encode = pipe.encode_prompt
    kept: OrderedDict[Any, Any] = OrderedDict()

    @functools.wraps(encode)
    def encode_or_recall(*arguments: Any, **named: Any) -> Any:
        try:
            key = (plain_data(arguments), plain_data(named), state_of_encoders(pipe))
        except TypeError:
            return encode(*arguments, **named)
        if key in kept:
            kept.move_to_end(key)
            return copied(kept[key])
        result = encode(*arguments, **named)
        kept[key] = copied(result)
        while kept and sum(map(bytes_of, kept.values())) > max_bytes:
            kept.popitem(last=False)
        return result

    setattr(encode_or_recall, "kept", kept)  # noqa: B010  (a function has no such attribute)
    pipe.encode_prompt = encode_or_recall


def plain_data(value: Any) -> Any:
    """Return arguments in a form that can be compared. Raises TypeError for what is not plain, as an embedding."""
    import torch

    if isinstance(value, (list, tuple)):
        return tuple(map(plain_data, value))
    if isinstance(value, dict):
        return tuple((name, plain_data(each)) for name, each in sorted(value.items()))
    if value is None or isinstance(value, (str, int, float, torch.device, torch.dtype)):
        return type(value).__name__, value
    raise TypeError(f"{type(value).__name__} is no plain value")


def state_of_encoders(pipe: Any) -> Any:
    """Return what changes when a text encoder is replaced or its weights change in place, as a fused LoRA does.

    Raises TypeError while a LoRA is loaded beside the weights, since its scale may change at any time.
    """
    state = []
    for name, part in pipe.components.items():
        if not name.startswith("text_encoder") or part is None:
            continue
        if getattr(part, "peft_config", None):
            raise TypeError(f"{name} has adapters")
        state.append((name, id(part), sum(parameter._version for parameter in part.parameters())))
    return tuple(state)


def copied(result: Any) -> Any:
    """Return copies of the tensors of a result, so that nobody changes the kept ones."""
    import torch
    from torch.utils._pytree import tree_map_only

    return tree_map_only(torch.Tensor, torch.clone, result)


def bytes_of(result: Any) -> int:
    """Return the size of the tensors of a result."""
    from torch.utils._pytree import tree_leaves

    return sum(leaf.nbytes for leaf in tree_leaves(result) if hasattr(leaf, "nbytes"))
