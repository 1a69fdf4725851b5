"""Size of the picture as JPEG: DDPO's (in)compressibility reward (Black et al. 2023, arXiv 2305.13301, section 5.1)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from fairlead.core.check import whole_number
from fairlead.core.errors import RewardError
from fairlead.core.reward import Reward

LARGEST = 65_500
"""Pixels of a side that a JPEG can have."""


class JpegSize(Reward):
    """Kilobytes (1000 bytes) of the picture as JPEG; more detail is more. Negate it for compressibility.

    Settings:
        quality (whole number in [1, 95], default 95): JPEG quality.
    """

    name = "jpeg_size"
    unit = "kB as JPEG, about 2 at 64 px and 100 at 512 px"
    licence: ClassVar[str] = "formula, free"
    needs_prompt: ClassVar[bool] = False
    differentiable = False

    def __init__(self, quality: int = 95) -> None:
        self._quality = whole_number("jpeg_size.quality", quality, least=1, most=95)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B] kilobytes."""
        pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        if max(images.shape[-2:]) > LARGEST:
            size = "x".join(map(str, images.shape[-2:]))
            raise RewardError(f"A picture has {size} pixels: for jpeg_size a side must be at most {LARGEST}.")
        sizes = []
        for picture in pixels:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, format="JPEG", quality=self._quality)
            sizes.append(buffer.tell() / 1000)
        return torch.tensor(sizes, dtype=torch.float32)
