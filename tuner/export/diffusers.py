"""A configuration in diffusers' own terms: `PipelineQuantizationConfig`, caches and methods of its models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tuner.export.layers import denoisers, left_alone
from tuner.export.loading import folder
from tuner.export.python import makes_videos
from tuner.export.source import Carried
from tuner.export.wording import Said, WordingTarget, Words, attention_backend
from tuner.knobs import KNOBS, call_arguments
from tuner.knobs.code import assign, call
from tuner.knobs.torchao_configs import CONFIGS
from tuner.knobs.user_weights import load_arguments
from tuner.model import pipeline
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Values
from tuner.records.model import DENOISERS
from tuner.result.records import BestConfig

ALL_LAYERS = "the weights are not on this machine, so that every linear layer is quantized; export where they are"

HOOKS_INSIDE = (
    "diffusers compiles the cache's hooks into the blocks, which breaks graphs; --to python keeps them outside"
)
INT8PACK = "compiled on a GPU, torch takes a kernel without tensor cores, which --to python avoids"


def for_each(line: str) -> list[str]:
    """Write a line for each denoiser."""
    return ["for denoiser in denoisers:", f"    {line}"]


def lines(name: str, *texts: str) -> Words:
    """Return statements for a setting."""
    return Words({name: list(texts)})


def compiled(values: Values) -> Words | None:
    """Write torch.compile of the denoiser by diffusers' methods."""
    if values.get("compile.backend", "inductor") != "inductor" or values.get("graphs.scheduler_step"):
        return None
    arguments = {"mode": values.get("compile.mode", "default"), "dynamic": bool(values.get("compile.dynamic"))}
    method = "compile" if values["compile.scope"] == "full" else "compile_repeated_blocks"
    return lines("compile.scope", *for_each(call(f"denoiser.{method}", **arguments)))


def cache(values: Values) -> Words | None:
    """Write the caches that diffusers has as a configuration alone."""
    threshold, interval = values.get("cache.threshold"), values.get("cache.interval")
    configs = {
        "first-block": f"FirstBlockCacheConfig(threshold={threshold})",
        "taylorseer": f"TaylorSeerCacheConfig(cache_interval={interval}, use_lite_mode=True, "
        "taylor_factors_dtype=pipe.dtype)",
        "mag": f"MagCacheConfig(threshold={threshold}, max_skip_steps={values.get('cache.max_skip_steps')}, "
        f"num_inference_steps={values['steps']}, mag_ratios=FLUX_MAG_RATIOS)",
    }
    kind = str(values["cache.kind"])
    if kind not in configs:
        return None
    note = "the ratios are for this number of steps only" if kind == "mag" else ""
    return Words({"cache.kind": for_each(f"denoiser.enable_cache({configs[kind]})")}, note)


def lora(values: Values) -> Words | None:
    """Write a LoRA that is fused. Packed weights cannot take one in."""
    if values.get("quantization.scheme", "none") != "none":
        return None
    location, keywords = load_arguments(str(values["lora.file"]))
    load = call("pipe.load_lora_weights", location, **keywords)
    fuse = call("pipe.fuse_lora", lora_scale=float(values["lora.scale"]))
    return lines("lora.file", load, fuse, "pipe.unload_lora_weights()")


def tiny_vae(values: Values) -> Words | None:
    """Write an AutoencoderTiny in place of the VAE."""
    location, keywords = load_arguments(str(values["vae.tiny"]))
    load = call("AutoencoderTiny.from_pretrained", location, **keywords).removesuffix(")")
    return lines("vae.tiny", f"pipe.vae = {load}, dtype=pipe.vae.dtype).to(pipe.vae.device)")


def fused(values: Values) -> Words | None:
    """Write fused projections. diffusers quantizes while it loads, and packed weights cannot be fused then."""
    if values.get("quantization.scheme", "none") != "none":
        return None
    return lines("fuse_qkv", *for_each("denoiser.fuse_qkv_projections()"))


def quantized(values: Values) -> Words | None:
    """Mark the schemes that diffusers has; `Diffusers.say` writes them, since the layers depend on the model."""
    return Words({"quantization.scheme": []}) if values["quantization.scheme"] in {*CONFIGS, "bnb-nf4"} else None


