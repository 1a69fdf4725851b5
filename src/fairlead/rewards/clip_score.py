"""CLIPScore: cosine between image and prompt features (Hessel et al. 2021, arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fairlead.core.check import one_of
from fairlead.core.reward import Reward
from fairlead.rewards._clip import clip

SCALES = ("percent", "cosine", "hessel", "logit")
UNITS = {
    "cosine": "cosine of picture and prompt, -1 to 1",
    "hessel": "2.5 × cosine of picture and prompt, 0 to 2.5",
    "logit": "cosine of picture and prompt × the checkpoint's temperature",
}
"""What a point means on the scales other than the default."""


class ClipScore(Reward):
    """Agreement of picture and prompt on one of the four scales in use.

    Compare scores of one backbone and one scale only.

    Settings:
        checkpoint (folder, hub name, file or None, default None): a transformers CLIP, or an open_clip file; None
            is the small one in the package, which knows only the pocket world.
        scale (percent, cosine, hessel or logit, default 'percent'): `percent` is 100 cos (torchmetrics; 20 to 35 on
            OpenAI's checkpoints), `cosine` is raw, `hessel` is 2.5 max(cos, 0) with the paper's prefix "A photo
            depicts", `logit` multiplies by the checkpoint's own temperature.
        activation (quick_gelu, gelu or None, default None): needed for an open_clip file: 'quick_gelu' for OpenAI's
            weights, 'gelu' for LAION's.
        tokenizer (folder, hub name or None, default None): where the tokenizer is loaded from; None is the
            checkpoint's own.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "clip_score"
    unit = "100 × cosine of picture and prompt, -100 to 100"
    licence: ClassVar[str] = "the checkpoint's own; the embedded one Apache-2.0"
    source: ClassVar[str] = "Hessel et al. 2021, arXiv 2104.08718, eq. 1 (hessel scale); CLIP: arXiv 2103.00020"
    differentiable = True

    def __init__(
        self,
        checkpoint: str | None = None,
        scale: str = "percent",
        activation: str | None = None,
        tokenizer: str | None = None,
        device: str = "cpu",
    ) -> None:
        self._scale = one_of("clip_score.scale", scale, SCALES)
        self.unit = UNITS.get(scale, self.unit)
        self._clip = clip(checkpoint, device, tokenizer, activation)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        texts = [f"A photo depicts {p}" for p in prompts] if self._scale == "hessel" else prompts
        cosine = (self._clip.images(images) * self._clip.texts(texts)).sum(-1)
        if self._scale == "hessel":
            return 2.5 * cosine.clamp(min=0)
        return cosine * {"percent": 100.0, "cosine": 1.0, "logit": self._clip.logit_scale}[self._scale]
