"""A configuration as a command of vLLM-Omni, which has its own implementations of the pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tuner.export.cache_dit import FEWER_BLOCKS, dbcache_settings
from tuner.export.loading import folder
from tuner.export.sglang import command
from tuner.export.wording import Said, WordingTarget, Words, always, by_value
from tuner.knobs import call_arguments
from tuner.knobs.user_weights import load_arguments
from tuner.model import pipeline
from tuner.records.codec import Values
from tuner.result.records import BestConfig

ATTENTION = {
    "native": "TORCH_SDPA", "_native_cudnn": "CUDNN_ATTN", "flash": "FLASH_ATTN", "_flash_3": "FLASH_ATTN",
    "_native_flash": "FLASH_ATTN", "sage": "SAGE_ATTN",
}  # fmt: skip
OWN_LAYERS = "vLLM-Omni has kernels of its own, and quantizes every linear layer"
QUANTIZED = {
    "int8-dynamic": '{"method": "int8"}',
    "fp8-dynamic-row": '{"method": "fp8", "activation_scheme": "dynamic"}',
    "fp8-dynamic-tensor": '{"method": "fp8", "activation_scheme": "dynamic"}',
    "bnb-nf4": '{"method": "bitsandbytes"}',
}
OFFLOADED = '{"mode": "layer", "components": ["dit", "text_encoder"]}'


def cache(values: Values) -> Words | None:
    """Write DBCache, TeaCache or MagCache. The share of first steps that MagCache computes is diffusers' default."""
    threshold, skipped = values.get("cache.threshold"), values.get("cache.max_skip_steps")
    known: dict[str, tuple[str, dict[str, object], str]] = {
        "teacache": ("tea_cache", {"rel_l1_thresh": threshold}, "vLLM-Omni has coefficients of its own"),
        "mag": (
            "mag_cache", {"mag_threshold": threshold, "mag_max_skip_steps": skipped, "mag_retention_ratio": 0.2},
            "vLLM-Omni has ratios of its own",
        ),
    }  # fmt: skip
    if values["cache.kind"] == "dbcache":
        known["dbcache"] = ("cache_dit", dbcache_settings(values), FEWER_BLOCKS)
    if values["cache.kind"] not in known:
        return None
    backend, config, note = known[str(values["cache.kind"])]
    return Words({"--cache-backend": backend, "--cache-config": json.dumps(config)}, note)


def compiled(values: Values) -> Words | None:
    """Write the scope of compilation. vLLM-Omni compiles the repeated blocks for any size unless told otherwise."""
    scope = values["compile.scope"]
    if scope == "none":
        return Words({"--enforce-eager": True})
    dynamic = "--diffusion-compile-dynamic" if values.get("compile.dynamic") else "--no-diffusion-compile-dynamic"
    return Words({"--diffusion-compile-granularity": scope, dynamic: True})


def lora(values: Values) -> Words | None:
    """Write a LoRA that is loaded when the server starts; a file or a revision on the hub has no flag."""
    location, keywords = load_arguments(str(values["lora.file"]))
    note = "it is an adapter beside the weights, where a LoRA that is fused into them was measured"
    return None if keywords else Words({"--lora-path": location, "--lora-scale": values["lora.scale"]}, note)


class VllmOmni(WordingTarget):
    """The flags of `vllm serve MODEL --omni`."""

    name = "vllm-omni"
    title = "vLLM-Omni"
    version = "0.30.0"
    unchanged = ("compile.scope", "attention.backend", "precision.dtype")
    words = {  # noqa: RUF012
        "compile.scope": compiled,
        "compile.dynamic": lambda _: Words(),
        "attention.backend": by_value("attention.backend", "--diffusion-attention-backend", ATTENTION),
        "quantization.scheme": by_value(
            "quantization.scheme", "--diffusion-quantization-config", QUANTIZED, OWN_LAYERS
        ),
        "cache.kind": cache,
        "precision.dtype": lambda values: Words({"--dtype": values["precision.dtype"]}),
        "vae.tiling": always(**{"--vae-use-tiling": True}),
        "vae.slicing": always(**{"--vae-use-slicing": True}),
        "memory.group_offload": always(**{"--diffusion-offload-config": OFFLOADED}),
        "lora.file": lora,
        "steps": lambda _: Words(),
        "text.sequence_length": lambda _: Words(),
    }

    def body(self, best: BestConfig, said: Said) -> Iterator[str]:
        arguments = pipeline.call_arguments(best.workload, call_arguments(best.chosen.values), 1)
        known = {name: value for name, value in arguments.items() if name in SAMPLING}
        flags = {**said.data, "--default-sampling-params": json.dumps({"0": known})}
        revision = {"--revision": best.model.revision} if best.model.revision else {}
        yield command(["vllm", "serve", folder(best.model.source), "--omni"], {**revision, **flags})


SAMPLING = ("num_inference_steps", "guidance_scale", "height", "width", "num_frames", "max_sequence_length")
"""The sampling parameters of vLLM-Omni that are arguments of diffusers' pipelines too."""
