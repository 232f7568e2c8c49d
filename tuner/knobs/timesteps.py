"""Timesteps that are rounded as eager code rounds them, in a denoiser that is compiled whole.

FLUX.1 and others multiply the timestep by 1000 in bfloat16, and embed its sine. Eager code rounds the product, to a
multiple of 4 from 512 on. Inductor computes product and sine in one kernel, in float32. With random weights the
embedding of FLUX.1 then differs by 30 %, and its denoiser by 60 %, where products and attention in fp8 make 22 %.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def round_timesteps(denoiser: Any) -> None:
    """Have what embeds timesteps read them from memory, where they have their own type."""
    define_stored()
    for module in denoiser.modules():
        if type(module).__name__.endswith("Timesteps"):
            module.register_forward_pre_hook(store_timesteps)


def store_timesteps(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments with the first one stored: a hook that runs before a module's forward."""
    import torch

    return (torch.ops.tuner.stored(arguments[0]), *arguments[1:]) if arguments else arguments


@cache
def define_stored() -> Any:
    """Define an operator that returns a copy, and that a compiler cannot look into."""
    import torch

    defined = torch.library.custom_op("tuner::stored", torch.clone, mutates_args=(), schema="(Tensor given) -> Tensor")
    defined.register_fake(torch.empty_like)
    return defined
