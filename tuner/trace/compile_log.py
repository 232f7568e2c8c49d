"""The reports of dynamo and inductor on a compilation, as plain records that need no torch."""

from __future__ import annotations

from tuner.records.codec import Record


class GraphBreak(Record, frozen=True, kw_only=True):
    """A place where a graph ends early, or a frame that runs uncompiled because of such a place.

    `frames` are the ids of the compiled functions that run once per break, if possible those that resume after it:
    the `1` of `Torch-Compiled Region: 1/0`.
    """

    count: int
    reason: str
    source: str
    frames: tuple[str, ...] = ()


class Compilation(Record, frozen=True, kw_only=True):
    """A compiled graph. `id` is the one in the trace; `reason` is the failed guard, empty for the first compilation."""

    id: str
    function: str
    reason: str
    source: str


class CompileLog(Record, frozen=True, kw_only=True):
    """Everything that was compiled since the log started. All fields are empty if nothing was."""

    breaks: tuple[GraphBreak, ...] = ()
    fallbacks: tuple[Compilation, ...] = ()
    compilations: tuple[Compilation, ...] = ()
    cudagraph_skips: int = 0
    cudagraph_reasons: tuple[str, ...] = ()
    cudagraph_sources: tuple[str, ...] = ()
    unique_graphs: int = 0
