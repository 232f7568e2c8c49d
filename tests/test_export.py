"""best_config.json: what it holds, what is refused of it, and a pipeline tuned by it in a fresh process."""

from __future__ import annotations

import copy
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jsonschema
import msgspec
import pytest

import tuner
from tuner import knobs
from tuner.errors import BadInput, Unavailable
from tuner.hardware.environment import detect
from tuner.model.quiet import HARMLESS, without_harmless_messages
from tuner.records.codec import (
    Estimate,
    Values,
    decode,
    encode_pretty,
    read,  # fmt: skip
)
from tuner.records.machine import GpuUse, Memory
from tuner.records.model import Model, Workload
from tuner.records.outcome import Build, Components, Outcome, Timing
from tuner.records.quality import Quality
from tuner.result import config
from tuner.result.apply import result_file
from tuner.result.config import measured_point, package_version, read_config
from tuner.result.prices import Price
from tuner.result.records import BestConfig, MeasuredPoint, TrialCounts

CPU = detect("cpu")
VERSION_0_1 = Path(__file__).parent / "data" / "version-0.1.0"
REGENERATE = (
    'python -c "import json; from tuner.result import config; '
    'config.SCHEMA_FILE.write_text(json.dumps(config.json_schema(), indent=2) + chr(10))"'
)


def outcome(number: int, values: Values, latency_s: float) -> Outcome:
    batch = values["batch"]
    assert isinstance(batch, int)
    return Outcome(
        number=number, purpose="search", values=values, build_key="b", image_key="i", status="measured",
        build=Build(changes={}, load_s=1.0, apply_s=0.1, first_call_s=2.5, trace=None, verdict=None),
        timing=Timing(
            latency_s=Estimate(value=latency_s, low=latency_s * 0.99, high=latency_s * 1.01), samples=7,
            images_per_s=batch / latency_s, stopped="interval within target",
        ),
        memory=Memory(peak_bytes=2**30, reserved_bytes=None),
        quality=Quality(
            metric="clip_score", scores=(30.0, 31.0), mean=30.5, difference=Estimate(value=0.0, low=-0.2, high=0.2),
            psnr_db=31.2, ssim=0.97,
        ),
        cost_usd_per_1000_images=latency_s / batch / 3.6,
    )  # fmt: skip


