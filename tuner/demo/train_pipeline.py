"""Trains FLUX and both text encoders on a trained VAE's latents, and stores the whole pipeline:
python -m tuner.demo.train_pipeline --vae FOLDER --out FOLDER --seconds 500

Everything follows FluxPipeline's conventions, so that the pipeline draws what was learnt. Guidance is learnt
too: the target is moved away from what the model draws without a caption, so that one call a step is enough.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from tuner.demo import dataset, schedule
from tuner.demo.models import LATENT, declare_float32, new_text_encoder, new_text_encoder_2, new_transformer, parameters
from tuner.demo.tokenization import LENGTH, clip_tokenizer, t5_tokenizer
from tuner.demo.train_vae import encode

CHECKPOINT = 5000  # iterations between two stores of the whole pipeline
SHIFT = 1.0  # of the sampling schedule
BLIND = 0.1  # share of images whose caption is left out
GUIDANCE = 0.65  # w: as good as guidance by a factor of 1 + w / (1 - w) at sampling


class Drawer(torch.nn.Module):  # type: ignore[misc]
    """The three networks that learn together."""

    def __init__(self) -> None:
        super().__init__()
        self.places: torch.Tensor
        self.clip: CLIPTextModel = new_text_encoder()
        self.t5: T5EncoderModel = new_text_encoder_2()
        self.flux: FluxTransformer2DModel = new_transformer()
        places = FluxPipeline._prepare_latent_image_ids(1, 8, 8, torch.device("cpu"), torch.float32)
        self.register_buffer("places", places)

    def forward(
        self, latents: torch.Tensor, sigma: torch.Tensor, clip_ids: torch.Tensor, t5_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the flow (b, 64, 32) at noisy latents (b, 64, 32) of noise sigma (b,) under captions (b, 32)."""
        flow: torch.Tensor = self.flux(
            hidden_states=latents,
            timestep=sigma,
            pooled_projections=self.clip(clip_ids).pooler_output,
            encoder_hidden_states=self.t5(t5_ids)[0],
            txt_ids=torch.zeros(LENGTH, 3, device=latents.device),
            img_ids=self.places,
            return_dict=False,
        )[0]
        return flow


@dataclass(frozen=True)
class Lessons:
    """Packed, scaled latents (n, 64, 32), and both tokenizers' tokens of four captions of each (n, 4, 32)."""

    latents: torch.Tensor
    clip: torch.Tensor
    t5: torch.Tensor


