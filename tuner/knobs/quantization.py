"""Fewer bits for the weights, and perhaps the activations, of the denoiser's linear layers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code
from tuner.knobs.conditions import capability, missing_capability, missing_package
from tuner.knobs.static_fp8 import use_static_fp8
from tuner.knobs.torchao_configs import CONFIGS, INT4_GROUP, avoid_int8pack
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

BLOCK = re.compile(r"(^|\.)(\w*blocks|\w*layers|\w*refiner|attentions)\.\d+\.")
"""Matches names of modules in a denoiser's repeated blocks, in all model families."""

KEPT = re.compile(r"norm|emb|mod\b|modulation|adaln|guidance|router|lora", re.IGNORECASE)
"""Matches embedders, modulation and the like. Their products have one row per image, which int8 kernels refuse, or
little work."""

BETWEEN_BLOCKS = re.compile(r"\battentions\.\d+\.proj_(in|out)$")
"""Matches layers around a UNet's repeated blocks. Compiled block by block, it runs them uncompiled, where converting
their input would take kernels of its own."""

SHORT_TEXT = re.compile(r"\.(add_[qkv]_proj|to_add_out|txt_mlp)\b")
"""Matches layers that see text tokens only."""

UNPADDED_TEXT = frozenset({"QwenImageTransformer2DModel"})
"""Denoisers that get prompts without padding. A short prompt may have 16 rows or fewer, which int8 kernels refuse."""


@dataclass(frozen=True)
class Scheme:
    """The requirements of a scheme.

    `min_capability` is the minimal compute capability. `dtypes` are the types that its kernels support (empty for any).
    One that is `of_activations` converts them before each product, which is only cheap when compiled. Both sides must
    be multiples of 16. Its input must be a multiple of `group`, the number of weights that share a scale.
    `tensor_package` is the package that the type of the quantized weights comes from.
    """

    package: tuple[str, str] | None
    min_capability: float = 0.0
    on_cpu: bool = False
    dtypes: tuple[str, ...] = ()
    of_activations: bool = False
    group: int = 16
    tensor_package: str = "torchao"


TORCHAO = ("torchao", "0.18")
HALVES = ("bfloat16", "float16")
BFLOAT16 = ("bfloat16",)
STATIC = "fp8-static-tensor"

SCHEMES: Mapping[str, Scheme] = {
    "int8-weight-only": Scheme(TORCHAO, on_cpu=True),
    "int8-dynamic": Scheme(TORCHAO, min_capability=8.0, on_cpu=True, of_activations=True),
    "fp8-weight-only": Scheme(TORCHAO, min_capability=8.9),
    "fp8-dynamic-row": Scheme(TORCHAO, min_capability=8.9, dtypes=BFLOAT16, of_activations=True),
    "fp8-dynamic-tensor": Scheme(TORCHAO, min_capability=8.9, dtypes=HALVES, of_activations=True),
    STATIC: Scheme(None, min_capability=8.9, on_cpu=True, dtypes=HALVES, of_activations=True, tensor_package="torch"),
    "int4-weight-only": Scheme(TORCHAO, min_capability=8.0, dtypes=BFLOAT16, group=INT4_GROUP),
    "mxfp8": Scheme(TORCHAO, min_capability=10.0, dtypes=BFLOAT16, of_activations=True, group=32),
    "nvfp4": Scheme(TORCHAO, min_capability=10.0, dtypes=BFLOAT16, of_activations=True),
    "bnb-nf4": Scheme(("bitsandbytes", "0.46"), min_capability=6.0, group=64, tensor_package="bitsandbytes"),
    "quanto-int8": Scheme(("optimum-quanto", "0.2.6"), on_cpu=True, tensor_package="optimum"),
}

NUNCHAKU = "Nunchaku runs only weights that it quantized itself: tune a pipeline that holds them, as its own baseline"
"""diffusers would also take its kernels from the Hub. `nunchaku` on PyPI is another package."""


