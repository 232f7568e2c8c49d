"""What changed between two results of the same machine and model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tuner.compare.points import rate, usd_per_million
from tuner.compare.records import Changes, Figure, Result, Source
from tuner.export.facts import setting
from tuner.records.codec import Estimate, Value
from tuner.report.study_table import short_model
from tuner.result.front import widen
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.timing.intervals import differs, widest_ratio
from tuner.verify.changes import differing, software
from tuner.verify.records import Change

CHOSEN = "chosen"
LATENCY = "latency, s"
DIFFERENCE = " difference"


def changes(results: Sequence[Result], sources: Sequence[Source]) -> Changes | None:
    """Return what changed between two results of the same machine and model, None of any others."""
    if len(results) != 2 or len({_identity(result.best) for result in results}) > 1:
        return None
    before, after = sorted((0, 1), key=lambda index: _time(results[index].best))
    then, now = results[before].best, results[after].best
    prices = sources[before].price.usd_per_hour, sources[after].price.usd_per_hour
    return Changes(
        before=before,
        after=after,
        settings=tuple(_settings(then, now)),
        figures=tuple(figures(then, now, *prices)),
        environment=tuple(
            differing(software(then.tuner_version, then.environment), software(now.tuner_version, now.environment))
        ),
        request=tuple(differing(request(then), request(now))),
    )


def _identity(best: BestConfig) -> tuple[str, ...]:
    return best.environment.device_name, best.model.pipeline_class, short_model(best.model.source)


def _time(best: BestConfig) -> float:
    return datetime.fromisoformat(best.created_at).timestamp()


def _settings(then: BestConfig, now: BestConfig) -> Iterator[Change]:
    """Yield the chosen values that differ. A knob that one of the results does not have is not active there."""
    before, after = then.chosen.values, now.chosen.values
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield Change(name=name, recorded=_value(name, before.get(name)), now=_value(name, after.get(name)))


def _value(name: str, value: Value | None) -> str:
    return "not active" if value is None else setting(name, value).partition("=")[2]


def request(best: BestConfig) -> dict[str, Any]:
    """Return what was asked for: the workload, the model, quality and price."""
    work = msgspec.to_builtins(best.workload)
    shown = {name: work[name] for name in work if name not in ("prompts", "seeds")}
    return {
        "model.source": best.model.source,
        "model.revision": best.model.revision,
        "model.variant": best.model.variant,
        "quality metric": best.quality_metric,
        "quality tolerance": best.quality_tolerance,
        "prompts": _prompts(best),
        **{f"workload.{name}": value for name, value in shown.items()},
        "price, US$ an hour": best.price.usd_per_hour,
        "price from": best.price.source,
    }


def _prompts(best: BestConfig) -> str:
    """Describe the prompts and seeds, which are too many to show, so that other ones differ."""
    from tuner.records.codec import fingerprint

    work = best.workload
    return f"{len(work.prompts)}, fingerprint {fingerprint({'prompts': work.prompts, 'seeds': work.seeds})}"


# ---- figures --------------------------------------------------------------------------------------------------------


def figures(then: BestConfig, now: BestConfig, before_usd: float, after_usd: float) -> Iterator[Figure]:
    """Yield figures of both results; those of the untouched pipeline tell what is the environment's doing."""
    noise = _process_noise(then, now)
    yield from _of_points("untouched", then.baseline, now.baseline, before_usd, after_usd, noise)
    yield from _of_points(CHOSEN, then.chosen, now.chosen, before_usd, after_usd, noise)
    yield _figure(CHOSEN, "speed-up", then.speed_up, now.speed_up)
    if then.quality_metric == now.quality_metric:
        old, new = then.chosen.quality_difference, now.chosen.quality_difference
        yield Figure(of=CHOSEN, name=f"{now.quality_metric}{DIFFERENCE}", before=old, after=new)


def _process_noise(then: BestConfig, now: BestConfig) -> float:
    """Return the coefficient of variation between fresh processes of one configuration, over both results."""
    noises = [best.timing_noise.coefficient_of_variation if best.timing_noise else 0.0 for best in (then, now)]
    return math.hypot(*noises) / math.sqrt(len(noises))


def _of_points(
    of: str, old: MeasuredPoint, new: MeasuredPoint, before_usd: float, after_usd: float, noise: float
) -> Iterator[Figure]:
    yield _figure(of, LATENCY, old.latency_s, new.latency_s, noise)
    yield _figure(of, "images/s", rate(old.batch, old.latency_s), rate(new.batch, new.latency_s), noise)
    yield _figure(of, "iterations/s", _iterations(old), _iterations(new), noise)
    before, after = usd_per_million(old, before_usd), usd_per_million(new, after_usd)
    yield _figure(of, "US$/million images", before, after, noise)
    yield _figure(of, "peak memory, GB", _memory(old), _memory(new))


def _iterations(point: MeasuredPoint) -> Estimate:
    return rate(int(point.values["steps"]), point.latency_s)


def _memory(point: MeasuredPoint) -> Estimate:
    """Return the peak memory, which is a maximum and has no interval."""
    peak_gb = point.peak_memory_bytes / 1e9
    return Estimate(value=peak_gb, low=peak_gb, high=peak_gb)


def _figure(of: str, name: str, before: Estimate, after: Estimate, noise: float = 0.0) -> Figure:
    has_intervals = before.low < before.high or after.low < after.high
    if min(before.low, after.low) <= 0 or not has_intervals:
        return Figure(of=of, name=name, before=before, after=after)
    ratio = widen(widest_ratio(after, before), noise)
    return Figure(of=of, name=name, before=before, after=after, ratio=ratio, differs=differs(ratio))
