"""--quality and --metric: invalid options are refused before anything is loaded, in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.commands import run
from tuner.errors import BadInput, TunerError, Unavailable
from tuner.records.quality import QualityPolicy


def test_the_default_is_the_clip_score() -> None:
    assert run.quality_policy("clip_score", [], "demo") == QualityPolicy()


def test_metric_paths_become_absolute(tmp_path: Path, tiny_scorer: Path) -> None:
    policy = run.quality_policy("preference", [f"preference={tiny_scorer}", f"cmmd={tmp_path}"], "demo")
    assert policy.metric == "preference"
    assert policy.metric_paths == {"preference": str(tiny_scorer), "cmmd": str(tmp_path)}


@pytest.mark.parametrize(
    ("name", "given", "kind", "message"),
    [
        ("clip_scor", [], BadInput, "did you mean clip_score"),
        ("psnr", [], BadInput, "cannot be the objective"),
        ("preference", [], Unavailable, "--metric preference=PATH"),
        ("lpips", [], Unavailable, "pip install lpips"),
        ("clip_score", ["fid"], BadInput, "NAME=PATH"),
        ("clip_score", ["beauty=/tmp"], BadInput, "the name of a metric"),
        ("clip_score", ["fid=/no/such/file"], BadInput, "no such file or folder"),
    ],
)
def test_invalid_options_give_one_line(name: str, given: list[str], kind: type[TunerError], message: str) -> None:
    with pytest.raises(kind, match=message) as refusal:
        run.quality_policy(name, given, "demo")
    assert "\n" not in str(refusal.value)


def test_an_unavailable_metric_names_those_that_always_work() -> None:
    with pytest.raises(Unavailable, match="ssim and ms_ssim need nothing else"):
        run.quality_policy("lpips", [], "demo")
