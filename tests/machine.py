"""The machine as something that processes share, or that one of them has to itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Machine:
    """Two lock files. Who waits for the machine holds the turnstile, so that nobody comes in before them."""

    def __init__(self, folder: Path) -> None:
        self.turnstile = folder / "turnstile"
        self.inside = folder / "inside"

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with self.inside.open("a") as inside:
            with self.turnstile.open("a") as turnstile:
                fcntl.flock(turnstile, fcntl.LOCK_EX)
                fcntl.flock(inside, how)
            yield
