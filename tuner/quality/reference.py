"""What the baseline's folder keeps for judging other configurations."""

from __future__ import annotations

from pathlib import Path

from tuner.records.quality import Quality, Reference

OTHER_SEEDS, DENOISER, VARIATIONS = "other_seeds", "denoiser.safetensors", "variations"
"""In the baseline's folder, beside its images."""


def baseline_reference(folder: Path, quality: Quality) -> Reference:
    """Return what the baseline's folder holds for judging other configurations."""
    other_seeds, denoiser = folder / OTHER_SEEDS, folder / DENOISER
    return Reference(
        images=str(folder / "images"),
        scores=quality.scores,
        other_seeds=str(other_seeds) if other_seeds.is_dir() else None,
        denoiser=str(denoiser) if denoiser.is_file() else None,
        floor=quality.noise.max_difference if quality.noise else None,
    )
