"""Z-Image: rectified flow with time reversed, pictures and captions as lists, one sequence of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Conditioning, Level
from fairlead.models._pipeline import Pipeline, padded, widened
from fairlead.models._schedule import flow

ROUNDED = 32
"""Captions are padded to a multiple of so many tokens, as the network does; the padding never reaches it."""


class ZImage(Pipeline):
    """A Z-Image folder, hub name or live pipeline. Sizes are pixels; Turbo wants `guidance_scale=0` and 8 steps.

    As in the pipeline, `guidance_scale` is what is added: 0 is off, and g mixes as 1 + g does elsewhere. No site is
    declared, because every sample has its own caption length inside one sequence.
    """

    family = "ZImagePipeline"

    def __init__(
        self, source: Any, *, height: int | None = None, width: int | None = None, guidance_scale: float = 5.0,
        negative_prompt: str | None = None, max_sequence_length: int = 512, **loading: Any,
    ) -> None:  # fmt: skip
        self._length = max_sequence_length
        super().__init__(
            source, loading, height=height, width=width, cfg=1.0 + guidance_scale, negative_prompt=negative_prompt
        )

    def _unit(self) -> int:
        return int(self._pipe.vae_scale_factor) * 2

    def _default_size(self) -> tuple[int, int]:
        return 1024, 1024

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        rows, _ = self._pipe.encode_prompt(
            list(prompts), self._device, do_classifier_free_guidance=False, max_sequence_length=self._length
        )
        tokens, mask = padded(rows, ROUNDED)
        return {"tokens": tokens, "mask": mask}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> [B, T, D] with a mask; both halves of guidance are as long as the longer."""
        told = super().encode(prompts)
        length = max(told.tokens.shape[1], told.extra["negative"].shape[1] if self.branches == 2 else 0)
        extra = {name: widened(value, length) for name, value in told.extra.items()}
        return Conditioning(widened(told.tokens, length), told.prompts, extra)

    def levels(self, steps: int) -> Sequence[Level]:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        _, h, w = self._latent
        return flow(self._pipe.scheduler, steps, tokens=h * w // 4, sigmas=np.linspace(1.0, 1 / steps, steps))

    def _network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        out = self._net(
            list(x.to(self._dtype)[:, :, None].unbind()),
            torch.full((len(x),), 1.0 - at.sigma, device=x.device),
            [row[mask] for row, mask in zip(tokens.to(self._dtype), extra["mask"], strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack([row.float() for row in out])[:, :, 0]
