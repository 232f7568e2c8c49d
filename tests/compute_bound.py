"""A pipeline that keeps a large GPU busy and loads in seconds: FLUX.1-dev's denoiser at its own width, few blocks deep.

Weights are random, the other parts tiny. At 1024 x 1024 pixels and 512 text tokens one block takes the GPU longer than
the host takes to launch it, as in the whole model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORKLOAD = ("workload.height=1024", "workload.width=1024", "workload.max_sequence_length=512")
"""Settings of `tune run` at which it is bound by arithmetic."""


def write(folder: Path, device: str, double_blocks: int = 2, single_blocks: int = 4, heads: int = 24) -> Path:
    """Save the pipeline in bfloat16, 2.5 GB as it is; the weights are drawn on the device."""
    import pipelines
    import torch
    from diffusers import FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    clip, t5 = pipelines.clip_tokenizer(), pipelines.t5_tokenizer()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            parts: dict[str, Any] = {
                "transformer": FluxTransformer2DModel(
                    num_layers=double_blocks, num_single_layers=single_blocks, num_attention_heads=heads,
                    joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True,
                ),
                "vae": pipelines.image_vae((8, 8, 8, 8), latent_channels=16),
                "text_encoder": pipelines.clip_encoder(clip),
                "text_encoder_2": pipelines.t5_encoder(t5),
            }  # fmt: skip
    finally:
        torch.set_default_dtype(default)
    pipe = FluxPipeline(scheduler=pipelines.flow(), tokenizer=clip, tokenizer_2=t5, **parts)
    pipe.to("cpu").save_pretrained(folder, safe_serialization=True)
    return folder
