"""Tiny random checkpoints in every layout the rewards read, and plain reference networks written from the formulas.

The references use nothing but matrix products, so that they agree with transformers only if both are right.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairlead.core.key import Key

STOP = "abcdefghijklmnopqrstuvwxyz"


def normal(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * Key.root(5).fold(name).normal(*shape)


def clip_tokenizer(folder: Path, length: int = 12) -> Path:
    """One token per letter."""
    from transformers import CLIPTokenizer

    letters = [*STOP, *(f"{c}</w>" for c in STOP), "<|startoftext|>", "<|endoftext|>"]
    tokens = CLIPTokenizer(vocab={t: i for i, t in enumerate(letters)}, merges=[], model_max_length=length)
    tokens.save_pretrained(folder)
    return folder


VOCABULARY = 2 * len(STOP) + 2


def bert_tokenizer(folder: Path) -> Path:
    from transformers import BertTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *string.ascii_lowercase,
        *(f"##{c}" for c in string.ascii_lowercase),
    ]
    BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    return folder


def clip_folder(folder: Path) -> Path:
    """A transformers CLIP of 30 pixels and 16 features."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    common = {"intermediate_size": 64, "num_hidden_layers": 2, "projection_dim": 16}
    eos = VOCABULARY - 1
    config = CLIPConfig(
        projection_dim=16,
        vision_config={"hidden_size": 32, "num_attention_heads": 2, "image_size": 30, "patch_size": 6, **common},
        text_config={
            "hidden_size": 32,
            "num_attention_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 12,
            "bos_token_id": eos - 1,
            "eos_token_id": eos,
            "pad_token_id": eos,
            **common,
        },
    )
    net = CLIPModel(config)
    shaken(net)
    net.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}).save_pretrained(folder)
    return clip_tokenizer(folder)


def shaken(net: nn.Module, scale: float = 0.15) -> None:
    """Every tensor random, also those that start at zero or one."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim == 0:
                continue
            value.copy_(
                normal(name, *value.shape, scale=scale) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            )


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))
        self.quick = quick

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y))


class Tower(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, quick) for _ in range(2)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, quick: bool, width: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 6, 6, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(26, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Tower(width, width // 64, quick)
        self.proj = nn.Parameter(torch.zeros(width, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """CLIP in the layout of OpenAI and open_clip."""

    def __init__(self, quick: bool, width: int = 64, length: int = 12) -> None:
        super().__init__()
        self.visual = Visual(quick)
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        self.transformer = Tower(width, width // 64, quick)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, 16))
        self.logit_scale = nn.Parameter(torch.tensor(4.6052))
        shaken(self)

    def encode(self, ids: Tensor) -> Tensor:
        """ids [B, T] ending in the end token (the largest id) -> [B, 16]."""
        n = ids.shape[1]
        mask = torch.full((n, n), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[:n], mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection


def open_clip_file(path: Path, quick: bool, openai: bool = False) -> OpenClip:
    net = OpenClip(quick).eval().requires_grad_(False)
    state: dict[str, Any] = dict(net.state_dict())
    if openai:
        state |= {
            k: torch.tensor(v)
            for k, v in (("input_resolution", 30), ("context_length", 12), ("vocab_size", VOCABULARY))
        }
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    return net


def image_reward_file(path: Path, width: int = 128, hidden: int = 64) -> dict[str, Tensor]:
    """A state dict by the published names: image 30 px, patch 6, two layers each, 35 word positions."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, 26, width),
        "blip.visual_encoder.patch_embed.proj.weight": (width, 3, 6, 6),
        "blip.visual_encoder.patch_embed.proj.bias": (width,),
        "blip.visual_encoder.norm.weight": (width,),
        "blip.visual_encoder.norm.bias": (width,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (64, hidden),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, hidden),
        "blip.text_encoder.embeddings.LayerNorm.weight": (hidden,),
        "blip.text_encoder.embeddings.LayerNorm.bias": (hidden,),
    }
    linears: dict[str, tuple[int, int]] = {}
    for i in range(2):
        v, t = f"blip.visual_encoder.blocks.{i}.", f"blip.text_encoder.encoder.layer.{i}."
        linears |= {
            f"{v}attn.qkv": (3 * width, width),
            f"{v}attn.proj": (width, width),
            f"{v}mlp.fc1": (2 * width, width),
            f"{v}mlp.fc2": (width, 2 * width),
        }
        for kind, source in (("attention", hidden), ("crossattention", width)):
            linears |= {
                f"{t}{kind}.self.query": (hidden, hidden),
                f"{t}{kind}.self.key": (hidden, source),
                f"{t}{kind}.self.value": (hidden, source),
                f"{t}{kind}.output.dense": (hidden, hidden),
            }
        linears |= {f"{t}intermediate.dense": (2 * hidden, hidden), f"{t}output.dense": (hidden, 2 * hidden)}
        norms = [f"{v}norm1", f"{v}norm2"]
        shapes |= {f"{n}.{k}": (width,) for n in norms for k in ("weight", "bias")}
        norms = [f"{t}attention.output.LayerNorm", f"{t}crossattention.output.LayerNorm", f"{t}output.LayerNorm"]
        shapes |= {f"{n}.{k}": (hidden,) for n in norms for k in ("weight", "bias")}
    sizes = [hidden, 32, 24, 16, 8, 1]
    linears |= {f"mlp.layers.{k}": (sizes[i + 1], sizes[i]) for i, k in enumerate((0, 2, 4, 6, 7))}
    for name, (out, into) in linears.items():
        shapes |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    state = {}
    for name, shape in shapes.items():
        one = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        state[name] = normal(name, *shape, scale=0.15) + one
    unused = {
        "blip.vision_proj.weight": torch.zeros(2, 2),
        "blip.text_encoder.embeddings.position_ids": torch.zeros(1, 40),
    }
    torch.save({**state, **unused}, path)
    return state


