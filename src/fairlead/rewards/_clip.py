"""A CLIP checkpoint as two functions: transformers folders, hub names, and open_clip files. No torchvision, no
open_clip.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.rewards import _openclip
from fairlead.rewards._load import FILES, missing, tensors

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
TOKENIZER = "openai/clip-vit-large-patch14"
"""Whose vocabulary every open_clip file uses; padding differs and does not matter, the text tower looks back only."""


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing: within rounding of PIL on 8 bits. Without it the network sees another picture."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)


def preprocess(images: Tensor, size: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size] normalised: shorter side to `size`, centre crop.

    As the checkpoints' own processors do; differentiable, not clamped after the overshoot of the filter.
    """
    h, w = images.shape[-2:]
    images = resize(images, *((size, int(size * w / h)) if h <= w else (int(size * h / w), size)))
    h, w = images.shape[-2:]
    top = (h - size) // 2
    left = (w - size) // 2
    return normalise(images[..., top : top + size, left : left + size], mean, std)


def normalise(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(x - mean) / std per channel."""
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


class Clip:
    """Unit image and text features of one frozen `CLIPModel`."""

    def __init__(self, source: str, device: str, tokenizer: str | None = None, activation: str | None = None) -> None:
        import transformers
        from transformers import AutoTokenizer, CLIPModel

        self._mean = MEAN
        self._std = STD
        what = source
        path = Path(source).expanduser()
        try:
            if path.suffix in FILES and path.is_file():
                net: Any = _openclip.network("CLIP", tensors("CLIP", path), activation)
                what = tokenizer or TOKENIZER
            else:
                net = CLIPModel.from_pretrained(source, dtype=torch.float32).eval().requires_grad_(False)
                what = tokenizer or source
                kind: Any = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
                shape: Any = kind.from_pretrained(what)
                self._mean = tuple(shape.image_mean)
                self._std = tuple(shape.image_std)
            self._tokens: Any = AutoTokenizer.from_pretrained(what)
        except (OSError, ValueError) as error:
            raise missing("CLIP", what, error) from error
        self._net = net.to(device)
        self.size = int(net.config.vision_config.image_size)
        self._length = int(net.config.text_config.max_position_embeddings)
        self._last: tuple[weakref.ref[Tensor], int, object, Tensor] | None = None
        self._texts: dict[str, Tensor] = {}
        self.logit_scale = float(net.logit_scale.exp())
        self.dim = int(net.config.projection_dim)

    def images(self, images: Tensor, layout: Callable[[Tensor, int], Tensor] = preprocess) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, D] unit norm. Two rewards on one batch share one pass.

        `layout` makes [B, 3, size, size] of them, normalised; None of the sharing happens where gradients flow: a graph
        is spent once, and keeping it would keep the batch alive.
        """
        graph = torch.is_grad_enabled() and images.requires_grad
        key = (images._version, layout)
        if self._last is not None and self._last[0]() is images and self._last[1:3] == key and not graph:
            return self._last[3]
        raw = images.to(self._net.device, torch.float32)
        pixels = preprocess(raw, self.size, self._mean, self._std) if layout is preprocess else layout(raw, self.size)
        features = F.normalize(_pooled(self._net.get_image_features(pixel_values=pixels)), dim=-1)
        if not graph:
            self._last = (weakref.ref(images), *key, features)
        return features

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts of length B -> [B, D] unit norm; each prompt is encoded once and cut at the model's length."""
        if new := sorted(set(prompts) - set(self._texts)):
            for prompt, ids in zip(new, self._tokens(new)["input_ids"], strict=True):
                cut_warning("CLIP", prompt, len(ids), self._length)
            coded = self._tokens(
                new, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
            )
            inputs = {k: coded[k].to(self._net.device) for k in ("input_ids", "attention_mask")}
            features = F.normalize(_pooled(self._net.get_text_features(**inputs)), dim=-1)
            self._texts.update(zip(new, features, strict=True))
        return torch.stack([self._texts[p] for p in prompts])


def cut_warning(reward: str, prompt: str, found: int, limit: int) -> None:
    """Say that a prompt is longer than the encoder reads."""
    if found > limit:
        start = prompt if len(prompt) <= 40 else f"{prompt[:37]}..."
        warnings.warn(
            f"{reward} reads at most {limit} tokens and the prompt {start!r} has {found}: its end does not count.",
            stacklevel=2,
        )


def _pooled(output: Any) -> Tensor:
    """Projected features: a tensor before transformers 5, an output object whose `pooler_output` they are since."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if not isinstance(pooled, Tensor):
        raise TypeError(f"CLIP returned {type(output).__name__} without pooler_output")
    return pooled


def clip(source: str | None, device: str = "cpu", tokenizer: str | None = None, activation: str | None = None) -> Clip:
    """The checkpoint, loaded once per process and device, however it is asked for. None comes with the package."""
    if source is None:
        from fairlead.pocket import load as pocket

        source = str(pocket.clip_folder())
    return _loaded(source, device, tokenizer, activation)


@cache
def _loaded(source: str, device: str, tokenizer: str | None, activation: str | None) -> Clip:
    return Clip(source, device, tokenizer, activation)