def example(source: str = "/models/tiny") -> BestConfig:
    """What a study of the tiny pipeline could have exported."""
    untouched = {**knobs.baseline(CPU), "steps": 4}
    changed: Values = {"attention.backend": "_native_math", "fuse_qkv": True, "steps": 2, "batch": 2}
    baseline = measured_point(outcome(0, untouched, 2.0), {}, True)
    chosen = measured_point(outcome(5, {**untouched, **changed}, 1.0), changed, True)
    return BestConfig(
        created_at=config.utc_now(), tuner_version=config.package_version(), environment=CPU,
        model=Model(source=source, revision=None, pipeline_class="FluxPipeline", scorer="demo"),
        workload=Workload(
            prompts=("a red circle", "a blue square"), seeds=(0, 1), height=32, width=32, max_sequence_length=16
        ),
        price=Price(usd_per_hour=1.0, source="a test"), quality_metric="clip_score", quality_tolerance=1.0,
        baseline=baseline, chosen=chosen,
        speed_up=Estimate(value=4.0, low=3.9, high=4.1), speed_up_confirmed=True, front=(chosen, baseline),
        trials=TrialCounts(measured=3, rejected=1, failed=0, refused=3),
    )  # fmt: skip


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The example as JSON with one field set, or added, to something."""
    data = json.loads(encode_pretty(example()))
    target = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = copy.deepcopy(to)
    assert isinstance(data, dict)
    return data


def without(*path: str) -> dict[str, Any]:
    data = changed(*path, to=None)
    target = data
    for step in path[:-1]:
        target = target[step]
    del target[path[-1]]
    return data


# ---- the file -------------------------------------------------------------------------------------------------------


def test_it_survives_a_round_trip(tmp_path: Path) -> None:
    best = example()
    (tmp_path / "best.json").write_bytes(encode_pretty(best))
    assert read(tmp_path / "best.json", BestConfig) == best
    assert json.loads(encode_pretty(best))["format"] == "diffusion-tuner/2"


def test_every_number_has_its_unit_in_its_name() -> None:
    """Counts, and figures whose unit the format states elsewhere, are listed here by name."""
    unitless = {
        "trial", "batch", "latency_samples", "cpu_count", "value", "low", "high", "height", "width",
        "max_sequence_length", "guidance_scale", "measured", "rejected", "failed", "refused", "ssim", "values",
        "changed", "quality", "quality_metric", "quality_tolerance", "speed_up_confirmed", "confirmed", "doubtful",
        "seeds",
    }  # fmt: skip
    units = ("_s", "processes", "_bytes", "_db", "_per_s", "_usd_per_1000_images", "usd_per_hour", "_usd_per_hour")

    def check(data: Any, name: str) -> None:
        if isinstance(data, dict):
            for key, value in data.items():
                if name not in ("values", "changed"):
                    check(value, key)
        elif isinstance(data, list):
            for value in data:
                check(value, name)
        elif isinstance(data, (int, float)):
            assert name in unitless or name.endswith(units), name

    check(json.loads(encode_pretty(example())), "")


def test_the_schema_in_the_package_is_that_of_the_code() -> None:
    kept = json.loads(config.SCHEMA_FILE.read_text()) if config.SCHEMA_FILE.is_file() else None
    assert kept == config.json_schema(), f"{config.SCHEMA_FILE} is stale; write it anew with: {REGENERATE}"


def test_the_schema_is_one_and_the_example_fits_it() -> None:
    schema = json.loads(config.SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(encode_pretty(example())))


MALFORMED: list[tuple[dict[str, Any], str]] = [
    (without("model"), "model"),
    (without("chosen"), "chosen"),
    (without("chosen", "values", "steps"), "chosen.values: steps"),
    (without("chosen", "values", "batch"), "chosen.values: batch"),
    (without("chosen", "values", "precision.dtype"), "chosen.values: precision.dtype"),
    (without("chosen", "values", "compile.scope"), "chosen.values: compile.scope"),
    (without("chosen", "latency_s", "low"), "low"),
    (changed("format", to="diffusion-tuner/9"), "format: diffusion-tuner/9, although"),
    (changed("extra", to=1), "extra"),
    (changed("model", "pipeline_class", to=7), "model.pipeline_class"),
    (changed("model", "exec", to="import os"), "exec"),
    (changed("environment", "device", to="tpu"), "environment.device"),
    (changed("environment", "libraries", to=["torch"]), "environment.libraries"),
    (changed("workload", "height", to="32"), "workload.height"),
    (changed("workload", "prompts", to="a"), "workload.prompts"),
    (changed("price", to=1.0), "price"),
    (changed("quality_tolerance", to=None), "quality_tolerance"),
    (changed("speed_up_confirmed", to="yes"), "speed_up_confirmed"),
    (changed("front", to={}), "front"),
    (changed("front", 0, "trial", to=0.5), "front[0].trial"),
    (changed("trials", "measured", to=None), "trials.measured"),
    (changed("chosen", to=[]), "chosen"),
    (changed("chosen", "values", "steps", to=[2]), "chosen.values"),
    (changed("chosen", "values", "steps", to=0), "chosen.values.steps"),
    (changed("chosen", "values", "steps", to="2"), "chosen.values.steps"),
    (changed("chosen", "values", "fuse_qkv", to="true"), "chosen.values.fuse_qkv"),
    (changed("chosen", "values", "attention.backend", to="os.system"), "chosen.values.attention.backend"),
    (changed("chosen", "values", "warp.factor", to=9), "chosen.values.warp.factor"),
    (changed("chosen", "values", "cache.kind", to="first-block"), "cache.threshold is missing"),
    (changed("chosen", "values", "inductor.freezing", to=1), "chosen.values.inductor.freezing"),
    (changed("chosen", "changed", "warp.factor", to=9), "chosen.changed.warp.factor"),
    (changed("chosen", "changed", "steps", to=28), "chosen.changed.steps"),
    (changed("chosen", "batch", to=8), "chosen.batch"),
    (
        changed("chosen", "values", to={**example().chosen.values, "attention.backend": "flex"}),
        "chosen.changed.attention.backend",
    ),
]


@pytest.mark.parametrize(("data", "names"), MALFORMED, ids=[names for _, names in MALFORMED])
def test_a_malformed_file_is_refused_by_field(tmp_path: Path, data: dict[str, Any], names: str) -> None:
    path = tmp_path / "best.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BadInput) as refusal:
        tuner.load(path)
    assert str(refusal.value).startswith(str(path))
    assert names in str(refusal.value)
    assert "\n" not in str(refusal.value)


OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    (changed("workload", "height", to=-8), "workload.height"),
    (changed("workload", "width", to=10**9), "workload.width"),
    (changed("workload", "seeds", to=[1]), "workload.seeds: 1 seeds for 2 prompts, give one per prompt"),
    (changed("workload", "seeds", to=[1, -2]), "workload.seeds[1]"),
    (changed("workload", "prompts", to=["a", " "]), "workload.prompts[1]"),
    (changed("workload", "num_frames", to=0), "workload.num_frames"),
    (changed("workload", "latency_target_s", to=0), "workload.latency_target_s"),
    (changed("price", "usd_per_hour", to=-1), "price.usd_per_hour"),
    (changed("price", "usd_per_hour", to=0), "price.usd_per_hour"),
    (changed("environment", "cpu_count", to=0), "environment.cpu_count"),
    (changed("quality_tolerance", to=-1), "quality_tolerance"),
    (changed("quality_time_share", to=1.5), "quality_time_share"),
    (changed("trials", "measured", to=-1), "trials.measured"),
    (changed("chosen", "trial", to=-1), "chosen.trial"),
    (changed("chosen", "batch", to=0), "chosen.batch"),
    (changed("chosen", "images_per_s", to=0), "chosen.images_per_s"),
    (changed("chosen", "cost_usd_per_1000_images", to=-1), "chosen.cost_usd_per_1000_images"),
    (changed("chosen", "peak_memory_bytes", to=-1), "chosen.peak_memory_bytes"),
    (changed("chosen", "predicted_from", to=[0, 4]), "chosen.predicted_from"),
    (changed("chosen", "within_latency_target", to=1.1), "chosen.within_latency_target"),
    (changed("chosen", "latency_s", to={"value": 1, "low": 2, "high": 3}), "chosen.latency_s"),
    (
        changed("chosen", "latency_s", to={"value": 0, "low": 0, "high": 0}),
        "chosen.latency_s: ",
    ),
    (changed("speed_up", to={"value": 4, "low": 3, "high": 2}), "speed_up"),
    (changed("front", 1, "latency_samples", to=-1), "front[1].latency_samples"),
]


@pytest.mark.parametrize(("data", "names"), OUT_OF_RANGE, ids=[names for _, names in OUT_OF_RANGE])
def test_a_value_out_of_range_is_refused_by_field(tmp_path: Path, data: dict[str, Any], names: str) -> None:
    test_a_malformed_file_is_refused_by_field(tmp_path, data, names)


def test_a_file_of_version_0_1_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = VERSION_0_1 / "best_config.json"
    message = (
        f"{file} was written by diffusion-tuner 0.1.0, whose fields have other names; "
        "run the study again with this version, or load it with that one"
    )
    for open_it in (tuner.load, read_config):
        with pytest.raises(BadInput) as refusal:
            open_it(file)
        assert str(refusal.value) == message


def test_a_file_that_only_names_an_old_version_is_judged_by_its_fields(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(json.dumps(changed("tuner_version", to="0.1.0")))
    assert read_config(tmp_path / "best.json").tuner_version == "0.1.0"
    (tmp_path / "best.json").write_text('{"format": "diffusion-tuner/1", "tuner_version": "two\\nlines"}')
    with pytest.raises(BadInput) as refusal:
        read_config(tmp_path / "best.json")
    assert "\n" not in str(refusal.value)


def test_a_knob_that_this_version_cannot_have_written_means_that_the_file_was_edited(tmp_path: Path) -> None:
    data = changed("tuner_version", to=package_version())
    data["chosen"]["values"]["warp.drive"] = 9
    (tmp_path / "best.json").write_text(json.dumps(data))
    with pytest.raises(BadInput, match=r"has no such knob, and the file was edited since; take the file as"):
        read_config(tmp_path / "best.json")


def test_a_knob_of_another_version_is_no_damage(tmp_path: Path) -> None:
    data = changed("tuner_version", to="9.0\n1")
    data["chosen"]["values"]["warp.drive"] = 9
    (tmp_path / "best.json").write_text(json.dumps(data))
    with pytest.raises(BadInput) as refusal:
        read_config(tmp_path / "best.json")
    assert str(refusal.value) == (
        f"{tmp_path}/best.json: chosen.values.warp.drive: diffusion-tuner {package_version()} has no such knob, and "
        "9.0 1 wrote the file; use that version, or tune again with `tune run`"
    )


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", "\x00", '{"format": NaN}', "{" * 50_000])
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(BadInput, match=r"best\.json"):
        tuner.load(tmp_path / "best.json")


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    data = changed("chosen", "values", "attention.backend", to="flex")
    data["chosen"]["changed"]["attention.backend"] = "flex"
    (tmp_path / "best.json").write_text(json.dumps(data))
    with pytest.raises(BadInput, match=r"chosen\.values\.attention\.backend: flex: .*compiled"):
        tuner.apply(FluxPipeline(), tmp_path / "best.json")


def test_the_folder_of_a_study_stands_for_its_result(tmp_path: Path) -> None:
    assert result_file(tmp_path) == tmp_path / "best_config.json"
    assert result_file(tmp_path / "other.json") == tmp_path / "other.json"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.json"):
        tuner.load(tmp_path / "none.json")


# ---- applying it ----------------------------------------------------------------------------------------------------


class FluxPipeline:
    """Has the name of a pipeline class, and nothing that a setting could be applied to."""

    dtype = "torch.float32"
    device = SimpleNamespace(type="cpu")
    components: ClassVar[dict[str, Any]] = {"transformer": type("FluxTransformer2DModel", (), {})()}


class SanaPipeline:
    """Another pipeline."""


def test_another_point_of_the_front_can_be_taken_in_the_place_of_the_choice(tmp_path: Path) -> None:
    best = example()
    other = msgspec.structs.replace(best.chosen, trial=7, values={**best.chosen.values, "steps": 1})
    other = msgspec.structs.replace(other, changed={**other.changed, "steps": 1})
    (tmp_path / "best.json").write_bytes(encode_pretty(msgspec.structs.replace(best, front=(best.chosen, other))))
    assert read_config(tmp_path / "best.json").chosen.trial == best.chosen.trial
    taken = read_config(tmp_path / "best.json", 7).chosen
    assert (taken.trial, taken.values["steps"]) == (7, 1)
    assert read_config(tmp_path / "best.json", best.baseline.trial).chosen.changed == {}
    with pytest.raises(BadInput, match=r"trial 3: the file has .*; take 0 \(2\.00 s, untouched\) or 5 .* or 7 "):
        tuner.load(tmp_path / "best.json", trial=3)


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_bytes(encode_pretty(example()))
    with pytest.raises(BadInput, match=r"model\.pipeline_class: tuned for FluxPipeline, this is a SanaPipeline"):
        tuner.apply(SanaPipeline(), tmp_path / "best.json")


def test_a_path_before_its_pipeline_is_refused_with_the_order() -> None:
    pipe: Any = FluxPipeline()
    with pytest.raises(BadInput, match=r"the order is apply\(pipe, path\), .*, not a str and a FluxPipeline$"):
        tuner.apply("best.json", pipe)


def test_a_setting_that_cannot_work_here_is_unavailable(tmp_path: Path) -> None:
    data = changed("chosen", "values", "attention.backend", to="_native_efficient")
    data["chosen"]["changed"]["attention.backend"] = "_native_efficient"
    (tmp_path / "best.json").write_text(json.dumps(data))
    with pytest.raises(Unavailable, match=r"attention\.backend=_native_efficient cannot work here"):
        tuner.apply(FluxPipeline(), tmp_path / "best.json")


def test_what_the_file_calls_unchanged_is_checked_all_the_same(tmp_path: Path) -> None:
    data = changed("chosen", "values", "attention.backend", to="flash_hub")
    data["chosen"]["values"]["precision.dtype"] = "bfloat16"
    del data["chosen"]["values"]["matmul.tf32"]
    data["chosen"]["changed"] = {}
    (tmp_path / "best.json").write_text(json.dumps(data))
    with pytest.raises(Unavailable, match=r"attention\.backend=flash_hub cannot work here: .*remote code"):
        tuner.apply(FluxPipeline(), tmp_path / "best.json")


def test_a_setting_that_means_nothing_beside_the_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(json.dumps(changed("chosen", "values", "cache.threshold", to=0.2)))
    with pytest.raises(BadInput, match=r"chosen\.values\.cache\.threshold: .*no effect"):
        tuner.apply(FluxPipeline(), tmp_path / "best.json")


def test_a_knob_that_an_older_version_did_not_have_is_as_the_untouched_pipeline_has_it(tmp_path: Path) -> None:
    data = changed("chosen", "values", "steps", to=4)
    data["chosen"]["changed"] = {}
    for name in ("vae.slicing", "graphs.denoiser"):
        del data["chosen"]["values"][name]
    (tmp_path / "best.json").write_text(json.dumps(data))
    assert read_config(tmp_path / "best.json").chosen.values["graphs.denoiser"] is False


def test_another_device_is_warned_about(tmp_path: Path) -> None:
    best = example()
    best = msgspec.structs.replace(
        best,
        environment=msgspec.structs.replace(CPU, device_name="Another CPU"),
        chosen=measured_point(outcome(0, {**knobs.baseline(CPU), "steps": 4}, 2.0), {}, True),
        speed_up=Estimate(value=1.0, low=1.0, high=1.0),
    )
    (tmp_path / "best.json").write_bytes(encode_pretty(best))
    with pytest.warns(UserWarning, match="Another CPU"):
        pipe, call = tuner.apply(FluxPipeline(), tmp_path / "best.json")
    assert isinstance(pipe, FluxPipeline)
    assert (call.batch, call.arguments["num_inference_steps"]) == (1, 4)


def test_a_model_that_is_not_here_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_bytes(encode_pretty(example("/models/nowhere")))
    with pytest.raises(BadInput, match=r"model\.source: no folder /models/nowhere .*tuner\.apply"):
        tuner.load(tmp_path / "best.json")


@pytest.mark.usefixtures("process_state")
@pytest.mark.filterwarnings("error:.*measured on.*:UserWarning")
def test_what_it_is_applied_to_and_what_it_loads_draw_with_it(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Here in this process; tests/test_end_to_end.py loads a result in fresh ones."""
    import torch
    from diffusers import FluxPipeline

    config = tmp_path / "best.json"
    config.write_bytes(encode_pretty(example(str(tiny_pipeline))))
    loaded = FluxPipeline.from_pretrained(tiny_pipeline, dtype=torch.bfloat16)
    assert tuner.load(config, trial=0).call.arguments["num_inference_steps"] != 2
    for pipe, call in (tuner.apply(loaded, config), tuner.load(config)):
        assert pipe.dtype == pipe.transformer.dtype == torch.float32
        attention = [block.attn for block in pipe.transformer.transformer_blocks]
        assert all(layer.fused_projections for layer in attention)
        assert {layer.processor._attention_backend.value for layer in attention} == {"_native_math"}
        assert call.arguments == {
            "num_inference_steps": 2, "height": 32, "width": 32, "max_sequence_length": 16
        }  # fmt: skip
        images = pipe(["a red circle"] * call.batch, **call.arguments).images
        assert [image.size for image in images] == [(32, 32)] * 2
        assert len({image.tobytes() for image in images}) == 2


