"""Stable Diffusion 3 and 3.5, large, medium and turbo: rectified flow, joint attention, three text encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level, Rows
from fairlead.models._pictures import MASK
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class StableDiffusion3(Pipeline):
    """An SD3 or SD3.5 folder, hub name, checkpoint file or live pipeline.

    Turbo needs guidance_scale=1 and 4 steps. The last block drops its text, so it is no site. A step with skipped
    blocks costs a third row.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 7.0): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 256): longest prompt, in tokens.
        skip_guidance_layers (numbers of blocks or None, default None): blocks that are left out for skip-layer
            guidance; the publisher's for SD3.5 medium are 7, 8, 9.
        skip_layer_guidance_scale (number, default 2.8): weight of what the conditional answer changes when those
            blocks are left out.
        skip_layer_guidance_start (number in [0, 1], default 0.01): it acts in steps i of n with start*n < i <
            stop*n, as in the pipeline.
        skip_layer_guidance_stop (number in [0, 1], default 0.2): see skip_layer_guidance_start.
        prompt_2 (text or None, default None): text for the second text encoder; None is the prompt.
        prompt_3 (text or None, default None): text for the third text encoder; None is the prompt.
        negative_prompt_2 (text or None, default None): text of the unconditional branch for the second text
            encoder; None is the negative prompt.
        negative_prompt_3 (text or None, default None): text of the unconditional branch for the third text
            encoder; None is the negative prompt.
        clip_skip (whole number or None, default None): that many of the last layers of the CLIP text encoders are
            left out for the prompt.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "StableDiffusion3Pipeline"
    inputs = MASK

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 7.0,
        negative_prompt: str | None = None,
        prompt_2: str | None = None,
        prompt_3: str | None = None,
        negative_prompt_2: str | None = None,
        negative_prompt_3: str | None = None,
        clip_skip: int | None = None,
        max_sequence_length: int = 256,
        skip_guidance_layers: Sequence[int] | None = None,
        skip_layer_guidance_scale: float = 2.8,
        skip_layer_guidance_start: float = 0.01,
        skip_layer_guidance_stop: float = 0.2,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        self._other, self._other_negative = (prompt_2, prompt_3), (negative_prompt_2, negative_prompt_3)
        self._clip_skip = clip_skip
        self._left_out: list[int] | None = None
        self._skip = list(skip_guidance_layers or ())
        self._skip_scale = float(skip_layer_guidance_scale)
        self._skip_between = (float(skip_layer_guidance_start), float(skip_layer_guidance_stop))
        super().__init__(
            source, loading, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )
        blocks = len(self.net.transformer_blocks)
        if wrong := [i for i in self._skip if i not in range(blocks)]:
            raise FairleadError(f"skip_guidance_layers has {wrong[0]!r}: this network's blocks are 0 to {blocks - 1}.")
        if self._skip and self.branches == 1:
            raise FairleadError(
                f"skip_guidance_layers acts under guidance only, and guidance_scale is {self.guidance_scale:g}: give "
                "more than 1."
            )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor * self.net.config.patch_size)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        return self._encoded(prompts, self._other, self._clip_skip)

    def encode_negative(self) -> dict[str, Tensor]:
        return self._encoded([self.negative_prompt or ""], self._other_negative, None)

    def _encoded(self, prompts: list[str], others: Sequence[str | None], skip: int | None) -> dict[str, Tensor]:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            *(None if text is None else [text] * len(prompts) for text in others),
            clip_skip=skip,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._length,
        )
        return {"tokens": tokens, "pooled": pooled}

    def prepared(self, steps: int) -> Any:
        """The scheduler's own, shifted by picture size where its configuration says so."""
        _, h, w = self.latent
        patch = int(self.net.config.patch_size)
        return flow_scheduler(self.pipe.scheduler, steps, tokens=(h // patch) * (w // patch))

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        time = self.flow_time(at) * self.pipe.scheduler.config.num_train_timesteps
        out: Tensor = self.net(
            hidden_states=x.to(self.dtype),
            timestep=torch.full((len(x),), time, device=x.device),
            encoder_hidden_states=tokens.to(self.dtype),
            pooled_projections=extra["pooled"].to(self.dtype),
            return_dict=False,
            skip_layers=self._left_out,
        )[0]
        return out.float()

    def _skips(self, rows: Rows) -> bool:
        start, stop = self._skip_between
        return bool(self._skip) and start * rows.steps < rows.step < stop * rows.steps

    def rows_each(self, rows: Rows) -> int:
        """A third where blocks are skipped."""
        return self.branches + self._skips(rows)

    def further_guidance(self, out: Tensor, positive: Tensor, rows: Rows, again: Callable[[], Tensor]) -> Tensor:
        if not self._skips(rows):
            return out
        self._left_out = self._skip
        try:
            return out + self._skip_scale * (positive - again())
        finally:
            self._left_out = None

    def blocks(self, kind: str) -> Sequence[Any]:
        return [b for b in self.net.transformer_blocks if not b.context_pre_only] if kind == "joint" else ()
