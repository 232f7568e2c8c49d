"""What is exported for other programs: each setting is written in their words, or named as left out."""

from __future__ import annotations

import ast
import json
import runpy
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from exports import OWN_FILES, beside, choosing, drawn, of_tiny, undefined, written
from test_export import CPU, example

import tuner
from tuner.cli import main
from tuner.commands.export import FORMATS
from tuner.errors import BadInput
from tuner.export.base import differing, read_tuned
from tuner.export.facts import setting
from tuner.export.layers import left_alone
from tuner.export.targets import TARGETS
from tuner.export.wording import WordingTarget
from tuner.knobs import KNOBS
from tuner.records.codec import Values
from tuner.records.model import Denoiser
from tuner.result.records import BestConfig

OTHERS = [name for name in TARGETS if name != "python"]
FLAGS = {
    "sglang": {
        "--model-path", "--backend", "--revision", "--attention-backend", "--cache-dit-config",
        "--enable-torch-compile", "--dit-precision", "--vae-tiling", "--vae-slicing",
    },
    "vllm-omni": {
        "--omni", "--revision", "--dtype", "--enforce-eager", "--diffusion-compile-granularity",
        "--diffusion-compile-dynamic",
        "--no-diffusion-compile-dynamic", "--diffusion-attention-backend", "--diffusion-quantization-config",
        "--cache-backend", "--cache-config", "--vae-use-slicing", "--vae-use-tiling", "--diffusion-offload-config",
        "--lora-path", "--lora-scale", "--default-sampling-params",
    },
}  # fmt: skip
"""The flags that SGLang 0.5.23 and vLLM-Omni 0.30.0 have, as far as they are used."""


def configurations() -> Iterator[Values]:
    for name, knob in KNOBS.items():
        for value in (*knob.choices, *OWN_FILES.get(name, ())):
            if value != knob.baseline(CPU):
                yield beside(name, value)


def rendered(target: str, best: BestConfig) -> str | None:
    try:
        return TARGETS[target]().render(best)
    except BadInput as refusal:
        assert "\n" not in str(refusal) and "has none of: " in str(refusal)
        return None


def test_the_command_has_every_target() -> None:
    assert tuple(TARGETS) == FORMATS


@pytest.mark.parametrize("target", OTHERS)
def test_every_setting_is_written_or_named_as_left_out(target: str, tmp_path: Path) -> None:
    made: Any = TARGETS[target]()
    assert isinstance(made, WordingTarget)
    for different in configurations():
        best = choosing(different)
        text = rendered(target, best)
        if text is None:
            continue
        missing = set(made.say(best).missing)
        for name, value in differing(best).items():
            words = made.words[name](best.chosen.values) if name in made.words else None
            is_written = words is not None or name.startswith(("cache.", "lora."))
            assert is_written or setting(name, value) in missing, (name, value)
        assert all(f"#   {each}\n" in text for each in missing)
        assert "None was taken of this" in text and f"{made.title} {made.version}" in text


@pytest.mark.parametrize("target", FLAGS)
def test_only_flags_that_the_program_has_are_written(target: str) -> None:
    for different in configurations():
        text = rendered(target, choosing(different)) or ""
        words = shlex.split(text, comments=True)
        assert {word for word in words if word.startswith("--")} <= FLAGS[target]
        for word in words:
            if word.startswith("{"):
                json.loads(word)


def test_the_yaml_of_cache_dit_has_its_fields() -> None:
    different: Values = {
        "cache.kind": "dbcache", "cache.threshold": 0.12, "cache.max_skip_steps": 3,
        "attention.backend": "_native_cudnn", "quantization.scheme": "fp8-dynamic-row", "compile.scope": "regional",
    }  # fmt: skip
    text = TARGETS["cache-dit"]().render(choosing(different))
    assert yaml.safe_load(text) == {
        "cache_config": {
            "Fn_compute_blocks": 8, "Bn_compute_blocks": 0, "max_warmup_steps": 2, "max_continuous_cached_steps": 3,
            "residual_diff_threshold": 0.12,
        },
        "attention_backend": "_native_cudnn",
        "quantize_config": {"quant_type": "float8_per_row"},
    }  # fmt: skip
    assert "#   compile.scope=regional\n" in text


