"""Stable Diffusion 1.x and 2.x: a U-Net on a discrete schedule, eps or v, text by cross-attention only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models._pictures import MASK
from fairlead.models.discrete import DiscretePipeline


@contextmanager
def _inner_text_model(encoder: Any) -> Iterator[None]:
    """The encoder's layers under the name that diffusers reads for `clip_skip`; transformers 5 has dropped it."""
    if hasattr(encoder, "text_model"):
        yield
        return
    object.__setattr__(encoder, "text_model", encoder)  # not a child module, which would be a circle
    try:
        yield
    finally:
        object.__delattr__(encoder, "text_model")


class UNet(DiscretePipeline):
    """What SD and SDXL share.

    Networks distilled with their guidance as an input (LCM) get `guidance_scale` there and run without a second row
    (Luo et al. 2023).
    """

    guidance_rescale = 0.0
    clip_skip: int | None = None

    def __init__(self, source: Any, loading: Mapping[str, Any], timesteps: Sequence[int], **given: Any) -> None:
        super().__init__(source, loading, timesteps, **given)
        width = self.net.config.time_cond_proj_dim
        self._embedded = None
        if width is not None:
            embedded = self.pipe.get_guidance_scale_embedding(
                torch.tensor([self.guidance_scale - 1.0]), embedding_dim=width
            )
            self._embedded = embedded.to(self.device, self.dtype)

    def guide(self, negative: Tensor, positive: Tensor) -> Tensor:
        """The guided output, rescaled towards the deviation of the conditional one (Lin et al. 2024, eq. 15 and 16)."""
        out = DiscretePipeline.guide(self, negative, positive)
        if self.guidance_rescale == 0:
            return out
        scale = positive.std((1, 2, 3), keepdim=True) / out.std((1, 2, 3), keepdim=True)
        return self.guidance_rescale * out * scale + (1 - self.guidance_rescale) * out

    @property
    def branches(self) -> int:
        """2 under classifier-free guidance, 1 without it or when the scale is an input of the network."""
        return 2 if self.guidance_scale > 1 and self.net.config.time_cond_proj_dim is None else 1

    def added_conditions(self, extra: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """`added_cond_kwargs` of the network."""
        return None

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        seen, time = self.network_input(x, at)
        out: Tensor = self.net(
            seen,
            time,
            encoder_hidden_states=tokens.to(self.dtype),
            timestep_cond=None if self._embedded is None else self._embedded.expand(len(x), -1),
            added_cond_kwargs=self.added_conditions(extra),
            return_dict=False,
        )[0]
        return out.float()


class StableDiffusion(UNet):
    """A Stable Diffusion 1.x or 2.x folder, hub name, checkpoint file or live pipeline.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 7.5): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        timesteps (whole numbers, default ()): the schedule's own time steps are replaced by these for runs of
            exactly that many steps.
        guidance_rescale (number in [0, 1], default 0.0): weight of the guided output that has the deviation of the
            conditional one, against overexposure.
        clip_skip (whole number or None, default None): that many of the last layers of the CLIP text encoders are
            left out for the prompt.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "StableDiffusionPipeline"
    inputs = MASK

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 7.5,
        negative_prompt: str | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        timesteps: Sequence[int] = (),
        **loading: Any,
    ) -> None:
        self.guidance_rescale, self.clip_skip = float(guidance_rescale), clip_skip
        super().__init__(
            source, loading, timesteps, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        with _inner_text_model(self.pipe.text_encoder):
            tokens, _ = self.pipe.encode_prompt(prompts, self.device, 1, False, clip_skip=self.clip_skip)
        return {"tokens": tokens}

    def encode_negative(self) -> dict[str, Tensor]:
        """With all layers, as the pipeline does."""
        tokens, _ = self.pipe.encode_prompt([self.negative_prompt or ""], self.device, 1, False)
        return {"tokens": tokens}


class LatentConsistency(StableDiffusion):
    """An LCM distilled from Stable Diffusion 1.x (Luo et al. 2023); needs sampler `consistency`, 1 to 8 steps.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 7.5): the embedded guidance scale, without a second row.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        timesteps (whole numbers, default ()): the schedule's own time steps are replaced by these for runs of
            exactly that many steps.
        guidance_rescale (number in [0, 1], default 0.0): acts only on guidance with a second row; the pipeline of an
            LCM has neither.
        clip_skip (whole number or None, default None): that many of the last layers of the CLIP text encoder are
            left out.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "LatentConsistencyModelPipeline"
    inputs = frozenset()
