"""Compute what the configurations of one study cost, or the chosen ones of several studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuner.errors import BadInput
from tuner.records.codec import Record, Values
from tuner.result.config import check_points, read_config
from tuner.result.economics import Economics, economics
from tuner.result.prices import Price, is_nominal, price_for
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.search.its_study import require_its_study


class CostRow(Record):
    """One configuration of one study, at one price.

    `predicted_from` holds the step counts that the latency was predicted from, or None if it was measured. Its gain
    `is_doubtful` if pairs with the baseline did not show it. It `may_lose_quality` beyond the study's tolerance.
    """

    file: str
    device_name: str
    price: Price
    trial: int
    is_baseline: bool
    is_chosen: bool
    changed: Values
    economics: Economics
    predicted_from: tuple[int, ...] | None = None
    is_doubtful: bool = False
    may_lose_quality: bool = False


class CostReport(Record):
    """The front of one study, the baseline first; or the chosen points of several studies, the cheapest first."""

    pipeline_class: str
    model: str
    is_comparison: bool
    rows: tuple[CostRow, ...]


class _Study(NamedTuple):
    """A best_config.json and its path."""

    file: str
    best: BestConfig


def make_report(files: Sequence[Path], usd_per_hour: float | None, provider: str | None) -> CostReport:
    """Report the cost of one study's front, or compare the chosen points of several studies.

    Raises BadInput if a file is not a valid result, or if its model or workload differs from the first file's.
    """
    studies = [_read_study(file) for file in files]
    for other in studies[1:]:
        _check_comparable(studies[0], other)
    rows = _front_rows(studies[0], usd_per_hour, provider)
    if len(studies) > 1:
        rows = _comparison_rows(studies, usd_per_hour, provider)
    model = studies[0].best.model
    return CostReport(
        pipeline_class=model.pipeline_class,
        model=_model_name(model.source),
        is_comparison=len(studies) > 1,
        rows=tuple(rows),
    )


def _front_rows(study: _Study, usd_per_hour: float | None, provider: str | None) -> list[CostRow]:
    """List the front of a study at the requested price, or at the study's own."""
    listed = price_for(study.best.environment.device_name, usd_per_hour, provider)
    is_requested = usd_per_hour is not None or provider is not None
    price = listed if is_requested else _first_known(study.best.price, listed)
    return [_row(study, point, price) for point in _front(study.best)]


def _comparison_rows(studies: Sequence[_Study], usd_per_hour: float | None, provider: str | None) -> list[CostRow]:
    """List the chosen point of each study, cheapest first and nominal prices last.

    List prices come before the studies' own prices, because only list prices are comparable.
    """
    rows = []
    for study in studies:
        listed = price_for(study.best.environment.device_name, usd_per_hour, provider)
        is_requested = usd_per_hour is not None or provider is not None
        price = listed if is_requested else _first_known(listed, study.best.price)
        rows.append(_row(study, study.best.chosen, price))
    return sorted(rows, key=lambda row: (is_nominal(row.price), row.economics.usd_per_1000_images, row.file))


def _first_known(preferred: Price, other: Price) -> Price:
    """Return the preferred price, or the other one if the preferred one is nominal."""
    return other if is_nominal(preferred) else preferred


def _front(best: BestConfig) -> list[MeasuredPoint]:
    """List the baseline, then the front and the chosen point, fastest first."""
    points = {point.trial: point for point in (*best.front, best.chosen, best.baseline)}
    return sorted(points.values(), key=lambda point: (point.trial != best.baseline.trial, -point.images_per_s))


def _row(study: _Study, point: MeasuredPoint, price: Price) -> CostRow:
    best = study.best
    return CostRow(
        file=study.file,
        device_name=best.environment.device_name,
        price=price,
        trial=point.trial,
        is_baseline=point.trial == best.baseline.trial,
        is_chosen=point.trial == best.chosen.trial,
        changed=point.changed,
        economics=economics(price.usd_per_hour, point.measurement(), best.baseline.measurement()),
        predicted_from=point.predicted_from,
        is_doubtful=point.doubtful,
        may_lose_quality=point.quality_difference.low < -best.quality_tolerance,
    )


# ---- reading and checking -------------------------------------------------------------------------------------------


def _read_study(file: Path) -> _Study:
    """Read a best_config.json, and check the numbers that costs are computed from."""
    best = read_config(file)
    check_points(best, file)
    require_its_study(file, best)
    for field, value in _numbers(best):
        if not _is_plausible(value):
            raise BadInput(f"{file}: {field}: {value} is out of range")
    return _Study(str(file), best)


def _numbers(best: BestConfig) -> Iterator[tuple[str, float]]:
    """Yield the fields that costs are computed from."""
    yield "price.usd_per_hour", best.price.usd_per_hour
    points = [("baseline", best.baseline), ("chosen", best.chosen)]
    points += [(f"front[{index}]", point) for index, point in enumerate(best.front)]
    for name, point in points:
        yield f"{name}.images_per_s", point.images_per_s
        yield f"{name}.latency_s.value", point.latency_s.value
        if point.latency_p95_s is not None:
            yield f"{name}.latency_p95_s", point.latency_p95_s
        if point.joules_per_image is not None:
            yield f"{name}.joules_per_image", point.joules_per_image


def _is_plausible(value: float) -> bool:
    """Return whether a number, and any cost computed from it, is above zero and finite."""
    return 1e-9 < value < 1e9


def _check_comparable(first: _Study, other: _Study) -> None:
    """Raise BadInput if two studies do not generate the same images."""
    expected, identity = _identity(first.best), _identity(other.best)
    for field, value in expected.items():
        if identity[field] != value:
            raise BadInput(
                f"{other.file}: {field} differs from {first.file}, so their costs cannot be compared; "
                f"`tune compare {first.file} {other.file}` shows results that differ, and how"
            )


def _identity(best: BestConfig) -> dict[str, Any]:
    """Return the fields that two studies must have in common to be compared."""
    model, workload = best.model, best.workload
    return {
        "model.pipeline_class": model.pipeline_class,
        "model.source": _model_name(model.source),
        "model.revision": model.revision,
        "model.scorer": _model_name(model.scorer),
        **{f"workload.{name}": getattr(workload, name) for name in workload.__struct_fields__},
        "quality_metric": best.quality_metric,
        "quality_tolerance": best.quality_tolerance,
    }


def _model_name(source: str) -> str:
    """Return a hub id, or only the last part of a folder, which may lie elsewhere on another machine."""
    return Path(source).name if Path(source).is_absolute() else source
