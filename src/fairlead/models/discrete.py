"""What adapters of networks trained on a table of noise levels share: eps, v or x0 from a variance-preserving input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level
from fairlead.models.pipeline import Pipeline
from fairlead.models.schedule import Coordinates, Discrete


class DiscretePipeline(Pipeline):
    """A pipeline on a discrete schedule. x may come at any common scale of (alpha, sigma); the network sees unit
    variance.

    `timesteps` replaces the schedule's own for runs of exactly that many steps.
    """

    def __init__(self, source: Any, loading: Mapping[str, Any], timesteps: Sequence[int], **given: Any) -> None:
        super().__init__(source, loading, **given)
        self.schedule = Discrete(self.pipe.scheduler, timesteps)
        if self.schedule.prediction not in ("epsilon", "v_prediction", "sample"):
            raise FairleadError(
                f"The network predicts {self.schedule.prediction!r}; epsilon, v_prediction and sample are known here."
            )

    def whole_levels(self, steps: int) -> Sequence[Level]:
        """The scheduler's own, from its configuration; SD 1.x with DDIM or PNDM stops at sigma 0.03, as it always
        did.
        """
        return self.schedule.levels(steps)

    def left_out(self, steps: int) -> int:
        return steps - min(int(steps * self.strength), steps)

    def prepared(self, steps: int) -> Any:
        return self.schedule.prepared(steps)

    def coordinates(self) -> Coordinates:
        return self.schedule.coordinates

    def network_input(self, x: Tensor, at: Level) -> tuple[Tensor, Tensor]:
        """The network's input [R, C, h, w] and its time [R]."""
        time = torch.full((len(x),), self.schedule.timestep(at), device=x.device)
        return (x / math.hypot(at.alpha, at.sigma)).to(self.dtype), time

    def clean_prediction(self, x: Tensor, at: Level, out: Tensor) -> Tensor:
        if self.schedule.prediction == "sample":
            return out
        if self.schedule.prediction == "v_prediction":
            square = at.alpha**2 + at.sigma**2
            return at.alpha / square * x - at.sigma / math.sqrt(square) * out
        return (x - at.sigma * out) / at.alpha
