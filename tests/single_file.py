"""Weights of a tiny pipeline under the names that checkpoint files of SD 1.x and SDXL use, and configurations alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = {
    "unet": {
        r"time_embedding\.linear_1": "time_embed.0",
        r"time_embedding\.linear_2": "time_embed.2",
        r"add_embedding\.linear_1": "label_emb.0.0",
        r"add_embedding\.linear_2": "label_emb.0.2",
        r"conv_in\.": "input_blocks.0.0.",
        r"conv_norm_out": "out.0",
        r"conv_out": "out.2",
        r"mid_block\.resnets\.0": "middle_block.0",
        r"mid_block\.attentions\.0": "middle_block.1",
        r"mid_block\.resnets\.1": "middle_block.2",
    },
    "vae": {
        r"(en|de)coder\.conv_norm_out": r"\1coder.norm_out",
        r"mid_block\.resnets\.0": "mid.block_1",
        r"mid_block\.resnets\.1": "mid.block_2",
        r"mid_block\.attentions\.0": "mid.attn_1",
        r"(attn_1\.)group_norm": r"\1norm",
        r"(attn_1\.)to_out\.0": r"\1proj_out",
        r"(attn_1\.)to_([qkv])": r"\1\2",
        r"down_blocks\.(\d)\.resnets": r"down.\1.block",
        r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
        "conv_shortcut": "nin_shortcut",
    },
    "open": {
        r"^text_model\.encoder\.layers": "transformer.resblocks",
        r"^text_model\.final_layer_norm": "ln_final",
        r"^text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
        r"^text_model\.embeddings\.token_embedding": "token_embedding",
        "layer_norm": "ln_",
        r"\.fc1": ".c_fc",
        r"\.fc2": ".c_proj",
        "self_attn": "attn",
        r"^text_projection\.weight": "text_projection",
    },
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _named(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        key = re.sub(old, new, key)
    return key


def _unet(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    attended = {m[1] for k in weights if (m := re.match(r"up_blocks\.(\d+)\.attentions", k))}

    def place(m: re.Match[str]) -> str:
        way, block, part, i = m[1], int(m[2]), m[3], int(m[4])
        side = "input_blocks" if way == "down" else "output_blocks"
        first = block * (layers + 1) + (way == "down")
        if part == "downsamplers":
            return f"{side}.{first + layers}.0.op"
        if part == "upsamplers":
            return f"{side}.{first + layers}.{2 if m[2] in attended else 1}.conv"
        return f"{side}.{first + i}.{int(part == 'attentions')}"

    out = {}
    for key, value in weights.items():
        new = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.conv(?=\.))?", place, _named(key, NAMES["unet"]))
        if ".resnets." in key:
            new = re.sub(r"\b(norm1|conv1|norm2|conv2|time_emb_proj|conv_shortcut)\b", lambda m: RESNET[m[1]], new)
        out["model.diffusion_model." + new] = value
    return out


def _vae(weights: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    out = {}
    for key, value in weights.items():
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", key)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        matrix = re.search(r"attentions.*to_.*weight", key)
        out["first_stage_model." + _named(new, NAMES["vae"])] = value[..., None, None] if matrix else value
    return out


def _open(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's layout: queries, keys and values are one matrix, and the projection is transposed."""
    out: dict[str, Tensor] = {}
    for key, value in weights.items():
        new = _named(key, NAMES["open"])
        if (m := re.search(r"(.*attn\.)q_proj\.(weight|bias)", new)) is not None:
            parts = [weights[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            out[f"{m[1]}in_proj_{m[2]}"] = torch.cat(parts)
        elif not re.search(r"attn\.[kv]_proj", new):
            out[new] = value.T if new == "text_projection" else value
    return {f"conditioner.embedders.1.model.{k}": v for k, v in out.items()}


def _clip(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.transformer.text_model.{k.removeprefix('text_model.')}": v for k, v in weights.items()}


def original(pipe: Any) -> dict[str, Tensor]:
    """All weights of an SD 1.x or SDXL pipeline in the original layout."""
    two = getattr(pipe, "text_encoder_2", None)
    out = _unet(pipe.unet.state_dict(), int(pipe.unet.config.layers_per_block))
    out |= _vae(pipe.vae.state_dict(), len(pipe.vae.config.up_block_types))
    out |= _clip(pipe.text_encoder.state_dict(), "cond_stage_model" if two is None else "conditioner.embedders.0")
    return out if two is None else out | _open(two.state_dict())


def save(weights: dict[str, Tensor], path: Path) -> Path:
    """The file."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in weights.items()}, path)
    return path


def configurations(folder: str, to: Path) -> str:
    """The folder without its weights: what a hub name gives to someone who brings the file."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    return str(to)
