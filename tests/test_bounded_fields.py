"""Every number of every record in a study folder has bounds, and what may be negative is listed with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from tuner.records.codec import Record
from tuner.records.outcome import Limits, Outcome
from tuner.records.quality import NoiseFloor, Panel, PanelJob
from tuner.records.stages import StageEntry
from tuner.result.records import BestConfig
from tuner.search.request import Refusal, Request
from tuner.space.schema import SpaceFile

ROOTS = (Outcome, BestConfig, Panel, PanelJob, Request, Refusal, NoiseFloor, Limits, StageEntry, SpaceFile)

SIGNED = {
    "Estimate": "differences of scores, and intervals of a prediction that reach below zero; latencies are checked",
    "Quality.scores": "lower is better for some metrics, whose values are negated",
    "Quality.mean": "as its scores",
    "Quality.psnr_db": "decibels",
    "Quality.ssim": "images that are each other's negatives",
    "MeasuredPoint.quality": "as Quality.mean",
    "MeasuredPoint.psnr_db": "decibels",
    "MeasuredPoint.ssim": "images that are each other's negatives",
    "GpuUse.temperature_c": "degrees Celsius",
    "PredictionCheck.error": "too low a prediction",
    "Workload.guidance_scale": "some pipelines take a negative one",
    "WorkloadFields.guidance_scale": "as in Workload",
}
FREE = {
    "Outcome.values": "a knob's values, which the catalogue checks",
    "MeasuredPoint.values": "a knob's values, which the catalogue checks",
    "MeasuredPoint.changed": "a knob's values, which the catalogue checks",
    "Refusal.values": "a knob's values, which are only shown",
    "Recipe.values": "a knob's values, which the catalogue checks",
    "SearchSpace.baseline": "a knob's values, which the catalogue checks",
    "SearchSpace.knobs": "a knob's values, which the catalogue checks",
    "Workload.arguments": "arguments of the pipeline's call, which its own code checks",
    "WorkloadFields.arguments": "as in Workload",
    "SpaceFile.baseline": "a knob's values, which the catalogue checks",
    "SpaceFile.knobs": "a knob's values, which the catalogue checks",
    "Architecture.arguments": "defaults of the pipeline's call",
    "Architecture.settings": "settings of the pipeline's components",
}


def leaves(hint: Any) -> Iterator[Any]:
    """Yield the number types and the records that a type hint is made of."""
    origin = get_origin(hint)
    if origin is Annotated:
        base = get_args(hint)[0]
        yield from [hint] if base in (int, float) else leaves(base)
    elif origin in (Union, UnionType, tuple, dict):
        for argument in get_args(hint):
            yield from leaves(argument)
    elif hint in (int, float) or (isinstance(hint, type) and issubclass(hint, Record)):
        yield hint


def numbers() -> dict[str, list[Any]]:
    """Return the types of the numbers of each field of each record that a root reaches."""
    found: dict[str, list[Any]] = {}
    waiting, seen = list(ROOTS), set[type]()
    while waiting:
        record = waiting.pop()
        if record in seen:
            continue
        seen.add(record)
        for name, hint in get_type_hints(record, include_extras=True).items():
            for leaf in leaves(hint):
                if isinstance(leaf, type) and issubclass(leaf, Record):
                    waiting.append(leaf)
                else:
                    found.setdefault(f"{record.__name__}.{name}", []).append(leaf)
    return found


NUMBERS = numbers()


def accepts(hint: Any, text: str) -> bool:
    try:
        msgspec.json.decode(text, type=hint)
    except msgspec.DecodeError:
        return False
    return True


def test_the_records_are_walked() -> None:
    assert {"Timing.images_per_s", "Economics.break_even_images", "Panel.finalists", "Copies.bytes_per_step"} <= set(
        NUMBERS
    )
    assert len(NUMBERS) > 120


@pytest.mark.parametrize("field", sorted(NUMBERS))
def test_a_number_has_bounds(field: str) -> None:
    record = field.partition(".")[0]
    for hint in NUMBERS[field]:
        assert not accepts(hint, "NaN")
        if field not in FREE:
            assert not accepts(hint, "1e300"), "no upper bound"
            assert not accepts(hint, str(10**40)), "no upper bound"
            assert not accepts(hint, "-1e300"), "no lower bound"
            assert accepts(hint, "-1") == (field in SIGNED or record in SIGNED)


def test_no_exception_is_out_of_date() -> None:
    records = {field.partition(".")[0] for field in NUMBERS}
    assert FREE.keys() <= NUMBERS.keys()
    assert SIGNED.keys() <= NUMBERS.keys() | records
