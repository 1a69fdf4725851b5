"""A FluxPipeline of diffusers' own classes, random and tiny: 2x latents of 4 channels, 1 joint and 2 single blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SAID = "a photo of red apple dog two cats blue car and green the on left right something else cat"
WORDS = SAID.split()
LENGTH = 12


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(dict.fromkeys(["<pad>", "<unk>", "<bos>", "<eos>", *WORDS]))}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=LENGTH, **special)


def pipeline(guidance_embeds: bool, scheduler: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        words = len(tokenizer())
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=0.36,
            shift_factor=0.11,
            layers_per_block=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        net = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=words,
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                projection_dim=32,
                bos_token_id=2,
                eos_token_id=3,
                pad_token_id=0,
            )
        )
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(2.0)
    settings = {"num_train_timesteps": 1000, "shift": 1.0, **scheduler}
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**settings),
        vae=vae,
        text_encoder=clip,
        tokenizer=tokenizer(),
        text_encoder_2=t5,
        tokenizer_2=tokenizer(),
        transformer=net,
    )


def save(folder: Path, guidance_embeds: bool, scheduler: dict[str, Any]) -> None:
    pipeline(guidance_embeds, scheduler).save_pretrained(folder)
