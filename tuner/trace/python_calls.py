"""The calls of Python functions in a trace that was captured with stacks. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tuner.trace import sources
from tuner.trace.events import Event
from tuner.trace.nesting import nest


class PythonCalls:
    """The Python functions around an event, in traces that have them as events of their own."""

    def __init__(self, frames: Sequence[Event]) -> None:
        self._frames, self._parents = nest(frames)
        self._indices: dict[tuple[int | str, int | str], list[int]] = {}
        for index, frame in enumerate(self._frames):
            self._indices.setdefault((frame.pid, frame.tid), []).append(index)

    def line(self, event: Event) -> str:
        """Return the first line of the innermost function of the user around an event, or an empty string."""
        indices = self._indices.get((event.pid, event.tid), [])
        place = bisect_right(indices, event.ts, key=lambda index: self._frames[index].ts)
        index = indices[place - 1] if place else -1
        while index >= 0:
            frame = self._frames[index]
            line = sources.from_call_stack(frame.name) if frame.end > event.ts else ""
            if line:
                return line
            index = self._parents[index]
        return ""
