"""Self-supervised verifier: does the early prediction look like the finished picture? (Ma et al. 2025, arXiv
2501.09732)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.check import number_in_range
from fairlead.core.reward import EarlyReward
from fairlead.core.weights import pretrained
from fairlead.rewards._clip import clip, normalise, resize
from fairlead.rewards._load import missing


class SelfVerifier(EarlyReward):
    """Cosine between features of the finished picture and of the clean prediction at one share of noise.

    It reads no prompt and costs one more decode but no denoiser evaluation: the prediction is taken from the
    trajectory, at the step whose share sigma/(alpha + sigma) is nearest to `level`. A picture without a trajectory
    (a file) has no score.

    Settings:
        features (folder, hub name or None, default None): a CLIP, DINO, DINOv2 or SigLIP; None is the small CLIP in
            the package.
        level (number in (0, 1), default 0.4): share of noise at which the prediction is read.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "self_verifier"
    unit = "cosine to the early prediction, -1 to 1"
    licence: ClassVar[str] = "formula, free; the features have their own"
    source: ClassVar[str] = "Ma et al. 2025, arXiv 2501.09732, section 4.1 (self-supervised verifier)"
    needs_prompt: ClassVar[bool] = False
    differentiable = True

    def __init__(self, features: str | None = None, level: float = 0.4, device: str = "cpu") -> None:
        self.level = float(number_in_range("self_verifier.level", level, "(0, 1)"))
        self._features = _Tower(features, device) if features else None
        self._clip = None if features else clip(None, device)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """NaN [B]: there is nothing to compare with."""
        return torch.full((len(images),), math.nan, device=images.device)

    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        """Finished and early pictures [B, 3, H, W] in [0, 1] -> [B]."""
        read = self._features if self._features is not None else self._clip.images  # type: ignore[union-attr]
        return (read(images) * read(early)).sum(-1)


class _Tower:
    """Unit features of any vision model that transformers loads by name."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        try:
            config = AutoConfig.from_pretrained(source)
            net: Any = pretrained("self_verifier", AutoModel, source, dtype=torch.float32).eval().requires_grad_(False)
            shape: Any = AutoImageProcessor.from_pretrained(source, backend="pil")
        except (OSError, ValueError) as error:
            raise missing("self_verifier", source, error) from error
        self._net = net.to(device)
        self._joint = hasattr(net, "get_image_features")
        self._mean = shape.image_mean
        self._std = shape.image_std
        vision = getattr(config, "vision_config", config)
        self._size = int(getattr(vision, "image_size", 224))
        self._patch = int(getattr(vision, "patch_size", 16))
        if str(getattr(config, "model_type", "")).startswith("dinov2"):
            self._size = 224 if self._size > 224 else self._size

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, D] unit norm, from a squashed square."""
        pixels = normalise(
            resize(images.to(self._net.device, torch.float32), self._size, self._size), self._mean, self._std
        )
        out = self._net.get_image_features(pixel_values=pixels) if self._joint else self._net(pixel_values=pixels)
        if isinstance(out, Tensor):
            return F.normalize(out, dim=-1)
        pooled = getattr(out, "pooler_output", None)
        return F.normalize(pooled if isinstance(pooled, Tensor) else out.last_hidden_state[:, 0], dim=-1)
