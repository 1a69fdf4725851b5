"""PickScore: human preference from the Pick-a-Pic comparisons (Kirstain et al. 2023, arXiv 2305.01569)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fairlead.core.reward import Reward
from fairlead.rewards._clip import clip

CHECKPOINT = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class PickScore(Reward):
    """s cos(text, image), with s the checkpoint's own temperature (about 100) and no rescaling.

    The probability that people prefer one of several pictures of a prompt is the softmax of their scores.

    Settings:
        checkpoint (folder or hub name, default 'yuvalkirstain/PickScore_v1'): the network.
        processor (folder, hub name or None, default None): where tokenizer and normalisation come from; None is the
            checkpoint's own, where it has them.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "pick_score"
    unit = "logit of human preference, 17 to 24 for generated pictures"
    licence: ClassVar[str] = "code MIT; weights: see the checkpoint's card"
    source: ClassVar[str] = "Kirstain et al. 2023, arXiv 2305.01569, section 4"
    differentiable = True

    def __init__(self, checkpoint: str = CHECKPOINT, processor: str | None = None, device: str = "cpu") -> None:
        if processor is None and checkpoint == CHECKPOINT:
            processor = PROCESSOR
        self._clip = clip(checkpoint, device, processor, "gelu")

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        return self._clip.logit_scale * (self._clip.images(images) * self._clip.texts(prompts)).sum(-1)
