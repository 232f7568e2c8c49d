"""torchao's configuration for each scheme, such that it leaves inductor's flags alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

INT4_GROUP = 64
"""The number of 4-bit weights that share a scale."""

MIN_ACTIVATION = 1e-12
"""The minimal scale of fp8 activations. SDXL encodes an empty negative prompt as zeros, and 0/0 is NaN."""


def avoid_int8pack() -> None:
    """Make inductor widen int8 weights for the usual product, if it has compiled nothing in this process yet.

    In bfloat16 it takes aten._weight_int8pack_mm instead, which on a GPU uses no tensor cores: a step of SDXL took
    9.4 s on an H200, and 39 ms without quantization.
    """
    from torch._inductor.fx_passes import mkldnn_fusion, quantization

    for patterns in (quantization, mkldnn_fusion):
        patterns._register_woq_lowerings = lambda: None


def int8_weight_only() -> Any:
    """Return the configuration of int8 weights."""
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(set_inductor_config=False)


def int8_dynamic() -> Any:
    """Return the configuration of int8 weights and activations."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)


def fp8_weight_only() -> Any:
    """Return the configuration of fp8 weights."""
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig(set_inductor_config=False)


def fp8_dynamic_row() -> Any:
    """Return the configuration of fp8 weights and activations, with a scale for each row."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    return Float8DynamicActivationFloat8WeightConfig(
        activation_value_lb=MIN_ACTIVATION, granularity=PerRow(), set_inductor_config=False
    )


def fp8_dynamic_tensor() -> Any:
    """Return the configuration of fp8 weights and activations, with one scale for each tensor."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor

    return Float8DynamicActivationFloat8WeightConfig(
        activation_value_lb=MIN_ACTIVATION, granularity=PerTensor(), set_inductor_config=False
    )


def int4_weight_only() -> Any:
    """Return the configuration of int4 weights. The default packing needs the package mslk."""
    from torchao.quantization import Int4WeightOnlyConfig

    return Int4WeightOnlyConfig(
        group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
    )


def mxfp8() -> Any:
    """Return the configuration of MXFP8."""
    from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig

    return MXDynamicActivationMXWeightConfig()


def nvfp4() -> Any:
    """Return the configuration of NVFP4. Its Triton kernel is the package mslk's."""
    from torchao.prototype.mx_formats import NVFP4DynamicActivationNVFP4WeightConfig

    return NVFP4DynamicActivationNVFP4WeightConfig(use_triton_kernel=importlib.util.find_spec("mslk") is not None)


CONFIGS: Mapping[str, Callable[[], Any]] = {
    "int8-weight-only": int8_weight_only,
    "int8-dynamic": int8_dynamic,
    "fp8-weight-only": fp8_weight_only,
    "fp8-dynamic-row": fp8_dynamic_row,
    "fp8-dynamic-tensor": fp8_dynamic_tensor,
    "int4-weight-only": int4_weight_only,
    "mxfp8": mxfp8,
    "nvfp4": nvfp4,
}
