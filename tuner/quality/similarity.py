"""Distance from the baseline's picture at the same prompt and seed: PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HIGHEST_PSNR_DB = 100.0
"""Stands for pictures that are equal to the last bit, whose PSNR is infinite."""


def psnr_and_ssim(pictures: Any, reference: Any) -> tuple[list[float], list[float]]:
    """PSNR in dB and SSIM (-1 to 1) of each picture; both arrays float (count, height, width, 3) in 0..1."""
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    ours = torch.as_tensor(pictures, dtype=torch.float32).permute(0, 3, 1, 2)
    theirs = torch.as_tensor(reference, dtype=torch.float32).permute(0, 3, 1, 2)
    pairs = zip(ours, theirs, strict=True)
    psnr = [min(float(peak_signal_noise_ratio(a, b, data_range=1.0)), HIGHEST_PSNR_DB) for a, b in pairs]
    ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
    return psnr, [float(value) for value in ssim.reshape(-1)]


def save(pictures: Any, folder: Path) -> list[Any]:
    """Write pictures (float array (count, height, width, 3) in 0..1) as 0000.png, ...; return them as PIL images."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray((picture * 255).round().astype(np.uint8)) for picture in pictures]
    for index, image in enumerate(images):
        image.save(folder / f"{index:04}.png")
    return images


def load(folder: str, indices: Sequence[int]) -> Any:
    """The pictures that `save` wrote, as a float array (count, height, width, 3) in 0..1."""
    import numpy as np
    from PIL import Image

    images = [Image.open(Path(folder) / f"{index:04}.png").convert("RGB") for index in indices]
    return np.stack([np.asarray(image) for image in images]) / 255.0