def test_only_the_harmless_messages_of_libraries_are_left_out_and_only_during_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def log_all() -> list[str]:
        caplog.clear()
        for name, beginnings in HARMLESS.items():
            for beginning in (*beginnings, "something else"):
                logging.getLogger(name).warning("%s, and more", beginning)
        return [record.getMessage() for record in caplog.records]

    before = log_all()
    with without_harmless_messages():
        during = log_all()
    assert during == ["something else, and more"] * len(HARMLESS)
    assert log_all() == before and len(before) == sum(len(each) + 1 for each in HARMLESS.values())


FRESH = "import sys, tuner; tuner.load(sys.argv[1])"


def test_a_load_in_a_fresh_process_says_nothing_of_torchao(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_bytes(encode_pretty(example(str(tiny_pipeline))))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "best.json")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not re.search("torchao|Enum subclass", done.stderr), done.stderr


# ---- what is counted ------------------------------------------------------------------------------------------------


def test_a_point_says_what_was_measured() -> None:
    point = measured_point(outcome(5, {**knobs.baseline(CPU), "batch": 4}, 2.0), {"batch": 4}, True)
    assert (point.trial, point.batch, point.images_per_s, point.first_call_s) == (5, 4, 2.0, 2.5)
    assert point.latency_s.value == 2.0
    assert decode(encode_pretty(point), MeasuredPoint, "here") == point


