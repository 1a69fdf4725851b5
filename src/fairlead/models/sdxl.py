"""Stable Diffusion XL and what was distilled from it: Turbo, Lightning, LCM, DMD2, Hyper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.models._pictures import MASK
from fairlead.models.sd import UNet


class StableDiffusionXL(UNet):
    """An SDXL folder, hub name, checkpoint file or live pipeline.

    Turbo, Lightning and similar networks need guidance_scale=0 and 1 to 8 steps. The denoiser may be replaced
    (`swap`) or merged with a LoRA (`lora`). DMD2's schedule is timesteps=(999, 749, 499, 249) with sampler
    `consistency`. Without a `negative_prompt` the unconditional text is zero where the folder says so, as in the
    pipeline.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 5.0): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        clip_skip (whole number or None, default None): last layers of the text encoders that are skipped.
        timesteps (whole numbers, default ()): the schedule's own time steps are replaced by these for runs of
            exactly that many steps.
        original_size ((height, width) or None, default None): micro-conditioning, in pixels; None is the size of
            the picture (Podell et al. 2024, section 2.2).
        crops_coords_top_left ((top, left), default (0, 0)): micro-conditioning, in pixels, as original_size.
        target_size ((height, width) or None, default None): micro-conditioning; None is the size of the picture.
        negative_original_size ((height, width) or None, default None): of the unconditional branch; acts together
            with negative_target_size, and None is what the prompt has.
        negative_crops_coords_top_left ((top, left), default (0, 0)): of the unconditional branch.
        negative_target_size ((height, width) or None, default None): of the unconditional branch.
        prompt_2 (text or None, default None): text for the second text encoder; None is the prompt.
        negative_prompt_2 (text or None, default None): text of the unconditional branch for the second text
            encoder; None is the negative prompt.
        guidance_rescale (number in [0, 1], default 0.0): weight of the guided output that has the deviation of the
            conditional one, against overexposure.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "StableDiffusionXLPipeline"
    inputs = MASK

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 5.0,
        negative_prompt: str | None = None,
        negative_prompt_2: str | None = None,
        prompt_2: str | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        timesteps: Sequence[int] = (),
        original_size: Sequence[int] | None = None,
        crops_coords_top_left: Sequence[int] = (0, 0),
        target_size: Sequence[int] | None = None,
        negative_original_size: Sequence[int] | None = None,
        negative_crops_coords_top_left: Sequence[int] = (0, 0),
        negative_target_size: Sequence[int] | None = None,
        **loading: Any,
    ) -> None:
        self.guidance_rescale, self.clip_skip = float(guidance_rescale), clip_skip
        self._second = (prompt_2, negative_prompt_2)
        super().__init__(
            source, loading, timesteps, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )
        ids = (*(original_size or self.size), *crops_coords_top_left, *(target_size or self.size))
        self._ids = [float(v) for v in ids]
        self._negative_ids = self._ids
        if negative_original_size is not None and negative_target_size is not None:
            ids = (*negative_original_size, *negative_crops_coords_top_left, *negative_target_size)
            self._negative_ids = [float(v) for v in ids]

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        return self._encoded(prompts, self._second[0], self.clip_skip, self._ids)

    def _encoded(
        self, prompts: list[str], second: str | None, skip: int | None, sizes: Sequence[float]
    ) -> dict[str, Tensor]:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            None if second is None else [second] * len(prompts),
            device=self.device,
            do_classifier_free_guidance=False,
            clip_skip=skip,
        )
        ids = torch.tensor([sizes], dtype=tokens.dtype, device=self.device).expand(len(prompts), -1)
        return {"tokens": tokens, "pooled": pooled, "time_ids": ids}

    def encode_negative(self) -> dict[str, Tensor]:
        told = self._encoded([self.negative_prompt or ""], self._second[1], None, self._negative_ids)
        if self.negative_prompt is None and self.pipe.config.get("force_zeros_for_empty_prompt"):
            told |= {name: torch.zeros_like(told[name]) for name in ("tokens", "pooled")}
        return told

    def added_conditions(self, extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"text_embeds": extra["pooled"].to(self.dtype), "time_ids": extra["time_ids"]}
