"""The architectures of well-known pipelines, by class."""

from __future__ import annotations

from functools import cache

from tuner.model import architecture
from tuner.records.codec import Values
from tuner.records.model import Architecture

COMMON = {
    "scheduler": "FlowMatchEulerDiscreteScheduler", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel",
}  # fmt: skip

COMPONENTS: dict[str, dict[str, str]] = {
    "FluxPipeline": {"transformer": "FluxTransformer2DModel"},
    "Flux2Pipeline": {"transformer": "Flux2Transformer2DModel"},
    "Flux2KleinPipeline": {"transformer": "Flux2Transformer2DModel"},
    "StableDiffusion3Pipeline": {"transformer": "SD3Transformer2DModel"},
    "StableDiffusionPipeline": {"unet": "UNet2DConditionModel", "scheduler": "PNDMScheduler"},
    "StableDiffusionXLPipeline": {"unet": "UNet2DConditionModel", "scheduler": "EulerDiscreteScheduler"},
    "QwenImagePipeline": {"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage"},
    "ZImagePipeline": {"transformer": "ZImageTransformer2DModel"},
    "SanaPipeline": {
        "transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC", "scheduler": "DPMSolverMultistepScheduler",
    },
    "Lumina2Pipeline": {"transformer": "Lumina2Transformer2DModel"},
    "PixArtAlphaPipeline": {"transformer": "PixArtTransformer2DModel", "scheduler": "DPMSolverMultistepScheduler"},
    "PixArtSigmaPipeline": {"transformer": "PixArtTransformer2DModel", "scheduler": "DPMSolverMultistepScheduler"},
    "WanPipeline": {
        "transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", "scheduler": "UniPCMultistepScheduler",
    },
    "LTXPipeline": {"transformer": "LTXVideoTransformer3DModel", "vae": "AutoencoderKLLTXVideo"},
}  # fmt: skip


SETTINGS: dict[str, dict[str, Values]] = {
    "FluxPipeline": {"scheduler": {"use_dynamic_shifting": True}},
    "SanaPipeline": {"scheduler": {"use_flow_sigmas": True}},
    "WanPipeline": {"scheduler": {"use_flow_sigmas": True}},
}


@cache
def kind(pipeline_class: str = "FluxPipeline") -> Architecture:
    """What the package knows of a pipeline of this class."""
    components = COMMON | COMPONENTS[pipeline_class]
    return architecture.describe(pipeline_class, components, SETTINGS.get(pipeline_class))
