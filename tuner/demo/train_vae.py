"""Trains the autoencoder: python -m tuner.demo.train_vae --out FOLDER --seconds 120

The latents' mean and spread become its shift and scaling factors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from tuner.demo import dataset, schedule
from tuner.demo.models import declare_float32, new_vae

KL_WEIGHT = 1e-3  # per latent number, against the mean absolute error


def train(vae: AutoencoderKL, images: torch.Tensor, plan: schedule.Plan) -> None:
    """Train on images (n, 3, 64, 64) uint8 of the training device."""
    where = images.device
    learned = list(vae.parameters())
    optimizer, current_rate = schedule.optimizer(learned, 0.0)
    average = schedule.Average(learned)
    through = torch.compile(_through, disable=plan.eager)

    def step() -> torch.Tensor:
        chosen = torch.randint(len(images), (plan.batch,), device=where)
        target = images[chosen].float() / 127.5 - 1
        with torch.autocast(where.type, torch.bfloat16, cache_enabled=False):
            drawn, kl = through(vae, target)
        # Differences of neighbours keep edges and fine patterns sharp.
        edges = functional.l1_loss(drawn.diff(dim=-1), target.diff(dim=-1)) + functional.l1_loss(
            drawn.diff(dim=-2), target.diff(dim=-2)
        )
        error = functional.l1_loss(drawn, target)
        optimizer.zero_grad(set_to_none=True)
        (error + 0.5 * edges + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        average.update()
        return torch.stack([error.detach(), kl.detach()])

    replay = step if plan.eager else schedule.recorded(step)
    for tick in schedule.ticks(plan.seconds):
        current_rate.fill_(plan.rate * tick.rate)
        result = replay()
        if tick.step % 500 == 0:
            error, kl = result.tolist()
            print(f"vae {tick.step:6d} {tick.progress:5.0%} l1 {error:.4f} kl {kl:.3f}", flush=True)
    average.store()


def _through(vae: AutoencoderKL, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (b, 3, 64, 64) through the autoencoder and back, and the mean divergence of their latents."""
    mean, logvar = vae.encoder(target).float().chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    drawn = vae.decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).float()
    return drawn, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


def encode(vae: AutoencoderKL, images: torch.Tensor, batch: int = 1024) -> torch.Tensor:
    """Return the mean latents of images (n, 3, 64, 64) uint8: (n, 8, 16, 16) half precision, unscaled."""
    parts: list[torch.Tensor] = []
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
        for part in images.split(batch):
            parts.append(vae.encode(part.float() / 127.5 - 1).latent_dist.mean.half())
    return torch.cat(parts)


def main() -> None:
    """Run the command."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seconds", type=float, default=120)
    arguments.add_argument("--scenes", type=int, default=100_000)
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--start", type=Path, help="go on from this VAE")
    arguments.add_argument("--eager", action="store_true", help="no compiler and no CUDA graph, as always on a CPU")
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    data = dataset.Pending(given.scenes, given.seed).collect()
    torch.manual_seed(given.seed)
    where = schedule.device()
    images = torch.from_numpy(data.images).to(where).permute(0, 3, 1, 2)
    vae = AutoencoderKL.from_pretrained(given.start) if given.start else new_vae()
    vae = vae.to(where, memory_format=torch.channels_last)
    train(vae, images, schedule.Plan(given.seconds, given.batch, given.rate, where.type == "cpu" or given.eager))
    vae.eval()
    latents = encode(vae, images[:4096]).float()
    vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
    print("channel means", latents.mean((0, 2, 3)).tolist(), "spreads", latents.std((0, 2, 3)).tolist())
    vae.half().save_pretrained(given.out)
    declare_float32(given.out)


if __name__ == "__main__":
    main()
