"""Chroma: a FLUX.1 without embedded guidance and without CLIP; rectified flow, packed latents, masked T5 tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models._pictures import IMAGE
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class Chroma(Pipeline):
    """A Chroma folder, hub name, checkpoint file or live pipeline.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 5.0): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "ChromaPipeline"
    inputs = IMAGE

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
            source, loading, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )
        _, h, w = self.latent
        self._image_ids: Tensor = self.pipe._prepare_latent_image_ids(1, h // 2, w // 2, self.device, self.dtype)

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * 2

    def latent_channels(self) -> int:
        return int(self.net.config.in_channels) // 4

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        """T5 tokens; the mask leaves one token of padding live, as the network was trained."""
        tokens, _, mask, *_ = self.pipe.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False, max_sequence_length=self._length
        )
        return {"tokens": tokens, "mask": mask.bool()}

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        sigmas = np.linspace(1.0, 1 / steps, steps)
        return flow_scheduler(self.pipe.scheduler, steps, tokens=len(self._image_ids), sigmas=sigmas)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        r, c, h, w = x.shape
        image = torch.ones(r, len(self._image_ids), dtype=self.dtype, device=x.device)
        live = torch.cat([extra["mask"].to(self.dtype), image], 1)
        out: Tensor = self.net(
            hidden_states=self.pipe._pack_latents(x.to(self.dtype), r, c, h, w),
            timestep=torch.full((r,), self.flow_time(at), dtype=self.dtype, device=x.device),
            encoder_hidden_states=tokens.to(self.dtype),
            txt_ids=torch.zeros(tokens.shape[1], 3, dtype=self.dtype, device=x.device),
            img_ids=self._image_ids,
            attention_mask=live,  # not boolean, so that it is added to the logits, as in the pipeline
            return_dict=False,
        )[0]
        velocity: Tensor = self.pipe._unpack_latents(out.float(), *self.size, self.pipe.vae_scale_factor)
        return velocity

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.transformer_blocks if kind == "joint" else self.net.single_transformer_blocks)

    def image_tokens(self) -> int:
        return len(self._image_ids)
