"""Flags of torch's compiler, inductor. They apply to everything that the process compiles after they are set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tuner.knobs.base import Knob, NoEffect, denoisers, set_flag
from tuner.knobs.code import Code
from tuner.knobs.compile import AUTOTUNED_MODES, inductor_compiles
from tuner.knobs.conditions import missing_capability
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

INDUCTOR, DYNAMO, BACKENDS = "torch._inductor.config", "torch._dynamo.config", "torch.backends"

NOT_OFFERED: Mapping[str, str] = {
    f"{INDUCTOR}.shape_padding": "already on",
    f"{INDUCTOR}.fx_graph_cache": "already on",
    f"{INDUCTOR}.layout_optimization": "already on",
    f"{INDUCTOR}.loop_ordering_after_fusion": "already on",
    f"{INDUCTOR}.triton.unique_kernel_names": "already on, and it only names kernels",
    f"{INDUCTOR}.disable_progress": "already on, and it only hides a progress bar",
    f"{INDUCTOR}.keep_addmm_fused_for_half_dtypes": "already on where it exists, from torch 2.12 on",
    f"{INDUCTOR}.use_mixed_mm": "deprecated and ignored",
    f"{INDUCTOR}.mixed_mm_choice": "deprecated and ignored",
    f"{INDUCTOR}.force_same_precision": "deprecated, and gone from torch 2.13",
    f"{INDUCTOR}.force_fuse_int_mm_with_mul": "ignored: the rewrite that it once allowed is gone from torch 2.11 on",
    f"{INDUCTOR}.reorder_for_compute_comm_overlap": "it schedules communication between GPUs, and one GPU has none",
    f"{DYNAMO}.inline_inbuilt_nn_modules": "already on, and deprecated from torch 2.12 on",
    f"{DYNAMO}.cache_size_limit": "it limits recompiles, and a candidate that recompiles in a call is rejected",
    f"{DYNAMO}.capture_dynamic_output_shape_ops": "the pipelines' denoisers have none of the operators that it is for",
    "torch._higher_order_ops.auto_functionalize.auto_functionalized_v2._cacheable": "already on",
    f"{BACKENDS}.cuda.matmul.allow_bf16_reduced_precision_reduction": "already on",
    f"{BACKENDS}.cuda.matmul.allow_fp16_reduced_precision_reduction": "already on",
    f"{BACKENDS}.cudnn.allow_tf32": "already on",
}
"""Flags that guides recommend, but that torch 2.11 to 2.13 sets already, ignores, or cannot use here, and why."""


class InductorFlag(Knob):
    """A flag of torch._inductor.config, perhaps in one of its groups (`triton.`)."""

    flag: ClassVar[str]
    choices: ClassVar[tuple[Value, ...]] = (False, True)
    order = 5

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return inductor_compiles(values)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from torch._inductor import config

        group, _, flag = self.flag.rpartition(".")
        holder = getattr(config, group) if group else config
        return set_flag(holder, flag, values[self.name], f"{INDUCTOR}.{self.flag}")

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code((f"{INDUCTOR}.{self.flag} = {values[self.name]!r}",), (f"import {INDUCTOR}",))


class TritonFlag(InductorFlag):
    """A flag of how inductor writes Triton kernels."""

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value != self.choices[0] and environment.device == "cpu":
            return "it is for Triton kernels, and inductor writes C++ for a CPU"
        return None


class AutotunedFlag(TritonFlag):
    """A flag of how the max-autotune modes choose kernels for matrix products. The other modes choose none."""

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return super().is_active(values) and values.get("compile.mode") in AUTOTUNED_MODES


class EpilogueFusion(AutotunedFlag):
    """Whether pointwise work after a matrix product is fused into its kernel, as only the max-autotune modes can."""

    name = "inductor.epilogue_fusion"
    flag = "epilogue_fusion"
    choices = (True, False)


class PersistentTmaMatmul(AutotunedFlag):
    """Whether max-autotune also tries persistent kernels for matrix products, fed by the tensor memory accelerator."""

    name = "inductor.persistent_tma_matmul"
    flag = "triton.enable_persistent_tma_matmul"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return missing_capability(environment, 9.0, "the tensor memory accelerator") if value else None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("inductor.max_autotune_gemm_backends") == "ATEN":
            return "these kernels are Triton's, and max_autotune_gemm_backends=ATEN leaves Triton out"
        return None


class MaxAutotuneGemmBackends(AutotunedFlag):
    """Whose kernels max-autotune tries for matrix products: ATEN is cuBLAS, TRITON is compiled here."""

    name = "inductor.max_autotune_gemm_backends"
    flag = "max_autotune_gemm_backends"
    choices = ("ATEN,TRITON,CPP", "ATEN", "TRITON")

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) == "ATEN" and values.get("inductor.epilogue_fusion") is False:
            return "epilogues are fused into Triton's kernels alone, and ATEN leaves Triton out"
        return None


class CoordinateDescentTuning(TritonFlag):
    """Whether each Triton kernel's launch parameters are searched one at a time: longer compiles, faster kernels."""

    name = "inductor.coordinate_descent_tuning"
    flag = "coordinate_descent_tuning"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("compile.mode") in AUTOTUNED_MODES:
            return "the max-autotune modes switch it on already"
        return None


