"""Scenes, drawn and captioned by all processors at once, as arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from tuner.demo.captions import contradict, describe
from tuner.demo.scenes import SIDE, Pixels, render, sample_scene
from tuner.demo.tokenization import LENGTH, clip_tokenizer, t5_tokenizer

CHUNK = 1000  # scenes a task
CAPTIONS = 4  # true captions a scene, and as many false ones

Tokens = NDArray[np.int16]


@dataclass(frozen=True)
class Dataset:
    """Images (n, 64, 64, 3) and, four an image, tokens (n, 4, 32) of true captions and of false ones."""

    images: Pixels
    clip: Tokens
    t5: Tokens
    wrong: Tokens  # by the CLIP tokenizer; the true ones again where none were asked for


class Pending:
    """Scenes in the making: the workers start at once, so that the caller can do something else meanwhile.

    `count` is rounded up to a thousand; no held-out pair is shown. Without `wrong` no false captions are made.
    """

    def __init__(self, count: int, seed: int, wrong: bool = False) -> None:
        self.tasks = [(seed, index, wrong) for index in range(-(-count // CHUNK))]
        # Fork, so that the workers need not import torch again; nothing has touched a GPU yet.
        self.pool = get_context("fork").Pool(min(len(self.tasks), max(1, (os.cpu_count() or 1) - 2)))
        self.chunks = self.pool.imap(_make_chunk, self.tasks)

    def collect(self) -> Dataset:
        """Wait for all of them."""
        count = len(self.tasks) * CHUNK
        images = np.empty((count, SIDE, SIDE, 3), np.uint8)
        clip, t5, wrong = (np.empty((count, CAPTIONS, LENGTH), np.int16) for _ in range(3))
        for index, chunk in enumerate(self.chunks):
            rows = slice(index * CHUNK, (index + 1) * CHUNK)
            images[rows], clip[rows], t5[rows], wrong[rows] = chunk.images, chunk.clip, chunk.t5, chunk.wrong
        self.pool.terminate()
        return Dataset(images, clip, t5, wrong)


def _make_chunk(task: tuple[int, int, bool]) -> Dataset:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    *seed, wrong = task
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(CHUNK)]
    true = [describe(rng, scene) for scene in scenes for _ in range(CAPTIONS)]
    texts = [caption.text() for caption in true]
    clip = _tokens(clip_tokenizer(), texts)
    false = clip
    if wrong:
        changed = [contradict(rng, caption, scenes[i // CAPTIONS]).text() for i, caption in enumerate(true)]
        false = _tokens(clip_tokenizer(), changed)
    return Dataset(np.stack([render(scene) for scene in scenes]), clip, _tokens(t5_tokenizer(), texts), false)


def _tokens(tokenizer: object, texts: list[str]) -> Tokens:
    assert callable(tokenizer)
    ids = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    return np.asarray(ids, np.int16).reshape(-1, CAPTIONS, LENGTH)
