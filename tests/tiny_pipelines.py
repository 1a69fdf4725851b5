"""Pipelines of diffusers' own classes, random and tiny: 2 pixels a latent, 4 channels, a block or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tiny_flux import LENGTH, tokenizer

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    settings = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
        "layers_per_block": 1,
        "scaling_factor": 0.36,
    }
    return AutoencoderKL(**{**settings, **more})


def clip(projected: bool = False, width: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5(width: int = 32) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer()),
            d_model=width,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **more})


def sd(scheduler: Any, **more: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(**more),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lcm(scheduler: Any) -> Any:
    from diffusers import LatentConsistencyModelPipeline

    return LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(time_cond_proj_dim=16),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(scheduler: Any, zeros: bool = True, **more: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    net = unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
        **more,
    )
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True, width=16),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=net,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def sd3(scheduler: Any, channels: int = 4, **more: Any) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    net = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=channels,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=channels,
        **more,
    )
    return StableDiffusion3Pipeline(
        vae=vae(latent_channels=channels, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        transformer=net,
        scheduler=scheduler,
        text_encoder=clip(projected=True, width=16),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projected=True, width=16),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=tokenizer(),
    )


def pixart(scheduler: Any) -> Any:
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    net = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(), transformer=net, scheduler=scheduler
    )


def saved(folder: Path, make: Callable[..., Any], *given: Any, **settings: Any) -> str:
    """The folder of a pipeline, its denoiser's weights doubled so that prompts and noise matter."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pipe = make(*given, **settings)
        net = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
        with torch.no_grad():
            for name, p in net.named_parameters():
                if p.ndim > 1:
                    p.mul_(1.5)
                if not bool(p.any()) and "bias" not in name:
                    p.normal_(0, 0.1)
    pipe.save_pretrained(folder)
    return str(folder)


def long_tokenizer() -> Any:
    """The same words, for chat templates."""
    out = tokenizer()
    out.model_max_length = 128
    out.chat_template = "{% for m in messages %}the dog {{ m['content'] }} and{% endfor %}"
    return out


def aura_flow(scheduler: Any) -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    net = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    text = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer()), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0
        )
    )
    return AuraFlowPipeline(tokenizer=tokenizer(), text_encoder=text, vae=vae(), transformer=net, scheduler=scheduler)


def sana(scheduler: Any, sprint: bool = False, **more: Any) -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaSprintPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    net = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
        **more,
    )
    dc = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    text = Gemma2Model(
        Gemma2Config(
            head_dim=16,
            hidden_size=8,
            intermediate_size=64,
            max_position_embeddings=8192,
            num_attention_heads=2,
            num_hidden_layers=1,
            num_key_value_heads=2,
            vocab_size=len(tokenizer()),
            attn_implementation="eager",
        )
    )
    kind = SanaSprintPipeline if sprint else SanaPipeline
    return kind(tokenizer=long_tokenizer(), text_encoder=text, vae=dc, transformer=net, scheduler=scheduler)


def qwen_image(scheduler: Any) -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    net = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    kl = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, 0.0, -0.2, 0.3],
        latents_std=[1.0, 1.5, 2.0, 0.5],
    )
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1000000.0}
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "rope_parameters": rope,
                "vocab_size": 128,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
        )
    )
    return QwenImagePipeline(
        scheduler=scheduler, vae=kl, text_encoder=text, tokenizer=long_tokenizer(), transformer=net
    )


def z_image(scheduler: Any) -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    net = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    text = Qwen3Model(
        Qwen3Config(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=len(tokenizer()),
            head_dim=8,
            max_position_embeddings=512,
        )
    )
    return ZImagePipeline(
        scheduler=scheduler, vae=vae(shift_factor=0.1), text_encoder=text, tokenizer=long_tokenizer(), transformer=net
    )


def _flux2_parts(width: int, guidance: bool) -> tuple[Any, Any]:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    net = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * width,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    kl = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        layers_per_block=1,
    )
    kl.bn.running_mean.uniform_(-0.5, 0.5)
    kl.bn.running_var.uniform_(0.5, 2.0)
    return net, kl


def flux2_klein(scheduler: Any, distilled: bool = False) -> Any:
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    net, kl = _flux2_parts(8, guidance=False)
    text = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=28,
            num_attention_heads=1,
            num_key_value_heads=1,
            vocab_size=len(tokenizer()),
            head_dim=8,
            max_position_embeddings=512,
        )
    )
    return Flux2KleinPipeline(
        scheduler=scheduler,
        vae=kl,
        text_encoder=text,
        tokenizer=long_tokenizer(),
        transformer=net,
        is_distilled=distilled,
    )


def flux2(scheduler: Any) -> Any:
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    net, kl = _flux2_parts(8, guidance=True)
    text = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={
                "model_type": "mistral",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 31,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "vocab_size": len(tokenizer()),
                "head_dim": 8,
            },
            vision_config={
                "model_type": "pixtral",
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "intermediate_size": 8,
                "image_size": 16,
                "patch_size": 8,
            },
        )
    )
    words = long_tokenizer()
    words.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }} and {% endfor %}{% endfor %}"
    )
    return Flux2Pipeline(scheduler=scheduler, vae=kl, text_encoder=text, tokenizer=words, transformer=net)


def chroma(scheduler: Any) -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    net = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=64,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(shift_factor=0.1), transformer=net, scheduler=scheduler
    )


def lumina2(scheduler: Any) -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    net = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(256, 32, 32),
        cap_feat_dim=8,
    )
    text = Gemma2Model(
        Gemma2Config(
            head_dim=16,
            hidden_size=8,
            intermediate_size=64,
            max_position_embeddings=8192,
            num_attention_heads=2,
            num_hidden_layers=2,
            num_key_value_heads=2,
            vocab_size=len(tokenizer()),
            attn_implementation="eager",
        )
    )
    words = long_tokenizer()
    return Lumina2Pipeline(
        transformer=net, scheduler=scheduler, vae=vae(shift_factor=0.1), text_encoder=text, tokenizer=words
    )


def krea2(scheduler: Any, distilled: bool = False) -> Any:
    from diffusers import AutoencoderKLQwenImage, Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    net = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    kl = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, 0.0, -0.2, 0.3],
        latents_std=[1.0, 1.5, 2.0, 0.5],
    )
    text = Qwen3VLModel(
        Qwen3VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "rope_parameters": {"mrope_section": [2, 1, 1], "rope_type": "default", "rope_theta": 1000000.0},
                "vocab_size": 128,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
                "deepstack_visual_indexes": [],
            },
        )
    )
    return Krea2Pipeline(
        scheduler=scheduler,
        vae=kl,
        text_encoder=text,
        tokenizer=long_tokenizer(),
        transformer=net,
        text_encoder_select_layers=(1, 2),
        is_distilled=distilled,
    )
