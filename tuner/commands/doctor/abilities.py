"""Check which features work on this machine, asked of every knob for well-known pipelines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from tuner.commands.doctor.records import Ability
from tuner.commands.reasons import group_by_reason
from tuner.errors import TunerError
from tuner.knobs import KNOBS, Knob
from tuner.model.architecture import describe
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.records.text import format_value

WELL_KNOWN: Mapping[str, Mapping[str, str]] = {
    "FluxPipeline": {"transformer": "FluxTransformer2DModel"},
    "Flux2Pipeline": {"transformer": "Flux2Transformer2DModel"},
    "StableDiffusion3Pipeline": {"transformer": "SD3Transformer2DModel"},
    "StableDiffusionXLPipeline": {"unet": "UNet2DConditionModel", "scheduler": "EulerDiscreteScheduler"},
    "QwenImagePipeline": {"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage"},
    "ZImagePipeline": {"transformer": "ZImageTransformer2DModel"},
    "SanaPipeline": {"transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC"},
    "PixArtSigmaPipeline": {"transformer": "PixArtTransformer2DModel", "scheduler": "DPMSolverMultistepScheduler"},
    "WanPipeline": {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"},
    "LTXPipeline": {"transformer": "LTXVideoTransformer3DModel", "vae": "AutoencoderKLLTXVideo"},
}
"""Pipeline classes and their components that stand for all pipelines."""

COMMON_COMPONENTS = {"scheduler": "FlowMatchEulerDiscreteScheduler", "vae": "AutoencoderKL"}

ABILITIES = (
    ("torch.compile", "compile.scope", r"regional|full"),
    ("TensorRT", "compile.backend", r"tensorrt"),
    ("CUDA graphs", "compile.mode", r"reduce-overhead|max-autotune"),
    ("tuned Triton kernels", "compile.mode", r"max-autotune.*"),
    ("bfloat16", "precision.dtype", r"bfloat16"),
    ("float16", "precision.dtype", r"float16"),
    ("int8 quantization", "quantization.scheme", r"int8.*"),
    ("int4 quantization", "quantization.scheme", r"(uint|int)4.*"),
    ("fp8 quantization", "quantization.scheme", r"(fp|float|mxfp)8.*"),
    ("fp4 quantization", "quantization.scheme", r"(fp|float|mxfp|nvfp)4.*"),
    ("cuDNN attention", "attention.backend", r"_native_cudnn"),
    ("cuDNN attention in fp8", "attention.backend", r"cudnn_fp8"),
    ("FlashAttention in torch", "attention.backend", r"_native_flash"),
    ("FlashAttention 2", "attention.backend", r"flash"),
    ("FlashAttention 3", "attention.backend", r"_flash_3"),
    ("SageAttention", "attention.backend", r"sage"),
    ("xFormers attention", "attention.backend", r"xformers"),
    ("flex attention", "attention.backend", r"flex"),
    ("caches between steps", "cache.kind", r"(?!none$).*"),
)
"""Features: a name that people know, the knob, and a pattern of the knob's values."""


@cache
def well_known_architectures() -> tuple[Architecture, ...]:
    """Return the architectures of the well-known pipelines that the installed diffusers has."""
    architectures = []
    for name, components in WELL_KNOWN.items():
        try:
            architectures.append(describe(name, COMMON_COMPONENTS | dict(components)))
        except TunerError:
            continue
    return tuple(architectures)


def list_abilities(env: Environment) -> tuple[Ability, ...]:
    """List the features, and whether any well-known pipeline can use them here."""
    abilities = []
    for name, knob, pattern in ABILITIES:
        values = [value for value in KNOBS[knob].choices if re.fullmatch(pattern, str(value))] if knob in KNOBS else []
        if values:
            abilities.append(_ability(name, knob, values, env))
    return tuple(abilities)


def join_values(values: Iterable[Value]) -> str:
    """Join values for people, separated by commas."""
    return ", ".join(map(format_value, values))


def _ability(name: str, knob: str, values: Sequence[Value], env: Environment) -> Ability:
    reasons = {value: _unavailable_reason(KNOBS[knob], value, env) for value in values}
    usable = [value for value, reason in reasons.items() if reason is None]
    refused = {value: reason for value, reason in reasons.items() if reason is not None}
    if not usable:
        return Ability(name=name, works="no", why=next(iter(refused.values())))
    settings = f"{knob}={join_values(usable)}"
    if not refused:
        return Ability(name=name, works="yes", why=settings + _provider(knob, env))
    missing = [f"not {join_values(group)}: {reason}" for reason, group in group_by_reason(refused).items()]
    return Ability(name=name, works="partly", why="; ".join([settings, *missing]))


def _unavailable_reason(knob: Knob, value: Value, env: Environment) -> str | None:
    """Explain why no well-known pipeline can use a value here, or return None when one can.

    A reason that concerns the machine is preferred over one that names a pipeline class or its components.
    """
    about_machine: list[str] = []
    about_pipeline = ["the installed diffusers has no well-known pipeline"]
    for architecture in well_known_architectures():
        reason = knob.unavailable_reason(value, env, architecture)
        if reason is None:
            return None
        class_names = (architecture.pipeline_class, *architecture.components.values())
        names_pipeline = any(name in reason for name in class_names)
        (about_pipeline if names_pipeline else about_machine).append(reason)
    return (about_machine or about_pipeline[-1:])[0]


def _provider(knob: str, env: Environment) -> str:
    """Return the compiler or package that makes a knob work, if that is not torch alone."""
    if knob == "compile.scope":
        return f" (with {env.cpp_compiler})" if env.device == "cpu" else f" (Triton {env.libraries.get('triton')})"
    return f" (torchao {env.libraries.get('torchao')})" if knob == "quantization.scheme" else ""