class Diffusers(WordingTarget):
    """Python in diffusers' own terms: PipelineQuantizationConfig, caches, compile, attention backend."""

    name = "diffusers"
    title = "diffusers"
    version = "0.42"
    words = {  # noqa: RUF012
        "precision.dtype": lambda _: Words({"precision.dtype": []}),
        "quantization.scheme": quantized,
        "fuse_qkv": fused,
        "attention.backend": attention_backend(
            lambda name: lines("attention.backend", *for_each(f"denoiser.set_attention_backend({name!r})"))
        ),
        "vae.tiling": lambda _: lines("vae.tiling", "pipe.vae.enable_tiling()"),
        "vae.slicing": lambda _: lines("vae.slicing", "pipe.vae.enable_slicing()"),
        "vae.tiny": tiny_vae,
        "lora.file": lora,
        "memory.layerwise_casting": lambda _: lines(
            "memory.layerwise_casting",
            *for_each(
                "denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=denoiser.dtype)"
            ),
        ),
        "compile.scope": compiled,
        "compile.mode": lambda values: compiled(values) and Words(),
        "compile.dynamic": lambda values: compiled(values) and Words(),
        "cache.kind": cache,
        "steps": lambda _: Words({"steps": []}),
        "batch": lambda _: Words({"batch": []}),
        "text.sequence_length": lambda _: Words({"text.sequence_length": []}),
        "guidance.stop": lambda _: Words({"guidance.stop": []}),
        "guidance.truncation": lambda _: Words({"guidance.truncation": []}),
    }

    def say(self, best: BestConfig) -> Said:
        """Write every setting, and the quantization for the layers of this model."""
        said, values = super().say(best), best.chosen.values
        if {"compile.scope", "cache.kind"} <= said.data.keys():
            said.notes.append(f"compile.scope={values['compile.scope']}: {HOOKS_INSIDE}")
        if "quantization.scheme" in said.data:
            written, is_exact = quantization(best, str(values["quantization.scheme"]))
            said.data["quantization.scheme"] = written
            said.notes += [] if is_exact else [f"quantization.scheme: {ALL_LAYERS}"]
            if best.environment.device == "cuda" and values["quantization.scheme"] == "int8-weight-only":
                said.notes.append(f"quantization.scheme=int8-weight-only: {INT8PACK}")
        return said

    def body(self, best: BestConfig, said: Said) -> Iterator[str]:
        quantize = said.data.pop("quantization.scheme", [])
        ordered = sorted(said.data.items(), key=lambda item: KNOBS[item[0]].order)
        statements = [line for _, written in ordered for line in written]
        load = loading(best, is_quantized=bool(quantize))
        made = torchao_function(best) if quantize else []
        yield from imports([*quantize, *statements, load])
        yield from made
        yield ""
        yield from quantize
        yield load
        if any("denoisers" in line for line in statements):
            yield f"denoisers = [{', '.join(f'pipe.{name}' for name in denoiser_names(best))}]"
        yield from statements
        batch = best.chosen.batch
        arguments = pipeline.call_arguments(best.workload, call_arguments(best.chosen.values), batch)
        yield from assign("arguments", arguments)
        result = "frames" if makes_videos(best) else "images"
        yield f"# {result} = pipe([prompt] * {batch}, **arguments).{result}"


def loading(best: BestConfig, *, is_quantized: bool) -> str:
    """Write the statement that loads the pipeline."""
    model, dtype = best.model, f"dtype=torch.{best.chosen.values['precision.dtype']}"
    named = {name: getattr(model, name) for name in ("revision", "variant") if getattr(model, name)}
    parts = [repr(folder(model.base or model.source)), dtype, call("", **named)[1:-1]]
    parts += ["quantization_config=quantization_config"] * is_quantized
    load = f"{model.pipeline_class}.from_pretrained({', '.join(filter(None, parts))})"
    return f"pipe = {load}.to({best.environment.device!r})"


def imports(lines_: Sequence[str]) -> Iterator[str]:
    """Yield the imports that these lines need."""
    text = "\n".join(lines_)
    names = [name for name in dict.fromkeys(re.findall(r"\b[A-Z]\w+\b", text)) if is_of_diffusers(name)]
    yield "import torch"
    yield from (f"from diffusers import {name}" for name in sorted(names))
    if "FLUX_MAG_RATIOS" in text:
        yield "from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS"


def is_of_diffusers(name: str) -> bool:
    """Return whether a class is one of diffusers that a file may import from its top."""
    places = ("pipelines", "hooks", "models", "quantizers")
    return any(class_source(place, name) for place in places)


def denoiser_names(best: BestConfig) -> list[str]:
    """Return the names of the pipeline's denoisers, by its configuration or else by its source."""
    known = denoisers(best)
    if known is not None:
        return [denoiser.component for denoiser in known]
    source = class_source("pipelines", best.model.pipeline_class)
    return [name for name in DENOISERS if f"self.{name}(" in source][:1] or ["transformer"]


def torchao_function(best: BestConfig) -> list[str]:
    """Return the function that makes torchao's configuration, with what it needs."""
    scheme = str(best.chosen.values["quantization.scheme"])
    if scheme not in CONFIGS:
        return []
    carried = Carried()
    carried.add([CONFIGS[scheme]])
    return [*carried.imports, "", "", *carried.text().splitlines(), ""]  # it imports torchao itself


def quantization(best: BestConfig, scheme: str) -> tuple[list[str], bool]:
    """Return the lines of diffusers' quantization, and whether it takes the layers that were measured."""
    known = {each.component: left_alone(best, each, scheme) for each in denoisers(best) or ()}
    written, mapping = [], []
    for name in denoiser_names(best):
        written += assign(f"{name}_left_alone", known.get(name) or [])
        mapping.append(f"{name!r}: {one_config(best, scheme, f'{name}_left_alone')}")
    configs = [f"    {each}," for each in mapping]
    made = ["quantization_config = PipelineQuantizationConfig(quant_mapping={", *configs, "})"]
    return [*written, *made], all(known.get(name) is not None for name in denoiser_names(best))


def one_config(best: BestConfig, scheme: str, left_alone: str) -> str:
    """Write diffusers' configuration of the quantization of one denoiser."""
    if scheme == "bnb-nf4":
        dtype = f"torch.{best.chosen.values['precision.dtype']}"
        kind = f"load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype={dtype}"
        return f"BitsAndBytesConfig({kind}, llm_int8_skip_modules={left_alone})"
    return f"TorchAoConfig({CONFIGS[scheme].__name__}(), modules_to_not_convert={left_alone})"
