"""Every knob on every family of pipelines: it applies, is verified and draws, or it is unavailable with a reason.

Graphs are captured for real and run as they are captured: inductor's own code takes seconds a build and is tested
elsewhere. TUNER_CANDIDATES sets how many random candidates of each family are built.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pipelines
import pytest
from drawing import own_process_state

from tuner.hardware.environment import detect
from tuner.knobs import KNOBS, apply_knobs, call_arguments
from tuner.model import pipeline
from tuner.quality.panel import to_stills
from tuner.quality.similarity import psnr_and_ssim
from tuner.records.codec import Value, Values
from tuner.records.gate import GatePolicy
from tuner.records.model import Architecture, Workload
from tuner.space import reader
from tuner.space.candidates import SearchSpace

CPU = detect("cpu")
STEPS = 4
MAX_CALLED = 6
CANDIDATES = int(os.environ.get("TUNER_CANDIDATES", "1"))
SEED = 197
"""The first candidates of this seed compile, cache, quantize and fuse, on FLUX and SDXL, and take seconds."""

PROMPTS = ("a red cat", "the blue dog")
COST_ONLY_DB = 38.0
"""Images of a knob that changes the cost alone are equal up to rounding, of bfloat16 at worst."""

SAME_IMAGE = {
    "* vae.tiling *": "images smaller than a tile",
    "* cache.threshold *": "as said there; tests/knobs/test_cache.py tries thresholds",
    "sd3 cache.kind pab": "none of the four steps is one that it skips",
    "flux2 cache.interval 3": "none of the four steps is one that it skips",
    "z-image guidance.stop 0.[68]": "the last of four steps begins before it",
    "sana text.sequence_length *": "its padding is masked: the same image for less work",
    "pixart text.sequence_length *": "its padding is masked: the same image for less work",
    "flux text.sequence_length 512": "the pipeline's own",
    "flux2 text.sequence_length 512": "the pipeline's own",
    "wan text.sequence_length 512": "the pipeline's own",
    "sd3 text.sequence_length 256": "the pipeline's own",
}
"""Family, knob and value of what may change images and does not change these, with the reason."""

PARAMETER_OF = {
    "cache.threshold": "cache.kind", "cache.interval": "cache.kind", "cache.max_skip_steps": "cache.kind",
    "lora.scale": "lora.file",
}  # fmt: skip
"""Knobs that no candidate has where nothing that the other knob can be here takes them."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_dynamo")]


