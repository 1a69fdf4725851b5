"""A CLIP checkpoint as two functions. Works with any transformers CLIP folder or hub name; no torchvision."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.pocket import load as pocket

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(images: Tensor, size: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size] normalised: shorter side to `size`, centre crop.

    Bicubic with antialiasing, as the checkpoints' own processors do; differentiable.
    """
    h, w = images.shape[-2:]
    short = min(h, w)
    if short != size:
        target = (size, int(size * w / short)) if h <= w else (int(size * h / short), size)
        images = F.interpolate(images, target, mode="bicubic", antialias=True, align_corners=False)
    h, w = images.shape[-2:]
    top, left = (h - size) // 2, (w - size) // 2
    images = images[..., top : top + size, left : left + size]
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


class Clip:
    """Unit image and text features of one frozen `CLIPModel`."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        try:
            self._net: Any = (
                CLIPModel.from_pretrained(source, dtype=torch.float32).eval().requires_grad_(False).to(device)
            )
            self._tokens: Any = AutoTokenizer.from_pretrained(source)
            shape: Any = CLIPImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise FairleadError(
                f"CLIP checkpoint {source!r} could not be loaded: {str(error).splitlines()[0]}"
            ) from error
        self._mean, self._std = tuple(shape.image_mean), tuple(shape.image_std)
        self._size = int(self._net.config.vision_config.image_size)
        self._length = int(self._net.config.text_config.max_position_embeddings)
        self._last: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        self._texts: dict[str, Tensor] = {}
        self.logit_scale = float(self._net.logit_scale.exp())
        self.dim = int(self._net.config.projection_dim)

    def images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, D] unit norm. Two rewards on one batch share one pass.

        Not where gradients flow: a graph is spent once, and keeping it would keep the batch alive.
        """
        graph = torch.is_grad_enabled() and images.requires_grad
        if self._last is not None and self._last[0]() is images and self._last[1] == images._version and not graph:
            return self._last[2]
        pixels = preprocess(images.to(self._net.device), self._size, self._mean, self._std)
        features = F.normalize(_pooled(self._net.get_image_features(pixel_values=pixels)), dim=-1)
        if not graph:
            self._last = (weakref.ref(images), images._version, features)
        return features

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts of length B -> [B, D] unit norm; each prompt is encoded once and cut at the model's length."""
        if new := sorted(set(prompts) - set(self._texts)):
            coded = self._tokens(
                new, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
            )
            inputs = {k: coded[k].to(self._net.device) for k in ("input_ids", "attention_mask")}
            features = F.normalize(_pooled(self._net.get_text_features(**inputs)), dim=-1)
            self._texts.update(zip(new, features, strict=True))
        return torch.stack([self._texts[p] for p in prompts])


def _pooled(output: Any) -> Tensor:
    """Projected features: a tensor before transformers 5, an output object whose `pooler_output` they are since."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if not isinstance(pooled, Tensor):
        raise TypeError(f"CLIP returned {type(output).__name__} without pooler_output")
    return pooled


@cache
def clip(source: str | None, device: str = "cpu") -> Clip:
    """The checkpoint, loaded once per process and device. None is the one that comes with the package."""
    return Clip(str(pocket.clip_folder()) if source is None else source, device)
