"""The sizes and prompt lengths that a pipeline's call accepts are known before it is loaded."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tuner import cli
from tuner.demo import PIPELINE_DIR
from tuner.errors import BadInput
from tuner.model import call_limits
from tuner.model.call_limits import Rule, max_sequence_length, rule_of

SETTINGS = {"block_out_channels": [8, 8, 8, 8], "patch_size": 2, "scale_factor_temporal": 4, "temperal_downsample": [1]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configurations of a VAE of 8 pixels a latent, and of a denoiser with patches of 2."""
    for component in ("vae", "transformer"):
        (tmp_path / component).mkdir()
        (tmp_path / component / "config.json").write_text(json.dumps(SETTINGS))
    return tmp_path


MULTIPLES = {
    "FluxPipeline": 16, "Flux2KleinPipeline": 16, "StableDiffusion3Pipeline": 16, "StableDiffusionXLPipeline": 8,
    "QwenImagePipeline": 4, "ZImagePipeline": 16, "SanaPipeline": 32, "PixArtSigmaPipeline": 8, "WanPipeline": 16,
    "LTXPipeline": 32, "HunyuanVideoPipeline": 16, "CogView4Pipeline": 16, "Lumina2Pipeline": 16,
}  # fmt: skip


@pytest.mark.parametrize("pipeline_class", MULTIPLES)
@pytest.mark.parametrize("argument", ["height", "width"])
def test_the_multiple_is_that_of_the_pipelines_own_check(pipeline_class: str, argument: str, folder: Path) -> None:
    assert rule_of(pipeline_class, folder, argument) == Rule(MULTIPLES[pipeline_class], 0)


def test_frames_have_a_remainder(folder: Path) -> None:
    rule = rule_of("WanPipeline", folder, "num_frames")
    assert rule == Rule(4, 1)
    assert rule.nearest(7) == [5, 9]
    assert Rule(16, 0).nearest(9) == [16]


@pytest.mark.parametrize("pipeline_class", ["NoPipeline", "WanPipeline", "QwenImagePipeline", "FluxPipeline"])
def test_without_the_settings_only_what_is_certain_is_a_rule(pipeline_class: str, tmp_path: Path) -> None:
    expected = {"WanPipeline": Rule(16, 0)}
    assert rule_of(pipeline_class, tmp_path, "height") == expected.get(pipeline_class)


@pytest.mark.parametrize("blocks", [[8] * 5000, "many", None, {"a": 1}, []])
def test_absurd_settings_are_not_computed_with(blocks: object, folder: Path) -> None:
    (folder / "vae" / "config.json").write_text(json.dumps({"block_out_channels": blocks}))
    assert rule_of("FluxPipeline", folder, "height") is None


def test_a_variable_that_is_made_from_itself_is_unknown(folder: Path) -> None:
    source = "class P:\n    def check(self, height):\n        size = size * 2\n        if height % size != 0: pass\n"
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    assert not list(call_limits._rules(tree, folder, "height"))


@pytest.mark.parametrize(
    ("pipeline_class", "longest"),
    [("FluxPipeline", 512), ("QwenImagePipeline", 1024), ("OvisImagePipeline", 256), ("SanaPipeline", None)],
)
def test_the_longest_prompt_is_that_of_the_pipelines_own_check(pipeline_class: str, longest: int | None) -> None:
    assert max_sequence_length(pipeline_class) == longest


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gemma2", "max_position_embeddings": 8192}, 8192),
        ({"model_type": "qwen2_5_vl", "text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"model_type": "clip_text_model", "max_position_embeddings": 77}, None),
        ({"model_type": "t5", "d_model": 32}, None),
        ({"max_position_embeddings": "many"}, None),
        ({"max_position_embeddings": -1}, None),
        ([], None),
    ],
)
def test_a_prompt_has_no_more_tokens_than_the_text_encoder_has_positions(
    config: object, expected: int | None, tmp_path: Path
) -> None:
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps(config))
    assert call_limits.positions(tmp_path) == expected
    if expected is not None:
        where = dict.fromkeys(call_limits.FIELDS, "here")
        with pytest.raises(BadInput, match=f"SanaPipeline takes at most {expected}, not"):
            call_limits.check_call("SanaPipeline", tmp_path, {"max_sequence_length": expected + 1}, where)


REFUSED = {
    "workload.height=63": "workload.height: FluxPipeline takes multiples of 8 only, and would refuse or round 63; "
    "give 56 or 64",
    "workload.width=100": "workload.width: FluxPipeline takes multiples of 8 only",
    "workload.max_sequence_length=513": "workload.max_sequence_length: FluxPipeline takes at most 512, not 513",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_run_is_refused_before_it_starts(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--out", str(tmp_path / "traces"), "--set", setting]) == 2
    line = capsys.readouterr().err
    assert f"--set {setting}: {REFUSED[setting]}" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "traces").exists()


def test_the_space_file_is_named_if_it_sets_the_size() -> None:
    where = {"height": "my.yaml", "width": "my.yaml"}
    with pytest.raises(BadInput, match=r"my\.yaml: workload\.height: FluxPipeline takes multiples"):
        call_limits.check_call("FluxPipeline", PIPELINE_DIR, {"height": 33, "width": 32}, where)
    call_limits.check_call("FluxPipeline", PIPELINE_DIR, {"height": 32, "width": None}, where)
