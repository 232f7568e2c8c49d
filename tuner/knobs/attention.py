"""The kernel that computes attention, through diffusers' dispatcher, and torch's implementation of flash attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code
from tuner.knobs.conditions import missing_capability, missing_package
from tuner.knobs.fp8_attention import CUDNN_FP8, HEAD_SIZE, MIN_KEYS, graph_for, use_fp8_attention
from tuner.knobs.text import denoises_unpadded
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


@dataclass(frozen=True)
class Backend:
    """The requirements of an attention backend.

    `package` is a distribution with its minimal version, `remedy` how to install it if not with pip. `min_capability`
    is the minimal compute capability, and `majors` are the GPU generations with a kernel (empty for any). An
    `approximate` backend computes in int8 or fp8. `refused` is the reason why the backend is never offered.
    """

    package: tuple[str, str] | None = None
    remedy: str = ""
    on_cpu: bool = False
    min_capability: float = 0.0
    majors: tuple[int, ...] = ()
    takes_float32: bool = False
    takes_mask: bool = False
    compiled_only: bool = False
    approximate: bool = False
    refused: str | None = None


FLASH_2 = ("flash-attn", "2.6.3")
FLASH_3 = ("flash-attn-3", "3.0.0b1")
FLASH_4 = ("flash-attn-4", "4.0.0b1")
SAGE = ("sageattention", "2.1.1")
BUILD_FLASH_3 = "build it from the folder hopper of github.com/Dao-AILab/flash-attention; fa3-fwd on PyPI is not it"
BUILD_SAGE = "build it from github.com/thu-ml/SageAttention; PyPI has only 1.0.6"
PRE_RELEASE = "pip install --pre flash-attn-4"

FROM_HUB = "it runs code downloaded from the Hub when it is set, and this project runs no remote code"
READS_LENGTHS = "it reads each sequence's length back from the GPU in every attention call, and the CPU waits"
OTHER_DEVICE = "it is for other accelerators than NVIDIA GPUs and CPUs"

BACKENDS: Mapping[str, Backend] = {
    "native": Backend(on_cpu=True, takes_float32=True, takes_mask=True),
    "_native_flash": Backend(on_cpu=True, min_capability=8.0),
    "_native_cudnn": Backend(min_capability=8.0, takes_mask=True),
    "_native_efficient": Backend(takes_float32=True, takes_mask=True),
    "_native_math": Backend(on_cpu=True, takes_float32=True, takes_mask=True),
    "flex": Backend(on_cpu=True, takes_float32=True, compiled_only=True),
    "flash": Backend(FLASH_2, min_capability=8.0),
    "_flash_3": Backend(FLASH_3, BUILD_FLASH_3, min_capability=9.0, majors=(9,)),
    "xformers": Backend(("xformers", "0.0.29"), min_capability=7.0, takes_float32=True, takes_mask=True),
    "sage": Backend(SAGE, BUILD_SAGE, min_capability=8.0, majors=(8, 9, 12), approximate=True),
    "_sage_qk_int8_pv_fp16_triton": Backend(SAGE, BUILD_SAGE, min_capability=8.0, approximate=True),
    "_sage_qk_int8_pv_fp16_cuda": Backend(SAGE, BUILD_SAGE, min_capability=8.0, majors=(8, 9, 12), approximate=True),
    "_sage_qk_int8_pv_fp8_cuda": Backend(SAGE, BUILD_SAGE, min_capability=9.0, majors=(9, 12), approximate=True),
    "_sage_qk_int8_pv_fp8_cuda_sm90": Backend(SAGE, BUILD_SAGE, min_capability=9.0, majors=(9,), approximate=True),
    "flash_varlen": Backend(FLASH_2, refused=READS_LENGTHS),
    "_flash_varlen_3": Backend(FLASH_3, refused=READS_LENGTHS),
    "sage_varlen": Backend(SAGE, approximate=True, refused=READS_LENGTHS),
    "flash_hub": Backend(refused=FROM_HUB),
    "flash_varlen_hub": Backend(refused=FROM_HUB),
    "_flash_3_hub": Backend(refused=FROM_HUB),
    "_flash_3_varlen_hub": Backend(refused=FROM_HUB),
    "flash_4_hub": Backend(refused=FROM_HUB),
    "aiter_fa2_hub": Backend(refused=FROM_HUB),
    "sage_hub": Backend(approximate=True, refused=FROM_HUB),
    "sage_blackwell_hub": Backend(approximate=True, refused=FROM_HUB),
    "_native_npu": Backend(refused=OTHER_DEVICE),
    "_native_xla": Backend(refused=OTHER_DEVICE),
    CUDNN_FP8: Backend(("nvidia-cudnn-frontend", "1.18"), min_capability=9.0, majors=(9, 10), approximate=True),
}
"""Every backend of diffusers 0.42's models/attention_dispatch.py, and those of this package."""

OWN = (CUDNN_FP8,)
"""The backends that this package adds to diffusers' dispatcher."""

MASKED = frozenset((
    "ChromaTransformer2DModel", "ErnieImageTransformer2DModel", "HunyuanImageTransformer2DModel",
    "HunyuanVideo15Transformer3DModel", "HunyuanVideoTransformer3DModel", "Ideogram4Transformer2DModel",
    "LTX2VideoTransformer3DModel", "LTXVideoTransformer3DModel", "PRXTransformer2DModel",
    "QwenImage21Transformer2DModel", "SanaVideoTransformer3DModel",
))  # fmt: skip
"""Denoisers that pass a mask to attention in every call."""

