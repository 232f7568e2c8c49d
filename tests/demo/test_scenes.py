"""Scenes, captions and the oracle that reads them back."""

from itertools import combinations

import numpy as np
import pytest

from tuner.demo import dataset
from tuner.demo.captions import WORDS, contradict, sample_pair
from tuner.demo.oracle import judge
from tuner.demo.scenes import COLOURS, SHAPES, held_out, render, sample_scene
from tuner.demo.tokenization import LENGTH, clip_tokenizer, t5_tokenizer


def test_the_oracle_is_right_on_true_renders_and_rejects_false_captions() -> None:
    rng = np.random.default_rng(7)
    right = wrong = 0
    for index in range(200):
        scene, caption = sample_pair(rng, unseen=index % 2 == 0)
        image = render(scene)
        right += judge(image, caption)[0]
        wrong += judge(image, contradict(rng, caption, scene))[0]
    assert right >= 196
    assert wrong <= 2


def test_the_oracle_rejects_blurs_and_noise() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        scene, caption = sample_pair(rng)
        image = render(scene).astype(np.float32)
        blurred = sum(np.roll(image, (dy, dx), (0, 1)) for dy in range(-5, 6) for dx in range(-5, 6)) / 121
        assert not judge(blurred.astype(np.uint8), caption)[0]
        noisy = np.clip(image + rng.normal(0, 60, image.shape), 0, 255).astype(np.uint8)
        assert not judge(noisy, caption)[0]


def test_scenes_are_reproducible() -> None:
    first, second = (sample_pair(np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert np.array_equal(render(first[0]), render(second[0]))
    assert sample_pair(np.random.default_rng(4)) != first


def test_held_out_combinations_are_never_trained_on_and_always_asked_for() -> None:
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    assert all(sum(held_out(one, other) for other in kinds) == 3 for one in kinds)
    assert all(held_out(one, other) == held_out(other, one) for one in kinds for other in kinds)
    rng = np.random.default_rng(5)
    for _ in range(1000):
        shown = [(thing.colour, thing.shape) for thing in sample_scene(rng).things]
        assert not any(held_out(one, other) for one, other in combinations(shown, 2))
    for _ in range(200):
        one, other = ((mention.colour, mention.shape) for mention in sample_pair(rng, unseen=True)[1].mentions)
        assert one[0] and one[1] and other[0] and other[1]
        assert held_out(one, other)


def test_every_word_is_one_token_and_every_caption_fits() -> None:
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    for word in WORDS:
        assert len(clip(word).input_ids) == 3
        assert len(t5(word).input_ids) == 2
    rng = np.random.default_rng(6)
    texts = [sample_pair(rng)[1].text() for _ in range(500)]
    assert max(len(ids) for ids in clip(texts).input_ids) <= LENGTH
    assert max(len(ids) for ids in t5(texts).input_ids) <= LENGTH


def test_the_data_set_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "CHUNK", 50)
    first = dataset.Pending(100, seed=1).collect()
    second = dataset.Pending(100, seed=1).collect()
    assert first.images.shape == (100, 64, 64, 3)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.t5, second.t5)
