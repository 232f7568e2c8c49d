"""Leave out what libraries log while they are imported and that means nothing for a tuned pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

HARMLESS = {
    "torchao": ("Failed to load ",),
    "torch.utils._pytree": ("<enum 'KernelPreference'> is an Enum", "<enum 'ScaleCalculationMode'> is an Enum"),
    "diffusers.quantizers.torchao.torchao_quantizer": ("Unable to import `torchao` Tensor objects",),
}
"""How messages begin, by the logger that writes them.

torchao lists the compiled kernels that it has for another device or Python; a setting that needs one of them is
verified when it is applied. The second is torchao's use of a function of torch that has become needless. The third is
about pickled checkpoints of an older torchao, and this package reads safetensors only.
"""


class _Harmless(logging.Filter):
    """Drops the messages of one logger that have one of these beginnings."""

    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginnings)


@contextmanager
def without_harmless_messages() -> Iterator[None]:
    """Leave these messages out within the context, and no others."""
    filters = {name: _Harmless(beginnings) for name, beginnings in HARMLESS.items()}
    for name, each in filters.items():
        logging.getLogger(name).addFilter(each)
    try:
        yield
    finally:
        for name, each in filters.items():
            logging.getLogger(name).removeFilter(each)
