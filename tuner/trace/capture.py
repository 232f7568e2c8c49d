"""Captures a trace of three steady denoising steps. Only the worker imports this: it needs torch."""

from __future__ import annotations

import contextlib
import functools
import gzip
import inspect
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function

from tuner.trace import events, sync_lines

STEPS = 4

DIAGNOSED_STEPS = 2
"""Steps that are profiled with stacks, the first one among them. With stacks the profiler records, writes and reads ten
times as long: four steps of Wan 2.1 1.3B and its decoder took half a minute."""

_CHUNK = 1 << 24
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What JSON does not allow in a text, nor between values."""


class _StepMarks:
    """The marks of a denoising loop's steps. A scheduler step ends one step and begins the next."""

    def __init__(self, steps: int, on_end: Callable[[], None] = lambda: None) -> None:
        self._steps = steps
        self._on_end = on_end
        self._ended = 0
        self._open = contextlib.ExitStack()

    @contextlib.contextmanager
    def around(self, scheduler: Any) -> Iterator[None]:
        """Set a mark at each return of `scheduler.step`, which every pipeline calls once per step.

        The return of `set_timesteps` counts as the beginning of the loop: code outside the pipeline sees no later sign.
        """
        originals = {name: vars(scheduler).get(name) for name in ("step", "set_timesteps")}
        step, set_timesteps = scheduler.step, getattr(scheduler, "set_timesteps", _no_timesteps)

        # Pipelines inspect the signatures of both.
        @functools.wraps(step)
        def marked_step(*arguments: Any, **named: Any) -> Any:
            with record_function(events.SCHEDULER):
                result = step(*arguments, **named)
            self.on_step_end()
            return result

        @functools.wraps(set_timesteps)
        def marked_start(*arguments: Any, **named: Any) -> Any:
            result = set_timesteps(*arguments, **named)
            self.on_start()
            return result

        scheduler.step, scheduler.set_timesteps = marked_step, marked_start
        try:
            yield
        finally:
            for name, value in originals.items():
                _restore(scheduler, name, value)
            self.close()

    def on_start(self) -> None:
        self.close()
        if not self._ended:
            self._open.enter_context(record_function(events.FIRST_STEP))

    def on_step_end(self) -> None:
        self.close()
        self._ended += 1
        if self._ended < self._steps:
            # TensorBoard's profiler reads ProfilerStep, the gate reads denoise_step.
            self._open.enter_context(record_function(f"ProfilerStep#{self._ended + 1}"))
            self._open.enter_context(record_function(f"denoise_step#{self._ended + 1}"))
        elif self._ended == self._steps:
            self._on_end()

    def close(self) -> None:
        self._open.close()


def _no_timesteps() -> None:
    """Stand in for the `set_timesteps` of a scheduler that has none."""


def _restore(owner: Any, name: str, value: Any) -> None:
    """Restore an attribute of an object, or delete it if the object had only that of its class."""
    if value is not None:
        setattr(owner, name, value)
    elif name in vars(owner):
        delattr(owner, name)


def capture(call: Callable[[int], object], scheduler: Any, folder: Path, name: str) -> Path:
    """Profile one `call(steps)`, which steps `scheduler`, and write folder/NAME.<digits>.pt.trace.json.gz.

    Warm up, compile and capture CUDA graphs first.
    """
    with profile(activities=_activities()) as profiler, _StepMarks(STEPS).around(scheduler):
        call(STEPS)
    return _export(profiler, folder, name)


def diagnose(call: Callable[[int], object], scheduler: Any, folder: Path) -> Path:
    """Profile the first steps of one `call(steps)` with stacks, and write their trace, which also names source lines.

    The profiler slows the steps down so much that their times mean nothing. What comes after them is not recorded.
    """
    # Without `verbose`, stacks become separate events, several hundred for each operator.
    config = _ExperimentalConfig(verbose=True)
    profiler = profile(activities=_activities(), with_stack=True, experimental_config=config)
    stop = functools.cache(functools.partial(_stop, profiler))
    with sync_lines.annotate_waits(), _StepMarks(DIAGNOSED_STEPS, on_end=stop).around(scheduler):
        profiler.start()
        try:
            call(DIAGNOSED_STEPS)
        finally:
            stop()
    return _export(profiler, folder, "diagnostic")


def _stop(profiler: profile) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # what the last step launched belongs to it
    profiler.stop()


def _activities() -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *gpu]


def _export(profiler: profile, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.{time.time_ns()}.pt.trace.json.gz"
    plain = folder / f".{target.stem}.part"
    zipped = folder / f".{target.name}.part"
    try:
        _export_readable(profiler, plain)
        # torch's own .gz export compresses harder and takes five times as long.
        with plain.open("rb") as source, gzip.open(zipped, "wb", compresslevel=1) as sink:
            shutil.copyfileobj(source, sink)
        zipped.replace(target)
    finally:
        plain.unlink(missing_ok=True)
        zipped.unlink(missing_ok=True)
    return target


def _export_readable(profiler: profile, path: Path) -> None:
    """Export a trace. Use the slower exporter in Python if a name in the trace breaks the JSON (torch 2.13)."""
    profiler.export_chrome_trace(str(path))
    if not _is_text(path):  # the name of a function that was freed is garbage
        text = path.read_text(encoding="utf-8", errors="replace")
        path.write_text(_CONTROL.sub("?", text), encoding="utf-8")
    if not _is_json(path) and "use_python_export" in inspect.signature(profiler.export_chrome_trace).parameters:
        profiler.export_chrome_trace(str(path), use_python_export=True)


def _is_text(path: Path) -> bool:
    with path.open(encoding="utf-8", newline="") as file:
        try:
            while file.read(_CHUNK):
                pass
        except UnicodeDecodeError:
            return False
    return True


def _is_json(path: Path) -> bool:
    """Return whether a file is well-formed JSON, in a tenth of the time that reading it takes."""
    try:
        msgspec.json.decode(path.read_bytes(), type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True
