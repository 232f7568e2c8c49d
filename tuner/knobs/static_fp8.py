"""Products in fp8 with one fixed scale for each activation tensor, measured in a short call of the pipeline.

A scale that each product works out anew needs one more pass over its input. With a fixed one, conversion to fp8 joins
whatever computes the input. See "FP8 Formats for Deep Learning" (Micikevicius et al., 2022).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEADROOM = 1.5
"""Ratio of the largest activation that is not cut off to the largest one seen. It costs half a bit of the range of fp8,
and no precision of what is not close to zero."""

MIN_SCALE = 1e-6
"""The least scale: SDXL encodes an empty negative prompt as zeros, and 0/0 is NaN."""

CALIBRATION_PROMPT = "a photo of an old fisherman beside the words OPEN DAILY in red on a bakery's window, fog, 35 mm"
CALIBRATION_STEPS = 12
"""With few steps the last one still sees much noise: half at the last of 4 steps of FLUX.1, a fifth at that of 12."""

CALIBRATION_FRAMES = 17
"""One more than a multiple of 4 and 8, by which VAEs of videos commonly compress time."""


def use_static_fp8(pipe: Any, chosen: Mapping[Any, Sequence[str]]) -> None:
    """Quantize linear layers in place, which are given by name for each denoiser.

    The pipeline is called once to see their inputs. A layer that has none stays as it is.
    """
    layers = [denoiser.get_submodule(name) for denoiser, names in chosen.items() for name in names]
    if not layers:
        return
    for layer, scale in input_scales(pipe, layers).items():
        quantize_statically(layer, scale)


def input_scales(pipe: Any, layers: Iterable[Any]) -> dict[Any, Any]:
    """Call the pipeline, and return the scale of each layer's input: the same tensor where the input is the same."""
    import torch

    largest: dict[Any, Any] = {}
    first_with: dict[Any, Any] = {}
    last: list[Any] = [None, None]  # an input, and the layer that was given it first

    def watch(layer: Any, given: tuple[Any, ...]) -> None:
        if given[0] is not last[0]:
            last[:] = [given[0], layer]
        first = first_with.setdefault(layer, last[1])
        seen = given[0].abs().amax().float()
        largest[first] = torch.maximum(largest.get(first, seen), seen)

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        with torch.no_grad():
            pipe(prompt=CALIBRATION_PROMPT, generator=torch.Generator().manual_seed(0), **short_call(pipe))
    finally:
        for hook in hooks:
            hook.remove()
    limit = torch.finfo(torch.float8_e4m3fn).max / HEADROOM
    scales = {layer: (value / limit).clamp_min(MIN_SCALE) for layer, value in largest.items()}
    return {layer: scales[first] for layer, first in first_with.items()}


def short_call(pipe: Any) -> dict[str, Any]:
    """Return the arguments of a call of few steps, and of few frames if it generates a video."""
    taken = inspect.signature(pipe.__call__).parameters
    frames = {name: CALIBRATION_FRAMES for name in ("num_frames", "frames") if name in taken}
    return {"num_inference_steps": CALIBRATION_STEPS, "output_type": "latent", **frames}


def quantize_statically(layer: Any, scale: Any) -> None:
    """Quantize the weight of a linear layer, and its input from now on."""
    import torch

    weight, limit = layer.weight.detach().float(), torch.finfo(torch.float8_e4m3fn).max
    weight_scale = (weight.abs().amax() / limit).clamp_min(MIN_SCALE)
    del layer.weight  # no parameter: the denoiser's type is that of its parameters
    layer.register_buffer("weight", (weight / weight_scale).clamp(-limit, limit).to(torch.float8_e4m3fn))
    layer.register_buffer("weight_scale", weight_scale)
    layer.register_buffer("input_scale", scale)
    layer.own_forward = layer.forward = types.MethodType(multiply_in_fp8, layer)


def multiply_in_fp8(layer: Any, given: Any) -> Any:
    """Multiply an input, converted to fp8, by a layer's weight."""
    import torch

    # No global: dynamo does not know those of a file that is run by its path.
    limit = torch.finfo(torch.float8_e4m3fn).max
    rows = (given.float() / layer.input_scale).clamp(-limit, limit).to(torch.float8_e4m3fn)
    rows = rows.reshape(-1, rows.shape[-1]).contiguous()  # a GPU multiplies no other layout
    product = torch._scaled_mm(
        rows, layer.weight.t(), scale_a=layer.input_scale, scale_b=layer.weight_scale,
        bias=layer.bias, out_dtype=given.dtype, use_fast_accum=True,
    )  # fmt: skip
    return product.reshape(*given.shape[:-1], layer.out_features)
