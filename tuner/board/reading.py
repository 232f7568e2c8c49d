"""What torch-tb-profiler must know to read current traces.

It reads each trace in a new process, which imports this module when it is handed a `Loader`.
"""

from __future__ import annotations

from torch_tb_profiler.plugin import RunLoader
from torch_tb_profiler.profiler.tensor_core import TC_Allowlist
from torch_tb_profiler.profiler.trace import EventTypeMap, EventTypes

CATEGORIES = {"cuda_runtime": EventTypes.RUNTIME, "cuda_driver": EventTypes.RUNTIME}
"""Calls that launch work on the GPU. Without them no operator has device time and no kernel an operator."""

ON_TENSOR_CORES = ("nvjet", "wgmma", "tensorop", "sdpa_sm", "flash_fwd", "fmha_cutlass", "triton_tem_", "qmma")
"""Parts of names of kernels that compute on tensor cores: cuBLAS, cuDNN, CUTLASS, attention, inductor's templates."""


class Loader(RunLoader):  # type: ignore[misc]
    """Loads the traces of one folder."""


EventTypeMap.update(CATEGORIES)
TC_Allowlist.allowlist.extend(part for part in ON_TENSOR_CORES if part not in TC_Allowlist.allowlist)
