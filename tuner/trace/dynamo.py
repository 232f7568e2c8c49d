"""Collects the reports of dynamo and inductor while a build compiles. Only the worker imports this: it needs torch."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch._dynamo import utils
from torch._dynamo.callback import callback_handler
from torch._dynamo.exc import Unsupported, UserError

from tuner.trace import sources
from tuner.trace.compile_log import Compilation, CompileLog, GraphBreak

_METRICS_KEPT = 4096
_CUDAGRAPHS_LOGGER = "torch._inductor.cudagraph_utils.__cudagraphs"
_RECOMPILE_LIMIT = re.compile(r"recompile.limit|cache_size_limit", re.IGNORECASE)
_GUARD_PREFIX = re.compile(r"^\d+/\d+: ")
_GUARD_COMMENT = re.compile(r"\s{2,}# .*$")
_FOUND_FROM = re.compile(r"\.? Found from *:.*", re.DOTALL)
_REPEATED_PREFIX = re.compile(r"^(skipping cudagraphs due to )+")
_USER_STACK_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


class _Messages(logging.Handler):
    """The messages of one logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class CompileListener:
    """The log of what was compiled since `start_compile_log`. `read` may be called repeatedly."""

    def __init__(self, skips: _Messages) -> None:
        self._skips = skips

    def read(self) -> CompileLog:
        """Return the log so far. Call compiled code first: its first call compiles the graphs."""
        metrics = [entry for entry in utils.get_compilation_metrics() if entry.compile_id and not entry.is_runtime]
        breaks = _breaks(metrics)
        fallbacks = tuple(_compilation(entry, metrics) for entry in metrics if _hit_limit(entry))
        if not breaks and not fallbacks and not _counters_are_clean():
            breaks = (_unexplained(),)
        skips = self._skips.texts + [entry.cudagraph_skip_reason for entry in metrics if entry.cudagraph_skip_reason]
        return CompileLog(
            breaks=breaks,
            fallbacks=fallbacks,
            compilations=tuple(_compilation(entry, metrics) for entry in metrics if not entry.fail_type),
            cudagraph_skips=utils.counters["inductor"]["cudagraph_skips"],
            cudagraph_reasons=tuple(dict.fromkeys(_reason_of_skip(text) for text in skips)),
            cudagraph_sources=tuple(dict.fromkeys(filter(None, map(_source_of_stack, skips)))),
            unique_graphs=utils.counters["stats"]["unique_graphs"],
        )


def start_compile_log() -> CompileListener:
    """Clear dynamo's counters and start a log. Call it before the pipeline's first call."""
    utils.counters.clear()
    utils.graph_break_reasons.clear()
    utils.set_compilation_metrics_limit(_METRICS_KEPT)  # a large pipeline compiles more than the default of 64
    utils.clear_compilation_metrics()
    return CompileListener(_listen_for_skips())


@contextmanager
def calling_around_compiling(start: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Inside the context, call a function before and one after each compilation."""

    def before(*_: object) -> None:
        start()

    def after(*_: object) -> None:
        end()

    callback_handler.register_start_callback(before)
    callback_handler.register_end_callback(after)
    try:
        yield
    finally:
        with suppress(ValueError):  # dynamo's reset has removed them
            callback_handler.remove_start_callback(before)
            callback_handler.remove_end_callback(after)


def error_on_graph_break(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that a graph break raises, before dynamo compiles the part up to the break."""

    def call(*arguments: Any, **named: Any) -> Any:
        with torch._dynamo.error_on_graph_break(True):
            return function(*arguments, **named)

    return call


def breaks_graph(call: Callable[[], object]) -> bool:
    """Run a call that compiles. Return whether a graph break in a strict part of it ended the call."""
    try:
        call()
    except (Unsupported, UserError):
        return True
    return False


def restart_compile_log() -> CompileListener:
    """Discard the compiled code and start a log of its next compilation."""
    torch._dynamo.reset()
    gc.collect()  # an interrupted call may have left its tensors in a cycle
    return start_compile_log()


@contextmanager
def without_inductor() -> Iterator[CompileListener]:
    """Discard the compiled code, and inside the context let dynamo trace graphs that run eagerly, without inductor."""
    with torch.compiler.set_stance("default", force_backend="eager"):
        yield restart_compile_log()


def _listen_for_skips() -> _Messages:
    logger = logging.getLogger(_CUDAGRAPHS_LOGGER)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Messages)]:
        logger.removeHandler(handler)
    messages = _Messages()
    logger.addHandler(messages)
    return messages


def _counters_are_clean() -> bool:
    # No counter alone is reliable: a break in a loop leaves graph_break and resumes at 0 and skips the whole frame.
    # `unimplemented` also counts code that dynamo handles without a break, such as the backend of `sdpa_kernel`.
    counters = utils.counters
    broken = counters["graph_break"].total() + counters["resumes"].total()
    return not broken and counters["frames"]["total"] == counters["frames"]["ok"]


