"""The result of a study: what best_config.json says of its trials."""

from __future__ import annotations

import msgspec

from tuner.knobs import other_arithmetic
from tuner.records.machine import Roofline
from tuner.records.outcome import Outcome
from tuner.records.quality import Panel
from tuner.result import config
from tuner.result.economics import economics
from tuner.result.objective import as_decided
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.search import gain
from tuner.search.gain import finalists, is_confirmed, prediction_checks, speed_up, timing_noise
from tuner.search.history import History
from tuner.search.remembering import remembered
from tuner.search.request import Request
from tuner.timing import roofline as limits


def best_config(
    request: Request, history: History, chosen: Outcome, panel: Panel | None, quality_time_share: float
) -> BestConfig:
    """Return what is exported, with all metrics of the finalists if there is a panel."""
    best = BestConfig(
        created_at=config.utc_now(),
        tuner_version=config.package_version(),
        model=request.model,
        environment=request.environment,
        workload=history.space.workload,
        price=request.price,
        quality_metric=request.quality.metric,
        quality_tolerance=history.space.tolerance,
        quality_floor=history.quality_floor,
        quality_unavailable_reasons=panel.unavailable_reasons if panel else {},
        quality_time_share=quality_time_share,
        baseline=measured_point(history, history.baseline, panel),
        chosen=measured_point(history, chosen, panel),
        speed_up=speed_up(history, chosen),
        speed_up_confirmed=is_confirmed(history, chosen),
        front=tuple(measured_point(history, outcome, panel) for outcome in finalists(history)),
        trials=config.count_trials(list(history.outcomes.values()), len(history.refused)),
        timing_noise=timing_noise(history),
        predictions=tuple(prediction_checks(history)),
        roofline=roofline_of(history),
    )
    return as_decided(best)


def measured_point(history: History, outcome: Outcome, panel: Panel | None = None) -> MeasuredPoint:
    """Return what is exported of a trial, with all metrics if it is one of the panel's finalists."""
    point = gain.measured_point(history, outcome)
    point = msgspec.structs.replace(point, panel=panel.finalists.get(outcome.number) if panel else None)
    differs = other_arithmetic(outcome.values, history.baseline.values)
    limit = limits.limit_share(
        roofline_of(history), point.components, outcome.values, history.baseline.values, other_arithmetic=differs
    )
    if limit is not None:
        timing = history.settled(history.outcomes[outcome.number]).timing  # `outcome` may be settled already, or not
        limit = limits.with_bound(limit, timing, outcome.build.trace if outcome.build else None)
    cost = economics(history.price.usd_per_hour, point.measurement(), baseline_point(history).measurement())
    return msgspec.structs.replace(point, limit=limit, economics=cost)


@remembered
def baseline_point(history: History) -> MeasuredPoint:
    """Return what is measured of the untouched pipeline."""
    return gain.measured_point(history, history.baseline)


def roofline_of(history: History) -> Roofline | None:
    """Return what bounds a step on this device, as the baseline's worker measured it."""
    build = history.baseline.build
    return build.roofline if build else None


def quality_time_share(history: History, panel_s: float, spent_s: float) -> float:
    """Return the share of the study's time that went into generating and judging images, 0 to 1.

    Comparing two images of a known build with its own counts as part of the build.
    """
    judged = (*history.outcomes.values(), *history.repetitions)
    scored = [o.quality.spent_s for o in judged if o.quality and o.quality.reused_from is None]
    late_s = history.late_noise_floor.spent_s if history.late_noise_floor else 0.0
    return min(1.0, (sum(scored) + late_s + panel_s) / max(spent_s, 1e-9))
