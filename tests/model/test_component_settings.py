"""Settings of components are compared with what diffusers and transformers declare, without importing them."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import BadInput
from tuner.model import agreeing_settings, component_classes, declared_choices, declared_settings, shapes
from tuner.model.component_classes import diffusers_folder

FILE = Path("vae/config.json")
FLOW, DPM, UNIPC, EULER = (
    "FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
)  # fmt: skip
KL, WAN, UNET = "AutoencoderKL", "AutoencoderKLWan", "UNet2DConditionModel"


def check(class_name: str, config: dict[str, Any]) -> None:
    """Check a configuration as that of a component of this class."""
    folder = diffusers_folder(class_name)
    shapes.check_sizes(FILE, config)
    if folder is None:
        component_classes.check_transformers_config(FILE, class_name, config)
    else:
        declared_settings.check_settings(FILE, folder, class_name, config)
        declared_choices.check_choices(FILE, folder, class_name, config)
    agreeing_settings.check_agreeing(FILE, class_name, config)


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    (KL, {"down_block_types": ["DownEncoderBlock2", "Foo"]}, "did you mean DownEncoderBlock2D"),
    (KL, {"down_block_types": ["Foo"]}, "down_block_types: Foo is unknown; known are AttnDownBlock2D, "),
    (KL, {"up_block_types": ["DownEncoderBlock2D"]}, "up_block_types: DownEncoderBlock2D is unknown"),
    (KL, {"down_block_types": "DownEncoderBlock2D"}, "takes a list of texts"),
    (KL, {"down_block_types": [1, 2]}, "takes a list of texts"),
    (KL, {"down_block_types": {"a": 1}}, "takes a list of texts"),
    (UNET, {"mid_block_type": "UNetMidBlock2DCrossAtt"}, "did you mean UNetMidBlock2DCrossAttn"),
    (UNET, {"up_block_types": [["CrossAttnUpBlock2"]]}, "did you mean CrossAttnUpBlock2D"),
    (UNET, {"time_embedding_type": "positionl"}, "did you mean positional"),
    ("AutoencoderDC", {"encoder_block_types": ["ResBlck"]}, "did you mean ResBlock"),
    ("AutoencoderKLLTXVideo", {"down_block_types": ["LTXVideoBlock"]}, "down_block_types: LTXVideoBlock is unknown"),
    ("AutoencoderKLCogVideoX", {"up_block_types": ["CogVideoXUpBlock"]}, "did you mean CogVideoXUpBlock3D"),
    (KL, {"act_fn": "swishh"}, "did you mean swish?"),
    ("SD3Transformer2DModel", {"qk_norm": "rms_nrm"}, "did you mean rms_norm"),
    ("PixArtTransformer2DModel", {"norm_type": "ada_norm_singl"}, "did you mean ada_norm_single"),
    ("AutoencoderDC", {"decoder_norm_types": ["rms"]}, "decoder_norm_types: rms is unknown"),
    (UNET, {"addition_embed_type": "text_tiem"}, "did you mean text_time"),
    ("PNDMScheduler", {"prediction_type": "epsilo"}, "did you mean epsilon"),
    (UNET, {"down_block_types": ["DownBlock2D"], "block_out_channels": [32, 64]}, "2 values; down_block_types has 1"),
    (UNET, {"down_block_types": ["DownBlock2D"], "attention_head_dim": [8, 8]}, "2 values; down_block_types has 1"),
    (KL, {"down_block_types": ["DownEncoderBlock2D"], "block_out_channels": []}, "0 values; down_block_types has 1"),
    (KL, {"block_out_channels": [16, 32], "norm_num_groups": 5}, "5 does not divide block_out_channels: 16"),
    (KL, {"layers_per_block": [1, 1]}, "layers_per_block: .* takes a number"),
    ("SD3Transformer2DModel", {"num_attention_heads": [2, 2]}, "num_attention_heads: .* takes a number"),
    ("SD3Transformer2DModel", {"in_channels": None}, "in_channels: null"),
    ("FluxTransformer2DModel", {"axes_dims_rope": [8, 8]}, "axes_dims_rope: .* takes a list of 3"),
    ("FluxTransformer2DModel", {"attention_head_dim": 32, "axes_dims_rope": [8, 8, 8]}, "is 24 in all; attention_head"),
    ("HunyuanVideoTransformer3DModel", {"attention_head_dim": 32, "rope_axes_dim": [8, 8]}, "is 16 in all"),
    (WAN, {"dim_mult": [1, 2, 4, 4], "temperal_downsample": [True]}, "is too short for dim_mult"),
    (WAN, {"dim_mult": [0, 2]}, "dim_mult: 0 is not above 0"),
    ("CLIPTextModel", {"model_type": "clip_text_model", "layer_norm_eps": -1}, "layer_norm_eps: -1 is not from 0 to 1"),
    ("CLIPTextModel", {"model_type": "clip_text_model", "layer_norm_eps": math.inf}, "layer_norm_eps: inf is not a fi"),
    ("T5EncoderModel", {"model_type": "t5", "initializer_factor": -math.inf}, "initializer_factor: -inf is not a f"),
    ("LlamaModel", {"model_type": "llama", "num_key_value_heads": 0}, "num_key_value_heads: 0 is not a whole number"),
    ("CLIPTextModel", {"model_type": "clip_text_model", "attention_dropout": 9}, "attention_dropout: 9 is not from 0"),
    (
        "CLIPTextModel",
        {"model_type": "clip_text_model", "hidden_size": 32, "num_attention_heads": 3},
        "3 does not divide hidden_size: 32",
    ),
    (KL, {"act_fn": ""}, "act_fn: an empty name is unknown"),
    (KL, {"act_fn": None}, "act_fn: null, and AutoencoderKL needs a value"),
    (KL, {"block_out_channels": [[16], [32]]}, "block_out_channels: .* takes a list of numbers"),
    (UNET, {"transformer_layers_per_block": [1, -2]}, "transformer_layers_per_block: -2 is not a whole number from 0"),
    (KL, {"act_fn": 3}, "act_fn: 3: AutoencoderKL takes a text"),
    ("AutoencoderDC", {"decoder_act_fns": ["silu", "sillu"]}, "did you mean silu"),
    ("PixArtTransformer2DModel", {"activation_fn": "gelu-approximated"}, "did you mean gelu-approximate"),
    (KL, {"scaling_factor": "x"}, "scaling_factor: 'x': AutoencoderKL takes a number"),
    (KL, {"scaling_factor": 0}, "scaling_factor: 0 is not above 0"),
    (KL, {"scaling_factor": -0.18}, "scaling_factor: -0.18 is not above 0"),
    (KL, {"scaling_factor": math.inf}, "scaling_factor: inf is not a finite number"),
    (KL, {"scaling_factor": math.nan}, "scaling_factor: NaN"),
    (KL, {"scaling_factor": None}, "scaling_factor: null, and AutoencoderKL needs a value"),
    (KL, {"scaling_factor": [0.18]}, "scaling_factor: .* takes a number"),
    (KL, {"scaling_factor": 1e30}, "scaling_factor: 1e.30 is not above 0"),
    (KL, {"scaling_factor": 10**400}, "scaling_factor: 1000"),
    (KL, {"shift_factor": -math.inf}, "shift_factor: -inf is not a finite number"),
    (KL, {"block_out_channels": "128"}, "block_out_channels: '128' is not a whole number"),
    (KL, {"block_out_channels": 128}, "block_out_channels: 128: AutoencoderKL takes a list of numbers"),
    (KL, {"force_upcast": "yes"}, "force_upcast: 'yes': AutoencoderKL takes true or false"),
    (KL, {"force_upcast": 7}, "force_upcast: 7"),
    (KL, {"latent_channels": 4, "latents_mean": [0.0] * 3}, "latents_mean: 3 values for 4 channels"),
    (WAN, {"z_dim": 16, "latents_std": [0.0] * 16}, "latents_std: 0.0 is not above 0"),
    (WAN, {"z_dim": 16, "latents_std": ["1"] * 16}, "latents_std: .* takes a list of numbers"),
    (WAN, {"z_dim": 16, "latents_mean": 0.5}, "latents_mean: 0.5: AutoencoderKLWan takes a list of numbers"),
    (WAN, {"dropout": 2}, "dropout: 2 is not from 0 to 1"),
    (WAN, {"scale_factor_spatial": 0}, "scale_factor_spatial: 0 is not from 1"),
    (UNET, {"norm_eps": -1e-5}, "norm_eps: -1e-05 is not from 0 to 1"),
    (FLOW, {"shift": "abc"}, "shift: 'abc': FlowMatchEulerDiscreteScheduler takes a number"),
    (FLOW, {"shift": 0}, "shift: 0 is not above 0"),
    (FLOW, {"shift": -3.0}, "shift: -3.0 is not above 0"),
    (FLOW, {"shift": True}, "shift: True: .* takes a number"),
    (FLOW, {"shift": {"a": 3}}, "shift: {'a': 3}: .* takes a number"),
    (FLOW, {"base_shift": math.inf}, "base_shift: inf is not a finite number"),
    (FLOW, {"max_image_seq_len": -1}, "max_image_seq_len: -1 is not from 1"),
    (FLOW, {"num_train_timesteps": -1}, "num_train_timesteps: -1 is not a whole number from 1"),
    (FLOW, {"num_train_timesteps": 1000.5}, "num_train_timesteps: 1000.5 is not a whole number"),
    (FLOW, {"num_train_timesteps": None}, "num_train_timesteps: null"),
    (FLOW, {"time_shift_type": "exponentiall"}, "did you mean exponential"),
    (FLOW, {"use_dynamic_shifting": []}, "use_dynamic_shifting: .* takes true or false"),
    (UNIPC, {"flow_shift": "3"}, "flow_shift: '3'"),
    (UNIPC, {"solver_type": "bh3"}, "solver_type: bh3 is unknown"),
    (UNIPC, {"solver_order": 0}, "solver_order: 0 is not from 1"),
    (UNIPC, {"disable_corrector": "0"}, "disable_corrector: '0': .* takes a list of numbers"),
    (DPM, {"algorithm_type": "dpmsolver+"}, "algorithm_type: dpmsolver. is unknown; did you mean"),
    (DPM, {"prediction_type": "eps"}, "did you mean epsilon"),
    (DPM, {"final_sigmas_type": "one"}, "final_sigmas_type: one is unknown; known are sigma_min, zero"),
    (EULER, {"beta_schedule": "linaer"}, "did you mean linear"),
    (EULER, {"beta_start": -0.1}, "beta_start: -0.1 is not from 0 to 1"),
    (EULER, {"beta_end": math.inf}, "beta_end: inf is not a finite number"),
    (EULER, {"timestep_spacing": "leadng"}, "did you mean leading"),
    (EULER, {"trained_betas": "0.1"}, "trained_betas: '0.1'"),
    ("CLIPTextModel", {"model_type": "clip_text_model", "hidden_act": "quick-gelu"}, "did you mean quick_gelu"),
    ("CLIPTextModel", {"model_type": "clip_text_model", "layer_norm_eps": "1e-5"}, "layer_norm_eps: '1e-5' is not a n"),
    ("CLIPTextModel", {"model_type": "clip_text_model", "hidden_act": 4}, "hidden_act: 4 is not a text"),
    ("T5EncoderModel", {"model_type": "t5", "feed_forward_proj": "gated-glu"}, "feed_forward_proj: glu is unknown"),
    ("Gemma2Model", {"model_type": "gemma2", "hidden_activation": "gelu_pytorch"}, "did you mean gelu_pytorch_tanh"),
]  # fmt: skip


@pytest.mark.parametrize(("class_name", "config", "expected"), FAULTS, ids=lambda value: str(value)[:60])
def test_a_setting_that_the_class_cannot_take_is_refused(
    class_name: str, config: dict[str, Any], expected: str
) -> None:
    with pytest.raises(BadInput, match=expected) as refusal:
        check(class_name, config)
    assert str(refusal.value).startswith(tuple(f"{FILE}: {name}: " for name in config))
    assert "\n" not in str(refusal.value)


CHANNELS, BLOCKS = [128, 256, 512, 512], {"down_block_types": ["DownEncoderBlock2D"] * 4}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "FLUX.1": (
        FLOW,
        {
            "base_image_seq_len": 256,
            "base_shift": 0.5,
            "max_image_seq_len": 4096,
            "max_shift": 1.15,
            "num_train_timesteps": 1000,
            "shift": 3.0,
            "use_dynamic_shifting": True,
        },
    ),
    "SD3, shift whole": (FLOW, {"num_train_timesteps": 1000, "shift": 3, "shift_terminal": None}),
    "Qwen-Image": (
        FLOW,
        {
            "shift": 1.0,
            "shift_terminal": 0.02,
            "time_shift_type": "exponential",
            "_use_default_values": ["invert_sigmas"],
            "prediction_type": "anything",
        },
    ),
    "PixArt, infinite": (
        DPM,
        {
            "lambda_min_clipped": -math.inf,
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "variance_type": None,
            "euler_at_final": False,
            "final_sigmas_type": "zero",
        },
    ),
    "older names": (DPM, {"algorithm_type": "deis", "solver_type": "logrho"}),
    "stochastic": (DPM, {"algorithm_type": "sde-dpmsolver++", "trained_betas": [0.1, 0.2], "solver_type": "midpoint"}),
    "trained betas need no schedule": (DPM, {"trained_betas": [0.1, 0.2], "beta_schedule": "own"}),
    "Wan": (
        UNIPC,
        {
            "disable_corrector": [],
            "flow_shift": 3.0,
            "solver_p": None,
            "prediction_type": "flow_prediction",
            "solver_type": "bh2",
            "sigma_max": None,
            "final_sigmas_type": "zero",
        },
    ),
    "Kolors": (
        EULER,
        {
            "beta_end": 0.014,
            "num_train_timesteps": 1100,
            "clip_sample": False,
            "skip_prk_steps": True,
            "timestep_spacing": "leading",
            "interpolation_type": "linear",
            "trained_betas": None,
        },
    ),
    "Playground": (
        "EDMDPMSolverMultistepScheduler",
        {"rho": 7.0, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002, "prediction_type": "epsilon"},
    ),
    "HunyuanDiT": ("DDPMScheduler", {"beta_end": 0.03, "variance_type": "fixed_small", "steps_offset": 1}),
    "PNDM": ("PNDMScheduler", {"prediction_type": "v_prediction", "set_alpha_to_one": False, "steps_offset": 1}),
    "Playground's VAE": (
        KL,
        {
            "block_out_channels": CHANNELS,
            **BLOCKS,
            "latent_channels": 4,
            "scaling_factor": 0.5,
            "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
            "latents_std": [8.4, 5.9, 6.5, 5.2],
        },
    ),
    "an old VAE": (
        KL,
        {
            "block_out_channels": CHANNELS,
            "_name_or_path": "./../vae",
            "sample_size": 512.0,
            "down_block_types": ["UNetResDownEncoderBlock2D"] * 4,
            "scaling_factor": 1,
        },
    ),
    "SDXL": (
        UNET,
        {
            "attention_head_dim": [5, 10, 20],
            "mid_block_type": None,
            "act_fn": "SiLU",
            "encoder_hid_dim": None,
            "transformer_layers_per_block": [1, 2, 10],
            "only_cross_attention": False,
            "class_embed_type": None,
            "addition_embed_type": "text_time",
            "mid_block_scale_factor": 1,
            "timestep_post_act": None,
            "upcast_attention": None,
            "time_embedding_type": "positional",
            "resnet_out_scale_factor": 1.0,
        },
    ),
    "DeepFloyd": (
        UNET,
        {
            "down_block_types": ["SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"],
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "only_cross_attention": [True, False],
            "attention_head_dim": 64,
            "class_embed_type": "timestep",
            "resnet_time_scale_shift": "scale_shift",
        },
    ),
    "HunyuanVideo, a text for true": (
        "HunyuanVideoTransformer3DModel",
        {"guidance_embeds": "true", "rope_theta": 256, "rope_axes_dim": [16, 56, 56], "mlp_ratio": 4},
    ),
    "Sana's VAE": (
        "AutoencoderDC",
        {
            "downsample_block_type": "Conv",
            "upsample_block_type": "interpolate",
            "encoder_block_types": ["ResBlock", ["EfficientViTBlock"]],
            "decoder_act_fns": "silu",
            "encoder_qkv_multiscales": [[], [5]],
            "decoder_norm_types": ["rms_norm"],
        },
    ),
    "Sana": (
        "SanaTransformer2DModel",
        {
            "interpolation_scale": None,
            "guidance_embeds_scale": 0.1,
            "qk_norm": None,
            "mlp_ratio": 2.5,
            "sample_size": 32,
            "dropout": 0.0,
        },
    ),
    "LTX's VAE": (
        "AutoencoderKLLTXVideo",
        {
            "layers_per_block": [4, 3, 3, 3, 4],
            "latent_channels": 128,
            "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
            "upsample_factor": [1],
            "spatio_temporal_scaling": [True, True, True, False],
            "patch_size": 4,
        },
    ),
    "CogVideoX's VAE": (
        "AutoencoderKLCogVideoX",
        {
            "temporal_compression_ratio": 4,
            "force_upcast": True,
            "scaling_factor": 0.7,
            "mid_block_type": "CogVideoXMidBlock3D",
        },
    ),
    "CogVideoX": (
        "CogVideoXTransformer3DModel",
        {
            "spatial_interpolation_scale": 1.875,
            "activation_fn": "gelu-approximate",
            "timestep_activation_fn": "silu",
            "ofs_embed_dim": None,
        },
    ),
    "Wan's VAE": (
        WAN,
        {
            "attn_scales": [],
            "dim_mult": [1, 2, 4, 4],
            "z_dim": 16,
            "latents_mean": [-0.7571] * 16,
            "latents_std": [2.8184] * 16,
            "temperal_downsample": [False, True, True],
            "patch_size": None,
        },
    ),
    "Wan's denoiser": (
        "WanTransformer3DModel",
        {
            "patch_size": [1, 2, 2],
            "added_kv_proj_dim": None,
            "image_dim": None,
            "qk_norm": "rms_norm_across_heads",
            "cross_attn_norm": True,
        },
    ),
    "patches by one number": ("WanTransformer3DModel", {"patch_size": 2}),
    "PixArt": (
        "PixArtTransformer2DModel",
        {
            "interpolation_scale": 1.5,
            "attention_type": "default",
            "norm_type": "ada_norm_single",
            "use_additional_conditions": None,
            "out_channels": 8,
        },
    ),
    "BRIA, axis without": ("FluxTransformer2DModel", {"axes_dims_rope": [0, 48, 48], "guidance_embeds": False}),
    "LTX's upsampler, beside its pipeline": (
        "LTXLatentUpsamplerModel",
        {"in_channels": 128, "mid_channels": 512, "dims": 3, "spatial_upsample": True},
    ),
    "a safety checker": ("StableDiffusionSafetyChecker", {"model_type": "clip", "projection_dim": 768}),
    "SD3's list": ("SD3Transformer2DModel", {"dual_attention_layers": [], "qk_norm": None, "pos_embed_max_size": 192}),
    "CLIP": (
        "CLIPTextModel",
        {
            "model_type": "clip_text_model",
            "dropout": 0.0,
            "eos_token_id": 2,
            "torch_dtype": "float16",
            "hidden_act": "quick_gelu",
            "bos_token_id": None,
            "_attn_implementation_autoset": True,
        },
    ),
    "T5": (
        "T5EncoderModel",
        {
            "model_type": "t5",
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "gelu_new",
            "classifier_dropout": 0,
            "task_specific_params": {"a": {"b": 1}},
            "n_positions": 512,
        },
    ),
    "UMT5": ("UMT5EncoderModel", {"model_type": "umt5", "scalable_attention": True, "num_decoder_layers": 24}),
    "Gemma": ("Gemma2Model", {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256}),
    "Qwen2.5-VL": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "model_type": "qwen2_5_vl",
            "hidden_act": "silu",
            "rope_scaling": {"mrope_section": [16, 24, 24]},
            "vision_config": {"hidden_act": "silu"},
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_published_models_pass(name: str) -> None:
    check(*PUBLISHED[name])


def test_the_pipelines_own_settings_are_checked() -> None:
    for settings, expected in (
        ({"boundary_ratio": "0.9"}, "boundary_ratio: '0.9'"), ({"boundary_ratio": math.nan}, "nan is not a finite"),
        ({"boundary_ratio": 9}, "boundary_ratio: 9 is not from 0 to 1"), ({"expand_timesteps": "on"}, "true or false"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=expected):
            declared_settings.check_settings(FILE, "pipelines", "WanPipeline", settings)
    declared_settings.check_settings(FILE, "pipelines", "WanPipeline", {"boundary_ratio": 0.875, "_own": [1]})


INDEX = Path("model_index.json")


@pytest.mark.parametrize(
    ("pipeline_class", "component", "class_name", "is_taken"),
    [
        ("FluxPipeline", "transformer", "SD3Transformer2DModel", False),
        ("StableDiffusionXLPipeline", "unet", "UNet3DConditionModel", False),
        ("StableDiffusion3Pipeline", "text_encoder", "CLIPTextModel", False),
        ("AnimateDiffPipeline", "unet", "UNetMotionModel", True),
        ("PixArtAlphaPipeline", "transformer", "Transformer2DModel", True),
        ("StableDiffusionPipeline", "vae", "AutoencoderTiny", True),
        ("StableDiffusionXLPipeline", "text_encoder", "CLIPTextModelWithProjection", True),
        ("SanaPipeline", "text_encoder", "Gemma2ForCausalLM", True),
        ("WanPipeline", "transformer_2", "WanTransformer3DModel", True),
    ],
)
def test_a_denoiser_is_of_the_class_that_the_pipeline_declares(
    pipeline_class: str, component: str, class_name: str, is_taken: bool
) -> None:
    with nullcontext() if is_taken else pytest.raises(BadInput, match=f"{component}: {class_name}: .* takes"):
        component_classes.check_declared(INDEX, {"_class_name": pipeline_class}, {component: ("library", class_name)})


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        (KL, {"_class_name": WAN}),
        (KL, {"_class_name": FLOW}),
        (FLOW, {"_class_name": EULER}),
        (EULER, {"_class_name": KL}),
        ("CLIPTextModel", {"architectures": ["T5EncoderModel"]}),
        ("T5EncoderModel", {"architectures": ["UMT5EncoderModel"]}),
        ("Qwen2_5_VLForConditionalGeneration", {"architectures": ["Qwen2VLForConditionalGeneration"]}),
    ],
)
def test_a_configuration_of_another_class_is_refused(class_name: str, config: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"but {INDEX}: part names {class_name}"):
        component_classes.check_agreement(INDEX, FILE, "part", class_name, config)


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        (KL, {}),
        (KL, {"_class_name": "OwnAutoencoder"}),
        (KL, {"_class_name": 3, "architectures": [None]}),
        ("PixArtTransformer2DModel", {"_class_name": "Transformer2DModel"}),
        ("Transformer2DModel", {"_class_name": "PixArtTransformer2DModel"}),
        (EULER, {"_class_name": "PNDMScheduler"}),
        ("LCMScheduler", {"_class_name": EULER}),
        (UNIPC, {"_class_name": DPM}),
        ("LlamaModel", {"architectures": ["LlamaForCausalLM"]}),
        ("CLIPTextModel", {"architectures": ["CLIPModel"]}),
        ("CLIPTextModel", {"architectures": ["CLIPTextModelWithProjection"]}),
        ("T5EncoderModel", {"architectures": ["T5ForConditionalGeneration"]}),
        ("T5EncoderModel", {"architectures": ["MT5EncoderModel"]}),
        ("EulerAncestralDiscreteScheduler", {"_class_name": EULER}),
        ("StableDiffusionSafetyChecker", {"architectures": ["StableDiffusionSafetyChecker"]}),
        ("ChatGLMModel", {"architectures": ["ChatGLMForConditionalGeneration"]}),
    ],
)
def test_a_configuration_of_a_class_that_can_be_loaded_so_passes(class_name: str, config: dict[str, Any]) -> None:
    component_classes.check_agreement(INDEX, FILE, "part", class_name, config)


NAMES = ["../x", "a/b", "/etc", ".", "..", "", "a\nb", "a\x1b[31mb", "vae\0", "text encoder", "vae\u202e", "\ud800"]


@pytest.mark.parametrize("name", NAMES)
def test_a_component_has_a_plain_name(name: str) -> None:
    for entry in (["diffusers", KL], [None, None]):
        index = {"_class_name": "FluxPipeline", name: entry}
        with pytest.raises(BadInput, match="the name of a component is a plain word") as refusal:
            list(component_classes.components(INDEX, index))
        assert str(refusal.value).isprintable()
        assert str(refusal.value).isascii()


def test_what_diffusers_ignores_in_an_index_is_ignored() -> None:
    index = json.loads(
        '{"_class_name": "StableDiffusionPipeline", "_name_or_path": "a/b", "_diffusers_version": "0.6",'
        ' "safety_checker": [null, null], "feature_extractor": null, "image_encoder": [null, "Class"],'
        ' "vae": ["diffusers", "AutoencoderKL"], "watermarker": ["own.module", "Own"], "a note": "of somebody",'
        ' "requires_safety_checker": false}'
    )
    assert list(component_classes.components(INDEX, index)) == [("vae", ("diffusers", KL))]


@pytest.mark.parametrize(
    ("component", "entry", "expected"),
    [
        ("vae", ["diffusers", "AutoencoderKl"], "did you mean AutoencoderKL"),
        ("text_encoder", ["transformers", "CLIPTextModl"], "no class CLIPTextModl; did you mean CLIPTextModel"),
        ("scheduler", ["diffusers", "EulerDiscretScheduler"], "did you mean EulerDiscreteScheduler"),
        ("text_encoder", ["transformers", "CLIPTokenizer"], "CLIPTokenizer is not a class of a text_encoder"),
        ("text_encoder_2", ["diffusers", KL], "is not a class of a text_encoder_2"),
        ("tokenizer", ["transformers", "T5EncoderModel"], "is not a class of a tokenizer"),
        ("vae", ["transformers", "CLIPTextModel"], "is not a class of a vae"),
        ("vae", ["diffusers", "Autoencoder\x1b[2J"], r"no class Autoencoder\\x1b\[2J"),
        ("vae", ["dif\nfusers", KL], r"dif\\nfusers is neither diffusers nor transformers"),
        ("vae", ["../diffusers", KL], "is neither diffusers nor transformers"),
    ],
)
def test_a_class_of_another_sort_is_refused(component: str, entry: list[str], expected: str) -> None:
    with pytest.raises(BadInput, match=expected) as refusal:
        component_classes.check_class(INDEX, component, entry[0], entry[1])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("component", "entry"),
    [
        ("tokenizer", ["transformers", "T5TokenizerFast"]),
        ("tokenizer", ["transformers", "AutoTokenizer"]),
        ("tokenizer", ["transformers", "ByT5Tokenizer"]),
        ("tokenizer", ["transformers", "PreTrainedTokenizerFast"]),
        ("tokenizer", ["transformers", "TokenizersBackend"]),
        ("tokenizer", ["transformers", "PixtralProcessor"]),
        ("feature_extractor", ["transformers", "CLIPFeatureExtractor"]),
        ("safety_checker", ["stable_diffusion", "StableDiffusionSafetyChecker"]),
        ("text_encoder", ["kolors", "ChatGLMModel"]),
        ("text_encoder", ["transformers", "Gemma2Model"]),
        ("text_encoder", ["transformers", "AutoModelForCausalLM"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
    ],
)
def test_classes_of_published_models_pass(component: str, entry: list[str]) -> None:
    component_classes.check_class(INDEX, component, entry[0], entry[1])
