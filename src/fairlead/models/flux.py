"""FLUX.1 and every folder of its classes: rectified flow, packed latents, joint attention throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Conditioning, Level
from fairlead.models._pipeline import Pipeline
from fairlead.models._schedule import flow


class Flux(Pipeline):
    """A `FluxPipeline` folder, hub name, checkpoint file or live pipeline. Sizes are pixels.

    `guidance_scale` is the embedded scale of guidance-distilled networks (FLUX.1-dev) and is ignored by the others;
    `true_cfg_scale` above 1 runs a second row per sample with `negative_prompt`.
    """

    family = "FluxPipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 3.5,
        true_cfg_scale: float = 1.0,
        negative_prompt: str | None = None,
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._guidance, self._length = float(guidance_scale), max_sequence_length
        super().__init__(
            source, loading, height=height, width=width, cfg=true_cfg_scale, negative_prompt=negative_prompt
        )
        _, h, w = self._latent
        self._image_ids: Tensor = self._pipe._prepare_latent_image_ids(1, h // 2, w // 2, self._device, self._dtype)

    def _unit(self) -> int:
        return int(self._pipe.vae_scale_factor) * 2

    def _channels(self) -> int:
        return int(self._net.config.in_channels) // 4

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> T5 tokens [B, T, D] and CLIP's pooled vector; a prompt longer than the model reads is refused."""
        for prompt in prompts:
            count = len(self._pipe.tokenizer_2(prompt, verbose=False).input_ids)
            if count > self._length:
                raise FairleadError(
                    f"The prompt has {count} tokens and this model reads {self._length}: shorten {prompt!r}."
                )
        return super().encode(prompts)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, pooled, _ = self._pipe.encode_prompt(prompts, device=self._device, max_sequence_length=self._length)
        return {"tokens": tokens, "pooled": pooled}

    def levels(self, steps: int) -> Sequence[Level]:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        own = self._pipe.scheduler.config.get("use_flow_sigmas")
        sigmas = None if own else np.linspace(1.0, 1 / steps, steps)
        return flow(self._pipe.scheduler, steps, tokens=len(self._image_ids), sigmas=sigmas)

    def _network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        r, c, h, w = x.shape
        guided = self._net.config.guidance_embeds
        out: Tensor = self._net(
            hidden_states=self._pipe._pack_latents(x.to(self._dtype), r, c, h, w),
            timestep=torch.full((r,), at.sigma, dtype=self._dtype, device=x.device),
            guidance=torch.full((r,), self._guidance, device=x.device) if guided else None,
            pooled_projections=extra["pooled"].to(self._dtype),
            encoder_hidden_states=tokens.to(self._dtype),
            txt_ids=torch.zeros(tokens.shape[1], 3, dtype=self._dtype, device=x.device),
            img_ids=self._image_ids,
            return_dict=False,
        )[0]
        velocity: Tensor = self._pipe._unpack_latents(out.float(), *self._size, self._pipe.vae_scale_factor)
        return velocity

    def _blocks(self, kind: str) -> Sequence[Any]:
        return list(self._net.transformer_blocks if kind == "joint" else self._net.single_transformer_blocks)

    def _image_tokens(self) -> int:
        return len(self._image_ids)
