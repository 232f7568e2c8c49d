"""Classes of kernels and operators by their names. Pure."""

from __future__ import annotations

import re
from functools import cache

GEMM = "GEMM"
ATTENTION = "attention"
CONVOLUTION = "convolution"
ELEMENTWISE = "elementwise and norm"
COPY = "copy"
COMMUNICATION = "communication"
OVERHEAD = "around operators"

CLASSES = (GEMM, ATTENTION, CONVOLUTION, ELEMENTWISE, COPY, COMMUNICATION, OVERHEAD)
"""In display order."""

_NAMES = (
    # Triton names a fused kernel after all operators that it fuses. Only its templates multiply matrices.
    (ELEMENTWISE, r"^triton_(?!tem_|mm|flex)"),
    (
        COMMUNICATION,
        r"nccl|rccl|mscclpp|msccl|oneccl|^ccl_|nvshmem|deep_?ep::|c10d|all_?reduce|all_?gather|reduce_?scatter"
        r"|all_?to_?all|cross_device_reduce|multimem_|record_param_comms",
    ),
    (COPY, r"^mem(cpy|set)|^copy(devicetohost|hosttodevice|buffer)|^aten::(copy_|_to_copy|to|clone|contiguous)$"),
    (ATTENTION, r"flash|fmha|attention|attn|sdpa|_fwd_kernel_.*sage|qk_int"),
    (CONVOLUTION, r"conv|fprop|dgrad|wgrad|winograd|implicit_gemm|nchwtonhwc|nhwctonchw|miopen|igemm_"),
    (GEMM, r"gem[mv]|cutlass|cublas|nvjet|xmma|splitk|^cijk_|^triton_(tem|mm)|_mm(?![a-z])"),
    (GEMM, r"matmul|linear|::(add|badd)?b?mm$"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _NAMES)
_MAX_CHARACTERS = 2000
"""The length of a name that is searched: a hostile trace can hold a name of many megabytes."""


@cache
def classify_kernel(name: str) -> str:
    """Return the class of a kernel or a copy. A kernel that matches no other class counts as elementwise."""
    return next((label for label, pattern in _PATTERNS if pattern.search(name, 0, _MAX_CHARACTERS)), ELEMENTWISE)


@cache
def classify_operator(name: str) -> str:
    """Return the class of an event of the CPU: an operator, a compiled graph, or the overhead of torch.compile."""
    return classify_kernel(name) if "::" in name or "CompiledFxGraph" in name else OVERHEAD
