"""Pyramid attention broadcast: attention is computed every few steps and its output used again in between.

diffusers' own hooks are not used. They mix up the two calls of a guided step, and inside a compiled block they cause a
recompile at each step. Here a block is compiled twice, with attention and without, for each call of the denoiser in a
step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from tuner.knobs.base import NoEffect, denoisers
from tuner.knobs.caches.clock import Clock
from tuner.knobs.compile import repeated_blocks
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

TIMESTEPS = (100, 800)
"""Between these, of 1000, attention changes little from step to step (the paper's range, and diffusers' default)."""


def unavailable_reason(environment: Environment, architecture: Architecture) -> str | None:
    """Return None: the method works wherever there is attention."""
    return None


def enable(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable the cache and describe it. Raises NoEffect if the denoiser has no attention layer to skip."""
    interval = int(values["cache.interval"])
    layers = broadcast_attention(pipe, interval)
    if not layers:
        raise NoEffect("the denoiser's blocks have no attention layer to skip")
    return f"attention of {layers} layers computed every {interval} steps"


def broadcast_attention(pipe: Any, interval: int) -> int:
    """Let the attention layers reuse their output between every so many steps, and count the layers."""
    clock, layers = Clock(pipe), 0
    for denoiser in denoisers(pipe):
        plan = Plan(clock, interval)
        denoiser.register_forward_pre_hook(plan.decide)
        for attention in self_attention(denoiser):
            attention.__class__ = _broadcasting(attention.__class__)
            attention.plan = plan
            clock.on_end(partial(release_outputs, attention))
            layers += 1
    return layers


def release_outputs(attention: Any) -> None:
    """Release the outputs that a layer has kept: of all layers they are gigabytes, which the VAE may need."""
    for name in vars(attention):
        if name.startswith("kept_"):
            setattr(attention, name, None)


class Plan:
    """Decides whether the layers of one denoiser reuse their attention in a call. Compiled code reads `reuse`."""

    def __init__(self, clock: Clock, interval: int) -> None:
        self.reuse = False
        self.call = 0
        self._clock = clock
        self._interval = interval
        self._computed: set[int] = set()
        clock.on_begin(self._computed.clear)

    def decide(self, *_: Any) -> None:
        """Decide before each call of the denoiser whether its layers reuse their last attention output."""
        clock = self._clock
        self.call = clock.call
        self.reuse = (
            self.call in self._computed
            and clock.index % self._interval != 0
            and TIMESTEPS[0] < clock.timestep < TIMESTEPS[1]
        )
        self._computed.add(self.call)
        if self.reuse:
            clock.skip()


def self_attention(denoiser: Any) -> list[Any]:
    """Return the attention layers in a denoiser's repeated blocks, but for cross-attention to the text."""
    from diffusers.hooks._common import _ATTENTION_CLASSES

    layers = {
        id(module): module
        for block in repeated_blocks(denoiser)
        for module in block.modules()
        if isinstance(module, _ATTENTION_CLASSES) and not getattr(module, "is_cross_attention", False)
    }
    return list(layers.values())


@cache  # compiled code is shared between the layers of one class
def _broadcasting(attention: Any) -> Any:
    """Derive a class from an attention layer's whose forward returns its last output when the plan says so."""

    compute = attention.forward  # a local: torch.compile can trace the function, but not an attribute of every class

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        kept = f"kept_{self.plan.call}"
        if self.plan.reuse:
            return getattr(self, kept)
        output = compute(self, *arguments, **named)
        setattr(self, kept, output)
        return output

    return type(attention.__name__, (attention,), {"forward": forward})
