"""Success of an edit: CLIP direction similarity (Gal et al. 2022, arXiv 2108.00946, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.reward import Reward
from fairlead.rewards._clip import clip
from fairlead.rewards._reference import reference

UNCHANGED = 1e-3
"""A change of the features that is shorter counts as none: it is rounding."""


class EditDirection(Reward):
    """Whether a picture differs from the run's input picture as the prompt differs from the input's description.

    100 cos(E(picture) - E(input), E(prompt) - E(source)), with CLIP's unit features E. InstructPix2Pix evaluates edits
    by it together with `image_similarity`: the one rewards the change, the other what stays.

    Settings:
        source (text, required): what the input picture shows, in the style of the prompt.
        image (file, required): the input picture, where pictures are scored; a run takes its own.
        checkpoint (folder, hub name, file or None, default None): a transformers CLIP, or an open_clip file; None
            is the small one in the package, which knows only the pocket world.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "edit_direction"
    unit = "100 × cosine of the change of the picture and of the text, -100 to 100"
    licence: ClassVar[str] = "the checkpoint's own; the embedded one Apache-2.0"
    source: ClassVar[str] = (
        "Gal et al. 2022, arXiv 2108.00946, eq. 2; as a measure of edits: arXiv 2211.09800, section 4"
    )
    differentiable = True

    def __init__(self, source: str, image: Any, checkpoint: str | None = None, device: str = "cpu") -> None:
        if not isinstance(source, str) or not source.strip():
            raise FairleadError(
                f"edit_direction.source is {source!r}: must be a text that describes the input picture."
            )
        self._clip = clip(checkpoint, device)
        self._source = source.strip()
        with torch.no_grad():
            self._input = self._clip.images(reference(self.name, image).to(device))

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B], NaN where the prompt is the source."""
        change = self._clip.images(images) - self._input
        wanted = self._clip.texts(prompts) - self._clip.texts([self._source])
        cosine = F.cosine_similarity(change, wanted, dim=-1, eps=UNCHANGED)
        unchanged = torch.tensor([prompt.strip() == self._source for prompt in prompts], device=cosine.device)
        return (100 * cosine).masked_fill(unchanged, torch.nan)
