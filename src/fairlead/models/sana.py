"""Sana: rectified flow over strongly compressed latents, text by cross-attention only."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class Sana(Pipeline):
    """A Sana folder, hub name or live pipeline.

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
        instruction (true or false, default True): the pipeline's own instruction to the language model comes before
            the prompt.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "SanaPipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.5,
        negative_prompt: str | None = None,
        max_sequence_length: int = 300,
        instruction: bool = True,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        self._instruct = instruction
        super().__init__(
            source, loading, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )

    def _encoded(self, prompts: list[str], instruction: Any) -> dict[str, Tensor]:
        tokens, mask, *_ = self.pipe.encode_prompt(
            prompts, False, device=self.device, max_sequence_length=self._length, complex_human_instruction=instruction
        )
        return {"tokens": tokens, "mask": mask}

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        own = inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default
        return self._encoded(prompts, own if self._instruct else None)

    def encode_negative(self) -> dict[str, Tensor]:
        return self._encoded([self.negative_prompt or ""], None)

    def prepared(self, steps: int) -> Any:
        """The scheduler's own."""
        return flow_scheduler(self.pipe.scheduler, steps)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        config = self.pipe.scheduler.config
        time = self.flow_time(at) * config.num_train_timesteps * self.net.config.timestep_scale
        out: Tensor = self.net(
            x.to(self.dtype),
            encoder_hidden_states=tokens.to(self.dtype),
            encoder_attention_mask=extra["mask"],
            timestep=torch.full((len(x),), time, device=x.device),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]].float()
