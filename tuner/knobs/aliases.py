"""Other names of values and of knobs: those with one meaning stand for it, those with several are explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tuner.errors import plain_word
from tuner.records.codec import Value
from tuner.records.text import shown

T = TypeVar("T")

Meanings = Mapping[str, str]
"""What each of several settings is for. A setting is a value, or NAME=VALUE of another knob."""


def by_word(table: Mapping[str, T]) -> dict[str, T]:
    """Return a table by single words, of one whose keys are words with one meaning."""
    return {word: meaning for words, meaning in table.items() for word in words.split()}


OFF = "none off no false disabled disable null never"
ON = "on yes true enabled enable always"

ALIASES: Mapping[str, Mapping[str, Value]] = {
    "compile.scope": by_word({
        "fullgraph wholegraph denoiser": "full",
        "region regions blocks block repeatedblocks": "regional",
        "eager": "none",
    }),
    "compile.backend": by_word({"trt torchtensorrt": "tensorrt", "torchinductor default": "inductor"}),
    "compile.mode": by_word({
        "normal": "default",
        "cudagraphs cudagraph": "reduce-overhead",
        "autotune": "max-autotune",
        "maxautotunenocudagraph": "max-autotune-no-cudagraphs",
    }),
    "attention.backend": by_word({
        "none default auto sdpa torch torchsdpa pytorch": "native",
        "flashattn flashattention flash2 flashattn2 flashattention2 fa2": "flash",
        "flashattn3 flashattention3 fa3": "_flash_3",
        "sdpaflash torchflash": "_native_flash",
        "cudnn sdpacudnn": "_native_cudnn",
        "fp8 cudnnfp8 fp8cudnn": "cudnn_fp8",
        "math sdpamath eager": "_native_math",
        "efficient memefficient sdpaefficient": "_native_efficient",
        "flexattention": "flex",
        "xformer": "xformers",
        "sageattention sageattn sageattention2 sage2": "sage",
    }),
    "attention.flash_impl": by_word({
        f"{OFF} auto fa2 flash2": "default",
        "flash3 flashattn3 flashattention3": "FA3",
        "flash4 flashattn4 flashattention4": "FA4",
    }),
    "precision.dtype": by_word({
        "bf16 torchbfloat16 torchbf16 brainfloat": "bfloat16",
        "fp16 f16 half torchfloat16 torchfp16 torchhalf": "float16",
        "fp32 f32 float full single torchfloat32 torchfp32 torchfloat": "float32",
    }),
    "quantization.scheme": by_word({
        "int4 int4wo uint4 w4a16 4bit": "int4-weight-only",
        "int8wo w8a16": "int8-weight-only",
        "int8dq int8dynamicactivation": "int8-dynamic",
        "fp8wo float8wo float8weightonly": "fp8-weight-only",
        "fp8row fp8perrow float8row float8dynamicrow": "fp8-dynamic-row",
        "fp8tensor fp8pertensor float8tensor float8dynamictensor": "fp8-dynamic-tensor",
        "fp8static float8static fp8statictensor float8statictensor": "fp8-static-tensor",
        "mxfloat8": "mxfp8",
        "fp4 float4": "nvfp4",
        "nf4 bnb bnb4bit bitsandbytes bitsandbytes4bit": "bnb-nf4",
        "quanto optimumquanto": "quanto-int8",
        "svdquant": "nunchaku",
    }),
    "cache.kind": by_word({
        "fbcache fbc firstblockcache paraattn paraattention": "first-block",
        "magcache": "mag",
        "taylor taylorseercache": "taylorseer",
        "fastercache": "faster",
        "pyramid pyramidattention pyramidattentionbroadcast": "pab",
        "tea": "teacache",
        "cachedit dualblock dualblockcache": "dbcache",
    }),
    "scheduler.kind": by_word({
        f"{OFF} default original baseline": "own",
        "flowmatch flowmatcheuler floweuler flowmatcheulerdiscrete": "FlowMatchEulerDiscreteScheduler",
        "flowmatchheun flowheun flowmatchheundiscrete": "FlowMatchHeunDiscreteScheduler",
        "dpm dpmsolver dpmpp dpmsolverpp dpm2m dpmpp2m dpmsolvermultistep": "DPMSolverMultistepScheduler",
        "unipc unipcmultistep": "UniPCMultistepScheduler",
        "deis deismultistep": "DEISMultistepScheduler",
        "eulerdiscrete": "EulerDiscreteScheduler",
        "heundiscrete": "HeunDiscreteScheduler",
    }),
    "text.sequence_length": by_word({f"{OFF} default own auto": "workload"}),
    "inductor.max_autotune_gemm_backends": by_word({"all default": "ATEN,TRITON,CPP", "cublas": "ATEN"}),
    "parallel.kind": by_word({
        f"{OFF} single": "none",
        "ulyssesanything usp": "ulysses-anything",
        "ringattention": "ring",
        "unified hybrid ulyssesring": "both",
        "tp tensorparallel": "tensor",
    }),
    "guidance.stop": by_word({OFF: 1.0}),
    "guidance.truncation": by_word({OFF: 1.0}),
}  # fmt: skip
"""Values of each knob by other name, in lower case and without punctuation. On and off are `_switch`."""

FP8: Meanings = {
    "fp8-weight-only": "weights take half the memory, products stay in 16 bits",
    "fp8-dynamic-row": "products in fp8, a scale per row is more accurate; needs bfloat16 and compile.scope",
    "fp8-dynamic-tensor": "products in fp8, one scale per tensor; needs compile.scope",
    "fp8-static-tensor": "products in fp8, one scale per tensor from a short call; needs compile.scope",
}
INT8: Meanings = {
    "int8-weight-only": "weights take half the memory, products stay in 16 bits",
    "int8-dynamic": "products in int8; needs compile.scope",
    "quanto-int8": "weights in int8, by the package optimum-quanto",
}
INT4: Meanings = {"int4-weight-only": "weights take a quarter of the memory; needs bfloat16"}
EIGHT_BITS: Meanings = {**FP8, **INT8}
SCOPES: Meanings = {"full": "the whole denoiser as one graph", "regional": "each repeated block; compiles much sooner"}
CACHES: Meanings = {
    "first-block": "skips steps in which the first block's residual moved little",
    "teacache": "skips steps in which the modulated input moved little",
    "mag": "skips steps by published magnitudes",
    "taylorseer": "extrapolates the output of steps",
    "deepcache": "reuses a UNet's inner layers",
}
NO_CACHE: Meanings = {"cache.kind=none": "computes every step"}
TF32: Meanings = {"matmul.tf32=true": "products of float32 on tensor cores"}


def _of(knob: str, meanings: Meanings) -> Meanings:
    """Return values of a knob as settings that can be written for another one."""
    return {f"{knob}={value}": purpose for value, purpose in meanings.items()}


def _with(part: str, meanings: Meanings) -> Meanings:
    """Return the values whose names have a part."""
    return {value: purpose for value, purpose in meanings.items() if part in value}


MEANINGS: Mapping[str, Mapping[str, Meanings]] = {
    "quantization.scheme": by_word({
        "fp8 float8 f8 e4m3 fp8e4m3 e4m3fn float8e4m3fn torchfloat8e4m3fn": FP8,
        "fp8dq float8dq fp8dynamic float8dynamic": _with("dynamic", FP8),
        "int8 i8 qint8 torchint8": INT8,
        "8bit 8 w8a8": EIGHT_BITS,
        f"torchao {ON}": {**EIGHT_BITS, **INT4},
        "weightonly wo": {**_with("weight-only", EIGHT_BITS), **INT4},
        "dynamic dq": _with("dynamic", EIGHT_BITS),
        "gguf": {"quantization.gguf_file=PATH": "the denoiser's weights from a .gguf file"},
        "bf16 bfloat16": {"precision.dtype=bfloat16": "weights and activations, not quantized"},
        "fp16 float16 half": {"precision.dtype=float16": "weights and activations, not quantized"},
    }),
    "precision.dtype": by_word({
        "fp8 float8 f8 e4m3 float8e4m3fn torchfloat8e4m3fn": _of("quantization.scheme", FP8),
        "int8 qint8 torchint8": _of("quantization.scheme", INT8),
        "int4 uint4": _of("quantization.scheme", INT4),
        "nf4": {"quantization.scheme=bnb-nf4": "weights take a quarter of the memory, by the package bitsandbytes"},
        "tf32 tfloat32 tensorfloat32": TF32,
    }),
    "compile.scope": by_word({
        f"default {ON}": SCOPES,
        "maxautotune": {"compile.mode=max-autotune": "times kernels, compiles for minutes; with a compile.scope"},
        "reduceoverhead": {"compile.mode=reduce-overhead": "CUDA graphs; with a compile.scope"},
        "tensorrt": {"compile.backend=tensorrt": "NVIDIA's compiler; with compile.scope=full"},
        "inductor": _of("compile.scope", SCOPES),
        "vae": {"compile.vae=true": "compiles the autoencoder"},
        "textencoder textencoders": {"compile.text_encoders=true": "compiles the text encoders"},
    }),
    "compile.mode": by_word({
        OFF: {"compile.scope=none": "compiles nothing", "default": "neither times kernels nor uses CUDA graphs"},
        f"full regional {ON}": _of("compile.scope", SCOPES),
    }),
    "compile.backend": by_word({
        OFF: {"compile.scope=none": "compiles nothing"},
        "cudagraphs": {
            "graphs.denoiser=true": "CUDA graphs without a compiler", "compile.mode=reduce-overhead": "with inductor",
        },
    }),
    "cache.kind": by_word({ON: CACHES}),
    "cache.threshold": by_word({OFF: NO_CACHE}),
    "cache.interval": by_word({OFF: NO_CACHE}),
    "cache.max_skip_steps": by_word({OFF: NO_CACHE}),
    "scheduler.kind": by_word({
        "euler": {
            "FlowMatchEulerDiscreteScheduler": "for models that predict a flow, such as FLUX and SD3",
            "EulerDiscreteScheduler": "for models that predict noise, such as SDXL",
        },
        "heun": {
            "FlowMatchHeunDiscreteScheduler": "for models that predict a flow, such as FLUX and SD3",
            "HeunDiscreteScheduler": "for models that predict noise, such as SDXL",
        },
    }),
    "attention.backend": by_word({
        "flash4 flashattn4 flashattention4 fa4": {
            "attention.flash_impl=FA4": "FlashAttention 4; with attention.backend=_native_flash",
        },
    }),
    "inductor.max_autotune_gemm_backends": by_word({
        OFF: {"ATEN": "cuBLAS alone", "compile.mode=default": "times no kernels"},
    }),
    "lora.scale": by_word({OFF: {"lora.file=none": "loads no LoRA"}}),
}  # fmt: skip
"""By knob: names that may mean several values, or a value of another knob."""

KNOB_NAMES: Mapping[str, str] = by_word({
    "quantization quantizationdtype quantizationtype quantizationkind quantizationmode quantizationmethod "
    "quantizationformat quantizationconfig quantizationbackend quant quantdtype quanttype quantize quantized qtype":
        "quantization.scheme",
    "gguf gguffile quantizationgguf": "quantization.gguf_file",
    "dtype precision torchdtype precisiontype weightdtype computedtype": "precision.dtype",
    "attention attn attnimplementation attentionimplementation attentionkind attentionkernel attnbackend":
        "attention.backend",
    "cache caching cachetype cachemethod cachebackend": "cache.kind",
    "scheduler sampler solver schedulertype schedulername schedulerclass": "scheduler.kind",
    "step numinferencesteps numsteps nsteps inferencesteps stepcount": "steps",
    "batchsize bs batches numimagesperprompt": "batch",
    "torchcompile compilation compilekind compiledenoiser": "compile.scope",
    "lora loras loraweights lorapath": "lora.file",
    "tf32 allowtf32 precisiontf32": "matmul.tf32",
    "cudagraph cudagraphs graphs compilecudagraphs": "graphs.denoiser",
    "fuseqkvprojections fusedqkv fuse": "fuse_qkv",
    "modulation adaln adaptivenorms": "modulation.once",
    "memoryformat channelslast": "vae.channels_last",
    "unetchannelslast unetmemoryformat transformerchannelslast": "denoiser.channels_last",
    "tinyvae taesd": "vae.tiny",
    "offload cpuoffload enablemodelcpuoffload modelcpuoffload": "memory.group_offload",
    "cfg cfgscale guidancescale": "workload.guidance_scale",
    "frames numframes": "workload.num_frames",
    "prompt prompts promptfile": "workload.prompts",
    "negative negativeprompt": "workload.negative_prompt",
    "seed seeds": "workload.seeds",
    "maxsequencelength seqlen": "workload.max_sequence_length",
    "latency latencytarget": "workload.latency_target_s",
    "resolution size": "workload.height",
})  # fmt: skip
"""The settings that names of other programs, and parts of names, most likely mean."""


def canonical(knob: str, value: Value, choices: tuple[Value, ...]) -> Value:
    """Return the value of a knob that a person means by `value`: another name of it, other case or punctuation."""
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    if isinstance(value, bool | str):
        names = {plain_word(choice): choice for choice in choices if isinstance(choice, str)}
        return {**_switch(choices), **ALIASES.get(knob, {}), **names}.get(plain_word(str(value)), value)
    return value


def meanings(knob: str, value: Value) -> str:
    """Return what to write for what is no value of a knob, each with what it is for, or an empty text."""
    found = MEANINGS.get(knob, {}).get(plain_word(str(value)), {})
    listed = ", ".join(f"{setting} ({purpose})" for setting, purpose in found.items())
    problem = "is ambiguous; write one of" if len(found) > 1 else "is no value of this knob; write"
    return listed and f"{shown(value)} {problem} {listed}"


def knob_hint(name: str, *values: Value) -> str:
    """Ask whether the setting that a name of another program means is meant, or return an empty text."""
    meant = KNOB_NAMES.get(plain_word(name))
    if meant is None:
        return ""
    several = next(filter(None, (meanings(meant, value) for value in values)), "")
    return f"did you mean {meant}?{several and f' There {several}'}"


def _switch(choices: tuple[Value, ...]) -> Mapping[str, Value]:
    """Return the words for on and off of a knob that has these."""
    if isinstance(choices[0], bool):
        return by_word({OFF: False, ON: True})
    return by_word({OFF: "none"}) if "none" in choices else {}
