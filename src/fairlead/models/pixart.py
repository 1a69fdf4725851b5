"""PixArt-Sigma and PixArt-alpha: a transformer on a discrete schedule, T5 text by cross-attention only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fairlead.core.model import Level
from fairlead.models._discrete import DiscretePipeline


class PixArtSigma(DiscretePipeline):
    """A PixArt-Sigma folder, hub name or live pipeline. Sizes are pixels and are not rounded to aspect-ratio bins."""

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

    def _unit(self) -> int:
        return int(self._pipe.vae_scale_factor * self._net.config.patch_size)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, mask, _, _ = self._pipe.encode_prompt(
            prompts, False, device=self._device, max_sequence_length=self._length
        )
        return {"tokens": tokens, "mask": mask}

    def _network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        seen, time = self._seen(x, at)
        out: Tensor = self._net(
            seen,
            encoder_hidden_states=tokens.to(self._dtype),
            encoder_attention_mask=extra["mask"],
            timestep=time,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]].float()
