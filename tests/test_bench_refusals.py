"""tests/bench_refusals.py: what it lists, beside what it compares, and what it says of the result."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from bench_refusals import Case, Drawn, candidate, cases, verdict
from drawing import GPU
from kinds import kind

from tuner.knobs import KNOBS
from tuner.records.machine import Environment

ON_GPU = msgspec.structs.replace(GPU, libraries={**GPU.libraries, "diffusers": "0.42.1"})


def listed(here: Environment = ON_GPU) -> list[Case]:
    return cases(kind(), here)


def test_each_conflict_and_unavailable_value_is_a_runnable_case_once() -> None:
    found = listed()
    assert len({str(each.values) + each.reason for each in found}) == len(found)
    for each in found:
        values = candidate(each.values, ON_GPU)
        assert each.values.items() <= values.items(), "all of it is active"
        given = [KNOBS[name].conflict_reason(values, kind()) for name in each.values]
        given += [KNOBS[name].unavailable_reason(value, ON_GPU, kind()) for name, value in each.values.items()]
        assert any(" ".join(reason.split()) == each.reason for reason in given if reason)


def test_fp8_rows_in_a_graph_are_run_beside_fp8_rows_without_one() -> None:
    (case,) = [each for each in listed() if "replays of fp8 rows" in each.reason and "graphs.denoiser" in each.values]
    assert case.source == "cache-dit's CUDA_GRAPH.md"
    assert case.reference is not None and "graphs.denoiser" not in case.reference
    assert case.reference["quantization.scheme"] == "fp8-dynamic-row"


def test_facts_and_code_from_the_hub_are_not_run() -> None:
    assert not [each for each in listed() if "not installed" in each.reason or "_hub" in str(each.values)]


def test_what_needs_a_package_that_is_missing_is_not_run() -> None:
    without = msgspec.structs.replace(ON_GPU, libraries={"diffusers": "0.42.1"})
    assert not [each for each in listed(without) if "_varlen" in str(each.values)]


IMAGE = np.linspace(0.1, 1, 12).reshape(1, 2, 2, 3)
DRAWN = np.stack([IMAGE, 1.04 * IMAGE, IMAGE])
"""Of two prompts whose images differ by 4 %, and of the first again."""


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [
        (Drawn(problem="fails: ValueError: no"), Drawn(DRAWN), "fails: ValueError: no"),
        (Drawn(DRAWN + 1), Drawn(DRAWN), "wrong: its images differ by"),
        (Drawn(DRAWN * float("nan")), Drawn(DRAWN), "wrong: its images differ by"),
        (Drawn(DRAWN[[0, 0, 0]]), Drawn(DRAWN), "wrong: its images differ by 3.8%, and those of two prompts by 4.0%"),
        (Drawn(DRAWN[[0, 1, 1]]), Drawn(DRAWN), "wrong: its images differ by 4.0%"),
        (Drawn(DRAWN * 1.007), Drawn(DRAWN), "works: its images differ by 0.7%"),
        (Drawn(DRAWN[[0, 0, 0]]), Drawn(DRAWN[[0, 0, 0]]), "no verdict: another prompt changes the image by only 0.0%"),
        (Drawn(DRAWN * 0), None, "wrong: no image"),
        (Drawn(DRAWN), None, "draws: there is nothing to compare with"),
    ],
)
def test_the_verdict(found: Drawn, reference: Drawn | None, expected: str) -> None:
    assert verdict(found, reference).startswith(expected)
