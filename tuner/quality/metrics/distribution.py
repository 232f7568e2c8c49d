"""Metrics of the distance between the images as a set and a reference set: the baseline's images, or real ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from tuner.errors import BadInput
from tuner.quality.images import Images
from tuner.quality.metrics.base import Metric, MetricContext, missing_package, missing_path
from tuner.quality.statistics import jackknife
from tuner.records.codec import Estimate

SIGMA, SCALE = 10.0, 1000.0
"""The bandwidth and the factor of CMMD's paper."""

MIN_IMAGES = 4
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class Cmmd(Metric):
    """1000 times the squared maximum mean discrepancy of CLIP embeddings (Gaussian kernel, bandwidth 10).

    The estimate is unbiased, so it can be negative. Jayasumana et al., Rethinking FID, CVPR 2024. An image and the
    baseline's image of the same prompt and seed are not independent, so such pairs are left out. With
    `--metric cmmd=FOLDER` the reference set is the real images in that folder.
    """

    name, title, unit = "cmmd", "CMMD", "1000 x MMD2"
    higher_is_better = False
    compared_with = "baseline"
    needs = "a CLIP model (--scorer), and optionally a folder of real images"
    cost = "one pass of the CLIP model"

    def unavailable_reason(self, context: MetricContext) -> str | None:
        return _missing_images(self.name, context) if self.name in context.metric_paths else None

    def unsuitable_reason(self, images: Images) -> str | None:
        return _too_few(images)

    def distance(self, images: Images, baseline: Images, context: MetricContext) -> Estimate:
        rows = context.clip.embed_images(images)
        if self.name in context.metric_paths:
            return mmd(rows, context.clip.embed_images(_real_images(context.metric_paths[self.name])))
        return mmd(rows, context.clip.embed_images(baseline), paired=True)


class _InceptionDistance(Metric):
    """A distance between the 2048 features of torchvision's Inception v3. The user gives the weights."""

    higher_is_better = False
    compared_with = "baseline"
    needs = "the package torchvision, and Inception's weights as safetensors (--metric fid=FILE)"
    cost = "one pass of Inception v3"
    weights_key: ClassVar[str] = "fid"
    """The metric whose path is the file of weights. FID and KID share it."""

    def unavailable_reason(self, context: MetricContext) -> str | None:
        description = "Inception v3's weights with torchvision's names in one safetensors file"
        return missing_package("torchvision", ", which contains Inception v3") or missing_path(
            self.weights_key, context, description
        )

    def unsuitable_reason(self, images: Images) -> str | None:
        return _too_few(images)

    def features(self, images: Images, context: MetricContext) -> Any:
        """Return the output of the last pooling (stills, 2048). It is computed once per set of images."""
        if self.weights_key not in images.features:
            extract = _inception(context.metric_paths[self.weights_key], context.device)
            images.features[self.weights_key] = extract(images)
        return images.features[self.weights_key]


class Fid(_InceptionDistance):
    """Frechet distance of two normal distributions fitted to the features. Heusel et al., NeurIPS 2017.

    It is biased upwards for small sets, the more the smaller they are. Only compare configurations with equally many
    images. How far it is from that of more images is not known, so that its interval is the value alone.
    """

    name, title, unit = "fid", "FID", "distance"
    has_verdict = False

    def distance(self, images: Images, baseline: Images, context: MetricContext) -> Estimate:
        value = frechet(self.features(images, context), self.features(baseline, context))
        return Estimate(value=value, low=value, high=value)


class Kid(_InceptionDistance):
    """1000 times the unbiased squared maximum mean discrepancy of the features under a cubic kernel.

    Binkowski et al., Demystifying MMD GANs, ICLR 2018.
    """

    name, title, unit = "kid", "KID", "1000 x MMD2"

    def distance(self, images: Images, baseline: Images, context: MetricContext) -> Estimate:
        return mmd(self.features(images, context), self.features(baseline, context), paired=True, cubic=True)