def _breaks(metrics: list[Any]) -> tuple[GraphBreak, ...]:
    """Return every line that ends a graph: between two graphs, or where dynamo gave up on a frame.

    A line in a called function is reported once more for each caller that dynamo tried to inline it into.
    """
    gave_up: dict[str, list[str]] = {}
    for entry in metrics:
        if entry.fail_type and not _hit_limit(entry):
            reason = f"frame runs uncompiled: {sources.first_line(entry.fail_reason or entry.fail_type)}"
            gave_up.setdefault(_place_of_failure(entry), []).append(reason)
    met: dict[str, list[str]] = {}
    frames: dict[str, set[str]] = {}
    for entry in utils.graph_break_reasons:
        source, ids = _place_of_stack(entry.user_stack, metrics)
        met.setdefault(source, []).append(sources.first_line(entry.reason))
        frames.setdefault(source, set()).update(ids)
    return tuple(
        GraphBreak(
            count=max(1, len(gave_up.get(source, ()))),
            reason=[*gave_up.get(source, ()), *met.get(source, ())][0],
            source=source,
            frames=tuple(sorted(frames.get(source, ()))),
        )
        for source in dict.fromkeys((*met, *gave_up))
    )


def _place_of_stack(stack: Iterable[Any], metrics: list[Any]) -> tuple[str, tuple[str, ...]]:
    frames = [(frame.filename, frame.lineno, frame.name) for frame in reversed(list(stack))]
    source = sources.innermost((file, number) for file, number, _ in frames)
    outermost = sources.line(*frames[-1][:2]) if frames else ""
    # A break in a called function ends its callers' graphs too, but the count is how often its own line runs.
    ids = (_resumed_at(*frame, metrics) or _broken_at(*frame, metrics) for frame in frames)
    return source or outermost, next(filter(None, ids), ())


def _resumed_at(file: str, number: int, name: str, metrics: list[Any]) -> tuple[str, ...]:
    """Return the ids of the functions that dynamo generated to resume after a line."""
    resumed = f"torch_dynamo_resume_in_{name}_at_{number}"
    return _ids(entry for entry in metrics if (entry.co_filename, entry.co_name) == (file, resumed))


def _broken_at(file: str, number: int, name: str, metrics: list[Any]) -> tuple[str, ...]:
    """Return the ids of the compiled function around a line: the last of that name that begins before it."""
    around = [e for e in metrics if (e.co_filename, e.co_name) == (file, name) and e.co_firstlineno <= number]
    first = max((entry.co_firstlineno for entry in around), default=None)
    return _ids(entry for entry in around if entry.co_firstlineno == first)


def _ids(metrics: Iterable[Any]) -> tuple[str, ...]:
    """Return the ids of the entries that have a graph, and so a region in the trace."""
    return tuple(sorted({_frame_id(entry) for entry in metrics if entry.graph_op_count}))


def _place_of_failure(entry: Any) -> str:
    failed_at = (entry.fail_user_frame_filename or "<unknown>", entry.fail_user_frame_lineno)
    function = (entry.co_filename or "<unknown>", entry.co_firstlineno)
    return sources.innermost([failed_at, function])


def _frame_id(entry: Any) -> str:
    return str(entry.compile_id).partition("/")[0]


def _hit_limit(entry: Any) -> bool:
    return bool(entry.fail_type) and _RECOMPILE_LIMIT.search(entry.fail_reason or entry.fail_type) is not None


def _compilation(entry: Any, metrics: list[Any]) -> Compilation:
    # The entry of a recompile that hit the limit has no function name; earlier entries of the same frame have it.
    function = next((e for e in metrics if e.co_name and _frame_id(e) == _frame_id(entry)), entry)
    guard = entry.recompile_reason or ""
    begins = sources.innermost([(function.co_filename or "<unknown>", function.co_firstlineno)])
    return Compilation(
        id=str(entry.compile_id),
        function=function.co_name or "",
        reason=_guard_text(guard),
        source=_source_of_stack(guard) or begins,
    )


def _guard_text(guard: str) -> str:
    first = _GUARD_PREFIX.sub("", guard.partition("\n")[0])
    return sources.first_line(_GUARD_COMMENT.sub("", first))


def _reason_of_skip(text: str) -> str:
    return sources.first_line(_REPEATED_PREFIX.sub(r"\1", _FOUND_FROM.sub("", text)))


def _source_of_stack(text: str) -> str:
    """Return the innermost user line of the stack trace in a message, or an empty string."""
    return sources.innermost((file, int(number)) for file, number in reversed(_USER_STACK_FRAME.findall(text)))


def _unexplained() -> GraphBreak:
    counters = utils.counters
    texts = [*counters["graph_break"], *counters["unimplemented"], *counters["resumes"]]
    reason = sources.first_line(texts[0]) if texts else "dynamo gave up on a frame and reported no reason"
    return GraphBreak(count=max(1, len(texts)), reason=reason, source="")
