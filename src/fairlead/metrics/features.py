"""What pictures are compared by: the image towers of CLIP, DINO and their like, or plain pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.pocket import load as pocket

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Encoder:
    """A transformers image encoder: CLIP, SigLIP, DINO or DINOv2.

    CLIP gives its projected features; the others give what they pool, or their first token. Pictures are resized
    and cropped as the model's own processor does, to its sizes, which may differ from the network's (DINOv2: 224
    and not 518).

    Settings:
        source (folder, hub name or None, default None): the model; None is the small CLIP in the package.
        device (name of a device, default 'cpu'): where the network runs.
    """

    def __init__(self, source: str | None = None, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        source = str(pocket.clip_folder()) if source is None else source
        try:
            self._net: Any = AutoModel.from_pretrained(source, dtype=torch.float32).eval().requires_grad_(False)
            own: Any = AutoImageProcessor.from_pretrained(source, backend="pil")
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise FairleadError(
                f"No image encoder could be loaded from {source!r} ({why}). Use another one."
            ) from error
        self._net.to(device)
        self._mean = tuple(own.image_mean or MEAN)
        self._std = tuple(own.image_std or STD)
        self._resize = dict(own.size) if own.do_resize else {}
        self._crop: tuple[int, int] | None = None
        if getattr(own, "do_center_crop", False):
            crop = dict(own.crop_size)
            self._crop = (int(crop["height"]), int(crop["width"]))
        self._mode = "bilinear" if int(own.resample) == 2 else "bicubic"
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] -> [n, D] float32."""
        pixels = self._sized(images.float()).to(self._device)
        pixels = (pixels - pixels.new_tensor(self._mean)[:, None, None]) / pixels.new_tensor(self._std)[:, None, None]
        if hasattr(self._net, "get_image_features"):
            found = self._net.get_image_features(pixel_values=pixels)
            return (found if isinstance(found, Tensor) else found.pooler_output).float().cpu()
        told = self._net(pixel_values=pixels)
        pooled = getattr(told, "pooler_output", None)
        out: Tensor = (told.last_hidden_state[:, 0] if pooled is None else pooled).float().cpu()
        return out

    def _sized(self, images: Tensor) -> Tensor:
        """[n, 3, H, W] resized and cropped to the network's input."""
        h, w = images.shape[-2:]
        shape = (h, w)
        if "shortest_edge" in self._resize:
            short = int(self._resize["shortest_edge"])
            shape = (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
        elif self._resize:
            shape = (int(self._resize["height"]), int(self._resize["width"]))
        if shape != (h, w):
            images = F.interpolate(images, shape, mode=self._mode, antialias=True, align_corners=False)
        if self._crop is None:
            return images
        top, left = ((have - wanted) // 2 for have, wanted in zip(shape, self._crop, strict=True))
        return images[..., top : top + self._crop[0], left : left + self._crop[1]]


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
