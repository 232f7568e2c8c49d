"""`tune run`: resolve the model, search, report."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from tuner.records.quality import QualityPolicy
    from tuner.result.config import BestConfig
    from tuner.study.loop import Study
    from tuner.study.store import Request


MAX_REASONS = 3


def run_study(options: argparse.Namespace) -> int:
    """`tune run`: resolve, search, report."""
    from tuner.hardware import environment
    from tuner.model import pipeline
    from tuner.records.outcome import Limits
    from tuner.report.live import make_display
    from tuner.result.prices import price_for
    from tuner.space import reader
    from tuner.study.loop import Study
    from tuner.study.store import Request, Store

    here = environment.detect(options.device)
    model, kind = pipeline.resolve(options.model, options.revision, options.scorer)
    file = reader.find(options.space, kind, model.source == pipeline.DEMO)
    request = Request(
        model=model,
        environment=here,
        space=reader.load(file, kind, here, settings(options), options.quality),
        price=price_for(here.device_name, options.price),
        quality=quality_policy(options.quality, options.metric, model.scorer),
    )
    folder = options.out.resolve() / study_name(options.study, model.source, request.fingerprint())
    display = make_display(sys.stdout, request.space.baseline)
    with Store(folder, request) as store:
        limits = Limits(budget_s=options.budget, max_trials=options.trials)
        study = Study(store, limits, display)
        try:
            display.started(
                f"{options.model} ({model.pipeline_class}) on {here.device_name}", folder, limits, notes(request),
                store.spent_s, list(study.ledger.outcomes.values()),
            )  # fmt: skip
            best = study.run()
        finally:
            display.closed()
        report_study(study, best)
    return 0


def quality_policy(name: str, given: Sequence[str], scorer: str) -> QualityPolicy:
    """By what images are judged, if all that the objective needs is here. Raises BadInput or Unavailable."""
    from tuner.quality.metrics import METRICS, MetricContext, get_objective
    from tuner.records.quality import QualityPolicy

    paths: dict[str, str] = {}
    for text in given:
        of, equals, path = text.partition("=")
        if not equals or of not in METRICS:
            raise BadInput(f"--metric {text}: write it as NAME=PATH with a metric's name: {', '.join(METRICS)}")
        if not Path(path).exists():
            raise BadInput(f"--metric {text}: there is no such file or folder")
        paths[of] = str(Path(path).resolve())
    lacking = get_objective(name).unavailable_reason(MetricContext("cpu", scorer, paths))
    if lacking:
        raise Unavailable(f"--quality {name}: {lacking}; clip_score, ssim and ms_ssim work without")
    return QualityPolicy(metric=name, metric_paths=paths)


def settings(options: argparse.Namespace) -> list[str]:
    """What --set says, and the options that say the same in fewer words."""
    target_s = options.latency_target
    return [*options.set, *([f"workload.latency_target_s={target_s}"] if target_s is not None else [])]


def notes(request: Request) -> list[str]:
    """What the user should know before it begins: the price it reckons with, and what cannot be tried here."""
    from tuner.hardware import environment, telemetry

    neighbours = (
        telemetry.other_users_warning(environment.gpu_usage()) if request.environment.device == "cuda" else None
    )
    said = [f"cost at {request.price.usd_per_hour:.2f} US$ an hour ({request.price.source})"]
    target_s = request.space.workload.latency_target_s
    if target_s is not None:
        said.append(f"only calls within {target_s:g} s count, and a configuration that misses that is none")
    return said + ([neighbours] if neighbours else []) + left_out(request)


def left_out(request: Request) -> list[str]:
    """What the space lists and cannot be had here: each reason when they are few, else how many there are."""
    grouped: dict[str, list[str]] = {}
    for what, reason in request.space.left_out.items():
        grouped.setdefault(reason, []).append(what)
    if len(grouped) <= MAX_REASONS:
        return [f"left out: {', '.join(names)}: {reason}" for reason, names in grouped.items()]
    model = request.model.source
    return [
        f"left out: {len(request.space.left_out)} values or recipes that cannot be had here (`tune knobs {model}` "
        f"says why): {', '.join(request.space.left_out)}"
    ]


def study_name(name: str | None, model: str, fingerprint: str) -> str:
    """The study's folder name: the user's, or one made of what is tuned; never a path out of the folder of studies."""
    if name is None:
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', Path(model).name).strip('-').lower()}-{fingerprint[:8]}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise BadInput(f"--study {name}: a study's name is made of letters, digits, '.', '_' and '-'")
    return name


def report_study(study: Study, best: BestConfig) -> None:
    """The end of `tune run`: the front as a table and a drawing, the choice's figures, why the others are not on it,
    what to do next."""
    from tuner.report import figures, front_plot, front_table, panel_table, trial_counts
    from tuner.report.console import make_console

    console = make_console(sys.stdout)
    points = study.ledger.front_points(best.chosen.trial)
    refused = Counter(refusal.reason for refusal in study.store.refusals())
    console.print(front_table.table(points, study.ledger.metric_title))
    console.print(front_plot.drawing(points, metric=study.ledger.metric_title))
    console.print(figures.figures(best))
    console.print(panel_table.panel(best))
    console.print(trial_counts.summary(list(study.ledger.outcomes.values()), refused))
    console.print(study.conclusion(best.chosen.trial))
