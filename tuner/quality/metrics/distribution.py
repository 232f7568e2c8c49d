"""How far the images as a set are from others: the baseline's, or real ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from tuner.errors import BadInput
from tuner.quality.images import Images
from tuner.quality.metrics.adherence import not_given
from tuner.quality.metrics.base import Metric, Setting, missing
from tuner.quality.statistics import jackknife
from tuner.records.codec import Estimate

SIGMA, SCALE = 10.0, 1000.0
"""CMMD's bandwidth and factor, from its paper."""

MIN_IMAGES = 4
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class Cmmd(Metric):
    """1000 times the squared maximum mean discrepancy of CLIP embeddings (Gaussian kernel, bandwidth 10), unbiased, so
    that it can be below zero.

    Jayasumana et al., Rethinking FID, CVPR 2024. Against the baseline's images, of the same prompts and seeds, the
    terms of an image and its own counterpart are left out: the two are not independent. With
    `--metric cmmd=FOLDER` against the real images in a folder.
    """

    name, title, unit = "cmmd", "CMMD", "1000 x MMD2"
    higher_is_better = False
    against = "baseline"
    needs = "a CLIP model (--scorer), and a folder of real images if not against the baseline's"
    cost = "one pass of the CLIP model"

    def unavailable_reason(self, setting: Setting) -> str | None:
        return _no_images(self.name, setting) if self.name in setting.given else None

    def unsuited(self, images: Images) -> str | None:
        return _too_few(images)

    def distance(self, images: Images, baseline: Images, setting: Setting) -> Estimate:
        ours = setting.clip.of_images(images)
        if self.name in setting.given:
            return mmd(ours, setting.clip.of_images(_real(setting.given[self.name])))
        return mmd(ours, setting.clip.of_images(baseline), paired=True)


class _OfInception(Metric):
    """A distance of Inception's features (2048 of them): torchvision's Inception v3, whose weights the user gives."""

    higher_is_better = False
    against = "baseline"
    needs = "the package torchvision, and Inception's weights as safetensors (--metric fid=FILE)"
    cost = "one pass of Inception v3"
    weights: ClassVar[str] = "fid"

    def unavailable_reason(self, setting: Setting) -> str | None:
        absent = missing("torchvision", ", and Inception's architecture is in it")
        what = "Inception v3's weights, torchvision's names, as one safetensors file"
        return absent or not_given(self.weights, setting, what)

    def unsuited(self, images: Images) -> str | None:
        return _too_few(images)

    def features(self, images: Images, setting: Setting) -> Any:
        """(stills, 2048) of the last pooling."""
        if self.weights not in images.features:
            images.features[self.weights] = _inception(setting.given[self.weights], setting.device)(images)
        return images.features[self.weights]


class Fid(_OfInception):
    """Frechet distance of two normal distributions fitted to the features. Heusel et al., NeurIPS 2017.

    Biased upwards when images are few, as they are here, and the more so the fewer they are: compare it between
    configurations with as many images only. It has no interval that could be compared with the noise floor's.
    """

    name, title, unit = "fid", "FID", "distance"
    has_verdict = False

    def distance(self, images: Images, baseline: Images, setting: Setting) -> Estimate:
        value = frechet(self.features(images, setting), self.features(baseline, setting))
        return Estimate(value=value, low=0.0, high=max(value, 0.0))


class Kid(_OfInception):
    """1000 times the unbiased squared maximum mean discrepancy of the features under a cubic kernel.

    Binkowski et al., Demystifying MMD GANs, ICLR 2018.
    """

    name, title, unit = "kid", "KID", "1000 x MMD2"

    def distance(self, images: Images, baseline: Images, setting: Setting) -> Estimate:
        return mmd(self.features(images, setting), self.features(baseline, setting), paired=True, cubic=True)


