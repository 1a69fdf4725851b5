"""Samples of an exact model under steering, with what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning
from fairlead.core.samplers import Sampler
from fairlead.core.sampling import sample
from fairlead.core.steering import Chain, Steering


def steered(
    *parts: Steering,
    model: Any,
    n: int,
    steps: int,
    sampler: Sampler,
    score: Callable[[Tensor], Tensor],
    group: int = 1,
    seed: int = 0,
    x: Tensor | None = None,
    notes: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Cost]:
    """n samples in groups from the noise x, or that of the seed; `score` of n clean samples is charged as n scores."""
    meter = Meter()
    model.meter(meter)
    own = tuple(Key.root(seed).fold(i) for i in range(n))
    x = normals(tuple(k.fold("init") for k in own), *model.latent) if x is None else x

    def scored(z: Tensor, cond: Conditioning) -> Tensor:
        meter.charge(Cost(scores=len(z)))
        return score(z)

    with torch.no_grad(), meter.grant(INFINITE):
        out = sample(
            model,
            sampler,
            x,
            model.encode(["x"] * n),
            model.levels(steps),
            own,
            meter,
            steering=Chain(parts),
            groups=torch.arange(n) // group,
            score=scored,
            notes=notes,
        )
    return out, replace(meter.spent, seconds=0.0)
