"""Z-Image: rectified flow with time reversed, pictures and captions as lists, one sequence of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Conditioning, Level, Tokens
from fairlead.models._batches import padded, widened
from fairlead.models._pictures import MASK
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler

ROUNDED = 32
"""The network fills pictures and captions up to a multiple of so many tokens; captions are padded to it before."""


class ZImage(Pipeline):
    """A Z-Image folder, hub name or live pipeline. Turbo needs guidance_scale=0 and 8 steps.

    Sites are the blocks over the one sequence. The text that an edit sees ends with the padding up to a multiple of
    32 that attention reads.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 5.0): what is added, as in the pipeline: 0 is off, and g mixes as 1 + g does
            elsewhere.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "ZImagePipeline"
    inputs = MASK

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 5.0,
        negative_prompt: str | None = None,
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        super().__init__(
            source, loading, height=height, width=width, cfg=1.0 + guidance_scale, negative_prompt=negative_prompt
        )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * 2

    def default_size(self) -> tuple[int, int]:
        return 1024, 1024

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        rows, _ = self.pipe.encode_prompt(
            list(prompts), self.device, do_classifier_free_guidance=False, max_sequence_length=self._length
        )
        tokens, mask = padded(rows, ROUNDED)
        return {"tokens": tokens, "mask": mask}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> [B, T, D] with a mask; both halves of guidance are as long as the longer."""
        told = super().encode(prompts)
        length = max(told.tokens.shape[1], told.extra["negative"].shape[1] if self.branches == 2 else 0)
        extra = {name: widened(value, length) for name, value in told.extra.items()}
        return Conditioning(widened(told.tokens, length), told.prompts, extra)

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        _, h, w = self.latent
        return flow_scheduler(self.pipe.scheduler, steps, tokens=h * w // 4, sigmas=np.linspace(1.0, 1 / steps, steps))

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        out = self.net(
            list(x.to(self.dtype)[:, :, None].unbind()),
            torch.full((len(x),), 1.0 - self.flow_time(at), device=x.device),
            [row[mask] for row, mask in zip(tokens.to(self.dtype), extra["mask"], strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack([row.float() for row in out])[:, :, 0]

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.layers) if kind == "single" else ()

    def attention_of(self, block: Any) -> Any:
        return block.attention

    def image_tokens(self) -> int:
        _, h, w = self.latent
        return (h // 2) * (w // 2)

    def edit_output(self, output: Any, edit: Callable[[Tokens], Tokens]) -> Any:
        """The sequence is [picture, its filling, caption with its filling, padding to the longest caption]."""
        n = self.image_tokens()
        image, filling, text = output.split([n, -n % ROUNDED, output.shape[1] - n - -n % ROUNDED], 1)
        assert self._mask is not None
        live = -(-self._mask.sum(1, keepdim=True) // ROUNDED) * ROUNDED
        new = edit(Tokens(image, text, torch.arange(text.shape[1], device=text.device) < live))
        return torch.cat([new.image, filling, new.text], 1)
