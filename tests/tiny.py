"""A FLUX pipeline and a CLIP scorer with random weights, small enough for a unit test.

Run as a program, it writes the pipeline to a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from string import ascii_lowercase


def write_tiny_flux(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.0, shift_factor=0.0, sample_size=32,
    )  # fmt: skip
    clip, t5 = tokenizers(folder / "vocabulary")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=len(clip), hidden_size=32, intermediate_size=32, projection_dim=32,
                       num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=77,
                       bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id)
    )  # fmt: skip
    text_encoder_2 = T5EncoderModel(
        T5Config(vocab_size=len(t5), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    )
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=text_encoder, tokenizer=clip,
        text_encoder_2=text_encoder_2, tokenizer_2=t5, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip


def write_tiny_clip(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    torch.manual_seed(0)
    clip, _ = tokenizers(folder / "vocabulary")
    text = CLIPTextConfig(
        vocab_size=len(clip), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32)
    CLIPModel(config).save_pretrained(folder)
    clip.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)


def tokenizers(folder: Path) -> tuple[object, object]:
    from transformers import CLIPTokenizer, T5TokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = ascii_lowercase
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    clip = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    t5 = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)
    return clip, t5


if __name__ == "__main__":
    write_tiny_flux(Path(sys.argv[1]))
