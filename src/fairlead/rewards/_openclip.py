"""CLIP checkpoints in the layout of OpenAI and open_clip, mapped onto transformers' `CLIPModel`; open_clip is not
needed.

The layout stacks query, key and value in one matrix and stores both projections transposed. Sizes are read off the
tensors; the activation is not in them: OpenAI's files (known by `input_resolution`) use quick_gelu, LAION's use gelu,
and so does HPS. The wrong one changes scores without an error. It must therefore be set for every other file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError, unknown
from fairlead.rewards._load import fill, layers

ACTIVATIONS = ("gelu", "quick_gelu")
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
BLOCK = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
)
TOP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Attention heads of the image tower by width, where a head is not 64 wide (H, g and bigG)."""


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip names and shapes -> transformers names and shapes."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in NOT_WEIGHTS:
            continue
        if key in TOP:
            out[TOP[key]] = value
        elif key in ("visual.proj", "text_projection"):
            out["visual_projection.weight" if key == "visual.proj" else "text_projection.weight"] = value.T.contiguous()
        elif match := re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key):
            tower = "vision" if match[1] else "text"
            number = match[2]
            rest = match[3]
            prefix = f"{tower}_model.encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    out[f"{prefix}self_attn.{name}_proj.{rest.removeprefix('attn.in_proj_')}"] = part
                continue
            for old, new in BLOCK:
                if rest.startswith(f"{old}."):
                    out[prefix + new + rest[len(old) :]] = value
                    break
            else:
                raise FairleadError(f"{key!r} is not a tensor of a plain CLIP. This variant of CLIP is not supported.")
        else:
            raise FairleadError(f"{key!r} is not a tensor of a plain CLIP. This variant of CLIP is not supported.")
    return out


def config(state: Mapping[str, Tensor], activation: str) -> Any:
    """Sizes of both towers, read off an open_clip state dict."""
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        vocabulary, text = state["token_embedding.weight"].shape
        joint = state["visual.proj"].shape[1]
        fc = {t: len(state[f"{t}transformer.resblocks.0.mlp.c_fc.weight"]) for t in ("visual.", "")}
    except KeyError as error:
        raise FairleadError(
            f"The checkpoint has no tensor {error}, so it is not a CLIP with two transformers. Use another one."
        ) from None
    common = {"hidden_act": activation, "projection_dim": joint, "layer_norm_eps": 1e-5}
    eot = vocabulary - 1
    return CLIPConfig(
        projection_dim=joint,
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=fc["visual."],
            patch_size=patch,
            image_size=side * patch,
            num_hidden_layers=layers(state, "visual.transformer.resblocks."),
            num_attention_heads=HEADS.get(width, max(1, width // 64)),
            **common,
        ).to_dict(),
        text_config=CLIPTextConfig(
            hidden_size=text,
            intermediate_size=fc[""],
            vocab_size=vocabulary,
            num_attention_heads=max(1, text // 64),
            num_hidden_layers=layers(state, "transformer.resblocks."),
            bos_token_id=eot - 1,
            eos_token_id=eot,
            max_position_embeddings=len(state["positional_embedding"]),
            pad_token_id=eot,
            **common,
        ).to_dict(),
    )


def network(reward: str, state: Mapping[str, Tensor], activation: str | None) -> Any:
    """A frozen float32 `CLIPModel` with the checkpoint's weights."""
    from transformers import CLIPModel

    if activation is None:
        if "input_resolution" not in state:
            raise FairleadError(
                f"{reward}.activation is not set and the checkpoint does not name it. Set it to 'quick_gelu' for "
                "OpenAI's weights or to 'gelu' for LAION's. The wrong one changes every score."
            )
        activation = "quick_gelu"
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    with torch.device("meta"):
        net = CLIPModel(config(state, activation))
    net = net.to_empty(device="cpu")
    for tower in (net.text_model, net.vision_model):
        ids = tower.embeddings.position_ids
        tower.embeddings.register_buffer("position_ids", torch.arange(ids.shape[-1])[None], persistent=False)
    return fill(reward, net, rename(state))
