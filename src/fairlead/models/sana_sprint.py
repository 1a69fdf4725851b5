"""Sana-Sprint: a Sana distilled to one to four steps, on the circle alpha = cos t, sigma = sin t (Chen et al. 2025).

The network was trained on rectified flow. Its velocity at s = sigma / (alpha + sigma) is turned into that of the circle
(arXiv 2503.09641, eq. 4 to 6).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline


class SanaSprint(Pipeline):
    """A Sana-Sprint folder, hub name or live pipeline; needs sampler `consistency`, 1 to 4 steps.

    Sizes are not rounded to aspect-ratio bins. There is no unconditional branch.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 4.5): the embedded guidance scale, without a second row.
        max_sequence_length (whole number >= 1, default 300): longest prompt, in tokens.
        instruction (true or false, default True): the pipeline's own instruction to the language model comes before
            the prompt.
        max_timesteps (number in (0, 1.5708], default 1.5708): the first time t.
        intermediate_timesteps (number in (0, 1.5708), default 1.3): the second time of a run of two steps; other
            runs have times at equal distances.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "SanaSprintPipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.5,
        max_sequence_length: int = 300,
        instruction: bool = True,
        max_timesteps: float = 1.5708,
        intermediate_timesteps: float = 1.3,
        **loading: Any,
    ) -> None:
        self._guidance = float(guidance_scale)
        self._length = max_sequence_length
        self._instruct = instruction
        self._times = (float(max_timesteps), float(intermediate_timesteps))
        if not 0 < self._times[1] < self._times[0] <= 1.5708:
            raise FairleadError(
                f"max_timesteps is {max_timesteps:g} and intermediate_timesteps is {intermediate_timesteps:g}: must be "
                "0 < intermediate_timesteps < max_timesteps <= 1.5708."
            )
        super().__init__(source, loading, height=height, width=width, cfg=1.0, negative_prompt=None)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        own = inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default
        tokens, mask = self.pipe.encode_prompt(
            prompts,
            device=self.device,
            max_sequence_length=self._length,
            complex_human_instruction=own if self._instruct else None,
        )
        return {"tokens": tokens, "mask": mask}

    def prepared(self, steps: int) -> Any:
        """The scheduler with the pipeline's own times, in radians."""
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        second = self._times[1] if steps == 2 else None
        scheduler.set_timesteps(steps, max_timesteps=self._times[0], intermediate_timesteps=second)
        return scheduler

    def whole_levels(self, steps: int) -> Sequence[Level]:
        """From pure noise to the clean picture; the data have unit variance here, and 1/4 in the scheduler."""
        times = [min(float(t), math.pi / 2) for t in self.prepared(steps).timesteps]
        return [Level(math.cos(t), math.sin(t)) for t in times]

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        """The velocity of the circle, cos(t) noise - sin(t) x0."""
        s = at.time
        length = math.hypot(s, 1 - s)
        seen = x * length
        out: Tensor = self.net(
            seen.to(self.dtype),
            encoder_hidden_states=tokens.to(self.dtype),
            encoder_attention_mask=extra["mask"],
            guidance=torch.full(
                (len(x),),
                self._guidance * self.net.config.guidance_embeds_scale,
                dtype=self.dtype,
                device=x.device,
            ),
            timestep=torch.full((len(x),), s, device=x.device),
            return_dict=False,
        )[0]
        return ((1 - 2 * s) * seen + (1 - 2 * s + 2 * s**2) * out.float()) / length

    def clean_prediction(self, x: Tensor, at: Level, out: Tensor) -> Tensor:
        return at.alpha * x - at.sigma * out