def test_a_program_without_words_for_any_setting_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^trial 5: cache-dit 1\.5\.3 has none of: vae\.tiling=true; --to python"):
        TARGETS["cache-dit"]().render(choosing({"vae.tiling": True}))


@pytest.mark.parametrize("target", OTHERS)
def test_a_checkpoint_file_is_for_python_alone(target: str) -> None:
    best = choosing({"cache.kind": "first-block", "cache.threshold": 0.1})
    best = msgspec.structs.replace(best, model=msgspec.structs.replace(best.model, base="owner/name"))
    with pytest.raises(BadInput, match=r"model\.source: .* only --to python"):
        TARGETS[target]().render(best)


# ---- diffusers ------------------------------------------------------------------------------------------------------


def test_diffusers_python_defines_all_that_it_reads() -> None:
    for different in configurations():
        text = rendered("diffusers", choosing(different))
        if text is not None:
            ast.parse(text)
            assert undefined(text) == set(), different


@pytest.mark.usefixtures("process_state", "only_dynamo")
@pytest.mark.parametrize(
    "different",
    [
        {"quantization.scheme": "int8-weight-only", "attention.backend": "_native_math", "batch": 2},
        {"cache.kind": "mag", "cache.threshold": 0.2, "cache.max_skip_steps": 2, "steps": 8, "fuse_qkv": True},
    ],
)
def test_diffusers_own_terms_generate_the_same_images(different: Values, tiny_pipeline: Path, tmp_path: Path) -> None:
    config = written(tmp_path, of_tiny(tiny_pipeline, different))
    best = read_tuned(config)
    text = TARGETS["diffusers"]().render(best)
    assert "Nothing is left out." in text
    (tmp_path / "tuned.py").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*torch_dtype.*deprecated")
        found = runpy.run_path(str(tmp_path / "tuned.py"))
        tuned = tuner.load(config)
    assert found["arguments"] == tuned.call.arguments
    prompts = list(best.workload.prompts[: best.chosen.batch])
    assert drawn(tuned._replace(pipe=found["pipe"]), prompts) == drawn(tuned, prompts)


def test_a_cache_inside_compiled_blocks_is_noted() -> None:
    best = choosing({"compile.scope": "regional", "cache.kind": "first-block", "cache.threshold": 0.1})
    assert "--to python keeps them outside" in " ".join(TARGETS["diffusers"]().render(best).replace("#", " ").split())


def test_the_layers_left_alone_are_unknown_without_the_weights() -> None:
    best = choosing({"quantization.scheme": "int8-weight-only"})
    denoiser = Denoiser(component="transformer", class_name="FluxTransformer2DModel")
    assert left_alone(best, denoiser, "int8-weight-only") is None
    assert "so that every linear layer is quantized" in " ".join(TARGETS["diffusers"]().render(best).split())


# ---- vLLM-Omni ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", KNOBS["precision.dtype"].choices)
def test_vllm_omni_is_told_the_precision(dtype: str) -> None:
    text = TARGETS["vllm-omni"]().render(choosing({"precision.dtype": dtype, "steps": 3}))
    assert f"  --dtype {dtype}" in text and "precision.dtype" not in text.partition("is left out:")[2]


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FORMATS)
def test_the_command_prints_the_file(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, choosing({"cache.kind": "first-block", "cache.threshold": 0.1, "steps": 3}))
    assert main(["export", str(file), "--to", target]) == 0
    assert capsys.readouterr().out == TARGETS[target]().render(read_tuned(file))


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("{}", [], "best.json"),
        ("not JSON", [], "best.json"),
        (None, [], "no such file"),
        (
            example(),
            ["--trial", "99"],
            "trial 99: the file has the baseline and the front only, and it is not among them; take 5 (",
        ),
        (example(), ["--trial", "0"], "the untouched pipeline"),
        (example(), ["--trial", "first"], "'first' is not the number of a trial"),
    ],
)
def test_bad_input_is_one_line(
    content: str | BestConfig | None, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.json"
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        file = written(tmp_path, content)
    try:
        code = main(["export", str(file), "--to", "python", *options])
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert words.lower() in printed.err.lower()