def mmd(rows: Any, reference: Any, paired: bool = False, cubic: bool = False) -> Estimate:
    """Return 1000 times the unbiased squared MMD of two sets of rows, with a jackknife 95 % interval over `rows`.

    With `paired`, row i of both sets has the same prompt and seed, and the two are not compared with each other.
    """
    kernel = _cubic if cubic else _gaussian
    within, across, of_reference = kernel(rows, rows), kernel(rows, reference), kernel(reference, reference)
    return _paired_mmd(within, across, of_reference) if paired else _independent_mmd(within, across, of_reference)


def _paired_mmd(within: Any, across: Any, of_reference: Any) -> Estimate:
    count = len(within)
    terms = within + of_reference - across - across.T
    row_sums = _off_diagonal_sums(terms)
    total, pairs, pairs_left = float(row_sums.sum()), count * (count - 1), (count - 1) * (count - 2)
    return _scaled(SCALE, jackknife(total / pairs, [(total - 2 * float(row)) / pairs_left for row in row_sums]))


def _independent_mmd(within: Any, across: Any, of_reference: Any) -> Estimate:
    count, references = len(within), len(of_reference)
    reference_mean = float(_off_diagonal_sums(of_reference).sum()) / (references * (references - 1))

    def value(within_sum: float, across_sum: float, size: int) -> float:
        return within_sum / (size * (size - 1)) + reference_mean - 2 * across_sum / (size * references)

    within_rows, across_rows = _off_diagonal_sums(within), across.sum(1)
    within_sum, across_sum = float(within_rows.sum()), float(across.sum())
    leave_one_out = [
        value(within_sum - 2 * float(within_row), across_sum - float(across_row), count - 1)
        for within_row, across_row in zip(within_rows, across_rows, strict=True)
    ]
    return _scaled(SCALE, jackknife(value(within_sum, across_sum, count), leave_one_out))


def _off_diagonal_sums(matrix: Any) -> Any:
    return matrix.sum(1) - matrix.diagonal()


def frechet(rows: Any, reference: Any) -> float:
    """Return the Frechet distance of normal distributions with the two sets' means and covariances.

    The trace of the square root of the covariances' product is the sum of the square roots of its eigenvalues.
    """
    import numpy as np

    sets = (rows, reference)
    means = [one.mean(0) for one in sets]
    # The covariance of few images has a low rank: work with factors instead of 2048 x 2048 matrices.
    factors = [(one - mean) / (len(one) - 1) ** 0.5 for one, mean in zip(sets, means, strict=True)]
    roots = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    spread = sum(float((factor**2).sum()) for factor in factors)
    shift = float(((means[0] - means[1]) ** 2).sum())
    return shift + spread - 2 * float(roots)


def _gaussian(a: Any, b: Any) -> Any:
    import numpy as np

    a, b = a.astype(np.float64), b.astype(np.float64)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.exp(-squared / (2 * SIGMA**2))


def _cubic(a: Any, b: Any) -> Any:
    import numpy as np

    return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3


def _scaled(factor: float, estimate: Estimate) -> Estimate:
    return Estimate(value=factor * estimate.value, low=factor * estimate.low, high=factor * estimate.high)


def _too_few(images: Images) -> str | None:
    count = len(images.stills)
    return None if count >= MIN_IMAGES else f"{count} images are too few, it needs at least {MIN_IMAGES}"


def _image_files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)


def _missing_images(name: str, context: MetricContext) -> str | None:
    path = context.metric_paths[name]
    if len(_image_files(path)) >= MIN_IMAGES:
        return None
    return f"--metric {name}={path}: it needs a folder with at least {MIN_IMAGES} images"


@lru_cache(maxsize=1)
def _real_images(folder: str) -> Images:
    """Load the user's real images in their own sizes. Only for networks that resize their input."""
    from PIL import Image

    images = []
    for path in _image_files(folder):
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        except OSError as error:
            raise BadInput(f"{path}: not an image: {error}") from None
    real = Images([None] * len(images), [""] * len(images))
    real.pil_images = images
    return real


@lru_cache(maxsize=1)
def _inception(file: str, device: str) -> Any:
    """Load Inception v3 and return a function from images to their features (stills, 2048)."""
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
                resized = torch.nn.functional.interpolate(pixels, (299, 299), mode="bilinear", antialias=True)
                rows.append(model(resized).float().cpu().numpy())
        return np.concatenate(rows)

    return features
