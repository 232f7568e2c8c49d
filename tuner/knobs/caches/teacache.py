"""TeaCache (arXiv:2411.19108) for FLUX.1: all blocks are skipped while the modulated input has changed little.

The change of the output is estimated as a polynomial of the change of the first block's modulated input. The
coefficients were fitted to FLUX.1-dev by TeaCache's authors (TeaCache4FLUX).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from tuner.knobs.base import NoEffect
from tuner.knobs.caches.clock import Clock
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

COEFFICIENTS = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


def unavailable_reason(environment: Environment, architecture: Architecture) -> str | None:
    """Return why TeaCache cannot be used for this denoiser, or None."""
    if any(denoiser.class_name != "FluxTransformer2DModel" for denoiser in architecture.denoisers):
        return f"TeaCache's coefficients are built in for FLUX.1, not for {architecture.pipeline_class}"
    return None


def enable(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable the cache and describe it.

    Each block's forward is wrapped, compiled or not, so the decision stays outside of compiled code.
    """
    denoiser = pipe.transformer
    blocks = [*denoiser.transformer_blocks, *denoiser.single_transformer_blocks]
    if len(blocks) < 2 or not len(denoiser.transformer_blocks):
        raise NoEffect("the denoiser has no blocks to skip")
    cache = TeaCache(float(values["cache.threshold"]), Clock(pipe))
    cache.wrap(blocks)
    return f"TeaCache, threshold {cache.threshold}, on {len(blocks)} blocks"


class Memory:
    """The state between steps of one call of the denoiser in a step. Guidance makes two calls."""

    def __init__(self) -> None:
        self.modulated: Any = None
        self.residual: Any = None
        self.distance = 0.0


class TeaCache:
    """Decides at the first block, and adds the last computed step's residual where the blocks are skipped."""

    def __init__(self, threshold: float, clock: Clock) -> None:
        self.threshold = threshold
        self.skipping = False
        self._clock = clock
        self._entered: Any = None
        self._memories: dict[int, Memory] = {}
        clock.on_begin(self._memories.clear)

    def wrap(self, blocks: list[Any]) -> None:
        """Wrap the forward of all blocks of a denoiser, in their order."""
        for block in blocks:
            block.forward = self.skippable(block.forward)
        blocks[0].forward = self.first(blocks[0].norm1, blocks[0].forward)
        blocks[-1].forward = self.last(blocks[-1].forward)

    def skippable(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a block's forward so that it returns its inputs while blocks are skipped."""

        def run(*, hidden_states: Any, encoder_hidden_states: Any, **named: Any) -> Any:
            if self.skipping:
                return encoder_hidden_states, hidden_states
            return forward(hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **named)

        return run

    def first(self, norm: Callable[..., Any], forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the first block's forward so that it decides, and adds the last residual while blocks are skipped."""

        def run(*, hidden_states: Any, temb: Any, **named: Any) -> Any:
            self.skipping = self._skips(norm(hidden_states, emb=temb)[0])
            self._entered = hidden_states
            if self.skipping:
                hidden_states = hidden_states + self._memory.residual
            return forward(hidden_states=hidden_states, temb=temb, **named)

        return run

    def last(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the last block's forward so that it keeps the residual of all blocks when they are computed."""

        def run(**named: Any) -> Any:
            encoder_hidden_states, hidden_states = forward(**named)
            if not self.skipping:
                self._memory.residual = hidden_states - self._entered
            return encoder_hidden_states, hidden_states

        return run

    @property
    def _memory(self) -> Memory:
        return self._memories.setdefault(self._clock.call, Memory())

    def _skips(self, modulated: Any) -> bool:
        """Decide whether the blocks are skipped in this step.

        The first and the last step are always computed. One number is read back from the GPU.
        """
        memory, before = self._memory, self._memory.modulated
        memory.modulated = modulated
        if before is None or self._clock.index == self._clock.steps - 1:
            memory.distance = 0.0
            return False
        change = ((modulated - before).abs().mean() / before.abs().mean()).item()
        memory.distance += reduce(lambda sum_, coefficient: sum_ * change + coefficient, COEFFICIENTS, 0.0)
        if memory.distance < self.threshold:
            self._clock.skip()
            return True
        memory.distance = 0.0
        return False
