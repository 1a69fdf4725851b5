"""Krea 2, raw and turbo: rectified flow, one sequence of text and picture, text from many layers of its encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler

DISTILLED_SHIFT = 1.15
"""The shift of a distilled network's levels, whatever the size of the picture."""


class Krea2(Pipeline):
    """A Krea 2 folder, hub name or live pipeline. Turbo needs guidance_scale=0 and 8 steps.

    The tokens [B, T, L D] hold what L layers of the text encoder said of every word.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is 1024.
        width (whole number or None, default None): of the picture, in pixels; None is 1024.
        guidance_scale (number, default 4.5): the guided output is out + guidance_scale * (out - negative), so
            that any value above 0 runs a second row per sample with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "Krea2Pipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.5,
        negative_prompt: str | None = None,
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            if isinstance(loading.get(name), Tensor):
                loading[name] = loading[name].flatten(2)
        super().__init__(
            source, loading, height=height, width=width, cfg=1.0 + guidance_scale, negative_prompt=negative_prompt
        )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor * self.pipe.patch_size)

    def default_size(self) -> tuple[int, int]:
        return (1024, 1024)

    def latent_channels(self) -> int:
        return int(self.net.config.in_channels) // int(self.pipe.patch_size) ** 2

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, mask = self.pipe.encode_prompt(prompts, device=self.device, max_sequence_length=self._length)
        return {"tokens": tokens.flatten(2), "mask": mask}

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas, shifted by picture size, or by a constant if the network is distilled."""
        sigmas = np.linspace(1.0, 1 / steps, steps)
        if self.pipe.config.is_distilled:
            return flow_scheduler(self.pipe.scheduler, steps, mu=DISTILLED_SHIFT, sigmas=sigmas)
        return flow_scheduler(self.pipe.scheduler, steps, tokens=self.image_tokens(), sigmas=sigmas)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        patch = int(self.pipe.patch_size)
        _, h, w = self.latent
        layers = int(self.net.config.num_text_layers)
        out: Tensor = self.net(
            hidden_states=self.pipe._pack_latents(x.to(self.dtype), *x.shape),
            encoder_hidden_states=tokens.to(self.dtype).reshape(len(x), tokens.shape[1], layers, -1),
            timestep=torch.full((len(x),), self.flow_time(at), dtype=self.dtype, device=x.device),
            position_ids=self.pipe.prepare_position_ids(tokens.shape[1], h // patch, w // patch, x.device),
            encoder_attention_mask=extra["mask"].bool(),
            return_dict=False,
        )[0]
        velocity: Tensor = self.pipe._unpack_latents(out.float(), *self.size)
        return velocity[:, :, 0]

    def unscale(self, x: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(self.vae.config[name], device=x.device).view(1, -1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return x * std + mean

    def decode_latents(self, z: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(z[:, :, None], return_dict=False)[0]
        return image[:, :, 0]

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.transformer_blocks) if kind == "single" else ()

    def image_tokens(self) -> int:
        _, h, w = self.latent
        return (h * w) // int(self.pipe.patch_size) ** 2
