"""Faithfulness to an input picture: CLIP image similarity, or LPIPS (Zhang et al. 2018) where its package is there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.check import one_of
from fairlead.core.errors import FairleadError
from fairlead.core.reward import Reward
from fairlead.rewards._clip import clip
from fairlead.rewards._reference import reference

UNITS = {
    "clip": "100 × cosine of the features of picture and input, -100 to 100",
    "lpips": "minus the LPIPS distance to the input, up to 0",
}
"""What a point means."""


class ImageSimilarity(Reward):
    """How much a picture resembles the run's input picture.

    `clip` compares what is shown, as InstructPix2Pix measures it; `lpips` compares how it looks, place by place.

    Settings:
        image (file, required): the picture to compare with, where pictures are scored; a run takes its own.
        by (clip or lpips, default 'clip'): what is compared. `lpips` needs the packages lpips and torchvision.
        checkpoint (folder, hub name, file or None, default None): a transformers CLIP, or an open_clip file; None
            is the small one in the package, which knows only the pocket world.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "image_similarity"
    unit = UNITS["clip"]
    licence: ClassVar[str] = "the checkpoint's own; the embedded one Apache-2.0"
    source: ClassVar[str] = "Brooks et al. 2023, arXiv 2211.09800, section 4 (CLIP image similarity); arXiv 1801.03924"
    needs_prompt = False
    differentiable = True

    def __init__(self, image: Any, by: str = "clip", checkpoint: str | None = None, device: str = "cpu") -> None:
        self._by = one_of("image_similarity.by", by, tuple(UNITS))
        self.unit = UNITS[by]
        self._input = reference(self.name, image).to(device)
        if by == "lpips":
            if find_spec("lpips") is None:
                raise FairleadError("LPIPS needs the packages lpips and torchvision: pip install lpips.")
            import lpips  # type: ignore[import-not-found,unused-ignore]

            self._lpips: Any = lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False).to(device)
            return
        self._clip = clip(checkpoint, device)
        with torch.no_grad():
            self._features = self._clip.images(self._input)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B]."""
        if self._by == "clip":
            return 100 * (self._clip.images(images) * self._features).sum(-1)
        own = F.interpolate(self._input, images.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        distance: Tensor = self._lpips(images.to(own) * 2 - 1, own.expand_as(images) * 2 - 1)
        return -distance.flatten()
