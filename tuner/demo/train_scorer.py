"""Trains the CLIP scorer: python -m tuner.demo.train_scorer --out FOLDER --seconds 90

A caption must find its image among others and among spoilt copies of it; an image must find its caption
among others and among false ones that differ in one claim. So the score falls when an image is blurred,
ragged or wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from tuner.demo import dataset, schedule
from tuner.demo.models import declare_float32, new_scorer
from tuner.demo.scenes import SIDE
from tuner.demo.tokenization import clip_tokenizer


def new_processor() -> CLIPProcessor:
    """Make an image processor for 64x64 images that needs no torchvision."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return CLIPProcessor(image_processor=images, tokenizer=clip_tokenizer())


def spoil(images: torch.Tensor) -> torch.Tensor:
    """Return images (b, 3, 64, 64), each blurred, mixed with another or warped by a random amount."""
    count, where = len(images), images.device
    kind, amount = torch.randint(3, (count, 1, 1, 1), device=where), torch.rand(count, 1, 1, 1, device=where)
    blurred = images
    for _ in range(4):
        blurred = functional.avg_pool2d(functional.pad(blurred, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blurred = torch.lerp(
        blurred, functional.interpolate(functional.avg_pool2d(images, 8), scale_factor=8.0, mode="bilinear"), amount
    )
    mixed = torch.lerp(images, images.roll(1, 0), 0.3 + 0.4 * amount)
    bend = torch.randn(count, 2, 13, 13, device=where) * (0.05 + 0.08 * amount)
    bend = functional.interpolate(bend, size=(SIDE, SIDE), mode="bicubic").permute(0, 2, 3, 1)
    axis = torch.linspace(-1, 1, SIDE, device=where)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1) + bend
    warped = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    return torch.where(kind == 0, blurred, torch.where(kind == 1, mixed, warped))


def train(model: CLIPModel, images: torch.Tensor, true: torch.Tensor, wrong: torch.Tensor, plan: schedule.Plan) -> None:
    """Train on images (n, 3, 64, 64) uint8 with tokens (n, 4, 32) of true and false captions."""
    where = images.device
    learned = list(model.parameters())
    optimizer, current_rate = schedule.optimizer(learned, 0.02)
    average = schedule.Average(learned)
    answer = torch.arange(plan.batch, device=where)

    def step() -> torch.Tensor:
        chosen = torch.randint(len(images), (plan.batch,), device=where)
        which = torch.randint(true.shape[1], (plan.batch,), device=where)
        shown = images[chosen].float() / 127.5 - 1
        shown = (shown + 0.02 * torch.randn_like(shown)).clamp(-1, 1)
        with torch.autocast(where.type, torch.bfloat16, cache_enabled=False):
            seen = model.get_image_features(pixel_values=torch.cat([shown, spoil(shown)])).pooler_output
            tokens = torch.cat([true[chosen, which], wrong[chosen, which]]).long()
            said = model.get_text_features(input_ids=tokens).pooler_output
        seen, said = functional.normalize(seen.float(), dim=-1), functional.normalize(said.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        logits = scale * said @ seen.T  # (true then false captions, images then spoilt ones)
        loss = functional.cross_entropy(logits[: plan.batch], answer) + functional.cross_entropy(
            logits[:, : plan.batch].T, answer
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        average.update()
        pairs = logits[answer, answer].detach()
        told = (pairs > logits[answer + plan.batch, answer]).float().mean()
        clear = (pairs > logits[answer, answer + plan.batch]).float().mean()
        return torch.stack([loss.detach(), told, clear, scale.detach()])

    for tick in schedule.ticks(plan.seconds):
        current_rate.fill_(plan.rate * tick.rate)
        result = step()
        if tick.step % 500 == 0:
            loss, told, clear, scale = result.tolist()
            print(
                f"clip {tick.step:6d} {tick.progress:5.0%} loss {loss:.3f} beats its false caption {told:.3f}, "
                f"its spoilt image {clear:.3f}, scale {scale:.1f}",
                flush=True,
            )
    average.store()


def main() -> None:
    """Run the command."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seconds", type=float, default=90)
    arguments.add_argument("--scenes", type=int, default=300_000)
    arguments.add_argument("--batch", type=int, default=256)
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--seed", type=int, default=3)
    given = arguments.parse_args()
    data = dataset.Pending(given.scenes, given.seed, wrong=True).collect()
    torch.manual_seed(given.seed)
    where = schedule.device()
    images = torch.from_numpy(data.images).to(where).permute(0, 3, 1, 2).contiguous()
    true, wrong = (torch.from_numpy(tokens).to(where) for tokens in (data.clip, data.wrong))
    model = new_scorer().to(where)
    train(model, images, true, wrong, schedule.Plan(given.seconds, given.batch, given.rate, eager=True))
    model.cpu().half().save_pretrained(given.out)
    new_processor().save_pretrained(given.out)
    declare_float32(given.out)


if __name__ == "__main__":
    main()