class CoordinateDescentCheckAllDirections(TritonFlag):
    """Whether coordinate_descent_tuning also changes several parameters at once."""

    name = "inductor.coordinate_descent_check_all_directions"
    flag = "coordinate_descent_check_all_directions"

    def is_active(self, values: Mapping[str, Value]) -> bool:
        is_searched = values.get("inductor.coordinate_descent_tuning") or values.get("compile.mode") in AUTOTUNED_MODES
        return super().is_active(values) and bool(is_searched)


class AggressiveFusion(InductorFlag):
    """Whether pointwise work that shares no data is fused too."""

    name = "inductor.aggressive_fusion"
    flag = "aggressive_fusion"


class EmulatePrecisionCasts(InductorFlag):
    """Whether fused kernels round between operations as uncompiled ones do: images closer to the baseline's."""

    name = "inductor.emulate_precision_casts"
    flag = "emulate_precision_casts"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("precision.dtype") == "float32":
            return "it is for bfloat16 and float16; in float32 it only forbids fused multiply-add"
        return None


class Conv1x1AsMm(InductorFlag):
    """Whether 1x1 convolutions become matrix products. VAEs have them, so it needs compile.vae."""

    name = "inductor.conv_1x1_as_mm"
    flag = "conv_1x1_as_mm"
    order = 39

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return bool(values.get("compile.vae"))

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        parts: list[tuple[Any, tuple[str, ...]]] = [
            (pipe.vae, ("encoder", "quant_conv"))
        ]  # of the VAE, decoding alone is compiled
        if values["compile.scope"] != "none":
            parts += [(denoiser, ()) for denoiser in denoisers(pipe)]
        count = sum(
            is_1x1(module)
            for part, left_out in parts
            for name, module in part.named_modules()
            if not name.startswith(left_out)
        )
        if not count:
            raise NoEffect("the compiled components have no 1x1 convolution")
        return f"{super().apply(pipe, values)}, for {count} convolutions"


def is_1x1(module: Any) -> bool:
    """Return whether a module is a convolution that inductor can turn into a matrix product."""
    import torch

    return (
        isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d))
        and {*module.kernel_size, *module.stride, *module.dilation, module.groups} == {1}
        and set(module.padding) == {0}
    )


class Freezing(InductorFlag):
    """Whether weights become constants of the graph, packed for the kernels that read them."""

    name = "inductor.freezing"
    flag = "freezing"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value and environment.device == "cuda":
            return "it packs weights for CPU kernels"
        return None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values["compile.scope"] == "regional":
            return "constants differ from block to block, so each block would be recompiled"
        return None
