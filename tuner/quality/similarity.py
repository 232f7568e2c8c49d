"""Distance from the baseline's image at the same prompt and seed: PSNR and SSIM."""

from __future__ import annotations

from typing import Any

MAX_PSNR_DB = 100.0
"""Stands for images that are equal to the last bit, whose PSNR is infinite."""


def psnr_and_ssim(images: Any, reference: Any, device: str = "cpu") -> tuple[list[float], list[float]]:
    """PSNR in dB and SSIM (-1 to 1) of each image; both arrays float (count, height, width, 3) in 0..1."""
    return psnr_db(images, reference), ssim(images, reference, device)


def psnr_db(images: Any, reference: Any) -> list[float]:
    """PSNR of each image, in dB."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pairs = zip(tensor(images), tensor(reference), strict=True)
    return [min(float(peak_signal_noise_ratio(a, b, data_range=1.0)), MAX_PSNR_DB) for a, b in pairs]


def ssim(images: Any, reference: Any, device: str = "cpu") -> list[float]:
    """SSIM of each image, -1 to 1. A CPU takes a second or two for an image of 1024 x 1024 pixels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = []
    for pair in zip(images, reference, strict=True):  # one at a time: on a GPU the pipeline needs the memory
        ours, known = (tensor(image[None]).to(device) for image in pair)
        values.append(float(structural_similarity_index_measure(ours, known, data_range=1.0)))
    return values


def tensor(images: Any) -> Any:
    """Convert an array (count, height, width, 3) to a float32 tensor (count, 3, height, width)."""
    import torch

    return torch.as_tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
