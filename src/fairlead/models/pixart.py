"""PixArt-Sigma and PixArt-alpha: a transformer on a discrete schedule, T5 text by cross-attention only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fairlead.core.model import Level
from fairlead.models.discrete import DiscretePipeline


class PixArtSigma(DiscretePipeline):
    """A PixArt-Sigma folder, hub name or live pipeline.

    Sizes are not rounded to aspect-ratio bins.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 4.5): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 300): longest prompt, in tokens.
        timesteps (whole numbers, default ()): the schedule's own time steps are replaced by these for runs of
            exactly that many steps.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "PixArtSigmaPipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.5,
        negative_prompt: str | None = None,
        max_sequence_length: int = 300,
        timesteps: Sequence[int] = (),
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        super().__init__(
            source, loading, timesteps, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor * self.net.config.patch_size)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, mask, _, _ = self.pipe.encode_prompt(
            prompts, False, device=self.device, max_sequence_length=self._length
        )
        return {"tokens": tokens, "mask": mask}

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        seen, time = self.network_input(x, at)
        out: Tensor = self.net(
            seen,
            encoder_hidden_states=tokens.to(self.dtype),
            encoder_attention_mask=extra["mask"],
            timestep=time,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]].float()
