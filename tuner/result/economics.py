"""Compute what a configuration costs to run from its measurements: arithmetic only, no files and no price table."""

from __future__ import annotations

import math

from tuner.records.codec import Count, NonNegative, Positive, PositiveCount, Record, Share
from tuner.timing.intervals import supports_percentile
from tuner.timing.target import meets_latency_target

CARDS_GB = (16, 24, 32, 48, 80)
MAX_IMAGES = 2**53
"""A gain that pays off later than this, by which a clock cannot tell it from none, never does."""

HEADROOM = 0.10
"""Share of a card that must stay free, for CUDA itself and for memory too fragmented to use."""


class Measurement(Record):
    """The measurements of one configuration. What was not measured is None. A call generates one batch.

    `compile_s` is how much longer the first call of its build took than a warm one. `within_target` is the share of
    calls within the latency target. `devices` compute each image together.
    """

    images_per_s: Positive
    latency_s: Positive
    latency_samples: Count
    latency_p95_s: NonNegative | None = None
    compile_s: NonNegative | None = None
    joules_per_image: NonNegative | None = None
    peak_reserved_bytes: Count | None = None
    within_target: Share | None = None
    devices: PositiveCount = 1


class Economics(Record, omit_defaults=True):
    """The economics of a configuration at a price. What is not known is left out of a file.

    With a latency target, only the images within it count. `break_even_images` is the number of images after which the
    longer compile time is saved again, compared with the baseline: 0 if at once, None if never.
    """

    usd_per_1000_images: Positive
    usd_per_million_images: Positive
    images_per_hour: Positive
    images_per_1000_usd: Positive
    latency_samples: Count
    latency_p50_s: NonNegative | None = None
    latency_p95_s: NonNegative | None = None
    compile_s: NonNegative | None = None
    break_even_images: Count | None = None
    joules_per_image: NonNegative | None = None
    images_per_s_per_watt: NonNegative | None = None
    smallest_card_gb: PositiveCount | None = None


def economics(usd_per_hour: float, point: Measurement, baseline: Measurement) -> Economics:
    """Compute what a configuration costs at the price of one device.

    Also compute when its compile time has paid off against the baseline.
    """
    images_per_s = goodput(point.images_per_s, point.within_target)
    usd = usd_per_1000_images(usd_per_hour * point.devices, images_per_s)
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
    """Return the images per second that are within the latency target.

    For a configuration that misses the target, and so cannot be chosen, it counts all of them.
    """
    if within_target is None or not meets_latency_target(within_target):
        return images_per_s
    return images_per_s * within_target


def usd_per_1000_images(usd_per_hour: float, images_per_s: float) -> float:
    """Return the US dollars for 1000 images at a throughput in images per second."""
    return usd_per_hour / 3600.0 * 1000.0 / images_per_s


def break_even_images(point: Measurement, baseline: Measurement) -> int | None:
    """Return the number of images, the first call's included, after which the total time is at most the baseline's.

    The time of every device counts. None if that is never, or if a compile time is not known.
    """
    if point.compile_s is None or baseline.compile_s is None or point == baseline:
        return None
    saved_s = baseline.devices / baseline.images_per_s - point.devices / point.images_per_s
    extra_s = point.devices * point.compile_s - baseline.devices * baseline.compile_s
    if extra_s <= 0:
        return 0 if saved_s >= 0 else None
    images = extra_s / saved_s if saved_s > 0 else math.inf
    return math.ceil(images) if images <= MAX_IMAGES else None


def smallest_card_gb(peak_reserved_bytes: int | None) -> int | None:
    """Return the smallest common card that holds the peak of torch's reserved memory with a tenth of the card free.

    None if the memory is not known, or the largest card is too small. A card of N GB counts as N * 10^9 bytes: drivers
    report at least that much.
    """
    if peak_reserved_bytes is None:
        return None
    return next((card for card in CARDS_GB if peak_reserved_bytes <= (1.0 - HEADROOM) * card * 1e9), None)
