"""Timing: warm-up, a stopping rule on the interval of the median, and the clocks behind both."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tuner.records.codec import Estimate
from tuner.records.machine import GpuUse
from tuner.records.outcome import Timing, WarmUp
from tuner.timing.intervals import MIN_SAMPLES, median_interval, percentile

TARGET_HALF_WIDTH = 0.005
"""Half of the interval of the median as a share of it, at which a timing is good enough."""

FALLING = 0.995
"""A call that took less than this share of the fastest of the two before it: the time is still falling."""

USUAL_WARM_UP_CALLS = 8
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0


class Throttled(Exception):
    """Too few calls ran at the speed that the GPU has when nothing slows it down."""


class Clock:
    """The clock of a device whose work is done when a call returns: the host's."""

    is_device_clock = False
    """Whether it is another than the host's."""

    def synchronize(self) -> None:
        """Until nothing is left to do on the device."""

    def record(self) -> Any:
        """A moment on the device: when all that was queued so far is done."""
        return time.perf_counter()

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Seconds from one mark to another, both of them passed."""
        return float(end - start)


class CudaClock(Clock):
    """The clock of the current CUDA device: events in the current stream."""

    is_device_clock = True

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def record(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_s(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1e3


class CallMonitor(Protocol):
    """Who looks at the device around each timed call."""

    def begin(self) -> None:
        """A call is about to be timed."""

    def end(self) -> str | None:
        """A call was timed: why its sample must be discarded, or None to keep it."""

    def report(self) -> GpuUse:
        """What was seen."""


def time_call(call: Callable[[], object], clock: Clock) -> tuple[float, float]:
    """Seconds of one call by the host's clock and by the device's, with nothing of it left on the device."""
    clock.synchronize()
    started = time.perf_counter()
    start = clock.record()
    call()
    end = clock.record()
    clock.synchronize()
    seconds = time.perf_counter() - started
    return seconds, clock.elapsed_s(start, end)


def warm_up(call: Callable[[], object], clock: Clock, compiled: Callable[[], int], allowance_s: float = 0.0) -> WarmUp:
    """Call until nothing is compiled any more and the time falls no more.

    Gives up after eight calls, or when `allowance_s` is spent if that is later; the answer says whether it did.
    """
    latest: deque[float] = deque(maxlen=2)
    spent, calls, seconds = 0.0, 0, 0.0
    while calls < USUAL_WARM_UP_CALLS or spent < allowance_s:
        before = compiled()
        seconds, _ = time_call(call, clock)
        calls, spent = calls + 1, spent + seconds
        if compiled() != before:
            latest.clear()
            continue
        if seconds >= FALLING * min(latest, default=math.inf):
            return WarmUp(calls=calls, settled=True, last_call_s=seconds)
        latest.append(seconds)
    return WarmUp(calls=calls, settled=False, last_call_s=seconds)


def measure(
    call: Callable[[], object],
    clock: Clock,
    batch: int,
    allowance_s: float,
    monitor: CallMonitor | None = None,
    target_s: float | None = None,
) -> Timing:
    """Time a warm call until the 95 % interval of the median is within 0.5 %, or the allowance is spent.

    Six samples are always taken, since fewer have no such interval. `monitor` is there on a GPU: a sample that it
    discards costs time but does not count, and is followed by a pause. Raises Throttled when the allowance is spent
    and six were discarded before six could be kept. `target_s` is the latency that a call should not exceed.
    """
    samples: list[float] = []
    on_device: list[float] = []
    started, looked, pause_s, discarded = time.perf_counter(), MIN_SAMPLES, FIRST_PAUSE_S, 0
    while True:
        if monitor is not None:
            monitor.begin()
        host_s, device_s = time_call(call, clock)
        reason = monitor.end() if monitor is not None else None
        spent = time.perf_counter() - started >= allowance_s
        if reason is not None:
            discarded += 1
            if spent and len(samples) < MIN_SAMPLES <= discarded:
                raise Throttled(f"{discarded} of {discarded + len(samples)} calls were discarded, the last: {reason}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        else:
            samples.append(host_s)
            on_device.append(device_s)
            pause_s = FIRST_PAUSE_S
        # Looking after every sample would stop at a lucky moment: look at 6, 9, 14, 21, ... samples.
        if len(samples) < MIN_SAMPLES or (len(samples) < looked and not spent):
            continue
        looked = -(-len(samples) * 3 // 2)
        estimate = median_interval(samples)
        converged = relative_half_width(estimate) <= TARGET_HALF_WIDTH
        if converged or spent:
            return Timing(
                latency_s=estimate,
                samples=len(samples),
                images_per_s=batch / estimate.value,
                stopped="interval within target" if converged else "time allowance spent",
                device_s=median_interval(on_device) if clock.is_device_clock else None,
                latency_p95_s=percentile(samples, 0.95),
                gpu=monitor.report() if monitor is not None else None,
                within_target=share_within(samples, target_s),
            )


def share_within(samples: Sequence[float], target_s: float | None) -> float | None:
    """The share of the samples that met a target; None without one."""
    return None if target_s is None else sum(sample <= target_s for sample in samples) / len(samples)


def relative_half_width(estimate: Estimate) -> float:
    """Half of an interval as a share of its value."""
    return (estimate.high - estimate.low) / 2 / estimate.value
