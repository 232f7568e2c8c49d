"""What the baseline's measurements rule out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tuner.records.codec import Values
from tuner.records.machine import Roofline
from tuner.records.outcome import Build, Outcome
from tuner.result.prices import Price
from tuner.search.bounds import ruled_out_reason
from tuner.search.history import History


def history(rates: dict[str, float] | None) -> History:
    roofline = None if rates is None else Roofline(flop_per_s=rates)
    build = Build(changes={}, load_s=1.0, apply_s=0.0, first_call_s=1.0, trace=None, verdict=None, roofline=roofline)
    values: Values = {"precision.dtype": "float32", "steps": 28, "batch": 1}
    outcome = Outcome(
        number=0, purpose="baseline", values=values, build_key="", image_key="", status="measured", build=build
    )
    return History(space=cast(Any, None), price=Price(usd_per_hour=1.0, source="here"), outcomes={0: outcome})


@pytest.mark.parametrize(
    ("rates", "is_ruled_out"),
    [
        ({"float32": 126e9, "bfloat16": 0.9e9}, True),
        ({"float32": 151e9, "bfloat16": 373e9}, False),
        ({"float32": 100e9, "bfloat16": 30e9}, False),
        ({"float32": 100e9}, False),
        (None, False),
    ],
    ids=["no instructions for it", "faster", "slower", "not measured", "no roofline"],
)
def test_a_type_whose_products_are_far_slower_is_ruled_out(rates: dict[str, float] | None, is_ruled_out: bool) -> None:
    known = history(rates)
    candidate: Values = {"precision.dtype": "bfloat16", "steps": 28, "batch": 1}
    reason = ruled_out_reason(known, candidate)
    assert (reason is not None) is is_ruled_out
    assert reason is None or "bfloat16: large products reach 1 GFLOP/s" in reason
    assert ruled_out_reason(known, known.outcomes[0].values) is None
    assert ruled_out_reason(known, {**candidate, "quantization.scheme": "int8-dynamic"}) is None, "int8 decides"
