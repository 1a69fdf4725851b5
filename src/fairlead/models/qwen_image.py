"""Qwen-Image: rectified flow, packed latents, joint attention throughout, a language model's states as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Conditioning, Level
from fairlead.models._batches import padded, widened
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler

ROUNDED = 64
"""Prompts are padded to a multiple of so many tokens; the padding is masked."""


class QwenImage(Pipeline):
    """A Qwen-Image folder, hub name or live pipeline.

    The guided velocity of every patch is scaled back to the length of the conditional one, as the pipeline does.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 1.0): the embedded scale of guidance-distilled networks; other networks
            ignore it.
        negative_prompt (text or None, default ' '): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.
        true_cfg_scale (number, default 4.0): above 1 a second row per sample is run with `negative_prompt`.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "QwenImagePipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        true_cfg_scale: float = 4.0,
        guidance_scale: float = 1.0,
        negative_prompt: str | None = " ",
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        self._guidance = float(guidance_scale)
        super().__init__(
            source, loading, height=height, width=width, cfg=true_cfg_scale, negative_prompt=negative_prompt
        )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * 2

    def latent_channels(self) -> int:
        return int(self.net.config.in_channels) // 4

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        rows = [self.pipe.encode_prompt([p], self.device, max_sequence_length=self._length)[0][0] for p in prompts]
        tokens, mask = padded(rows, ROUNDED)
        return {"tokens": tokens, "mask": mask}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> [B, T, D] with a mask; both halves of guidance are as long as the longer."""
        told = super().encode(prompts)
        length = max(told.tokens.shape[1], told.extra["negative"].shape[1] if self.branches == 2 else 0)
        names = [name for name in told.extra if name in ("mask", "negative", "negative_mask")]
        return Conditioning(
            widened(told.tokens, length), told.prompts, {name: widened(told.extra[name], length) for name in names}
        )

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas, shifted by picture size where the scheduler's configuration says so."""
        _, h, w = self.latent
        return flow_scheduler(self.pipe.scheduler, steps, tokens=h * w // 4, sigmas=np.linspace(1.0, 1 / steps, steps))

    def _pack(self, x: Tensor) -> Tensor:
        packed: Tensor = self.pipe._pack_latents(x, *x.shape)
        return packed

    def _unpack(self, x: Tensor) -> Tensor:
        out: Tensor = self.pipe._unpack_latents(x, *self.size, self.pipe.vae_scale_factor)
        return out[:, :, 0]

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        _, h, w = self.latent
        out: Tensor = self.net(
            hidden_states=self._pack(x.to(self.dtype)),
            timestep=torch.full((len(x),), self.flow_time(at), dtype=self.dtype, device=x.device),
            guidance=torch.full((len(x),), self._guidance, device=x.device)
            if self.net.config.guidance_embeds
            else None,
            encoder_hidden_states=tokens.to(self.dtype),
            encoder_hidden_states_mask=None if bool(extra["mask"].all()) else extra["mask"],
            img_shapes=[[(1, h // 2, w // 2)]] * len(x),
            return_dict=False,
        )[0]
        return self._unpack(out.float())

    def guide(self, negative: Tensor, positive: Tensor) -> Tensor:
        own = self._pack(positive)
        mixed = self._pack(super().guide(negative, positive))
        return self._unpack(mixed * (own.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)))

    def unscale(self, x: Tensor) -> Tensor:
        config = self.vae.config
        mean, std = (
            torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std)
        )
        return x * std + mean

    def decode_latents(self, z: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(z[:, :, None], return_dict=False)[0]
        return image[:, :, 0]

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.transformer_blocks) if kind == "joint" else ()