def mmd(ours: Any, theirs: Any, paired: bool = False, cubic: bool = False) -> Estimate:
    """1000 times the unbiased squared MMD of two sets of rows, with a jackknife 95 % interval over our rows.

    `paired`: row i of both is of the same prompt and seed, and is not compared with its own counterpart.
    """
    kernel = _cubic if cubic else _gaussian
    own, cross, other = kernel(ours, ours), kernel(ours, theirs), kernel(theirs, theirs)
    count, others = len(ours), len(theirs)
    rows_own = own.sum(1) - own.diagonal()
    rows_other = other.sum(1) - other.diagonal()
    if paired:
        terms = own + other - cross - cross.T
        rows = terms.sum(1) - terms.diagonal()
        total, pairs = float(rows.sum()), count * (count - 1)
        fewer = (count - 1) * (count - 2)
        without = [(total - 2 * float(row)) / fewer for row in rows]
        return _times(SCALE, jackknife(total / pairs, without))
    of_other = float(rows_other.sum()) / (others * (others - 1))

    def value(own_sum: float, cross_sum: float, size: int) -> float:
        return own_sum / (size * (size - 1)) + of_other - 2 * cross_sum / (size * others)

    whole_own, whole_cross, rows_cross = float(rows_own.sum()), float(cross.sum()), cross.sum(1)
    without = [
        value(whole_own - 2 * float(mine), whole_cross - float(crossed), count - 1)
        for mine, crossed in zip(rows_own, rows_cross, strict=True)
    ]
    return _times(SCALE, jackknife(value(whole_own, whole_cross, count), without))


def frechet(ours: Any, theirs: Any) -> float:
    """The Frechet distance of normal distributions with the two sets' means and covariances.

    The trace of the root of their product is the sum of the roots of its eigenvalues.
    """
    import numpy as np

    means = [rows.mean(0) for rows in (ours, theirs)]
    # Of few images the covariance has few directions: work in those, not in 2048.
    factors = [(rows - mean) / (len(rows) - 1) ** 0.5 for rows, mean in zip((ours, theirs), means, strict=True)]
    roots = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    spread = sum(float((factor**2).sum()) for factor in factors)
    return float(((means[0] - means[1]) ** 2).sum()) + spread - 2 * float(roots)


def _gaussian(a: Any, b: Any) -> Any:
    import numpy as np

    a, b = a.astype(np.float64), b.astype(np.float64)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.exp(-squared / (2 * SIGMA**2))


def _cubic(a: Any, b: Any) -> Any:
    import numpy as np

    return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3


def _times(factor: float, estimate: Estimate) -> Estimate:
    return Estimate(value=factor * estimate.value, low=factor * estimate.low, high=factor * estimate.high)


def _too_few(images: Images) -> str | None:
    count = len(images.stills)
    return None if count >= MIN_IMAGES else f"{count} images are too few, it needs {MIN_IMAGES}"


def _files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)


def _no_images(name: str, setting: Setting) -> str | None:
    path = setting.given[name]
    if len(_files(path)) >= MIN_IMAGES:
        return None
    return f"--metric {name}={path}: it needs a folder with at least {MIN_IMAGES} images"


@lru_cache(maxsize=1)
def _real(folder: str) -> Images:
    """The user's real images, each as large as it is; only networks that scale them themselves can see them."""
    from PIL import Image

    images = []
    for path in _files(folder):
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        except OSError as error:
            raise BadInput(f"{path}: not an image: {error}") from None
    real = Images([None] * len(images), [""] * len(images))
    real.images = images
    return real


@lru_cache(maxsize=1)
def _inception(file: str, device: str) -> Any:
    """A function from images to their features (stills, 2048)."""
    import numpy as np
    import torch
    from safetensors.torch import load_file
    from torchvision.models import inception_v3

    model = inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
    model.load_state_dict(load_file(file), strict=True)
    model.fc = torch.nn.Identity()
    model = model.eval().to(device)

    def features(images: Images) -> Any:
        rows = []
        with torch.inference_mode():
            for still in images.stills:
                pixels = torch.as_tensor(still, dtype=torch.float32, device=device).permute(2, 0, 1)[None] * 2 - 1
                sized = torch.nn.functional.interpolate(pixels, (299, 299), mode="bilinear", antialias=True)
                rows.append(model(sized).float().cpu().numpy())
        return np.concatenate(rows)

    return features
