"""FLUX.2, dev and klein: rectified flow over patches of normalised latents, joint blocks, then one sequence of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class Flux2(Pipeline):
    """A FLUX.2 dev folder, hub name or live pipeline, without reference pictures.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 4.0): embedded in the network, which has no second row.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "Flux2Pipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.0,
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._guidance: float | None = float(guidance_scale)
        self._prepare(source, loading, height, width, 1.0, max_sequence_length)

    def _prepare(
        self, source: Any, loading: Mapping[str, Any], height: int | None, width: int | None, cfg: float, length: int
    ) -> None:
        self._length = length
        super().__init__(source, loading, height=height, width=width, cfg=cfg, negative_prompt=None)
        c, h, w = self.latent
        self.latent = (c, h // 2, w // 2)
        ids: Tensor = self.pipe._prepare_latent_ids(torch.empty(1, c, h // 2, w // 2))
        self._image_ids = ids.to(self.device)

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * 2

    def default_size(self) -> tuple[int, int]:
        side = int(self.pipe.default_sample_size * self.pipe.vae_scale_factor)
        return side, side

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, _ = self.pipe.encode_prompt(prompts, device=self.device, max_sequence_length=self._length)
        return {"tokens": tokens}

    def prepared(self, steps: int) -> Any:
        """The pipeline's own sigmas; their shift depends on picture size and on the number of steps."""
        own = self.pipe.scheduler.config.get("use_flow_sigmas")
        n = self._image_ids.shape[1]
        sigmas = None if own else np.linspace(1.0, 1 / steps, steps)
        return flow_scheduler(self.pipe.scheduler, steps, mu=_shift(n, steps), sigmas=sigmas)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        r = len(x)
        guidance = None if self._guidance is None else torch.full((r,), self._guidance, device=x.device)
        text_ids = self.pipe._prepare_text_ids(tokens[:1]).to(x.device)
        out: Tensor = self.net(
            hidden_states=x.to(self.dtype).flatten(2).mT,
            timestep=torch.full((r,), self.flow_time(at), dtype=self.dtype, device=x.device),
            guidance=guidance,
            encoder_hidden_states=tokens.to(self.dtype),
            txt_ids=text_ids.expand(r, -1, -1),
            img_ids=self._image_ids.expand(r, -1, -1),
            return_dict=False,
        )[0]
        return out.float().mT.reshape(x.shape)

    def unscale(self, x: Tensor) -> Tensor:
        normal = self.vae.bn
        eps = self.vae.config.batch_norm_eps
        mean, std = (v.float().view(1, -1, 1, 1) for v in (normal.running_mean, (normal.running_var + eps).sqrt()))
        out: Tensor = self.pipe._unpatchify_latents(x * std + mean)
        return out

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.transformer_blocks if kind == "joint" else self.net.single_transformer_blocks)

    def image_tokens(self) -> int:
        return int(self._image_ids.shape[1])


class Flux2Klein(Flux2):
    """A FLUX.2 klein folder, hub name or live pipeline.

    Distilled members ignore the guidance, as in the pipeline, and need 4 steps.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 4.0): above 1 a second row per sample is run, of the empty prompt.
        max_sequence_length (whole number >= 1, default 512): longest prompt, in tokens.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "Flux2KleinPipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 4.0,
        max_sequence_length: int = 512,
        **loading: Any,
    ) -> None:
        self._guidance = None
        self._prepare(source, loading, height, width, float(guidance_scale), max_sequence_length)

    @property
    def branches(self) -> int:
        """2 with guidance, unless the network was distilled."""
        return 2 if self.guidance_scale > 1 and not self.pipe.config.is_distilled else 1


def _shift(tokens: int, steps: int) -> float:
    """FLUX.2's log-shift: two lines in the picture's length, for 10 and for 200 steps, and a line between them."""
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    return many + (steps - 200.0) * (many - few) / 190.0
