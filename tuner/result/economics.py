"""What a configuration costs to run, from what was measured of it: arithmetic alone, no files and no prices."""

from __future__ import annotations

import math

from tuner.records.codec import Record
from tuner.timing.intervals import supports_percentile
from tuner.timing.target import meets_latency_target

CARDS_GB = (16, 24, 32, 48, 80)
HEADROOM = 0.10
"""Share of a card that must stay free: what CUDA itself takes, and memory too fragmented to use."""


class Measurement(Record):
    """What was measured of one configuration; what was not is None. A call draws one batch.

    `compile_s` is what the first call of its build took longer than a warm one, `within_target` the share of calls
    within the latency target.
    """

    images_per_s: float
    latency_s: float
    latency_samples: int
    latency_p95_s: float | None = None
    compile_s: float | None = None
    joules_per_image: float | None = None
    peak_reserved_bytes: int | None = None
    within_target: float | None = None


class Economics(Record, omit_defaults=True):
    """What follows from a price and a measurement; in a file, what is not known is absent. With a latency target only
    the images that meet it count.

    `break_even_images` is when what compiling took longer than the baseline's is saved again: 0 at once, absent
    never.
    """

    usd_per_1000_images: float
    usd_per_million_images: float
    images_per_hour: float
    images_per_1000_usd: float
    latency_samples: int
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    compile_s: float | None = None
    break_even_images: int | None = None
    joules_per_image: float | None = None
    images_per_s_per_watt: float | None = None
    smallest_card_gb: int | None = None


def economics(usd_per_hour: float, point: Measurement, baseline: Measurement) -> Economics:
    """What a configuration costs at a price, and when its compiling has paid for itself against the baseline."""
    images_per_s = goodput(point.images_per_s, point.within_target)
    usd = usd_per_1000_images(usd_per_hour, images_per_s)
    count, joules = point.latency_samples, point.joules_per_image
    return Economics(
        usd_per_1000_images=usd,
        usd_per_million_images=usd * 1000.0,
        images_per_hour=images_per_s * 3600.0,
        images_per_1000_usd=1e6 / usd,
        latency_samples=count,
        latency_p50_s=point.latency_s if supports_percentile(count, 0.50) else None,
        latency_p95_s=point.latency_p95_s if supports_percentile(count, 0.95) else None,
        compile_s=point.compile_s,
        break_even_images=break_even_images(point, baseline),
        joules_per_image=joules,
        images_per_s_per_watt=1.0 / joules if joules else None,
        smallest_card_gb=smallest_card_gb(point.peak_reserved_bytes),
    )


def goodput(images_per_s: float, within_target: float | None) -> float:
    """Images per second that come within the latency target; of a configuration that misses it, and so is no choice,
    all of them."""
    return (
        images_per_s
        if within_target is None or not meets_latency_target(within_target)
        else images_per_s * within_target
    )


def usd_per_1000_images(usd_per_hour: float, images_per_s: float) -> float:
    return usd_per_hour / 3600.0 * 1000.0 / images_per_s


# ---- percentiles ----------------------------------------------------------------------------------------------------


# ---- compiling ------------------------------------------------------------------------------------------------------


def break_even_images(point: Measurement, baseline: Measurement) -> int | None:
    """After how many images, those of the first call included, all time taken is no more than the baseline's."""
    ours, theirs = point.compile_s, baseline.compile_s
    saved_s = 1.0 / baseline.images_per_s - 1.0 / point.images_per_s
    if ours is None or theirs is None or point == baseline:
        return None
    if ours <= theirs:
        return 0 if saved_s >= 0 else None
    images = (ours - theirs) / saved_s if saved_s > 0 else math.inf
    return math.ceil(images) if math.isfinite(images) else None


# ---- memory ---------------------------------------------------------------------------------------------------------


def smallest_card_gb(peak_reserved_bytes: int | None) -> int | None:
    """The smallest usual card that holds what torch reserved at most, with a tenth of it left free.

    None when the memory is not known, or the largest is too small. A card of N GB is taken to have N * 10^9 bytes:
    drivers report at least that much.
    """
    if peak_reserved_bytes is None:
        return None
    return next((card for card in CARDS_GB if peak_reserved_bytes <= (1.0 - HEADROOM) * card * 1e9), None)
