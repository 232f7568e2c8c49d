"""A request and made-up outcomes for tests of what a study folder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from kinds import kind

from tuner.hardware import environment
from tuner.records.codec import Estimate, Values
from tuner.records.machine import Memory
from tuner.records.model import Model
from tuner.records.outcome import Outcome, Timing
from tuner.records.quality import Quality
from tuner.result.prices import Price
from tuner.search.request import Request
from tuner.space import reader
from tuner.space.candidates import build_key, image_key
from tuner.study.store import Store

SPACE = """
pipelines: [FluxPipeline]
workload: {prompts: [a red circle, a blue square], height: 32, width: 32}
quality: {tolerance: 1.0}
baseline: {steps: 8, batch: 1}
knobs:
  compile.scope: [none, regional, full]
  precision.dtype: [float32, bfloat16]
  steps: [8, 6, 4]
  batch: [1, 2]
"""


def make_request(folder: Path) -> Request:
    """Make a request for a study of a small space, whose file is written into the folder."""
    here = environment.detect("cpu")
    file = folder / "tiny.yaml"
    file.write_text(SPACE)
    return Request(
        model=Model(source="/model", revision=None, pipeline_class="FluxPipeline", scorer="/scorer"),
        environment=here,
        space=reader.load(file, kind(), msgspec.structs.replace(here, cpp_compiler="g++")),
        price=Price(usd_per_hour=1.0, source="here"),
    )


def outcome(number: int, values: Values, **more: Any) -> Outcome:
    """An outcome with a cost and a score that follow from its number, unless it is said to be something else."""
    batch = values["batch"]
    assert isinstance(batch, int)
    latency_s = 3.6 * (1.0 + number) * batch
    measured: dict[str, Any] = {
        "status": "measured",
        "cost_usd_per_1000_images": 1.0 + number,
        "timing": Timing(
            latency_s=Estimate(value=latency_s, low=0.9 * latency_s, high=1.1 * latency_s), samples=6,
            images_per_s=batch / latency_s, stopped="interval within target",
        ),
        "memory": Memory(peak_bytes=1, reserved_bytes=None),
        "quality": Quality(
            metric="clip_score", scores=(20.0 - number, 22.0 - number), mean=21.0 - number,
            difference=Estimate(value=-number, low=-number, high=-number), psnr_db=None, ssim=None,
        ),
    }  # fmt: skip
    more = {"purpose": "search" if number else "baseline"} | more
    if more.get("status", "measured") != "measured":
        measured = {}
    return Outcome(
        number=number, values=values, build_key=build_key(values), image_key=image_key(values),
        **(measured | more),
    )  # fmt: skip


def baseline(store: Store) -> Values:
    return store.request.space.candidate({})
