"""Strips to look at: for a finalist the baseline's images, its own, and their difference, amplified."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.quality.images import Images

if TYPE_CHECKING:
    from PIL import Image

MAX_IMAGES = 4
CELL = 256
"""Pixels across, that an image is enlarged or reduced to."""

GAIN = 4
"""By which the difference is amplified, around a medium grey."""

GAP = 4
LINE = 18
"""Pixels from one line of text to the next."""

PROMPT_LINES, PROMPT_WIDTH = 3, 36
"""The room for a prompt above its column: lines, and letters in each."""

LEFT, TOP = LINE + GAP, PROMPT_LINES * LINE + GAP
"""Pixels to the images: the rows' names stand upright on the left."""


def write(name: str, images: Images, baseline: Images, file: Path) -> None:
    """Make a PNG of three rows, the same prompts and seeds in the same columns: the baseline's images, those of the
    candidate of this name, and grey plus four times their difference. Of videos the first frame of each."""
    import numpy as np
    from PIL import Image

    each = images.stills_per_prompt
    count = min(len(images.prompts), MAX_IMAGES)
    ours, theirs = (of.stills[: count * each : each] for of in (images, baseline))
    rows = {"untouched": theirs, name: ours, f"difference x{GAIN}": np.clip(0.5 + GAIN * (ours - theirs), 0, 1)}
    height, width = ours.shape[1:3]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    across, down = size[0] + GAP, size[1] + GAP
    strip = Image.new("RGB", (LEFT + count * across - GAP, TOP + len(rows) * down - GAP), "white")
    for column, prompt in enumerate(images.prompts[:count]):
        lines = textwrap.wrap(prompt, PROMPT_WIDTH, max_lines=PROMPT_LINES, placeholder="...")
        strip.paste(_text("\n".join(lines), size[0], TOP), (LEFT + column * across, 0))
    for row, (label, stills) in enumerate(rows.items()):
        strip.paste(_text(label, size[1], LINE).rotate(90, expand=True), (0, TOP + row * down))
        for column, still in enumerate(stills):
            cell = Image.fromarray((still * 255).round().astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
            strip.paste(cell, (LEFT + column * across, TOP + row * down))
    file.parent.mkdir(parents=True, exist_ok=True)
    strip.save(file, optimize=True)


def _text(text: str, width: int, height: int) -> Image.Image:
    """Black letters on white, as far as there is room."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).multiline_text((2, 0), text, fill="black", font_size=13, spacing=LINE - 13)
    return image