def test_a_point_says_what_only_some_studies_measure() -> None:
    plain = outcome(5, {**knobs.baseline(CPU), "batch": 4}, 2.0)
    assert plain.build and plain.timing and plain.memory
    energy_j = Estimate(value=1000.0, low=990.0, high=1010.0)
    known = msgspec.structs.replace(
        plain,
        build=msgspec.structs.replace(plain.build, compile_s=1.5),
        timing=msgspec.structs.replace(plain.timing, latency_p95_s=2.25, gpu=GpuUse(energy_j=energy_j)),
        memory=msgspec.structs.replace(plain.memory, reserved_bytes=2**31),
    )
    point = measured_point(known, {"batch": 4}, True)
    assert (point.compile_s, point.latency_p95_s, point.peak_reserved_bytes) == (1.5, 2.25, 2**31)
    assert point.joules_per_image == 250.0
    assert (point.discarded_samples, point.other_processes, point.unavailable_reasons) == ({}, None, ())
    point = measured_point(plain, {"batch": 4}, True)
    assert {point.compile_s, point.latency_p95_s, point.peak_reserved_bytes, point.joules_per_image} == {None}
    assert {point.components, point.predicted_from, point.within_latency_target} == {None}
    assert (point.discarded_samples, point.other_processes) == (None, None), "on a CPU absent, not zero"


