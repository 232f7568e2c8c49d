"""What dynamo and inductor said while a build compiled, as plain records that need no torch."""

from __future__ import annotations

from tuner.records.codec import Record


class GraphBreak(Record, frozen=True, kw_only=True):
    """A place where a graph ends early, or a frame that runs uncompiled because of such a place.

    `frames` are the ids of the compiled functions that run once for each time it is met, best those that go on after
    it: the `1` of `Torch-Compiled Region: 1/0`.
    """

    count: int
    reason: str
    source: str
    frames: tuple[str, ...] = ()


class Compilation(Record, frozen=True, kw_only=True):
    """One compiled graph, `id` as in the trace; `reason` is the guard that failed, empty the first time."""

    id: str
    function: str
    reason: str
    source: str


class CompileLog(Record, frozen=True, kw_only=True):
    """Everything that was compiled since the log was started; all empty when nothing was."""

    breaks: tuple[GraphBreak, ...] = ()
    fallbacks: tuple[Compilation, ...] = ()
    compilations: tuple[Compilation, ...] = ()
    cudagraph_skips: int = 0
    cudagraph_reasons: tuple[str, ...] = ()
    cudagraph_sources: tuple[str, ...] = ()
    unique_graphs: int = 0