class QuantizationScheme(Knob):
    """Fewer bits for the weights, or weights and activations, of the linear layers in the denoiser's blocks.

    Embedders, modulation (products of one row) and the last projection keep their type: see `quantizable`.
    `fp8-static-tensor` takes the scales of activations from a call of a few steps when the pipeline is built.
    """

    name = "quantization.scheme"
    choices = ("none", *SCHEMES, "nunchaku")
    may_change_image = True
    order = 30
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        if value == "nunchaku":
            hopper = int(capability(environment)) == 9
            return f"Nunchaku has no kernels for compute capability {capability(environment)}" if hopper else NUNCHAKU
        scheme = SCHEMES[str(value)]
        if environment.device == "cuda" or not scheme.on_cpu:
            reason = missing_capability(environment, scheme.min_capability, f"{value} arithmetic")
            if reason:
                return reason
        if value == "bnb-nf4" and environment.libraries.get("kernels"):
            return "bitsandbytes runs code downloaded from the Hub where it finds kernels (pip uninstall kernels)"
        return missing_package(environment, *scheme.package) if scheme.package else None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        name = str(values.get(self.name, "none"))
        scheme = SCHEMES.get(name)
        if scheme is None:
            return None
        if scheme.dtypes and values.get("precision.dtype") not in scheme.dtypes:
            return f"{name} needs {' or '.join(scheme.dtypes)} weights"
        if scheme.of_activations and values["compile.scope"] == "none":
            return "uncompiled, it converts activations in separate kernels and is slower than no quantization"
        if scheme.tensor_package != "torchao" and values.get("memory.group_offload"):
            return f"group offloading supports plain weights and torchao's, and those of {name} are neither"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        name = str(values[self.name])
        chosen = {
            denoiser: [
                layer
                for layer, module in linear_layers(denoiser)
                if quantizable(module, layer, name, type(denoiser).__name__)
            ]
            for denoiser in denoisers(pipe)
        }
        total = sum(len(linear_layers(denoiser)) for denoiser in chosen)
        convert(pipe, name, chosen)
        weights = [denoiser.get_submodule(layer).weight for denoiser, layers in chosen.items() for layer in layers]
        changed = sum(is_converted(weight, name) for weight in weights)
        if not changed:
            raise NoEffect("no linear layer was quantized")
        return f"{changed} of {total} linear layers in {name}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        name = str(values[self.name])
        criteria = criteria_code(name)
        carried = list(criteria.values())
        conditions = [f"    if {text}" for text in criteria]
        if name == STATIC:
            return static_code(conditions, carried)
        lines = ["layers = [", "    name for name, module in denoiser.named_modules()", *conditions, "]"]
        package = SCHEMES[name].package
        needs = (package[0],) if package else ()
        if name in OTHER_LIBRARIES:
            library = OTHER_LIBRARIES[name]
            lines.append(f"{library.__name__}(denoiser, layers)")
            return for_each_denoiser(*lines, carried=(*carried, library), needs=needs)
        if name == "int8-weight-only":
            lines += ['if denoiser.device.type == "cuda":', "    avoid_int8pack()"]
            carried.append(avoid_int8pack)
        lines.append(f"config = {CONFIGS[name].__name__}()")
        lines.append("quantize_(denoiser, config, filter_fn=lambda _, name: name in layers)")
        imports = ("from torchao.quantization import quantize_",)
        return for_each_denoiser(*lines, imports=imports, carried=(*carried, CONFIGS[name]), needs=needs)


def criteria_code(scheme: str) -> dict[str, Any]:
    """Return the conditions of `quantizable` over `denoiser`, `module` and its `name`, with the functions they call."""
    criteria: dict[str, Any] = {f"has_kernels(module, name, group={SCHEMES[scheme].group})": has_kernels}
    if scheme == "int8-dynamic":
        criteria["not sees_short_text(type(denoiser).__name__, name)"] = sees_short_text
    if SCHEMES[scheme].of_activations:
        criteria["not is_between_blocks(name)"] = is_between_blocks
    return criteria


def static_code(conditions: list[str], carried: list[Any]) -> Code:
    """Return code that quantizes layers with scales from a call of the pipeline."""
    lines = (
        "layers = {",
        "    denoiser: [",
        "        name",
        "        for name, module in denoiser.named_modules()",
        *(f"    {condition}" for condition in conditions),
        "    ]",
        "    for denoiser in denoisers(pipe)",
        "}",
        "use_static_fp8(pipe, layers)",
    )
    return Code(lines, carried=(denoisers, *carried, use_static_fp8))


