"""A clock of a pipeline's call: the current step, the number of steps, and the timestep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tuner.knobs.base import denoisers

NOISIEST = 1000


class Clock:
    """Counts the steps of the running call in Python numbers, so that nothing waits for the GPU to read them.

    The scheduler advances it: `set_timesteps` begins a call of the pipeline, `step` ends a step. `call` counts the
    calls of the denoiser in a step, of which guidance makes two. `steps_taken` and `steps_skipped` count over all calls
    since `count_afresh`. A pipeline has one clock, which `of` returns.
    """

    def __init__(self, pipe: Any) -> None:
        pipe.tuner_clock = self
        self.steps_taken = 0
        self.steps_skipped = 0
        self._is_skipping = False
        self.timesteps: list[float] = []
        self.index = 0
        self.call = -1
        self._scheduler = pipe.scheduler
        self._at_begin: list[Callable[[], object]] = []
        self._at_end: list[Callable[[], object]] = []
        _after(pipe.scheduler, "set_timesteps", self._begin)
        _after(pipe.scheduler, "step", self._next)
        for denoiser in denoisers(pipe):
            denoiser.register_forward_pre_hook(self._count)

    @staticmethod
    def of(pipe: Any) -> Clock | None:
        """Return the clock of a pipeline, or None if it has none."""
        clock: Clock | None = getattr(pipe, "tuner_clock", None)
        return clock

    def count_afresh(self) -> None:
        """Begin to count the steps again."""
        self.steps_taken = self.steps_skipped = 0

    def skip(self) -> None:
        """Note that a cache skips work in the running step."""
        self._is_skipping = True

    def on_begin(self, action: Callable[[], object]) -> None:
        """Register an action that runs whenever a call of the pipeline begins."""
        self._at_begin.append(action)

    def on_end(self, action: Callable[[], object]) -> None:
        """Register an action that runs after the last step of each call of the pipeline."""
        self._at_end.append(action)

    @property
    def steps(self) -> int:
        """The number of steps of the running call."""
        return len(self.timesteps)

    @property
    def timestep(self) -> float:
        """The timestep from 1000 (pure noise) to 0, also if the scheduler counts the other way (Mochi's)."""
        now = self.timesteps[min(self.index, self.steps - 1)]
        return now if self.timesteps[0] >= self.timesteps[-1] else NOISIEST - now

    def _begin(self) -> None:
        self.timesteps = self._scheduler.timesteps.tolist()
        self.index, self.call, self._is_skipping = 0, -1, False
        for action in self._at_begin:
            action()

    def _next(self) -> None:
        self.index, self.call = self.index + 1, -1
        self.steps_taken += 1
        self.steps_skipped += self._is_skipping
        self._is_skipping = False
        if self.index == self.steps:
            for action in self._at_end:
                action()

    def _count(self, *_: Any) -> None:
        self.call += 1


def _after(owner: Any, name: str, action: Callable[[], object]) -> None:
    """Run an action after each call of a method. The signature stays the same, since pipelines inspect it."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def followed(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        action()
        return result

    setattr(owner, name, followed)
