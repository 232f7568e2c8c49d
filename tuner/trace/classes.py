"""What kind of work a kernel or an operator is, by its name. Pure."""

from __future__ import annotations

import re
from functools import cache

GEMM = "GEMM"
ATTENTION = "attention"
CONVOLUTION = "convolution"
ELEMENTWISE = "elementwise and norm"
COPY = "copy"
OVERHEAD = "around operators"

CLASSES = (GEMM, ATTENTION, CONVOLUTION, ELEMENTWISE, COPY, OVERHEAD)
"""In the order in which they are shown."""

_NAMES = (
    # Triton names a fused kernel after all that it fuses, what feeds it included: only templates multiply.
    (ELEMENTWISE, r"^triton_(?!tem_|mm|flex)"),
    (COPY, r"^mem(cpy|set)|^copy(devicetohost|hosttodevice|buffer)|^aten::(copy_|_to_copy|to|clone|contiguous)$"),
    (ATTENTION, r"flash|fmha|attention|attn|sdpa|_fwd_kernel_.*sage|qk_int"),
    (CONVOLUTION, r"conv|fprop|dgrad|wgrad|winograd|implicit_gemm|nchwtonhwc|nhwctonchw|miopen|igemm_"),
    (GEMM, r"gem[mv]|cutlass|cublas|nvjet|xmma|splitk|^cijk_|^triton_(tem|mm)|_mm(?![a-z])"),
    (GEMM, r"matmul|linear|::(add|badd)?b?mm$"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _NAMES)
_FAR = 2000
"""How far into a name is looked: a hostile trace can hold one of many megabytes."""


@cache
def classify_kernel(name: str) -> str:
    """Return the class of a kernel or a copy; whatever is nothing else works element by element."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name, 0, _FAR)), ELEMENTWISE)


@cache
def classify_operator(name: str) -> str:
    """Classify what the CPU ran itself: an operator, a compiled graph, or what torch.compile does around it."""
    return classify_kernel(name) if "::" in name or "CompiledFxGraph" in name else OVERHEAD
