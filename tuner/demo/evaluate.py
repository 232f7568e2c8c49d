"""Measures the demo: python -m tuner.demo.evaluate --pipeline FOLDER --scorer FOLDER --out FOLDER

For each step count it draws the same captions, each naming a combination held out of training, with the same
seeds, and asks the oracle and the CLIP scorer. Writes evaluation.json and contact_sheet.png.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont
from transformers import CLIPModel, CLIPProcessor

from tuner.demo import PIPELINE_DIR, SCORER_DIR
from tuner.demo.captions import Caption, sample_pair
from tuner.demo.oracle import judge
from tuner.demo.scenes import SIDE, Floats, Pixels, render

SHEET_STEPS = (2, 4, 6, 8, 14, 28)


def draw(pipeline: Any, texts: list[str], steps: int, batch: int) -> list[Pixels]:
    """Generate a 64x64 image for each caption; caption i has seed i on every machine and at every step count."""
    images: list[Pixels] = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        drawn = pipeline(
            part,
            height=SIDE,
            width=SIDE,
            max_sequence_length=32,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
        )
        images += [np.asarray(image.convert("RGB")) for image in drawn.images]
    return images


def scores(model: CLIPModel, processor: CLIPProcessor, texts: list[str], images: list[Pixels]) -> Floats:
    """CLIP score of each pixels under its caption: 100 times the cosine, (n,)."""
    inputs = processor(text=texts, images=list(map(Image.fromarray, images)), return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = model(**inputs.to(model.device))
    cosines = (outputs.image_embeds * outputs.text_embeds).sum(-1)
    return np.asarray(100 * cosines.float().cpu().numpy(), np.float32)


def reconstruct(vae: Any, images: list[Pixels]) -> list[Pixels]:
    """Encode and decode images with the autoencoder."""
    target = torch.from_numpy(np.stack(images)).to(vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        back = vae.decode(vae.encode(target.to(vae.dtype)).latent_dist.mean).sample.float()
    return list(((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def row(name: str, captions: list[Caption], images: list[Pixels], clip: Floats) -> dict[str, Any]:
    """Measure one line of the table: the oracle's share of right images and the mean CLIP score."""
    verdicts = [judge(pixels, caption) for pixels, caption in zip(images, captions, strict=True)]
    why = Counter(reason for right, reason in verdicts if not right)
    right = sum(right for right, _ in verdicts) / len(verdicts)
    print(f"{name:>14}  right {right:6.1%}  clip {clip.mean():6.2f}  {dict(why.most_common(4))}", flush=True)
    error = float(clip.std(ddof=1) / len(clip) ** 0.5)
    return {"what": name, "right": right, "clip_score": float(clip.mean()), "clip_score_standard_error": error}


def contact_sheet(texts: list[str], columns: dict[int, list[Pixels]], scale: int = 2) -> Image.Image:
    """Captions down, step counts across."""
    cell, label, top = SIDE * scale + 6, 190, 24
    sheet = Image.new("RGB", (label + cell * len(columns), top + cell * len(texts)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row_index, text in enumerate(texts):
        pen.multiline_text((6, top + row_index * cell + 8), textwrap.fill(text, 25), fill="black", font=font)
    for column_index, (steps, images) in enumerate(columns.items()):
        left = label + column_index * cell
        pen.text((left + 6, 4), f"{steps} steps", fill="black", font=font)
        for row_index, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize((SIDE * scale, SIDE * scale), Image.Resampling.NEAREST)
            sheet.paste(image, (left, top + row_index * cell))
    return sheet


def main() -> None:
    """Run the command."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pipeline", type=Path, default=PIPELINE_DIR)
    arguments.add_argument("--scorer", type=Path, default=SCORER_DIR)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--captions", type=int, default=256)
    arguments.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 6, 8, 10, 14, 20, 28, 50])
    arguments.add_argument("--shifts", type=float, nargs="*", default=[], help="also try these schedule shifts")
    arguments.add_argument("--batch", type=int, default=128)
    given = arguments.parse_args()
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = DiffusionPipeline.from_pretrained(given.pipeline).to(where)
    pipeline.set_progress_bar_config(disable=True)
    model = CLIPModel.from_pretrained(given.scorer).to(where).eval()
    processor = CLIPProcessor.from_pretrained(given.scorer)
    rng = np.random.default_rng(20_261_120)
    pairs = [sample_pair(rng, unseen=True) for _ in range(given.captions)]
    captions = [caption for _, caption in pairs]
    texts = [caption.text() for caption in captions]
    true = [render(scene) for scene, _ in pairs]

    def measure(name: str, images: list[Pixels]) -> dict[str, Any]:
        return row(name, captions, images, scores(model, processor, texts, images))

    rows = [measure("true renders", true), measure("through VAE", reconstruct(pipeline.vae, true))]
    rows.append(measure("others' renders", true[1:] + true[:1]))
    for shift in given.shifts:
        pipeline.scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, shift=shift)
        for steps in (4, 8, 28):
            measure(f"shift {shift} {steps}", draw(pipeline, texts, steps, given.batch))
        pipeline = DiffusionPipeline.from_pretrained(given.pipeline).to(where)
        pipeline.set_progress_bar_config(disable=True)
    columns: dict[int, list[Pixels]] = {}
    for steps in given.steps:
        start = time.monotonic()
        images = draw(pipeline, texts, steps, given.batch)
        spent = time.monotonic() - start
        rows.append(measure(str(steps), images) | {"steps": steps, "seconds_per_image": spent / len(texts)})
        if steps in SHEET_STEPS:
            columns[steps] = images[:8]
    given.out.mkdir(parents=True, exist_ok=True)
    result = {"captions": len(texts), "device": str(where), "torch": torch.__version__, "rows": rows}
    (given.out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    contact_sheet(texts[:8], columns).save(given.out / "contact_sheet.png", optimize=True)


if __name__ == "__main__":
    main()
