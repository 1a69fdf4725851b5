"""AuraFlow: rectified flow, joint blocks and then blocks over one sequence, registers in front of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import flow_scheduler


class AuraFlow(Pipeline):
    """An AuraFlow folder, hub name or live pipeline.

    The text that an edit sees begins with the registers.

    Settings:
        height (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        width (whole number or None, default None): of the picture, in pixels; None is what the network was trained
            for.
        guidance_scale (number, default 3.5): scale of classifier-free guidance; above 1 a second row per sample is
            run with `negative_prompt`.
        negative_prompt (text or None, default None): text of the unconditional branch; None is the empty text.
        max_sequence_length (whole number >= 1, default 256): longest prompt, in tokens.

    The settings of loading are described in `fairlead.models._load.load` and `Pipeline.loading`.
    """

    family = "AuraFlowPipeline"

    def __init__(
        self,
        source: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 3.5,
        negative_prompt: str | None = None,
        max_sequence_length: int = 256,
        **loading: Any,
    ) -> None:
        self._length = max_sequence_length
        super().__init__(
            source, loading, height=height, width=width, cfg=guidance_scale, negative_prompt=negative_prompt
        )

    def size_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor * self.net.config.patch_size)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens, *_ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self._length
        )
        return {"tokens": tokens}

    def prepared(self, steps: int) -> Any:
        """The scheduler's own."""
        return flow_scheduler(self.pipe.scheduler, steps)

    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.net(
            x.to(self.dtype),
            encoder_hidden_states=tokens.to(self.dtype),
            timestep=torch.full((len(x),), self.flow_time(at), dtype=self.dtype, device=x.device),
            return_dict=False,
        )[0]
        return out.float()

    def blocks(self, kind: str) -> Sequence[Any]:
        return list(self.net.joint_transformer_blocks if kind == "joint" else self.net.single_transformer_blocks)

    def image_tokens(self) -> int:
        _, h, w = self.latent
        patch = int(self.net.config.patch_size)
        return (h // patch) * (w // patch)
