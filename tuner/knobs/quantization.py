"""Fewer bits for the weights, and perhaps the activations, of the denoiser's linear layers."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tuner.errors import Unavailable
from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser, invalid_choice_reason
from tuner.knobs.code import Code
from tuner.knobs.conditions import capability, missing_capability, missing_package
from tuner.knobs.torchao_configs import CONFIGS, INT4_GROUP, avoid_int8pack
from tuner.knobs.user_weights import unreadable_reason
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

BLOCK = re.compile(r"(^|\.)(\w*blocks|\w*layers|\w*refiner|attentions)\.\d+\.")
"""Matches names of modules in a denoiser's repeated blocks, in all model families."""

KEPT = re.compile(r"norm|emb|mod\b|modulation|adaln|guidance|router|lora", re.IGNORECASE)
"""Matches embedders, modulation and the like. Their products have one row per image, which int8 kernels refuse, or
little work."""

SHORT_TEXT = re.compile(r"\.(add_[qkv]_proj|to_add_out|txt_mlp)\b")
"""Matches layers that see text tokens only."""

UNPADDED_TEXT = frozenset({"QwenImageTransformer2DModel"})
"""Denoisers that get prompts without padding. A short prompt may have 16 rows or fewer, which int8 kernels refuse."""


@dataclass(frozen=True)
class Scheme:
    """The requirements of a scheme.

    `min_capability` is the minimal compute capability. `dtypes` are the types that its kernels support (empty for any).
    A `dynamic` scheme scales activations at each product, which is only cheap when compiled. Both sides of a layer must
    be multiples of 16. Its input must be a multiple of `group`, the number of weights that share a scale.
    `tensor_package` is the package that the type of the quantized weights comes from.
    """

    package: tuple[str, str]
    min_capability: float = 0.0
    on_cpu: bool = False
    dtypes: tuple[str, ...] = ()
    dynamic: bool = False
    group: int = 16
    tensor_package: str = "torchao"


TORCHAO = ("torchao", "0.18")
HALVES = ("bfloat16", "float16")
BFLOAT16 = ("bfloat16",)

SCHEMES: Mapping[str, Scheme] = {
    "int8-weight-only": Scheme(TORCHAO, on_cpu=True),
    "int8-dynamic": Scheme(TORCHAO, min_capability=8.0, on_cpu=True, dynamic=True),
    "fp8-weight-only": Scheme(TORCHAO, min_capability=8.9),
    "fp8-dynamic-row": Scheme(TORCHAO, min_capability=8.9, dtypes=BFLOAT16, dynamic=True),
    "fp8-dynamic-tensor": Scheme(TORCHAO, min_capability=8.9, dtypes=HALVES, dynamic=True),
    "int4-weight-only": Scheme(TORCHAO, min_capability=8.0, dtypes=BFLOAT16, group=INT4_GROUP),
    "mxfp8": Scheme(TORCHAO, min_capability=10.0, dtypes=BFLOAT16, dynamic=True, group=32),
    "nvfp4": Scheme(TORCHAO, min_capability=10.0, dtypes=BFLOAT16, dynamic=True),
    "bnb-nf4": Scheme(("bitsandbytes", "0.46"), min_capability=6.0, group=64, tensor_package="bitsandbytes"),
    "quanto-int8": Scheme(("optimum-quanto", "0.2.6"), on_cpu=True, tensor_package="optimum"),
}

NUNCHAKU = "Nunchaku runs only weights that it quantized itself: tune a pipeline that holds them, as its own baseline"
"""diffusers would also take its kernels from the Hub. `nunchaku` on PyPI is another package."""


