"""The table of all targets of an export."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.export.base import Target
from tuner.export.cache_dit import CacheDit
from tuner.export.diffusers import Diffusers
from tuner.export.python import Python
from tuner.export.sglang import SGLang
from tuner.export.vllm_omni import VllmOmni

TARGETS: Mapping[str, type[Target]] = {
    target.name: target for target in (Python, Diffusers, CacheDit, SGLang, VllmOmni)
}
