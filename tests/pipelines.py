"""Pipelines of every family with random weights, tokenizers included, as folders that from_pretrained loads.

As a program, `python tests/pipelines.py FAMILY FOLDER [--size full]` writes one. A tiny pipeline is a few megabytes and
draws in under a second on a CPU. A full one has the dimensions of the published weights, in bfloat16, for a GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal, get_args

Size = Literal["tiny", "full"]

CALL: dict[str, dict[str, Any]] = {
    "sana": {"use_resolution_binning": False},
    "pixart": {"use_resolution_binning": False},
    "wan": {"num_frames": 5},
    "wan22": {"num_frames": 5},
    "ltx": {"num_frames": 9},
    "cogvideox": {"num_frames": 9},
    "hunyuan-video": {"num_frames": 5},
    "mochi": {"num_frames": 7},
    "sana-video": {"frames": 5, "use_resolution_binning": False},
}
"""What a call of the family needs so that it draws no more than was asked for, or of a video as little as it can."""

NOISE = 2**20 + 7
"""So many random numbers are repeated to fill a large weight. Being odd, they start elsewhere in every row."""


# Tokenizers: one token a letter, of the texts that pipelines put around a prompt one a word.


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    return CLIPTokenizer({token: index for index, token in enumerate(tokens)}, [], model_max_length=77)


def t5_tokenizer() -> Any:
    from transformers import T5TokenizerFast

    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in ascii_lowercase),
    ]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_tokenizer(*known: str, padding_side: str = "right") -> Any:
    """One token a byte, and one a word of the known texts: prompts after them would be cut off if these were long."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(known, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[1]} $A", special_tokens=[(special[1], 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[1], eos_token=special[0], pad_token=special[0],
        padding_side=padding_side, chat_template=CHAT, model_max_length=4096,
    )  # fmt: skip


def qwen_tokenizer(*known: str) -> Any:
    from transformers import Qwen2Tokenizer

    made = json.loads(bytes_tokenizer(*known).backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in made["merges"]]
    return Qwen2Tokenizer(made["vocab"], merges, chat_template=CHAT, model_max_length=4096)


# Text encoders. The tiny sizes are the defaults.


def clip_encoder(tokenizer: Any, projection: bool = False, **sizes: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPTextConfig(
        **{"vocab_size": len(tokenizer), "projection_dim": 32, **small, **sizes},
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5_encoder(tokenizer: Any, multilingual: bool = False, **sizes: Any) -> Any:
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    small = {"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config, model = (UMT5Config, UMT5EncoderModel) if multilingual else (T5Config, T5EncoderModel)
    return model(config(**{**small, **sizes}))


T5_XXL: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CLIP_L: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
CLIP_BIG_G: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip


def language_model(config: Any, model: Any, tokenizer: Any, **sizes: Any) -> Any:
    """A decoder of the Llama kind. With its own 0.02 for weights, 32 wide, prompts would hardly differ."""
    return model(config(**{**decoder_sizes(tokenizer), **sizes}))


def decoder_sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip


def qwen_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    tokens = {"vision_start_token_id": 0, "vision_end_token_id": 0, "image_token_id": 0, "video_token_id": 0}
    config = Qwen2_5_VLConfig(
        text_config={**decoder_sizes(tokenizer), "rope_parameters": rope}, vision_config=vision, **tokens
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def gemma(tokenizer: Any) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return language_model(Gemma2Config, Gemma2Model, tokenizer, query_pre_attn_scalar=16)


# Autoencoders.


def image_vae(block_out_channels: tuple[int, ...] = (16, 16, 32), **sizes: Any) -> Any:
    """Four pixels to a latent, and with every further block twice as many."""
    from diffusers import AutoencoderKL

    small = {
        "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1, "use_quant_conv": False,
        "use_post_quant_conv": False, "scaling_factor": 1.0, "shift_factor": 0.0, "sample_size": 32,
    }  # fmt: skip
    return AutoencoderKL(
        block_out_channels=block_out_channels, down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
        up_block_types=("UpDecoderBlock2D",) * len(block_out_channels), **{**small, **sizes},
    )  # fmt: skip


def full_image_vae(**sizes: Any) -> Any:
    """Eight pixels to a latent, as published for FLUX.1 and SDXL."""
    channels = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
    return image_vae(**{"sample_size": 1024, **channels, **sizes})


def video_vae(size: Size = "tiny") -> Any:
    """Eight pixels and four frames to a latent."""
    from diffusers import AutoencoderKLWan

    if size == "full":
        return AutoencoderKLWan()
    return AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)


def flow(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 32}
AXES = (8, 12, 12)
"""How a head's 32 dimensions are shared between the axes of a position."""


# Pipelines.


def flux(size: Size) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    parts: dict[str, Any]
    if size == "full":
        shift = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
        parts = {
            "scheduler": flow(shift=3.0, use_dynamic_shifting=True, **shift),
            "transformer": FluxTransformer2DModel(guidance_embeds=True),
            "vae": full_image_vae(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": clip_encoder(clip, **CLIP_L),
            "text_encoder_2": t5_encoder(t5, **T5_XXL),
        }
    else:
        parts = {
            "scheduler": flow(),
            "transformer": FluxTransformer2DModel(
                patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, **HEADS, joint_attention_dim=32,
                pooled_projection_dim=32, axes_dims_rope=AXES,
            ),
            "vae": image_vae(),
            "text_encoder": clip_encoder(clip),
            "text_encoder_2": t5_encoder(t5),
        }  # fmt: skip
    return FluxPipeline(tokenizer=clip, tokenizer_2=t5, **parts)


def flux2(size: Size) -> Any:
    """FLUX.2 [klein]. That of [dev] has the same denoiser, but its text encoder, a vision model of 24 billion
    parameters, needs torchvision even for text."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(
            block_out_channels=(16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        ),
        text_encoder=language_model(  # the pipeline reads layers 9, 18 and 27, side by side
            Qwen3Config, Qwen3ForCausalLM, tokenizer, num_hidden_layers=27, hidden_size=16, intermediate_size=16,
            head_dim=8,
        ),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, **HEADS, joint_attention_dim=48,
            timestep_guidance_channels=32, axes_dims_rope=(8, 8, 8, 8), guidance_embeds=False,
        ),
    )  # fmt: skip


def sd3(size: Size) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32, patch_size=2, in_channels=4, num_layers=3, **HEADS, joint_attention_dim=64,
            caption_projection_dim=64, pooled_projection_dim=64, out_channels=4, pos_embed_max_size=32,
            qk_norm="rms_norm",
        ),
        scheduler=flow(shift=3.0),
        vae=image_vae(),
        text_encoder=clip_encoder(clip, projection=True),
        tokenizer=clip,
        text_encoder_2=clip_encoder(clip, projection=True),
        tokenizer_2=clip,
        text_encoder_3=t5_encoder(t5, d_model=64),
        tokenizer_3=t5,
    )  # fmt: skip


def euler(**settings: Any) -> Any:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1,
        **settings,
    )  # fmt: skip


def sdxl(size: Size) -> Any:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    clip = clip_tokenizer()
    conditioning = {"use_linear_projection": True, "addition_embed_type": "text_time"}
    parts: dict[str, Any]
    if size == "full":
        parts = {
            "unet": UNet2DConditionModel(
                sample_size=128, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
                down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
                up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
                cross_attention_dim=2048, addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
                **conditioning,
            ),
            "vae": full_image_vae(
                use_quant_conv=True, use_post_quant_conv=True, scaling_factor=0.13025, shift_factor=None
            ),
            "text_encoder": clip_encoder(clip, **CLIP_L),
            "text_encoder_2": clip_encoder(clip, projection=True, **CLIP_BIG_G),
        }  # fmt: skip
    else:
        parts = {
            "unet": UNet2DConditionModel(
                sample_size=8, block_out_channels=(32, 64), attention_head_dim=(2, 4), norm_num_groups=8,
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
                cross_attention_dim=64, addition_time_embed_dim=16, projection_class_embeddings_input_dim=128,
                **conditioning,
            ),
            "vae": image_vae(),
            "text_encoder": clip_encoder(clip),
            "text_encoder_2": clip_encoder(clip, projection=True),
        }  # fmt: skip
    return StableDiffusionXLPipeline(
        tokenizer=clip, tokenizer_2=clip, scheduler=euler(), add_watermarker=False, **parts
    )


def sd15(size: Size) -> Any:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    clip = clip_tokenizer()
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 64), attention_head_dim=4, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32,
        ),
        vae=image_vae(),
        text_encoder=clip_encoder(clip),
        tokenizer=clip,
        scheduler=euler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def qwen_image(size: Size) -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

    tokenizer = qwen_tokenizer(
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    )
    return QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True, time_shift_type="exponential"),
        vae=AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        text_encoder=qwen_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, **HEADS, joint_attention_dim=32, axes_dims_rope=AXES
        ),
    )  # fmt: skip


def z_image(size: Size) -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        scheduler=flow(shift=3.0),
        vae=image_vae(),
        text_encoder=language_model(Qwen3Config, Qwen3Model, tokenizer),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=4, dim=96, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3, cap_feat_dim=32,
            axes_dims=AXES, axes_lens=(1024, 64, 64),
        ),
    )  # fmt: skip


def sana(size: Size) -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer = bytes_tokenizer()
    coder = {"block_out_channels": (16,) * 4, "layers_per_block": (1,) * 4, "qkv_multiscales": ((), (), (), (5,))}
    kinds = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma(tokenizer),
        vae=AutoencoderDC(
            latent_channels=16, attention_head_dim=16, encoder_block_types=kinds, decoder_block_types=kinds,
            **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in coder.items()},
        ),
        transformer=SanaTransformer2DModel(
            in_channels=16, out_channels=16, num_layers=2, **HEADS, num_cross_attention_heads=2,
            cross_attention_head_dim=32, cross_attention_dim=64, caption_channels=32, sample_size=16,
        ),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )  # fmt: skip


def pixart(size: Size) -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer = t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=image_vae(),
        transformer=PixArtTransformer2DModel(
            in_channels=4, out_channels=8, num_layers=2, **HEADS, cross_attention_dim=64, caption_channels=32,
            sample_size=32, use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


def wan(size: Size, denoisers: int = 1) -> Any:
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    tokenizer = t5_tokenizer()
    sizes: dict[str, Any]
    if size == "full":
        sizes = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
        encoder = t5_encoder(tokenizer, multilingual=True, **{**T5_XXL, "vocab_size": 256384})
    else:
        sizes = {
            **HEADS, "ffn_dim": 128, "num_layers": 2, "in_channels": 4, "out_channels": 4, "text_dim": 32,
            "freq_dim": 32, "rope_max_seq_len": 64,
        }  # fmt: skip
        encoder = t5_encoder(tokenizer, multilingual=True)
    transformers = [WanTransformer3DModel(**sizes) for _ in range(denoisers)]
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=video_vae(size),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformers[0],
        transformer_2=transformers[1] if denoisers == 2 else None,
        boundary_ratio=0.875 if denoisers == 2 else None,
    )


def wan22(size: Size) -> Any:
    """Two denoisers, one for the noisy steps and one for the rest."""
    return wan(size, denoisers=2)


def chroma(size: Size) -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    tokenizer = t5_tokenizer()
    return ChromaPipeline(
        scheduler=flow(),
        vae=image_vae(),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=ChromaTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, **HEADS, joint_attention_dim=32, axes_dims_rope=AXES,
            approximator_num_channels=64, approximator_hidden_dim=64, approximator_layers=2,
        ),
    )  # fmt: skip


def lumina2(size: Size) -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = bytes_tokenizer(
        "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
        "based on textual prompts or user prompts. <Prompt Start>"
    )
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            in_channels=4, hidden_size=64, num_layers=2, num_refiner_layers=2, num_attention_heads=2, num_kv_heads=1,
            multiple_of=16, axes_dim_rope=AXES, cap_feat_dim=32,
        ),
        scheduler=flow(shift=6.0),
        vae=image_vae((16, 16, 16, 16)),  # the pipeline takes eight pixels to a latent for granted
        text_encoder=gemma(tokenizer),
        tokenizer=tokenizer,
    )  # fmt: skip


def auraflow(size: Size) -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    tokenizer = t5_tokenizer()
    return AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, multilingual=True),
        vae=image_vae(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=8, num_mmdit_layers=2, num_single_dit_layers=2, **HEADS, joint_attention_dim=32,
            caption_projection_dim=64, pos_embed_max_size=256,
        ),
        scheduler=flow(shift=1.73),
    )  # fmt: skip


def cogview4(size: Size) -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel
    from transformers import GlmConfig, GlmModel

    tokenizer = bytes_tokenizer(padding_side="left")
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=language_model(GlmConfig, GlmModel, tokenizer),
        vae=image_vae(),
        transformer=CogView4Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, **HEADS, text_embed_dim=32, time_embed_dim=64,
            condition_dim=16, pos_embed_max_size=16, sample_size=8, rope_axes_dim=(16, 16),
        ),
        scheduler=flow(use_dynamic_shifting=True, time_shift_type="linear"),
    )  # fmt: skip


def ovis_image(size: Size) -> Any:
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    return OvisImagePipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=image_vae(),
        text_encoder=language_model(Qwen3Config, Qwen3Model, tokenizer),
        tokenizer=tokenizer,
        transformer=OvisImageTransformer2DModel(
            in_channels=16, out_channels=16, num_layers=2, num_single_layers=2, **HEADS, joint_attention_dim=32,
            axes_dims_rope=AXES,
        ),
    )  # fmt: skip


def ltx(size: Size) -> Any:
    from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

    tokenizer = t5_tokenizer()
    channels, layers, scaling = (16, 16, 16, 16), (1, 1, 1, 1, 1), (True, True, False, False)
    return LTXPipeline(
        scheduler=flow(use_dynamic_shifting=True, base_image_seq_len=1024),
        vae=AutoencoderKLLTXVideo(
            latent_channels=16, patch_size=2, block_out_channels=channels, decoder_block_out_channels=channels,
            layers_per_block=layers, decoder_layers_per_block=layers, spatio_temporal_scaling=scaling,
            decoder_spatio_temporal_scaling=scaling,
        ),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=LTXVideoTransformer3DModel(
            in_channels=16, out_channels=16, num_layers=2, **HEADS, cross_attention_dim=64, caption_channels=32
        ),
    )  # fmt: skip


def cogvideox(size: Size) -> Any:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    tokenizer = t5_tokenizer()
    return CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ),
        transformer=CogVideoXTransformer3DModel(
            in_channels=4, out_channels=4, num_layers=2, **HEADS, time_embed_dim=32, text_embed_dim=32, sample_width=4,
            sample_height=4, sample_frames=9, use_rotary_positional_embeddings=True,
        ),
        scheduler=CogVideoXDDIMScheduler(),
    )  # fmt: skip


def hunyuan_video(size: Size) -> Any:
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from transformers import LlamaConfig, LlamaModel

    llama, clip = bytes_tokenizer(DEFAULT_PROMPT_TEMPLATE["template"]), clip_tokenizer()
    return HunyuanVideoPipeline(
        text_encoder=language_model(LlamaConfig, LlamaModel, llama),
        tokenizer=llama,
        transformer=HunyuanVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_layers=2, num_single_layers=2, num_refiner_layers=2, **HEADS,
            text_embed_dim=32, pooled_projection_dim=32, rope_axes_dim=AXES,
        ),
        vae=AutoencoderKLHunyuanVideo(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
        ),
        scheduler=flow(shift=7.0),
        text_encoder_2=clip_encoder(clip),
        tokenizer_2=clip,
    )  # fmt: skip


def mochi(size: Size) -> Any:
    from diffusers import AutoencoderKLMochi, MochiPipeline, MochiTransformer3DModel

    tokenizer = t5_tokenizer()
    channels = (32, 32, 32, 32)
    return MochiPipeline(
        scheduler=flow(invert_sigmas=True),
        vae=AutoencoderKLMochi(
            encoder_block_out_channels=channels, decoder_block_out_channels=channels, layers_per_block=(1, 1, 1, 1, 1)
        ),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=MochiTransformer3DModel(
            num_layers=3, num_attention_heads=3, attention_head_dim=32, pooled_projection_dim=96, text_embed_dim=32,
            time_embed_dim=32,
        ),
    )  # fmt: skip


def sana_video(size: Size) -> Any:
    from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline, SanaVideoTransformer3DModel

    tokenizer = bytes_tokenizer()
    return SanaVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma(tokenizer),
        vae=video_vae(),
        transformer=SanaVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_layers=2, **HEADS, num_cross_attention_heads=2,
            cross_attention_head_dim=32, cross_attention_dim=64, caption_channels=32, rope_max_seq_len=64,
        ),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )  # fmt: skip


BUILDERS: dict[str, Callable[[Size], Any]] = {
    "flux": flux,
    "flux2": flux2,
    "sd3": sd3,
    "sdxl": sdxl,
    "qwen-image": qwen_image,
    "z-image": z_image,
    "sana": sana,
    "pixart": pixart,
    "wan": wan,
    "sd15": sd15,
    "chroma": chroma,
    "lumina2": lumina2,
    "auraflow": auraflow,
    "cogview4": cogview4,
    "ovis-image": ovis_image,
    "wan22": wan22,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "hunyuan-video": hunyuan_video,
    "mochi": mochi,
    "sana-video": sana_video,
}
FAMILIES: tuple[str, ...] = ("flux", "flux2", "sd3", "sdxl", "qwen-image", "z-image", "sana", "pixart", "wan")
OTHERS: tuple[str, ...] = tuple(family for family in BUILDERS if family not in FAMILIES)
FULL: tuple[str, ...] = ("flux", "sdxl", "wan")

FAINT: tuple[str, ...] = ("qwen-image", "wan", "auraflow", "ovis-image", "wan22", "cogvideox")
"""Tiny, these hardly look at their prompt: it is ten tokens among hundreds of padding."""


def build(family: str, size: Size = "tiny", empty: bool = False) -> Any:
    """The pipeline, seeded. An empty one has parameters without values, on the meta device."""
    if family not in BUILDERS:
        raise ValueError(f"{family}: no such family, there are {', '.join(BUILDERS)}")
    if size == "full" and family not in FULL:
        raise ValueError(f"{family}: only {', '.join(FULL)} have a full size")

    import torch
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    torch.manual_seed(0)
    with init_empty_weights() if empty else nullcontext():
        pipe = BUILDERS[family](size)
    for name, model in models(pipe).items():
        model.eval()
        if empty and hasattr(model, "tie_weights"):  # building it so has separated what is tied
            model.tie_weights()
        if size == "tiny" and family in FAINT and name.startswith("transformer"):
            strengthen(model)
    return pipe


def models(pipe: Any) -> dict[str, Any]:
    """The pipeline's parts that have weights, by name."""
    import torch

    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def strengthen(denoiser: Any) -> None:
    """Double the weights of linear layers."""
    import torch

    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 2


def fill(model: Any) -> None:
    """Give an empty model random weights in bfloat16, in seconds even if it is large."""
    import torch

    def value(name: str, shape: Any) -> Any:
        if name.endswith("bias"):
            return torch.zeros(shape, dtype=torch.bfloat16)
        if len(shape) == 1 or name.endswith("gamma"):  # what a norm scales by
            return torch.ones(shape, dtype=torch.bfloat16)
        count = shape.numel()
        noise = torch.randn(min(count, NOISE)) * shape[1:].numel() ** -0.5
        return noise.to(torch.bfloat16).repeat(-(-count // NOISE))[:count].reshape(shape)

    values: dict[int, Any] = {}
    state = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in values:
            values[id(parameter)] = value(name, parameter.shape)
        state[name] = values[id(parameter)]
    model.load_state_dict(state, strict=False, assign=True)
    if hasattr(model, "tie_weights"):
        model.tie_weights()


def write(family: str, folder: Path, size: Size = "tiny") -> None:
    """Save the family's pipeline as a folder. Raises ValueError when there is no such family or size."""
    pipe = build(family, size, empty=size == "full")
    if size == "full":
        for model in models(pipe).values():
            fill(model)
    pipe.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("family", choices=tuple(BUILDERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=get_args(Size), default="tiny")
    arguments = parser.parse_args()
    try:
        write(arguments.family, arguments.folder, arguments.size)
    except ValueError as error:
        parser.error(str(error))