class QuantizationScheme(Knob):
    """Fewer bits for the weights, or weights and activations, of the linear layers in the denoiser's blocks.

    Embedders, modulation (products of one row) and the last projection keep their type: see `quantizable`.
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
        return missing_package(environment, *scheme.package)

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        name = str(values.get(self.name, "none"))
        scheme = SCHEMES.get(name)
        if scheme is None:
            return None
        if scheme.dtypes and values.get("precision.dtype") not in scheme.dtypes:
            return f"{name} needs {' or '.join(scheme.dtypes)} weights"
        if scheme.dynamic and values["compile.scope"] == "none":
            return "uncompiled, it scales activations in separate kernels and is slower than no quantization"
        if scheme.tensor_package != "torchao" and values.get("memory.group_offload"):
            return f"group offloading supports plain weights and torchao's, and those of {name} are neither"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        name = str(values[self.name])
        changed, total = 0, 0
        for denoiser in denoisers(pipe):
            suits = partial(quantizable, scheme=name, denoiser=type(denoiser).__name__)
            chosen = [layer for layer, module in linear_layers(denoiser) if suits(module, layer)]
            total += len(linear_layers(denoiser))
            if chosen:
                convert(denoiser, name, chosen)
            weights = (denoiser.get_submodule(layer).weight for layer in chosen)
            changed += sum(type(weight).__module__.split(".")[0] == SCHEMES[name].tensor_package for weight in weights)
        if not changed:
            raise NoEffect("no linear layer was quantized")
        return f"{changed} of {total} linear layers in {name}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        name = str(values[self.name])
        suits = f"has_kernels(module, name, group={SCHEMES[name].group})"
        carried: list[Any] = [has_kernels]
        if name == "int8-dynamic":
            suits = f"{suits} and not sees_short_text(type(denoiser).__name__, name)"
            carried.append(sees_short_text)
        lines = ["layers = [", "    name for name, module in denoiser.named_modules()", f"    if {suits}", "]"]
        needs = (SCHEMES[name].package[0],)
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


def linear_layers(model: Any) -> list[tuple[str, Any]]:
    """Return the linear layers of a model with their names."""
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def quantizable(module: Any, name: str, scheme: str = "int8-dynamic", denoiser: str = "") -> bool:
    """Return whether a scheme can quantize a module of a denoiser of this class.

    It must be a linear layer of the denoiser's blocks that is not quantized yet, multiplies many rows, and has sides
    that the kernels support.
    """
    if scheme == "int8-dynamic" and sees_short_text(denoiser, name):
        return False
    return has_kernels(module, name, SCHEMES[scheme].group)


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


def convert(denoiser: Any, scheme: str, layers: list[str]) -> None:
    """Quantize the linear layers of these names in place, on the device that they are on."""
    if scheme in OTHER_LIBRARIES:
        OTHER_LIBRARIES[scheme](denoiser, layers)
        return
    from torchao.quantization import quantize_

    if scheme == "int8-weight-only" and denoiser.device.type == "cuda":
        avoid_int8pack()
    names = set(layers)
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


UNPACKED_ONLY: tuple[tuple[str, Value, str], ...] = (
    ("fuse_qkv", False, "packed weights cannot be fused"),
    ("lora.file", "none", "a LoRA cannot be fused into packed weights"),
    ("memory.layerwise_casting", False, "packed weights are stored in few bits already"),
    ("compile.backend", "inductor", "only inductor compiles what unpacks the weights"),
)
"""Knobs that need plain weights: name, baseline value, and why others cannot be combined with a .gguf file."""


class GgufFile(Knob):
    """The denoiser's weights from a .gguf file instead of the pipeline's own: `none`, or the file's absolute path."""

    name = "quantization.gguf_file"
    choices = ("none",)
    user_supplied = True
    may_change_image = True
    order = 1  # the file brings a new denoiser, which everything else is then applied to
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        if not invalid_choice_reason(value, self.choices):
            return None
        is_path = isinstance(value, str) and value.endswith(".gguf") and os.path.isabs(value)  # noqa: PTH117
        return None if is_path else "must be none or the absolute path of a .gguf file"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        if len(architecture.denoisers) > 1:
            return f"{architecture.pipeline_class} has two denoisers, and a file holds one"
        for denoiser in architecture.denoisers:
            if denoiser.class_name not in single_file_classes():
                return f"diffusers reads no single file of a {denoiser.class_name}"
        return invalid_gguf_reason(str(value)) or missing_package(environment, "gguf", "0.10")

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values.get("quantization.scheme", "none") == "none"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name, "none") == "none":
            return None
        reasons = (why for name, untouched, why in UNPACKED_ONLY if values.get(name, untouched) != untouched)
        return next(reasons, None)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        file = str(values[self.name])
        problem = invalid_gguf_reason(file)
        if problem:
            raise Unavailable(problem)
        load_gguf(pipe, file)
        (new,) = denoisers(pipe)
        packed = sum(hasattr(parameter, "quant_type") for parameter in new.parameters())
        if not packed:
            raise NoEffect(f"{file} holds no quantized weights")
        return f"{packed} packed weights from {Path(file).name}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code((f"load_gguf(pipe, {values[self.name]!r})",), carried=(load_gguf,), needs=("gguf",))


def load_gguf(pipe: Any, file: str) -> None:
    """Load the pipeline's denoiser anew, from a .gguf file."""
    from diffusers import GGUFQuantizationConfig

    (old,) = denoisers(pipe)
    dtype, device = old.dtype, old.device
    with tempfile.TemporaryDirectory() as folder:
        old.save_config(folder)  # without it diffusers guesses the configuration, and asks the Hub for it
        new = type(old).from_single_file(
            file, config=folder, dtype=dtype, local_files_only=True,
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        )  # fmt: skip
    component = next(name for name, part in pipe.components.items() if part is old)
    setattr(pipe, component, new)
    del old  # one of the two on the GPU is enough
    new.to(device).eval()


def invalid_gguf_reason(file: str) -> str | None:
    """Return why a path is no readable GGUF file on this machine, or None."""
    problem = unreadable_reason(file)
    if problem:
        return problem
    try:
        with open(file, "rb") as opened:  # noqa: PTH123  (any string, of any length)
            return None if opened.read(4) == b"GGUF" else f"{file} is no GGUF file"
    except (OSError, ValueError) as error:
        return f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"


@cache
def single_file_classes() -> frozenset[str]:
    """Return the classes that diffusers loads from single files, as its source lists them."""
    return frozenset(re.findall(r'^    "(\w+)": \{', class_source("loaders", "FromOriginalModelMixin"), re.MULTILINE))
