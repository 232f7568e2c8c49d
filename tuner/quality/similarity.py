"""Distance from the baseline's image at the same prompt and seed: PSNR and SSIM."""

from __future__ import annotations

from typing import Any

MAX_PSNR_DB = 100.0
"""Stands for images that are equal to the last bit, whose PSNR is infinite."""


def psnr_and_ssim(images: Any, reference: Any) -> tuple[list[float], list[float]]:
    """PSNR in dB and SSIM (-1 to 1) of each image; both arrays float (count, height, width, 3) in 0..1."""
    return psnr_db(images, reference), ssim(images, reference)


def psnr_db(images: Any, reference: Any) -> list[float]:
    """PSNR of each image, in dB."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pairs = zip(tensor(images), tensor(reference), strict=True)
    return [min(float(peak_signal_noise_ratio(a, b, data_range=1.0)), MAX_PSNR_DB) for a, b in pairs]


def ssim(images: Any, reference: Any) -> list[float]:
    """SSIM of each image, -1 to 1."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(tensor(images), tensor(reference), data_range=1.0, reduction="none")
    return [float(value) for value in values.reshape(-1)]


def tensor(images: Any) -> Any:
    """Convert an array (count, height, width, 3) to a float32 tensor (count, 3, height, width)."""
    import torch

    return torch.as_tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
