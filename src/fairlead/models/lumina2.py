"""Lumina-Image 2.0: rectified flow with the time reversed, text refined and joined to the picture's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class Lumina2(Pipeline):
    """A Lumina-Image 2.0 folder, hub name, checkpoint file or live pipeline.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 4.0): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 256): longest prompt with its system prompt, in tokens.
        system_prompt (text or None, default None): instruction before the prompt; None is the pipeline's own.
        cfg_normalization (true or false, default True): the guided output keeps the length of the conditional one,
            row by row of the picture.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "Lumina2Pipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.0,
        negative_prompt: str | None = None,
        max_sequence_length: int = 256,
        system_prompt: str | None = None,
        cfg_normalization: bool = True,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        self._system = system_prompt
        self._normalised = cfg_normalization
        super().__init__(
            source, loading, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor * self.net.config.patch_size)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, mask, *_ = self.pipe.encode_prompt(
            prompts,
            False,
            device=self.device,
            max_sequence_length=self._length,
            system_prompt=self._system,
        )
        return {"tokens": tokens, "mask": mask}

    def encode_negative(self) -> dict[str, Tensor]:
        """Without the instruction, as the pipeline does."""
        tokens, mask = self.pipe._get_gemma_prompt_embeds(
            [self.negative_prompt or ""], device=self.device, max_sequence_length=self._length
        )
        return {"tokens": tokens, "mask": mask}

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas. It takes the channels of the latents for their length, and so must this."""
        sigmas = np.linspace(1.0, 1 / steps, steps)
        return flow_scheduler(self.pipe.scheduler, steps, tokens=self.latent[0], sigmas=sigmas)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.net(
            hidden_states=x.to(self.dtype),
            timestep=torch.full((len(x),), 1.0 - self.flow_time(at), device=x.device),
            encoder_hidden_states=tokens.to(self.dtype),
            encoder_attention_mask=extra["mask"],
            return_dict=False,
        )[0]
        return -out.float()

    def guide(self, negative: Tensor, positive: Tensor) -> Tensor:
        """The guided output, as long as the conditional one in every row of the picture."""
        out = Pipeline.guide(self, negative, positive)
        if not self._normalised:
            return out
        kept: Tensor = out * (positive.norm(dim=-1, keepdim=True) / out.norm(dim=-1, keepdim=True))
        return kept
