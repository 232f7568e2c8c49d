"""tuner.apply to a pipeline that has a setting already, applied twice, and from other versions and machines."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_export import CPU, example

import tuner
from tuner.errors import BadInput, TunerError
from tuner.knobs import KNOBS, NoEffect, apply_knobs
from tuner.model import pipeline
from tuner.records.codec import Value, Values, encode_pretty
from tuner.records.model import Model
from tuner.result.config import package_version

pytestmark = pytest.mark.usefixtures("process_state")

BESIDE: dict[str, Values] = {
    "compile.mode": {"compile.scope": "regional"}, "compile.dynamic": {"compile.scope": "regional"},
    "compile.backend": {"compile.scope": "regional"}, "cache.threshold": {"cache.kind": "first-block"},
    "cache.interval": {"cache.kind": "taylorseer"}, "graphs.scheduler_step": {"compile.scope": "full"},
    "vae.slicing": {"batch": 2},
}  # fmt: skip
"""What a knob needs to be active."""


@pytest.fixture
def fresh(tiny_pipeline: Path) -> Callable[[], Any]:
    model = Model(source=str(tiny_pipeline), revision=None, pipeline_class="FluxPipeline", scorer="demo")
    return lambda: pipeline.load(model, CPU, "float32")


def candidate(different: Values) -> Values:
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = {"steps": 4, **different}.get(name, knob.baseline(CPU))
    return values


def written(folder: Path, different: Values, **changes: Any) -> Path:
    """A best_config.json that chooses these values."""
    best = example()
    values = {**candidate(different), "batch": best.chosen.batch}
    changed = {name: value for name, value in values.items() if value != candidate({}).get(name)}
    chosen = msgspec.structs.replace(best.chosen, values=values, changed=changed)
    file = folder / f"best-{len(list(folder.iterdir()))}.json"
    file.write_bytes(encode_pretty(msgspec.structs.replace(best, chosen=chosen, **changes)))
    return file


def first_other_value(name: str) -> Value | None:
    from tuner.model import architecture

    components = {
        "transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }  # fmt: skip
    known = architecture.describe("FluxPipeline", components)
    knob = KNOBS[name]
    for value in knob.choices:
        if value == knob.baseline(CPU) or knob.unavailable_reason(value, CPU, known):
            continue
        values = candidate({**BESIDE.get(name, {}), name: value})
        if values.get(name) == value and not any(KNOBS[other].conflict_reason(values, known) for other in values):
            return value
    return None


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize("name", [name for name, knob in KNOBS.items() if not knob.user_supplied])
def test_a_configuration_may_be_applied_twice(name: str, fresh: Callable[[], Any], tmp_path: Path) -> None:
    value = first_other_value(name)
    if value is None:
        pytest.skip("no other value works for this pipeline on a CPU")
    config = written(tmp_path, {**BESIDE.get(name, {}), name: value})
    pipe = fresh()
    first = tuner.apply(pipe, config)
    again = tuner.apply(pipe, config)
    assert again.pipe is pipe and again.call == first.call
    if KNOBS[name].acts == "build":
        with pytest.raises(BadInput, match="load the pipeline anew"):
            tuner.apply(pipe, written(tmp_path, {}))


def set_by_hand(pipe: Any) -> dict[str, Callable[[], object]]:
    import diffusers
    import torch

    other = diffusers.FlowMatchHeunDiscreteScheduler
    return {
        "vae.channels_last": lambda: pipe.vae.to(memory_format=torch.channels_last),
        "vae.tiling": pipe.vae.enable_tiling,
        "vae.slicing": pipe.vae.enable_slicing,
        "fuse_qkv": pipe.transformer.fuse_qkv_projections,
        "attention.backend": lambda: pipe.transformer.set_attention_backend("_native_math"),
        "scheduler.kind": lambda: setattr(pipe, "scheduler", other.from_config(pipe.scheduler.config)),
    }


BY_HAND: Values = {
    "vae.channels_last": True, "vae.tiling": True, "vae.slicing": True, "fuse_qkv": True,
    "attention.backend": "_native_math", "scheduler.kind": "FlowMatchHeunDiscreteScheduler",
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_what_a_pipeline_has_already_is_kept_by_apply_and_told_while_tuning(
    name: str, fresh: Callable[[], Any], tmp_path: Path
) -> None:
    pipe, different = fresh(), {**BESIDE.get(name, {}), name: BY_HAND[name]}
    assert not KNOBS[name].is_set(pipe, different)
    set_by_hand(pipe)[name]()
    with pytest.raises(NoEffect, match=f"^{name}=.*: the pipeline has it already"):
        apply_knobs(pipe, candidate(different), CPU)
    assert tuner.apply(pipe, written(tmp_path, different)).pipe is pipe


@pytest.mark.usefixtures("only_dynamo")
def test_what_cannot_be_done_to_a_pipeline_is_told_in_one_line(fresh: Callable[[], Any], tmp_path: Path) -> None:
    import diffusers

    pipe = fresh()
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(TunerError, match="load the pipeline anew") as refusal:
        tuner.apply(pipe, written(tmp_path, {"cache.kind": "first-block"}))
    assert "\n" not in str(refusal.value)


# ---- other versions and machines ------------------------------------------------------------------------------------


class FluxPipeline:
    """Has the name of a pipeline class, and nothing that a setting could be applied to."""

    dtype = "torch.float32"
    device = type("Device", (), {"type": "cpu"})
    components: dict[str, Any] = {"transformer": type("FluxTransformer2DModel", (), {})()}  # noqa: RUF012


def environment(**changes: Any) -> dict[str, Any]:
    libraries = {**CPU.libraries, **changes.pop("libraries", {})}
    return {"environment": msgspec.structs.replace(CPU, libraries=libraries, **changes)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (environment(libraries={"torch": "2.11.0"}), ["torch 2.11.0 (here ", "tune run"]),
        (environment(libraries={"diffusers": "0.41.0"}), ["diffusers 0.41.0 (here ", "install these versions"]),
        ({"tuner_version": "0.0.1"}, [f"diffusion-tuner 0.0.1 (here {package_version()})"]),
        (environment(libraries={"torch": "2.11.0", "diffusers": None}), ["torch 2.11.0 (here", "diffusers None (here"]),
        (environment(device_name="Another CPU"), ["measured on Another CPU, this is", "tune run"]),
        (environment(driver="535.1"), ["with driver 535.1"]),
    ],
)
def test_another_version_or_machine_is_warned_of_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    config = written(tmp_path, {}, **changes)
    with pytest.warns(UserWarning) as warned:
        tuner.apply(FluxPipeline(), config)
    (warning,) = warned
    message = str(warning.message)
    assert message.startswith(str(config)) and "\n" not in message
    assert not [word for word in words if word not in message], message
    assert warning.filename == __file__, "it points to the line that applies the configuration"


def test_the_same_versions_and_machine_are_not_warned_of(tmp_path: Path) -> None:
    config = written(tmp_path, {})
    assert json.loads(config.read_text())["tuner_version"] == package_version()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner.apply(FluxPipeline(), config)
