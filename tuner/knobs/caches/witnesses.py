"""Modules that run in every call of the denoiser unless a cache skips them: where one does not run, the cache acted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tuner.knobs.caches.clock import Clock


class Witnesses:
    """Notes for a clock each call of a denoiser in which fewer of the witnesses ran than in another call."""

    def __init__(self, denoiser: Any, clock: Clock, *, modules: Iterable[Any] = (), hooks: Iterable[Any] = ()) -> None:
        """Watch whether modules are called, and whether hooks of diffusers call the forward that they stand before."""
        self._clock = clock
        self._ran: set[int] = set()
        self._most = 0
        denoiser.register_forward_pre_hook(lambda *_: self._ran.clear())
        denoiser.register_forward_hook(self._compare)
        for module in modules:
            module.register_forward_pre_hook(lambda module, _: self._ran.add(id(module)))
        for hook in hooks:
            hook.fn_ref.original_forward = self._noting(hook.fn_ref.original_forward, id(hook))

    def _noting(self, forward: Callable[..., Any], key: int) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            self._ran.add(key)
            return forward(*arguments, **named)

        return run

    def _compare(self, *_: Any) -> None:
        if len(self._ran) < self._most:
            self._clock.skip()
        self._most = max(self._most, len(self._ran))