def train(
    drawer: Drawer, lessons: Lessons, plan: schedule.Plan, guidance: float, checkpoint: Callable[[], None]
) -> None:
    """Flow matching; `checkpoint` is called now and then with the averaged parameters in place."""
    latents, clip, t5, batch = lessons.latents, lessons.clip, lessons.t5, plan.batch
    where = latents.device
    learned = list(drawer.parameters())
    optimizer, current_rate = schedule.optimizer(learned, 0.01)
    average = schedule.Average(learned)
    strength, recent = torch.zeros((), device=where), torch.ones((), device=where)
    no_clip, no_t5 = (ids.to(where).repeat(batch, 1) for ids in empty_captions())

    def step() -> torch.Tensor:
        chosen = torch.randint(len(latents), (batch,), device=where)
        which = torch.randint(clip.shape[1], (batch,), device=where)
        blind = torch.rand(batch, 1, device=where) < BLIND
        clip_ids = torch.where(blind, no_clip, clip[chosen, which].long())
        t5_ids = torch.where(blind, no_t5, t5[chosen, which].long())
        clean = latents[chosen].float()
        noise = torch.randn_like(clean)
        sigma = torch.sigmoid(1.2 * torch.randn(batch, device=where) + 0.4)
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        with torch.autocast(where.type, torch.bfloat16, cache_enabled=False):
            flow = drawer(noisy, sigma, clip_ids, t5_ids).float()
            with torch.no_grad():
                unguided = drawer(noisy, sigma, no_clip, no_t5).float()
        away = strength * (flow.detach() - unguided) * ~blind[:, :, None]
        loss = ((flow - (noise - clean + away)) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        average.update()
        return recent.lerp_(((flow.detach() - (noise - clean)) ** 2).mean(), 0.01)

    replay = step if plan.eager else schedule.recorded(step)
    for tick in schedule.ticks(plan.seconds):
        current_rate.fill_(plan.rate * tick.rate)
        strength.fill_(guidance * (min(1.0, max(0.0, 5 * (tick.progress - 0.1))) if plan.fresh else 1.0))
        result = replay()
        if tick.step % 1000 == 0:
            print(f"flux {tick.step:6d} {tick.progress:5.0%} loss {result.item():.4f}", flush=True)
        if tick.step % CHECKPOINT == CHECKPOINT - 1:
            with average.in_place():
                checkpoint()
    average.store()


def empty_captions() -> tuple[torch.Tensor, torch.Tensor]:
    """Return both tokenizers' tokens of the empty caption, (32,) each."""
    padding = {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
    return clip_tokenizer()("", **padding).input_ids[0], t5_tokenizer()("", **padding).input_ids[0]


def compile_now(drawer: Drawer, batch: int, where: torch.device) -> None:
    """Compiles with and without gradients, while the scenes are still in the making."""
    latents, sigma = torch.zeros(batch, 64, 4 * LATENT, device=where), torch.zeros(batch, device=where)
    ids = torch.ones(batch, LENGTH, dtype=torch.long, device=where)
    with torch.autocast(where.type, torch.bfloat16, cache_enabled=False):
        drawer(latents, sigma, ids, ids).float().mean().backward()
        with torch.no_grad():
            drawer(latents, sigma, ids, ids)
    drawer.zero_grad(set_to_none=True)


def pack(latents: torch.Tensor, vae: AutoencoderKL) -> torch.Tensor:
    """Latents (n, 8, 16, 16) as the tokens (n, 64, 32) that FLUX draws, scaled."""
    shift, scale = vae.config["shift_factor"], vae.config["scaling_factor"]
    tokens: torch.Tensor = FluxPipeline._pack_latents((latents - shift) * scale, len(latents), *latents.shape[1:])
    return tokens.contiguous()


def store(drawer: Drawer, vae: AutoencoderKL, folder: Path) -> None:
    """Write the pipeline in half precision; a plain load gives float32."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False),
        vae=AutoencoderKL.from_config(vae.config),
        text_encoder=new_text_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=new_text_encoder_2(),
        tokenizer_2=t5_tokenizer(),
        transformer=new_transformer(),
    )
    pipeline.vae.load_state_dict(vae.state_dict())
    pipeline.text_encoder.load_state_dict(drawer.clip.state_dict())
    pipeline.text_encoder_2.load_state_dict(drawer.t5.state_dict())
    pipeline.transformer.load_state_dict(drawer.flux.state_dict())
    for model in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer):
        model.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    declare_float32(folder)


def main() -> None:
    """Run the command."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vae", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seconds", type=float, default=500)
    arguments.add_argument("--scenes", type=int, default=300_000)
    arguments.add_argument("--batch", type=int, default=512)
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--guidance", type=float, default=GUIDANCE)
    arguments.add_argument("--start", type=Path, help="go on from this pipeline's weights")
    arguments.add_argument("--eager", action="store_true", help="no compiler and no CUDA graph, as always on a CPU")
    arguments.add_argument("--seed", type=int, default=2)
    given = arguments.parse_args()
    pending = dataset.Pending(given.scenes, given.seed)
    torch.manual_seed(given.seed)
    where = schedule.device()
    eager = where.type == "cpu" or given.eager
    drawer = Drawer()
    if given.start:
        drawer.clip = CLIPTextModel.from_pretrained(given.start / "text_encoder")
        drawer.t5 = T5EncoderModel.from_pretrained(given.start / "text_encoder_2")
        drawer.flux = FluxTransformer2DModel.from_pretrained(given.start / "transformer")
    drawer = drawer.to(where).train()
    if not eager:
        # One block of each kind compiles in a quarter of the whole model's time; the CUDA graph does the rest.
        drawer.flux.compile_repeated_blocks(fullgraph=True)
        compile_now(drawer, given.batch, where)
    data = pending.collect()
    vae = AutoencoderKL.from_pretrained(given.vae).to(where)
    latents = pack(encode(vae, torch.from_numpy(data.images).to(where).permute(0, 3, 1, 2)), vae)
    print(f"{len(latents)} scenes, latents' spread {latents.float().std().item():.3f}, {parameters(drawer)} parameters")
    clip, t5 = (torch.from_numpy(tokens).to(where) for tokens in (data.clip, data.t5))
    plan = schedule.Plan(given.seconds, given.batch, given.rate, eager, fresh=given.start is None)
    train(drawer, Lessons(latents, clip, t5), plan, given.guidance, lambda: store(drawer, vae, given.out))
    store(drawer, vae, given.out)


if __name__ == "__main__":
    main()
