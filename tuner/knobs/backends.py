"""The compiler of the denoiser's graph, and settings of the libraries that torch calls: cuDNN and cuBLAS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, set_flag
from tuner.knobs.code import Code
from tuner.knobs.compile import DenoiserCompileKnob
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class CompileBackend(DenoiserCompileKnob):
    """The compiler of the denoiser: torch's inductor, or NVIDIA's TensorRT, which builds an engine in minutes."""

    name = "compile.backend"
    choices = ("inductor", "tensorrt")

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "inductor":
            return None
        if environment.device == "cpu":
            return "TensorRT runs on NVIDIA GPUs"
        if not environment.libraries.get("torch-tensorrt"):
            version = ".".join(str(environment.libraries.get("torch")).split(".")[:2])
            return f"torch_tensorrt is not installed (pip install torch-tensorrt=={version}.*, the one for this torch)"
        return None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) != "tensorrt":
            return None
        if values["compile.scope"] == "regional":
            return "TensorRT would build an engine for each block; compile the whole denoiser"
        if values.get("quantization.scheme", "none") != "none" or values.get("memory.layerwise_casting"):
            return "TensorRT takes weights in floating point of 16 or 32 bits only"
        if values.get("attention.backend") == "flex":
            return "only inductor compiles flex attention"
        if values.get("cache.kind", "none") != "none":
            return "a cache breaks the graph that the engine is built from"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"backend {values[self.name]}"


class CudnnBenchmark(Knob):
    """Whether cuDNN times its convolutions for each size and keeps the fastest. The VAE and UNets have convolutions."""

    name = "cudnn.benchmark"
    choices = (False, True)
    order = 5

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        if environment.device == "cpu":
            return "cuDNN is a library for NVIDIA GPUs"
        if not {"vae", "unet"} & architecture.components.keys():
            return f"{architecture.pipeline_class} has no convolutions"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from torch.backends import cudnn

        return set_flag(cudnn, "benchmark", True, "torch.backends.cudnn.benchmark")

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("torch.backends.cudnn.benchmark = True",))


class MatmulTf32(Knob):
    """Whether float32 products are computed in TF32, with 10 bits of mantissa instead of 23, on tensor cores."""

    name = "matmul.tf32"
    choices = (False, True)
    may_change_image = True
    order = 5
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = True
    mixes_batch = False

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        if environment.device == "cpu":
            return "TF32 is a format of NVIDIA GPUs"
        if float(environment.compute_capability or 0) < 8.0:
            return f"TF32 needs compute capability 8.0, this GPU has {environment.compute_capability}"
        return None

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values["precision.dtype"] == "float32"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from torch.backends.cuda import matmul

        # Setting the newer fp32_precision would make every later read of this flag raise, and torch itself reads it.
        return set_flag(matmul, "allow_tf32", True, "torch.backends.cuda.matmul.allow_tf32")

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("torch.backends.cuda.matmul.allow_tf32 = True",))
