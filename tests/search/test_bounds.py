"""What the baseline's measurements rule out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tuner.records.codec import Values
from tuner.records.machine import Roofline
from tuner.records.outcome import Build, Failure, Outcome
from tuner.result.prices import Price
from tuner.search.bounds import idle_cache_reason, ruled_out_reason
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


CACHED: Values = {"cache.kind": "teacache", "cache.threshold": 0.2, "steps": 10, "batch": 1}


@pytest.mark.parametrize(
    ("different", "is_refused"),
    [
        ({}, True),
        ({"cache.threshold": 0.1}, True),
        ({"steps": 6, "fuse_qkv": True}, True),
        ({"cache.threshold": 0.4}, False),
        ({"steps": 14}, False),
        ({"cache.threshold": 0.1, "steps": 14}, False),
        ({"cache.kind": "first-block"}, False),
        ({"scheduler.kind": "EulerDiscreteScheduler"}, False),
        ({"cache.kind": "none"}, False),
    ],
    ids=str,
)
def test_a_cache_that_skipped_nothing_is_not_tried_where_it_skips_less(different: Values, is_refused: bool) -> None:
    known = history(None)
    message = "cache.kind=teacache: it skipped nothing in 240 steps, as if it were not set"
    known.outcomes[3] = Outcome(
        number=3, purpose="search", values=CACHED, build_key="", image_key="", status="failed",
        failure=Failure(kind="no effect", stage="score", message=message, knob="cache.kind"),
    )  # fmt: skip
    reason = idle_cache_reason(known, CACHED | different)
    assert (reason is not None) is is_refused
    assert reason is None or reason == f"it skips no more than trial 3 with cache.threshold=0.2 steps=10: {message}"


def test_another_knob_without_effect_says_nothing_of_caches() -> None:
    known = history(None)
    failure = Failure(kind="no effect", stage="score", message="guidance.stop=0.5: never", knob="guidance.stop")
    known.outcomes[3] = Outcome(
        number=3, purpose="search", values=CACHED, build_key="", image_key="", status="failed", failure=failure
    )
    assert idle_cache_reason(known, CACHED) is None