MASKED_IN_BATCHES = frozenset(("QwenImageTransformer2DModel", "ZImageTransformer2DModel"))
"""Denoisers that pass a mask when prompts of different lengths share a call.

Z-Image also does at batch 1 if guidance combines a prompt of over 32 tokens with the empty one. Such a trial fails with
a named reason.
"""


class AttentionBackend(Knob):
    """The kernel that diffusers' attention dispatcher calls; `native` lets torch choose.

    `cudnn_fp8` computes in 8 bits where attention has heads of 128 numbers and 2,048 keys or more.
    """

    name = "attention.backend"
    choices = tuple(BACKENDS)
    order = 32  # after quantization: a call that calibrates it has torch choose
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        known = isinstance(value, str) and value in BACKENDS
        return None if known else f"must be native or another of the {len(BACKENDS)} attention backends"

    def changes_image(self, value: Value) -> bool:
        return BACKENDS[str(value)].approximate

    def computes_otherwise(self, value: Value) -> bool:
        return BACKENDS[str(value)].approximate

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "native":
            return None
        backend = BACKENDS[str(value)]
        if backend.refused:
            return backend.refused
        if not all(denoiser.dispatches_attention for denoiser in architecture.denoisers):
            return f"{architecture.pipeline_class} does not call diffusers' attention dispatcher"
        masked = [denoiser.class_name for denoiser in architecture.denoisers if denoiser.class_name in MASKED]
        if masked and not backend.takes_mask:
            return f"{masked[0]} passes a mask to attention, which {value} does not support"
        if environment.device == "cuda" or not backend.on_cpu:
            reason = missing_capability(environment, backend.min_capability, str(value), backend.majors)
            if reason:
                return reason
        return missing_package(environment, *backend.package, backend.remedy) if backend.package else None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        name = str(values.get(self.name, "native"))
        backend = BACKENDS[name]
        if backend.compiled_only and values["compile.scope"] == "none":
            return f"{name} attention is only fast, and only supported, when compiled"
        if name == CUDNN_FP8 and denoises_unpadded(architecture.pipeline_class):
            return "prompts are not padded, and cuDNN builds a graph for each length"
        if not backend.takes_float32 and values.get("precision.dtype") == "float32":
            return f"{name} has no float32 kernel"
        batched = [d.class_name for d in architecture.denoisers if d.class_name in MASKED_IN_BATCHES]
        if batched and not backend.takes_mask and int(values.get("batch", 1)) > 1:
            return f"{batched[0]} masks prompts of different lengths in one call, which {name} does not support"
        return None

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        modules = [module for part in denoisers(pipe) for module in part.modules()]
        own = [backend_of(module) for module in modules if getattr(module, "processor", None) is not None]
        return bool(own) and all(backend == values[self.name] for backend in own)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        backend = str(values[self.name])
        for denoiser in denoisers(pipe):
            if backend == CUDNN_FP8:
                use_fp8_attention(denoiser)
            else:
                denoiser.set_attention_backend(backend)
        changed = [module for part in denoisers(pipe) for module in part.modules() if backend_of(module) == backend]
        if not changed:
            raise NoEffect(f"no attention processor took the backend {backend}")
        return f"{len(changed)} attention processors use {backend}"

    def idle_reason(self, pipe: Any, values: Mapping[str, Value]) -> str | None:
        if values[self.name] != CUDNN_FP8 or graph_for.cache_info().currsize:
            return None
        return f"no attention has {MIN_KEYS} keys or more and heads of {HEAD_SIZE}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        package = BACKENDS[str(values[self.name])].package
        needs = (package[0],) if package else ()
        if values[self.name] == CUDNN_FP8:
            return for_each_denoiser("use_fp8_attention(denoiser)", carried=(use_fp8_attention,), needs=needs)
        return for_each_denoiser(f"denoiser.set_attention_backend({values[self.name]!r})", needs=needs)


def backend_of(module: Any) -> str | None:
    """Return the backend of a module's attention processor, or None: it has none of its own."""
    return getattr(getattr(module, "processor", None), "_attention_backend", None)


IMPLEMENTATIONS: Mapping[str, tuple[tuple[str, str], str, tuple[int, ...]]] = {
    "FA3": (FLASH_3, BUILD_FLASH_3, (9,)),
    "FA4": (FLASH_4, PRE_RELEASE, (9, 10)),
}
"""Implementations that torch.nn.attention can activate: package, remedy, and GPU generations."""


class FlashImplementation(Knob):
    """The implementation of torch's flash attention: its own FlashAttention 2, or an installed FA3 or FA4."""

    name = "attention.flash_impl"
    choices = ("default", *IMPLEMENTATIONS)
    order = 19

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "default":
            return None
        package, remedy, majors = IMPLEMENTATIONS[str(value)]
        return missing_capability(environment, 9.0, str(value), majors) or missing_package(
            environment, *package, remedy
        )

    def is_active(self, values: Mapping[str, Value]) -> bool:
        # `native` prefers cuDNN to flash on the GPUs that have an FA3 or FA4.
        return values.get("attention.backend") == "_native_flash"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from torch.nn import attention

        wanted = str(values[self.name])
        attention.activate_flash_attention_impl(wanted)
        active = attention.current_flash_attention_impl()
        if active != wanted:
            raise NoEffect(f"torch's flash attention is still {active or 'its own'}")
        return f"torch's flash attention is {wanted}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        (package, _), _, _ = IMPLEMENTATIONS[str(values[self.name])]
        line = f"attention.activate_flash_attention_impl({values[self.name]!r})"
        return Code((line,), ("from torch.nn import attention",), needs=(package,))
