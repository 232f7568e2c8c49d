"""The effects that knobs state (steps, trajectory, noise, arithmetic, batch), and what a candidate has of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest
from drawing import CPU, GPU
from drawing import values as candidate

from tuner import knobs
from tuner.knobs import KNOBS, Knob
from tuner.knobs.attention import BACKENDS
from tuner.knobs.precision import generates_same_noise
from tuner.records.codec import Value, Values

EFFECTS = ("uneven_steps", "changes_trajectory", "changes_noise", "other_arithmetic", "mixes_batch")
CHANGING = [name for name, knob in KNOBS.items() if any(knob.changes_image(value) for value in knob.choices)]


@pytest.mark.parametrize("name", CHANGING)
def test_a_knob_that_can_change_the_image_states_each_effect_itself(name: str) -> None:
    stated = vars(type(KNOBS[name]))
    assert [effect for effect in EFFECTS if not isinstance(stated.get(effect), bool)] == []


def test_a_forgotten_effect_is_found() -> None:
    class Forgetful(Knob):
        name = "forgetful"
        choices = (False, True)
        may_change_image = True

    assert not EFFECTS & vars(Forgetful).keys(), "the defaults of Knob do not count as stated"


# ---- the tables that the knobs' attributes took the place of ---------------------------------------------------------

EVEN: Mapping[str, Value] = {"cache.kind": "none", "guidance.stop": 1, "guidance.truncation": 1}
OTHER_ARITHMETIC = (
    *EVEN, "text.sequence_length", "scheduler.kind", "scheduler.begin_index", "matmul.tf32", "parallel.kind",
    "modulation.once",
)  # fmt: skip
OTHER_STEPS = ("steps", "scheduler.kind", "scheduler.begin_index", "guidance.stop", "guidance.truncation")
OTHER_NOISE = ("scheduler.kind", "scheduler.begin_index")


def candidates() -> Iterator[Values]:
    """Yield every value of every knob beside the baseline's, also beside float32 and beside each cache."""
    for beside in ({}, {"precision.dtype": "float32"}, {"precision.dtype": "bfloat16"}, {"compile.scope": "full"}):
        for name, knob in KNOBS.items():
            yield from (candidate({**beside, name: value}) for value in knob.choices)
    for kind in KNOBS["cache.kind"].choices:
        for name, knob in KNOBS.items():
            yield from (candidate({"cache.kind": kind, name: value}) for value in knob.choices)


BASELINES = {here.device: knobs.baseline(here) for here in (CPU, GPU)}


@pytest.mark.parametrize("device", BASELINES)
def test_every_value_has_the_effects_that_the_tables_gave_it(device: str) -> None:
    baseline = BASELINES[device]
    for values in candidates():
        assert knobs.uneven_steps(values) == any(values.get(name, even) != even for name, even in EVEN.items())
        assert knobs.mixes_batch(values) == (values.get("cache.kind", "none") != "none")
        other = any(values.get(name, baseline.get(name)) != baseline.get(name) for name in OTHER_ARITHMETIC)
        other |= BACKENDS[str(values["attention.backend"])].approximate
        assert knobs.other_arithmetic(values, baseline) == other
        changed = {name for name in OTHER_STEPS if values.get(name) != baseline.get(name)}
        assert (knobs.trajectory_change(values, baseline) in changed) == bool(changed)
        assert (knobs.trajectory_change(values, baseline) is None) == (not changed)
        same = all(values.get(name) == baseline.get(name) for name in OTHER_NOISE)
        same = same and generates_same_noise(str(values["precision.dtype"]), str(baseline["precision.dtype"]))
        assert knobs.changes_noise(values, baseline) != same


@pytest.mark.parametrize(
    ("values", "uneven"),
    [
        ({}, False),
        ({"cache.kind": "none", "guidance.stop": 1.0}, False),
        ({"cache.kind": "first-block", "cache.threshold": 0.1}, True),
        ({"cache.kind": "deepcache"}, True),
        ({"guidance.stop": 0.6}, True),
        ({"compile.scope": "full", "scheduler.kind": "heun"}, False),
    ],
)
def test_what_skips_work_in_some_steps_is_measured(values: Values, uneven: bool) -> None:
    assert knobs.uneven_steps(values) is uneven


@pytest.mark.parametrize("name", KNOBS)
def test_effects_without_a_baseline_are_asked_of_knobs_whose_baseline_is_their_first_choice(name: str) -> None:
    knob = KNOBS[name]
    if knob.uneven_steps or knob.mixes_batch:
        assert {knob.baseline(here) for here in (CPU, GPU)} == {knob.choices[0]}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cache.kind": "dbcache"}, "cache.kind=dbcache"),
        ({"cache.kind": "pab", "cache.interval": 5, "fuse_qkv": True}, "cache.kind=pab"),
        ({"guidance.stop": 0.6}, "guidance.stop=0.6"),
        ({"guidance.truncation": 0.8}, "guidance.truncation=0.8"),
        ({"fuse_qkv": True, "vae.channels_last": True}, None),
        ({"text.sequence_length": 128}, None),
        ({}, None),
    ],
)
def test_what_leaves_work_out_and_gives_the_untouched_image_had_no_effect(values: Values, named: str | None) -> None:
    pipe, chosen = SimpleNamespace(), candidate(values)
    knobs.require_effects(pipe, chosen, CPU, is_same_image=False)
    if named is None:
        knobs.require_effects(pipe, chosen, CPU, is_same_image=True)
        return
    with pytest.raises(knobs.NoEffect, match=f"^{named}: its images are those of the untouched pipeline$"):
        knobs.require_effects(pipe, chosen, CPU, is_same_image=True)