def linear_layers(model: Any) -> list[tuple[str, Any]]:
    """Return the linear layers of a model with their names."""
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def quantizable(module: Any, name: str, scheme: str, denoiser: str) -> bool:
    """Return whether a scheme can quantize a module of a denoiser of this class.

    It must be a linear layer of the denoiser's blocks that is not quantized yet, multiplies many rows, and has sides
    that the kernels support.
    """
    return not is_left_out(name, scheme, denoiser) and has_kernels(module, name, SCHEMES[scheme].group)


def is_left_out(name: str, scheme: str, denoiser: str) -> bool:
    """Return whether a scheme leaves out the layers of this name in a denoiser of this class."""
    if scheme == "int8-dynamic" and sees_short_text(denoiser, name):
        return True
    return SCHEMES[scheme].of_activations and is_between_blocks(name)


def is_between_blocks(name: str) -> bool:
    """Return whether a layer of this name lies outside a UNet's repeated blocks."""
    return BETWEEN_BLOCKS.search(name) is not None


def sees_short_text(denoiser: str, name: str) -> bool:
    """Return whether a layer of a denoiser of this class may multiply too few rows for int8 kernels."""
    return denoiser in UNPADDED_TEXT and SHORT_TEXT.search(name) is not None


def has_kernels(module: Any, name: str, group: int) -> bool:
    """Return whether a module is a plain linear layer of a block, with many rows and sides that the kernels support."""
    import torch

    if type(module) is not torch.nn.Linear or type(module.weight) is not torch.nn.Parameter:
        return False
    return suits(name, module.out_features, module.in_features, group)


def suits(name: str, outputs: int, inputs: int, group: int) -> bool:
    """Return whether a linear layer of this name and these sides has many rows and sides that the kernels support."""
    in_block = BLOCK.search(name) is not None and KEPT.search(name) is None
    return in_block and outputs % 16 == 0 and inputs % group == 0


def convert(pipe: Any, scheme: str, chosen: Mapping[Any, list[str]]) -> None:
    """Quantize linear layers in place, which are given by name for each denoiser, on the device that they are on."""
    if scheme == STATIC:
        use_static_fp8(pipe, chosen)
        return
    for denoiser, layers in chosen.items():
        OTHER_LIBRARIES.get(scheme, partial(convert_with_torchao, scheme=scheme))(denoiser, layers)


def is_converted(weight: Any, scheme: str) -> bool:
    """Return whether a layer's weight is quantized."""
    if scheme == STATIC:
        return "float8" in str(weight.dtype)
    return type(weight).__module__.split(".")[0] == SCHEMES[scheme].tensor_package


def convert_with_torchao(denoiser: Any, layers: list[str], scheme: str) -> None:
    """Quantize linear layers in place with torchao."""
    from torchao.quantization import quantize_

    if scheme == "int8-weight-only" and denoiser.device.type == "cuda":
        avoid_int8pack()
    names = set(layers)
    if names:
        quantize_(denoiser, CONFIGS[scheme](), filter_fn=lambda _, name: name in names)


def convert_to_nf4(denoiser: Any, layers: list[str]) -> None:
    """Quantize linear layers to NF4 in place with bitsandbytes."""
    import torch

    bnb: Any = importlib.import_module("bitsandbytes")
    for name in layers:
        linear = denoiser.get_submodule(name)
        with torch.device("meta"):
            packed = bnb.nn.Linear4bit(
                linear.in_features, linear.out_features, linear.bias is not None,
                compute_dtype=linear.weight.dtype, quant_type="nf4",
            )  # fmt: skip
        packed.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=packed)
        packed.bias = linear.bias
        denoiser.set_submodule(name, packed.to(linear.weight.device).eval())  # moving is what packs the weight
        if packed.weight.quant_state is None:
            raise NoEffect(f"bitsandbytes left {name} unquantized")


def convert_with_quanto(denoiser: Any, layers: list[str]) -> None:
    """Quantize linear layers to int8 in place with optimum-quanto."""
    quanto: Any = importlib.import_module("optimum.quanto")
    quanto.quantize(denoiser, weights=quanto.qint8, include=layers)
    quanto.freeze(denoiser)


OTHER_LIBRARIES: Mapping[str, Callable[[Any, list[str]], None]] = {
    "bnb-nf4": convert_to_nf4,
    "quanto-int8": convert_with_quanto,
}
