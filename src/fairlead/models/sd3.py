"""Stable Diffusion 3 and 3.5, large, medium and turbo: rectified flow, joint attention, three text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models._pipeline import Pipeline
from fairlead.models._schedule import flow


class StableDiffusion3(Pipeline):
    """An SD3 or SD3.5 folder, hub name, checkpoint file or live pipeline. Sizes are pixels.

    Turbo wants `guidance_scale=1` and 4 steps. The last block drops its text, so it is no site.
    """

    family = "StableDiffusion3Pipeline"

    def __init__(
        self, source: Any, *, height: int | None = None, width: int | None = None, guidance_scale: float = 7.0,
        negative_prompt: str | None = None, max_sequence_length: int = 256, **loading: Any,
    ) -> None:  # fmt: skip
        self._length = max_sequence_length
        super().__init__(
            source, loading, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )

    def _unit(self) -> int:
        return int(self._pipe.vae_scale_factor * self._net.config.patch_size)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, _, pooled, _ = self._pipe.encode_prompt(
            prompts, None, None, device=self._device, do_classifier_free_guidance=False,
            max_sequence_length=self._length,
        )  # fmt: skip
        return {"tokens": tokens, "pooled": pooled}

    def levels(self, steps: int) -> Sequence[Level]:
        """The scheduler's own, shifted by picture size where its configuration says so."""
        _, h, w = self._latent
        patch = int(self._net.config.patch_size)
        return flow(self._pipe.scheduler, steps, tokens=(h // patch) * (w // patch))

    def _network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        time = torch.full((len(x),), at.sigma * self._pipe.scheduler.config.num_train_timesteps, device=x.device)
        out: Tensor = self._net(
            hidden_states=x.to(self._dtype),
            timestep=time,
            encoder_hidden_states=tokens.to(self._dtype),
            pooled_projections=extra["pooled"].to(self._dtype),
            return_dict=False,
        )[0]
        return out.float()

    def _blocks(self, kind: str) -> Sequence[Any]:
        return [b for b in self._net.transformer_blocks if not b.context_pre_only] if kind == "joint" else ()
