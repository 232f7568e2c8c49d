"""Quantization of the denoiser's linear layers through torchao."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.record import Architecture, Environment, Value

SCHEMES = ("none", "int8-weight-only", "int8-dynamic", "fp8-weight-only", "fp8-dynamic-row", "fp8-dynamic-tensor")


class QuantizationScheme(Knob):
    """Embedders, modulation (products of one row) and the last projection keep their type: see `quantizable`."""

    name = "quantization.scheme"
    choices = SCHEMES
    image = True
    order = 30

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        if not environment.libraries.get("torchao"):
            return "torchao is not installed (pip install torchao)"
        if str(value).startswith("fp8"):
            if environment.device == "cpu":
                return "fp8 arithmetic needs a GPU of compute capability 8.9 or newer"
            if float(environment.compute_capability or 0) < 8.9:
                return f"fp8 arithmetic needs compute capability 8.9, this GPU has {environment.compute_capability}"
        return None

    def conflict(self, values: Mapping[str, Value]) -> str | None:
        scheme = str(values.get(self.name, "none"))
        if scheme == "fp8-dynamic-row" and values.get("precision.dtype") != "bfloat16":
            return "fp8 per row needs bfloat16 weights"
        if scheme not in ("none", "int8-weight-only") and values["compile.scope"] == "none":
            return "uncompiled, it scales activations in kernels of their own and is slower than no quantization"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from torchao.quantization import quantize_

        changed, total = 0, 0
        for denoiser in denoisers(pipe):
            quantize_(denoiser, torchao_config(str(values[self.name])), filter_fn=quantizable)
            linear = linear_layers(denoiser)
            total += len(linear)
            changed += sum(type(module.weight).__module__.startswith("torchao") for _, module in linear)
        if not changed:
            raise NoEffect("no linear layer was quantized")
        return f"{changed} of {total} linear layers in {values[self.name]}"


def linear_layers(model: Any) -> list[tuple[str, Any]]:
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def quantizable(module: Any, name: str) -> bool:
    """Linear layers inside the blocks whose sides suit the int8 and fp8 kernels (multiples of 16)."""
    import torch

    if not isinstance(module, torch.nn.Linear) or "blocks." not in name or name == "proj_out":
        return False
    inside = name.split("blocks.", 1)[1]
    if any(part in inside for part in ("norm", "embed")):
        return False
    return bool(module.in_features % 16 == 0 and module.out_features % 16 == 0)


def torchao_config(scheme: str) -> Any:
    """torchao's configuration for a scheme, with its habit of rewriting inductor's flags switched off."""
    from torchao import quantization as ao

    table: dict[str, Any] = {
        "int8-weight-only": lambda: ao.Int8WeightOnlyConfig(set_inductor_config=False),
        "int8-dynamic": lambda: ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
        "fp8-weight-only": lambda: ao.Float8WeightOnlyConfig(set_inductor_config=False),
        "fp8-dynamic-row": lambda: ao.Float8DynamicActivationFloat8WeightConfig(
            granularity=ao.PerRow(), set_inductor_config=False
        ),
        "fp8-dynamic-tensor": lambda: ao.Float8DynamicActivationFloat8WeightConfig(
            granularity=ao.PerTensor(), set_inductor_config=False
        ),
    }
    return table[scheme]()
