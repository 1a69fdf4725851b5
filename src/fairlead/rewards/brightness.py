"""Mean luminance: the simplest differentiable reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fairlead.core.reward import Reward

REC709 = (0.2126, 0.7152, 0.0722)


class Brightness(Reward):
    """Rec. 709 weighted mean of the pixels, without gamma correction: 0 is black, 1 is white."""

    name = "brightness"
    unit = "mean luma, 0 to 1"
    licence: ClassVar[str] = "formula, free"
    needs_prompt: ClassVar[bool] = False
    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B] in [0, 1]."""
        weights = images.new_tensor(REC709)
        return images.mean(dim=(2, 3)) @ weights
