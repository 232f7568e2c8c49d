"""Where a call of a pipeline stands: which step of how many, at which timestep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tuner.knobs.base import denoisers

NOISIEST = 1000


class Clock:
    """Tells the step of the running call in numbers of Python, so that no one waits for the GPU to read them.

    The scheduler moves it: `set_timesteps` begins a call of the pipeline, `step` ends a step. `call` counts the calls
    of the denoiser in a step, two where guidance makes them.
    """

    def __init__(self, pipe: Any) -> None:
        self.timesteps: list[float] = []
        self.index = 0
        self.call = -1
        self._scheduler = pipe.scheduler
        self._at_begin: list[Callable[[], object]] = []
        _after(pipe.scheduler, "set_timesteps", self._begin)
        _after(pipe.scheduler, "step", self._next)
        for denoiser in denoisers(pipe):
            denoiser.register_forward_pre_hook(self._count)

    def on_begin(self, action: Callable[[], object]) -> None:
        """Have something done whenever a call of the pipeline begins."""
        self._at_begin.append(action)

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def timestep(self) -> float:
        """From 1000, all noise, to 0, also where the scheduler counts the other way (Mochi's)."""
        now = self.timesteps[min(self.index, self.steps - 1)]
        return now if self.timesteps[0] >= self.timesteps[-1] else NOISIEST - now

    def _begin(self) -> None:
        self.timesteps = self._scheduler.timesteps.tolist()
        self.index, self.call = 0, -1
        for action in self._at_begin:
            action()

    def _next(self) -> None:
        self.index, self.call = self.index + 1, -1

    def _count(self, *_: Any) -> None:
        self.call += 1


def _after(owner: Any, name: str, action: Callable[[], object]) -> None:
    """Have something done after each call of a method. Its signature stays: pipelines look at it."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def followed(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        action()
        return result

    setattr(owner, name, followed)