def test_a_point_says_what_was_seen_of_the_gpu_and_where_the_time_goes() -> None:
    plain = outcome(5, {**knobs.baseline(CPU), "batch": 4}, 2.0)
    assert plain.timing
    gpu = GpuUse(
        discarded={"HW thermal slowdown": 2}, other_processes=1, unavailable_reasons=("energy: Not Supported",)
    )
    parts = Components(total_s=2.0, text_encoders_s=0.1, denoiser_s=1.5, vae_s=None, rest_s=0.4)
    timing = msgspec.structs.replace(plain.timing, gpu=gpu, components=parts, within_target=0.9, predicted_from=(4, 28))
    point = measured_point(msgspec.structs.replace(plain, timing=timing), {"batch": 4}, True)
    assert (point.discarded_samples, point.other_processes) == ({"HW thermal slowdown": 2}, 1)
    assert (point.unavailable_reasons, point.components) == (("energy: Not Supported",), parts)
    assert (point.within_latency_target, point.predicted_from) == (0.9, (4, 28))
    assert point.measurement().within_target == 0.9


def test_trials_are_counted_by_how_they_ended() -> None:
    measured = outcome(1, {**knobs.baseline(CPU)}, 1.0)
    rejected = msgspec.structs.replace(measured, status="rejected")
    counts = config.count_trials([measured, rejected, rejected], refused=4)
    assert counts == TrialCounts(measured=1, rejected=2, failed=0, refused=4)
