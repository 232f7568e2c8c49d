"""Put results side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuner.compare.changes import changes
from tuner.compare.points import instances, make_points, make_sources, price_of, with_front
from tuner.compare.records import ComparedPoint, Comparison, Result, Source
from tuner.report.study_table import short_model
from tuner.result.prices import is_nominal

STATES = {
    "running": "its study is still running: this is what is known by now",
    "interrupted": "its study is not at its end; `tune resume` goes on",
}


def compare(
    results: Sequence[Result], usd_per_hour: float | None = None, provider: str | None = None, *, every: bool = False
) -> Comparison:
    """Compare results at a price, a provider's prices, or list prices; with `every` point of their fronts."""
    prices = [price_of(result.best, usd_per_hour, provider) for result in results]
    pairs = list(zip(results, prices, strict=True))
    sources = make_sources(results, prices)
    found = [point for index, (result, price) in enumerate(pairs) for point in make_points(index, result.best, price)]
    points = with_front(found, sources)
    shown = [point for point in points if every or is_shown(point)]
    return Comparison(
        sources=tuple(sources),
        points=tuple(shown),
        instances=tuple(each for index, result in enumerate(results) for each in instances(index, result.best)),
        left_out=len(points) - len(shown),
        changes=changes(results, sources),
        notes=tuple(notes(results, sources)),
    )


def is_shown(point: ComparedPoint) -> bool:
    """Return whether a point is shown unless every one is asked for."""
    return point.is_baseline or point.is_chosen or point.on_front


def letter(index: int) -> str:
    """Return the short name of a source: A to Z, then A1 and so on."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def notes(results: Sequence[Result], sources: Sequence[Source]) -> Iterator[str]:
    """Yield what limits the comparison."""
    for index, source in enumerate(sources):
        name = letter(index)
        if is_nominal(source.price):
            yield f"{name}: no price is known for {source.device_name}: its costs rank its own points only; --price"
        if source.state in STATES:
            yield f"{name}: {STATES[source.state]}"
    if len({source.front for source in sources}) > 1:
        yield "Results whose images differ in size, or whose price is nominal, have a front of their own"
    yield from _differences(results)


def _differences(results: Sequence[Result]) -> Iterator[str]:
    """Yield what the studies did not have in common, of what decides which configurations are as good."""
    bests = [result.best for result in results]
    fields: dict[str, set[object]] = {
        "model": {(short_model(best.model.source), best.model.revision) for best in bests},
        "metric of quality": {best.quality_metric for best in bests},
        "tolerated loss": {best.quality_tolerance for best in bests},
        "prompts": {best.workload.prompts for best in bests},
        "latency target": {best.workload.latency_target_s for best in bests},
    }
    different = [name for name, values in fields.items() if len(values) > 1]
    if different:
        yield f"The studies differ in {', '.join(different)}: each is as good by its own measure"