def image_reward(state: dict[str, Tensor], pixels: Tensor, ids: list[int]) -> Tensor:
    """One picture [1, 3, 30, 30] normalised and one prompt without padding -> the standardised score, by the
    formulas.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [t.unflatten(-1, (-1, 64)).transpose(1, 2) for t in (q, k, v)]
        mixed = (heads[0] @ heads[1].mT / 8).softmax(-1) @ heads[2]
        return mixed.transpose(1, 2).flatten(2)

    v = "blip.visual_encoder."
    x = (
        F.conv2d(pixels, state[f"{v}patch_embed.proj.weight"], state[f"{v}patch_embed.proj.bias"], stride=6)
        .flatten(2)
        .mT
    )
    x = torch.cat([state[f"{v}cls_token"], x], 1) + state[f"{v}pos_embed"]
    for i in range(2):
        b = f"{v}blocks.{i}."
        q, k, w = linear(norm(x, f"{b}norm1", 1e-6), f"{b}attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, w), f"{b}attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{b}norm2", 1e-6), f"{b}mlp.fc1")), f"{b}mlp.fc2")
    seen = norm(x, f"{v}norm", 1e-6)
    t = "blip.text_encoder."
    y = (
        state[f"{t}embeddings.word_embeddings.weight"][ids]
        + state[f"{t}embeddings.position_embeddings.weight"][: len(ids)]
    )
    y = norm(y[None], f"{t}embeddings.LayerNorm", 1e-12)
    for i in range(2):
        for kind, source in (("attention", None), ("crossattention", seen)):
            b = f"{t}encoder.layer.{i}.{kind}."
            other = y if source is None else source
            mixed = attend(linear(y, f"{b}self.query"), linear(other, f"{b}self.key"), linear(other, f"{b}self.value"))
            y = norm(linear(mixed, f"{b}output.dense") + y, f"{b}output.LayerNorm", 1e-12)
        b = f"{t}encoder.layer.{i}."
        inner = F.gelu(linear(y, f"{b}intermediate.dense"))
        y = norm(linear(inner, f"{b}output.dense") + y, f"{b}output.LayerNorm", 1e-12)
    r = y[:, 0]
    for k in (0, 2, 4, 6, 7):
        r = linear(r, f"mlp.layers.{k}")
    return (r[:, 0] - 0.16717362830052426) / 1.0333394966054072
