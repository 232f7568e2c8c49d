"""The shipped pipeline and scorer, as a user loads them."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from transformers import CLIPModel, CLIPProcessor

from tuner.demo import PIPELINE_DIR, PROMPTS_FILE, SCORER_DIR
from tuner.demo.captions import contradict, sample_pair
from tuner.demo.evaluate import draw, scores
from tuner.demo.oracle import judge
from tuner.demo.scenes import render

COMPONENTS = ("vae", "text_encoder", "text_encoder_2", "transformer")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    loaded = DiffusionPipeline.from_pretrained(PIPELINE_DIR)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_small_and_holds_only_safetensors() -> None:
    files = [path for folder in (PIPELINE_DIR, SCORER_DIR) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json"}


def test_a_plain_load_is_float32_throughout(pipeline: Any) -> None:
    assert isinstance(pipeline, FluxPipeline)
    for name in COMPONENTS:
        assert {tensor.dtype for tensor in getattr(pipeline, name).parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_draws_in_half_precision_too(dtype: torch.dtype, pipeline: Any) -> None:
    loaded = DiffusionPipeline.from_pretrained(PIPELINE_DIR, torch_dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    for name in ("vae", "text_encoder", "transformer"):
        assert {tensor.dtype for tensor in getattr(loaded, name).parameters()} == {dtype}
    image = draw(loaded, ["a large red circle"], steps=2, batch=1)[0]
    assert image.std() > 5


def test_it_draws_and_a_seed_fixes_the_image(pipeline: Any) -> None:
    first, second = (draw(pipeline, ["a large red circle on a dark background"], steps=4, batch=1)[0] for _ in "ab")
    assert first.shape == (64, 64, 3)
    assert first.std() > 5
    assert np.array_equal(first, second)


def test_the_scorer_prefers_the_right_caption_and_the_sharp_image() -> None:
    model, processor = CLIPModel.from_pretrained(SCORER_DIR).eval(), CLIPProcessor.from_pretrained(SCORER_DIR)
    rng = np.random.default_rng(9)
    pairs = [sample_pair(rng) for _ in range(100)]
    images = [render(scene) for scene, _ in pairs]
    true = scores(model, processor, [caption.text() for _, caption in pairs], images)
    texts = [contradict(rng, caption, scene).text() for scene, caption in pairs]
    assert np.mean(true > scores(model, processor, texts, images)) >= 0.85
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    blurred = [
        (sum(np.roll(p.astype(np.float32), s, (0, 1)) for s in shifts) / len(shifts)).astype(np.uint8) for p in images
    ]
    assert true.mean() > scores(model, processor, [caption.text() for _, caption in pairs], blurred).mean() + 5


def test_the_prompts_are_fixed() -> None:
    content = json.loads(PROMPTS_FILE.read_text())
    assert len(content["prompts"]) == len(content["seeds"]) == len(set(content["prompts"])) >= 24


@pytest.mark.slow
def test_images_show_held_out_captions_and_few_steps_break_them(pipeline: Any) -> None:
    """The full measurement is `python -m tuner.demo.evaluate`; here with fewer captions, hence wider bounds."""
    model, processor = CLIPModel.from_pretrained(SCORER_DIR).eval(), CLIPProcessor.from_pretrained(SCORER_DIR)
    rng = np.random.default_rng(31)
    captions = [sample_pair(rng, unseen=True)[1] for _ in range(15)]
    texts = [caption.text() for caption in captions]
    drawn = {steps: draw(pipeline, texts, steps, batch=len(texts)) for steps in (2, 6, 28)}
    right = {
        steps: sum(judge(image, caption)[0] for image, caption in zip(images, captions, strict=True)) / len(texts)
        for steps, images in drawn.items()
    }
    clip = {steps: float(scores(model, processor, texts, images).mean()) for steps, images in drawn.items()}
    assert right[2] <= 0.6
    assert right[2] < right[6] < right[28]
    assert right[28] >= 0.8
    assert clip[2] < clip[6] < clip[28]
