"""The records of a comparison."""

from __future__ import annotations

import datetime

from tuner.records.codec import Bytes, Count, Estimate, Positive, PositiveCount, Record, Values
from tuner.report.studies import State
from tuner.result.prices import Price
from tuner.result.records import BestConfig, TrialCounts
from tuner.verify.records import Change


class Result(Record):
    """A result to compare, as it was read. A best_config.json without its study has no `state` and no `search_s`."""

    file: str
    best: BestConfig
    state: State | None = None
    search_s: float | None = None


class Source(Record):
    """A compared result. `price` is what its costs are computed from, `recorded_price` that of its study.

    Points of sources with the same `front` number are compared with each other: they draw images of the same size, and
    their prices have a common basis.
    """

    file: str
    model: str
    pipeline_class: str
    revision: str | None
    device_name: str
    created_at: str
    price: Price
    recorded_price: Price
    front: Count
    trials: TrialCounts
    state: State | None = None
    search_s: float | None = None


class ComparedPoint(Record):
    """A configuration of the source with this index. Iterations are denoising steps; the whole call counts.

    It is `as_good` if the lower end of its difference in quality is within its study's tolerance, and `confirmed` if
    its study would choose it: the untouched pipeline is, and what pairs of processes confirmed. It is `on_front` if it
    is both, and no other that is draws such images both cheaper and faster. `may_be_cheapest` says that the interval of
    its cost overlaps that of the cheapest one that is both.
    """

    source: Count
    trial: Count
    is_baseline: bool
    is_chosen: bool
    changed: Values
    steps: PositiveCount
    batch: PositiveCount
    latency_s: Estimate
    images_per_s: Estimate
    iterations_per_s: Estimate
    usd_per_million_images: Estimate
    peak_memory_bytes: Bytes
    quality_metric: str
    quality_difference: Estimate
    as_good: bool
    confirmed: bool
    is_predicted: bool
    on_front: bool = False
    is_cheapest: bool = False
    may_be_cheapest: bool = False


class Instance(Record):
    """What the chosen configuration of a source costs at one offer for its machine, read at `page` on that date.

    The study's own price has no date but that of its text.
    """

    source: Count
    provider: str
    offer: str
    usd_per_hour: Positive
    usd_per_million_images: Estimate
    date: datetime.date | None = None
    page: str | None = None


class Figure(Record):
    """A figure of two results: `of` what they chose, or the untouched pipeline. `ratio` is after over before.

    Its interval is the widest that both allow; `differs` says whether that excludes 1. A figure that may be zero has
    neither.
    """

    of: str
    name: str
    before: Estimate
    after: Estimate
    ratio: Estimate | None = None
    differs: bool = False


class Changes(Record):
    """What changed between two results of the same machine and model, from the older one to the newer."""

    before: Count
    after: Count
    settings: tuple[Change, ...]
    figures: tuple[Figure, ...]
    environment: tuple[Change, ...]
    request: tuple[Change, ...]


class Comparison(Record):
    """Several results side by side, the cheapest point first within each front. `notes` say what limits it."""

    sources: tuple[Source, ...]
    points: tuple[ComparedPoint, ...]
    instances: tuple[Instance, ...]
    left_out: Count
    changes: Changes | None = None
    notes: tuple[str, ...] = ()
