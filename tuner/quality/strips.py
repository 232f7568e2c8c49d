"""Strips to look at: for a finalist the baseline's pictures, its own, and their difference, amplified."""

from __future__ import annotations

from pathlib import Path

from tuner.quality.pictures import Pictures

MOST_PICTURES = 4
CELL = 256
"""Pixels across, that a picture is enlarged or reduced to."""

GAIN = 4
"""By which the difference is amplified, around a medium grey."""

GAP = 4


def write(pictures: Pictures, baseline: Pictures, file: Path) -> None:
    """A PNG of three rows, the same prompts and seeds in the same columns: the baseline's pictures, the candidate's,
    and grey plus four times their difference. Of videos the first frame of each."""
    import numpy as np
    from PIL import Image

    each = pictures.each
    count = min(len(pictures.prompts), MOST_PICTURES)
    ours, theirs = (of.stills[: count * each : each] for of in (pictures, baseline))
    rows = (theirs, ours, np.clip(0.5 + GAIN * (ours - theirs), 0, 1))
    height, width = ours.shape[1:3]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGB", (count * (size[0] + GAP) - GAP, 3 * (size[1] + GAP) - GAP), "white")
    for down, row in enumerate(rows):
        for across, still in enumerate(row):
            cell = Image.fromarray((still * 255).round().astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
            strip.paste(cell, (across * (size[0] + GAP), down * (size[1] + GAP)))
    file.parent.mkdir(parents=True, exist_ok=True)
    strip.save(file, optimize=True)
