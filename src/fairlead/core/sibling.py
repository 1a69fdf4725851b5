"""A second model of the same latent space, distilled or other, which a steering may ask beside the run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.model import Conditioning, Level, Model, Rows, StartsFromPicture, level_at, started
from fairlead.core.samplers import Sampler

ModelRef = str | Mapping[str, Any]
"""A model in a steering's settings: its name, or {"name": ..., and settings of its adapter}."""
CURVE = 10
"""Steps of the schedules that are compared."""
SCALING = {"scaling_factor", "shift_factor"}
"""What two autoencoders of one kind may do differently."""


def model_key(model: ModelRef) -> str:
    """One word per model and settings."""
    if isinstance(model, str):
        return model
    more = {k: v for k, v in model.items() if k != "name"}
    return f"{model['name']}{json.dumps(more, sort_keys=True)}" if more else str(model["name"])


@dataclass(frozen=True)
class Sibling:
    """Another model in the coordinates of the run's own: a level is the one of equal signal-to-noise ratio."""

    model: Model
    cond: Conditioning
    """One row: the prompt of the run, encoded once by the sibling's own encoders."""
    sampler: Sampler
    """What its own schedule is stepped with."""
    curve: Sequence[Level]
    """Some levels of the run's model."""

    @cached_property
    def _own(self) -> Sequence[Level]:
        return self.model.levels(CURVE)

    @cached_property
    def _alike(self) -> bool:
        mine = level_at(self._own, 0.4)
        its = level_at(self.curve, 0.4)
        return abs(mine.alpha - its.alpha) + abs(mine.sigma - its.sigma) < 1e-6

    def conditioning(self, n: int) -> Conditioning:
        """The prompt for n samples."""
        return self.cond.take(torch.zeros(n, dtype=torch.int64))

    def levels(self, steps: int) -> Sequence[Level]:
        """Its own schedule, as levels of the run's model."""
        own = self.model.levels(steps)
        return own if self._alike else [level_at(self.curve, at.time) for at in own]

    def start(self, noise: Tensor, at: Level) -> Tensor:
        """Where it starts, at a level of the run's model."""
        return started(self.model, noise, at)

    def check_steps(self, steps: int) -> None:
        """As the model itself."""
        if isinstance(self.model, StartsFromPicture):
            self.model.check_steps(steps)

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] at a level of the run's model -> the sibling's clean prediction [R, C, h, w]."""
        if self._alike:
            return self.model.predict(x, at, cond, rows)
        own = level_at(self._own, at.time)
        scale = own.alpha / at.alpha if at.alpha > at.sigma else own.sigma / at.sigma
        return self.model.predict(scale * x, own, cond, rows)


def check_related(model: Model, other: Model, name: str) -> None:
    """Refuse a sibling whose latents mean something else: plausible shapes would give garbage."""
    if model.latent != other.latent:
        raise FairleadError(
            f"Model {name!r} has latents of shape {other.latent}, and the run's model has {model.latent}. Choose a "
            "sibling of the same picture size and autoencoder, or draft with the run's own model, as in --draft 6."
        )
    mine = model.autoencoder
    its = other.autoencoder
    if unlike := [key for key in sorted({*mine, *its}) if mine.get(key) != its.get(key)]:
        key = unlike[0]
        advice = (
            "Choose a sibling that shares the autoencoder, or draft with the run's own model: --draft with a number."
        )
        if {*unlike} <= SCALING:
            advice = (
                "Their latents are scaled differently, so one can neither draft nor look ahead for the other. Use the "
                "run's own model in few steps: --draft with a number, or a steering without its setting `model`."
            )
        raise FairleadError(
            f"Model {name!r} decodes its latents with {key} {its.get(key)!r} and the run's model with "
            f"{mine.get(key)!r}. {advice}"
        )
