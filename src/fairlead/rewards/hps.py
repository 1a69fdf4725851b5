"""Human Preference Score v2 and v2.1 (Wu et al. 2023, arXiv 2306.09341) on transformers' CLIP; hpsv2 is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import unknown
from fairlead.core.reward import Reward
from fairlead.rewards._clip import clip, normalise, resize
from fairlead.rewards._load import fetch

FILES = {"2": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}


def letterbox(images: Tensor, size: int) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size]: longer side to `size`, black bars, then normalised.

    With antialiasing, as current libraries resize; scores published in 2023 were computed without.
    """
    h, w = images.shape[-2:]
    scale = size / max(h, w)
    images = resize(images, max(1, round(h * scale)), max(1, round(w * scale)))
    h, w = images.shape[-2:]
    left = (size - w) // 2
    top = (size - h) // 2
    return normalise(F.pad(images, (left, size - w - left, top, size - h - top)))


class Hps(Reward):
    """100 cos(text, image) of a CLIP ViT-H/14 tuned on preferences. Compare within one prompt only.

    Settings:
        version (2 or 2.1, default '2.1'): version of the score; the numbers of the two are not comparable (SDXL:
            30.6 and 27.7).
        checkpoint (file, folder or None, default None): the published file or a transformers CLIP folder; None
            downloads it from `xswu/HPSv2`.
        tokenizer (folder, hub name or None, default None): where the tokenizer is loaded from.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "hps"
    unit = "100 × cosine, 13 to 34 for generated pictures"
    licence: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "Wu et al. 2023, arXiv 2306.09341, section 4; weights xswu/HPSv2"
    differentiable = True

    def __init__(
        self,
        version: str | float = "2.1",
        checkpoint: str | None = None,
        tokenizer: str | None = None,
        device: str = "cpu",
    ) -> None:
        word = f"{version:g}" if isinstance(version, float | int) else str(version).removeprefix("v")
        word = {"2.0": "2"}.get(word, word)
        if word not in FILES:
            raise unknown("hps.version", str(version), FILES)
        self.name = f"hps_v{word}"
        path = fetch(self.name, checkpoint or "xswu/HPSv2", FILES[word])
        self._clip = clip(str(path), device, tokenizer, "gelu")

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        return 100 * (self._clip.images(images, letterbox) * self._clip.texts(prompts)).sum(-1)