class Family:
    """A tiny pipeline of a family, loaded once, and what it draws untouched."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model, self.kind = pipeline.resolve(str(folder), None, "demo")
        self.loaded = pipeline.load(self.model, CPU, "float32")
        own = {"height": 32, "width": 32} | pipelines.CALL.get(name, {})
        frames = own.pop("num_frames", None)
        size = {side: own.pop(side) for side in ("height", "width")}
        self.workload = Workload(prompts=PROMPTS, seeds=(0, 1), num_frames=frames, arguments=own, **size)
        self.space = self.everything()
        self.untouched = self.draw(self.pipe(), self.space.candidate({}))

    def everything(self) -> SearchSpace:
        """A space with every value of every knob that can be had here."""
        knobs = {name: usable for name in KNOBS if (usable := available(name, self.kind))}
        baseline = {name: knob.baseline(CPU) for name, knob in KNOBS.items()} | {"steps": STEPS}
        baseline |= {"cache.threshold": 1.9}  # what is under the usual one in four steps is luck
        return SearchSpace(
            name="everything", architecture=self.kind, workload=self.workload, tolerance=1.0, gate=GatePolicy(),
            baseline=baseline, recipes=(), left_out={}, knobs=knobs | {"steps": (STEPS, 2), "batch": (1, 2)},
        )  # fmt: skip

    def pipe(self) -> Any:
        """A pipeline of its own for each candidate, with the weights of all."""
        return copy.deepcopy(self.loaded)

    def draw(self, pipe: Any, values: Values) -> Any:
        """What the candidate's call draws of the two prompts, at the candidate's batch."""
        indices = [[0, 1]] if values["batch"] == 2 else [[0], [1]]
        arguments = call_arguments(values)
        drawn = [pipeline.generate(pipe, self.workload, pair, arguments, output_type="np") for pair in indices]
        return to_stills(np.concatenate(drawn))

    def build(self, values: Values) -> tuple[dict[str, str], Any]:
        """What was changed, and what is drawn then."""
        with own_process_state():
            pipe = self.pipe()
            changes = apply_knobs(pipe, values, CPU)
            return changes, self.draw(pipe, values)


def available(name: str, kind: Architecture) -> tuple[Value, ...]:
    knob = KNOBS[name]
    return tuple(value for value in knob.choices if knob.unavailable_reason(value, CPU, kind) is None)


@pytest.fixture(scope="session")
def load_family(pipeline_folder: Callable[[str], Path]) -> Callable[[str], Family]:
    return cache(lambda name: Family(name, pipeline_folder(name)))


def beside(space: SearchSpace, name: str, value: Value) -> Values | None:
    """A valid candidate with this value, as near to the baseline as can be; None when there is none."""
    scopes = [(scope, dynamic) for dynamic in (False, True) for scope in ("regional", "full")]
    compiled = ({}, *({"compile.scope": scope, "compile.dynamic": dynamic} for scope, dynamic in scopes))
    types: tuple[Values, ...] = ({}, {"precision.dtype": "bfloat16"})
    for first in (space.candidate({**others, **dtype, name: value}) for dtype in types for others in compiled):
        if first.get(name) == value and space.conflict_reason(first) is None:
            return first
    rng = random.Random(0)
    for _ in range(3000):
        some = rng.sample(sorted(space.knobs), k=rng.choice((1, 1, 2, 3)))
        values = space.candidate({other: rng.choice(space.knobs[other]) for other in some} | {name: value})
        if values.get(name) == value and space.conflict_reason(values) is None:
            return values
    return None


@pytest.mark.parametrize("name", KNOBS)
@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_each_value_works_or_says_why_not(family: str, name: str, load_family: Callable[[str], Family]) -> None:
    this = load_family(family)
    knob = KNOBS[name]
    for value in knob.choices:
        if knob.acts == "call" and isinstance(value, int) and value > MAX_CALLED:
            continue
        reason = knob.unavailable_reason(value, CPU, this.kind)
        if reason is not None:
            assert reason.strip()
            assert "\n" not in reason
            continue
        if value == this.space.baseline[name]:
            continue
        values = beside(this.space, name, value)
        if values is None:
            owner = PARAMETER_OF[name]
            assert not any(name in this.space.candidate({owner: other}) for other in this.space.knobs[owner])
            continue
        changes, drawn = this.build(values)
        assert knob.acts == "call" or name in changes or value == knob.baseline(CPU)
        assert all(change.strip() and "\n" not in change for change in changes.values())
        assert np.isfinite(drawn).all()
        assert drawn.std() > 0.01
        different = this.space.changed(values)
        if different.keys() == {name} and knob.changes_image(value):
            is_known = any(fnmatchcase(f"{family} {name} {value}", pattern) for pattern in SAME_IMAGE)
            assert is_known or not np.array_equal(drawn, this.untouched), f"{value} draws the untouched images"
        if not any(KNOBS[changed].may_change_image for changed in different):
            assert min(psnr_and_ssim(drawn, this.untouched)[0]) > COST_ONLY_DB, changes


@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_random_valid_candidates_do_not_fail(family: str, load_family: Callable[[str], Family]) -> None:
    this = load_family(family)
    rng = random.Random(SEED)
    built, failed = 0, []
    while built < CANDIDATES:
        values = this.space.sample(lambda name, choices: rng.choice(choices))
        if this.space.conflict_reason(values) is None:
            built += 1
            try:
                _, drawn = this.build(values)
                assert np.isfinite(drawn).all()
            except Exception as error:
                failed.append(f"{this.space.changed(values)}: {type(error).__name__}: {error}")
    assert not failed, f"{len(failed)} of {built}\n" + "\n".join(failed)


@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_the_shipped_space_of_a_family_is_found_for_its_pipeline(
    family: str, load_family: Callable[[str], Family]
) -> None:
    this = load_family(family)
    file = reader.find(None, this.kind, is_demo=False)
    assert file.stem == family
    loaded = msgspec.structs.replace(reader.load(file, this.kind, CPU), workload=this.workload)
    rng = random.Random(0)
    candidates = [loaded.sample(lambda name, choices: rng.choice(choices)) for _ in range(200)]
    assert sum(loaded.conflict_reason(values) is None for values in candidates) >= 20
