"""What pictures are compared by: the image towers of CLIP, DINO and their like, or plain pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.weights import pretrained
from fairlead.pocket import load as pocket

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Encoder:
    """A transformers image encoder: CLIP, SigLIP, DINO or DINOv2.

    CLIP gives its projected features; the others give what they pool, or their first token. Pictures are resized
    and cropped as the processors of these models do: shorter side to the encoder's size, then the centre.

    Settings:
        source (folder, hub name or None, default None): the model; None is the small CLIP in the package.
        device (name of a device, default 'cpu'): where the network runs.
    """

    def __init__(self, source: str | None = None, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        source = str(pocket.clip_folder()) if source is None else source
        try:
            self._net: Any = pretrained("likeness", AutoModel, source, dtype=torch.float32).eval().requires_grad_(False)
            own: Any = AutoImageProcessor.from_pretrained(source, backend="pil")
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise FairleadError(
                f"No image encoder could be loaded from {source!r} ({why}). Use another one."
            ) from error
        self._net.to(device)
        self._mean = tuple(own.image_mean or MEAN)
        self._std = tuple(own.image_std or STD)
        config = getattr(self._net.config, "vision_config", self._net.config)
        self._size = int(config.image_size)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] -> [n, D] float32."""
        h, w = images.shape[-2:]
        scale = self._size / min(h, w)
        if scale != 1:
            shape = (max(self._size, round(h * scale)), max(self._size, round(w * scale)))
            images = F.interpolate(images.float(), shape, mode="bicubic", antialias=True, align_corners=False)
        top, left = ((side - self._size) // 2 for side in images.shape[-2:])
        pixels = images[..., top : top + self._size, left : left + self._size].float().to(self._device)
        pixels = (pixels - pixels.new_tensor(self._mean)[:, None, None]) / pixels.new_tensor(self._std)[:, None, None]
        if hasattr(self._net, "get_image_features"):
            found = self._net.get_image_features(pixel_values=pixels)
            return (found if isinstance(found, Tensor) else found.pooler_output).float().cpu()
        told = self._net(pixel_values=pixels)
        pooled = getattr(told, "pooler_output", None)
        out: Tensor = (told.last_hidden_state[:, 0] if pooled is None else pooled).float().cpu()
        return out


class Pixels:
    """The picture itself, averaged down to a small square, with its mean removed: layout and colour, no meaning.

    Settings:
        side (whole number >= 1, default 16): side of the square, in pixels.
    """

    def __init__(self, side: int = 16) -> None:
        self._side = side

    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] -> [n, 3 side^2] float32."""
        small = F.interpolate(images.float(), (self._side, self._side), mode="area").flatten(1).cpu()
        return small - small.mean(1, keepdim=True)
