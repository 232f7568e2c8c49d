"""Timing: warm-up, sampling with a stopping rule on the interval of the median, and the clocks for both."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Protocol

from tuner.records.codec import Estimate
from tuner.records.machine import GpuUse
from tuner.records.outcome import Timing, WarmUp
from tuner.timing import disturbance
from tuner.timing.intervals import MIN_SAMPLES, latency_interval, percentile

TARGET_HALF_WIDTH = 0.005
"""Half the width of the interval of the median, as a share of the median, at which a timing is precise enough."""

SETTLED_RATIO = 0.995
"""A warm-up has settled when a call takes at least this share of the faster of the two calls before it."""

SLOW_CALL_S = 1.0
"""From this latency on a call of a GPU is slow, and fewer samples are taken: the longer a call, the less it varies."""

SURELY_SLOW_S = 4.0
"""A call that is estimated to take so long takes a second at least: few steps count their fixed part several times. In
a pair it needs no warm-up."""

LONG_CALL_S = 15.0
"""From this latency on a call is long: two whole ones in a pair are nearly always enough, and a repetition by itself is
composed from short calls. Of Wan 2.1 1.3B on an H200 (64 s) whole calls took ten of a study's 24 minutes; composed
latencies were 0.2 and 0.5 % off, and processes differed by 0.2 %."""

SEARCH_HALF_WIDTH = 0.02
"""Half the width of the interval, as a share of the median, for slow calls during the search: what is chosen is timed
again, in pairs. On FLUX.1-dev with a cache calls vary by 1 % at the power cap: 1 % to either side took six to eight
calls of most candidates."""

MIN_SLOW_SAMPLES = 3
"""Samples of a slow call. Of six calls of FLUX.1-dev on an H200 (5 s each) the latencies spread by 0.05 %."""

MIN_PAIRED_SAMPLES = 2
"""Samples of a slow call in a pair, where the calls of baseline and candidate alternate: A B B A."""

MIN_QUICK_PAIRED_SAMPLES = 4
"""Samples of a quick call in a pair with slow ones, at least: they fill two blocks or more."""

LONG_HALF_WIDTH = 0.15
"""Half the width of the interval of long calls: that of two which differ by more than 2 % is wider. Then one of them
was disturbed, and a third shows which."""

PAIRED_HALF_WIDTH = 0.03
"""Half the width of the interval in such a pair: two calls may differ by half a percent, as processes do. How sure the
ratio is depends on the number of pairs."""

WARM_UP_CALLS = 8
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0


class Throttled(Exception):
    """Too few calls ran while nothing slowed the GPU down."""


class Clock:
    """The host's clock, for a device that has finished its work when a call returns."""

    is_device_clock = False
    """Whether this is the clock of a device, not of the host."""

    def synchronize(self) -> None:
        """Wait until the device has finished all of its work."""

    def record(self) -> Any:
        """Return a mark of the moment at which the device has done everything queued so far."""
        return time.perf_counter()

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks, which must both have passed."""
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


@dataclass(frozen=True)
class StoppingRule:
    """How many seconds timing may take, and half the width of the interval of the median that is narrow enough.

    The width is a share of the median. At least `min_samples` are timed, of slow calls at least `min_slow_samples`.
    """

    allowance_s: float
    half_width: float = TARGET_HALF_WIDTH
    min_slow_samples: int = MIN_SLOW_SAMPLES
    min_samples: int = MIN_SAMPLES


class CallMonitor(Protocol):
    """Checks the device before and after each timed call."""

    def begin(self) -> None:
        """Read the counters before a timed call."""

    def end(self) -> str | None:
        """Return why the sample of the call must be discarded, or None to keep it."""

    def keep(self, counts: Sequence[bool]) -> None:
        """Keep only those of the calls kept so far that still count."""

    def report(self) -> GpuUse:
        """Summarize the readings."""


def time_call(call: Callable[[], object], clock: Clock) -> tuple[float, float]:
    """Return the seconds of one call by the host's clock and by the device's, up to the end of its work there."""
    clock.synchronize()
    started = time.perf_counter()
    start = clock.record()
    call()
    end = clock.record()
    clock.synchronize()
    seconds = time.perf_counter() - started
    return seconds, clock.elapsed_s(start, end)


def warm_up(call: Callable[[], object], clock: Clock, compiled: Callable[[], int], allowance_s: float = 0.0) -> WarmUp:
    """Call until nothing more is compiled and the time no longer falls: one slow call of a GPU is enough.

    `compiled` returns how many graphs have been compiled so far. Gives up after eight calls or after `allowance_s`
    seconds, whichever is later; `settled` is then False.
    """
    latest: deque[float] = deque(maxlen=2)
    spent, calls, seconds = 0.0, 0, 0.0
    while calls < WARM_UP_CALLS or spent < allowance_s:
        before = compiled()
        seconds, _ = time_call(call, clock)
        calls, spent = calls + 1, spent + seconds
        if compiled() != before:
            latest.clear()
            continue
        is_slow = clock.is_device_clock and seconds >= SLOW_CALL_S
        if is_slow or seconds >= SETTLED_RATIO * min(latest, default=math.inf):
            return WarmUp(calls=calls, settled=True, last_call_s=seconds)
        latest.append(seconds)
    return WarmUp(calls=calls, settled=False, last_call_s=seconds)


class _Samples:
    """The times of the calls kept so far, and the sample count at which to check the interval next."""

    def __init__(self, is_device_clock: bool, rule: StoppingRule) -> None:
        self.is_device_clock = is_device_clock
        self.rule = rule
        self.host_s: list[float] = []
        self.device_s: list[float] = []
        self.stalled = 0
        self._next_check = 0

    @property
    def min_count(self) -> int:
        """The fewest samples that have a useful interval."""
        is_slow = self.is_device_clock and min(self.host_s, default=0.0) >= SLOW_CALL_S
        return self.rule.min_slow_samples if is_slow else self.rule.min_samples

    @property
    def are_enough(self) -> bool:
        """Whether there are as many samples as an interval needs."""
        return len(self.host_s) >= self.min_count

    @property
    def can_show_stalls(self) -> bool:
        """Whether a stalled call would show: of two calls each could be the usual one."""
        return len(self.host_s) > MIN_PAIRED_SAMPLES

    def discard_stalled(self) -> list[bool]:
        """Discard the calls that something else on the machine stalled: others are made in their place.

        Returns which calls still count.
        """
        counts = [not is_stalled for is_stalled in disturbance.stalled(self.host_s)]
        self.stalled += counts.count(False)
        self.host_s, self.device_s = list(compress(self.host_s, counts)), list(compress(self.device_s, counts))
        return counts

    def is_check_due(self, is_time_up: bool) -> bool:
        """Return whether to check the interval now, and when the time is up.

        It is checked at 6, 9, 14, 21, ... samples, of slow calls at 3, 5, 8, 12, ..., and so on from another least
        number: checking after every sample would stop at a lucky moment.
        """
        count = len(self.host_s)
        if not self.are_enough or (count < self._next_check and not is_time_up):
            return False
        self._next_check = -(-count * 3 // 2)
        return True


def measure(
    call: Callable[[], object],
    clock: Clock,
    batch: int,
    rule: StoppingRule,
    monitor: CallMonitor | None = None,
    target_s: float | None = None,
    before_call: Callable[[], float] = lambda: 0.0,
) -> Timing:
    """Time a warm call until the 95 % interval of its median is narrow enough, or until the allowance is spent.

    Takes at least as many samples as the rule says: six, since fewer have no such interval, or fewer of slow calls of a
    GPU, whose mean has one by Student's t; if two are not enough, a third, whatever time it takes. A sample that
    `monitor` discards costs time but does not count, and a pause follows it. Nor does a call count that was stalled
    (tuner/timing/disturbance.py). `target_s` is the latency target. `before_call` is called before each sample, and the
    seconds that it returns are not spent.
    Raises Throttled when the allowance is spent and as many calls were discarded before as many could be kept.
    """
    import scipy.special  # noqa: F401  # takes a while: loaded before the first sample, not between two of them

    samples, pause_s, discarded = _Samples(clock.is_device_clock, rule), FIRST_PAUSE_S, 0
    started = time.perf_counter()
    while True:
        started += before_call()
        host_s, device_s, reason = _time_monitored(call, clock, monitor)
        is_time_up = time.perf_counter() - started >= rule.allowance_s
        if reason is None:
            samples.host_s.append(host_s)
            samples.device_s.append(device_s)
            pause_s = FIRST_PAUSE_S
        else:
            discarded += 1
            kept = len(samples.host_s)
            if is_time_up and discarded >= samples.min_count and not (samples.are_enough and samples.can_show_stalls):
                raise Throttled(f"{discarded} of {discarded + kept} calls were discarded, the last: {reason}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        if not samples.is_check_due(is_time_up):
            continue
        counts = samples.discard_stalled()
        if monitor is not None:
            monitor.keep(counts)
        if not samples.are_enough:
            continue
        latency = latency_interval(samples.host_s)
        has_converged = relative_half_width(latency) <= rule.half_width
        if has_converged or (is_time_up and samples.can_show_stalls):
            return Timing(
                latency_s=latency,
                samples=len(samples.host_s),
                images_per_s=batch / latency.value,
                stopped="interval within target" if has_converged else "time allowance spent",
                device_s=latency_interval(samples.device_s) if clock.is_device_clock else None,
                latency_p95_s=percentile(samples.host_s, 0.95),
                gpu=monitor.report() if monitor is not None else None,
                within_target=share_within(samples.host_s, target_s),
                stalled_calls=samples.stalled,
            )


def _time_monitored(
    call: Callable[[], object], clock: Clock, monitor: CallMonitor | None
) -> tuple[float, float, str | None]:
    """Return what `time_call` returns, and why the monitor discards the sample, if it does."""
    if monitor is None:
        return *time_call(call, clock), None
    monitor.begin()
    host_s, device_s = time_call(call, clock)
    return host_s, device_s, monitor.end()


def share_within(samples: Sequence[float], target_s: float | None) -> float | None:
    """Return the share of the samples that met the latency target, or None without a target."""
    return None if target_s is None else sum(sample <= target_s for sample in samples) / len(samples)


def relative_half_width(estimate: Estimate) -> float:
    """Return half the width of an interval as a share of its value."""
    return (estimate.high - estimate.low) / 2 / estimate.value
