"""FLUX.1 and every folder of its classes: rectified flow, packed latents, joint attention throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Conditioning, Level
from fairlead.models._pictures import MASK
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class Flux(Pipeline):
    """A `FluxPipeline` folder, hub name, checkpoint file or live pipeline.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 3.5): the embedded scale of guidance-distilled networks (FLUX.1-dev); other
            networks ignore it.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.
        true_cfg_scale (number, default 1.0): above 1 a second row per sample is run with `negative_prompt`.
        prompt_2 (text or None, default None): text for the second text encoder; None is the prompt.
        negative_prompt_2 (text or None, default None): text of the unconditional branch for the second text
            encoder; None is the negative prompt.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "FluxPipeline"
    inputs = MASK

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 3.5,
        true_cfg_scale: float = 1.0,
        negative_prompt: str | None = None,
        prompt_2: str | None = None,
        negative_prompt_2: str | None = None,
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._guidance = float(guidance_scale)
        self._length = max_sequence_length
        self._second = (prompt_2, negative_prompt_2)
        super().__init__(
            source, loading, height=height, width=width, cfg=true_cfg_scale, negative_prompt=negative_prompt
        )
        _, h, w = self.latent
        self._image_ids: Tensor = self.pipe._prepare_latent_image_ids(1, h // 2, w // 2, self.device, self.dtype)

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * 2

    def latent_channels(self) -> int:
        return int(self.net.config.in_channels) // 4

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> T5 tokens [B, T, D] and CLIP's pooled vector; a prompt longer than the model reads is refused."""
        for prompt in [self._second[0]] if self._second[0] is not None else prompts:
            count = len(self.pipe.tokenizer_2(prompt, verbose=False).input_ids)
            if count > self._length:
                raise FairleadError(
                    f"The prompt has {count} tokens and this model reads {self._length}: shorten {prompt!r}."
                )
        return super().encode(prompts)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        return self._encoded(prompts, self._second[0])

    def encode_negative(self) -> dict[str, Tensor]:
        return self._encoded([self.negative_prompt or ""], self._second[1])

    def _encoded(self, prompts: list[str], second: str | None) -> dict[str, Tensor]:
        told = None if second is None else [second] * len(prompts)
        tokens, pooled, _ = self.pipe.encode_prompt(prompts, told, device=self.device, max_sequence_length=self._length)
        return {"tokens": tokens, "pooled": pooled}

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        own = self.pipe.scheduler.config.get("use_flow_sigmas")
        sigmas = None if own else np.linspace(1.0, 1 / steps, steps)
        return flow_scheduler(self.pipe.scheduler, steps, tokens=len(self._image_ids), sigmas=sigmas)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        r, c, h, w = x.shape
        guided = self.net.config.guidance_embeds
        out: Tensor = self.net(
            hidden_states=self.pipe._pack_latents(x.to(self.dtype), r, c, h, w),
            timestep=torch.full((r,), self.flow_time(at), dtype=self.dtype, device=x.device),
            guidance=torch.full((r,), self._guidance, device=x.device) if guided else None,
            pooled_projections=extra["pooled"].to(self.dtype),
            encoder_hidden_states=tokens.to(self.dtype),
            txt_ids=torch.zeros(tokens.shape[1], 3, dtype=self.dtype, device=x.device),
            img_ids=self._image_ids,
            return_dict=False,
        )[0]
        velocity: Tensor = self.pipe._unpack_latents(out.float(), *self.size, self.pipe.vae_scale_factor)
        return velocity

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.transformer_blocks if kind == "joint" else self.net.single_transformer_blocks)

    def image_tokens(self) -> int:
        return len(self._image_ids)
