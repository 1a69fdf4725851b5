"""Particle guidance: a repulsive force between the latents of a group (Corso et al., ICLR 2024, arXiv 2310.13102)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.check import number_in_range
from fairlead.core.model import Level
from fairlead.core.sampling import replicas
from fairlead.core.sde import ratio
from fairlead.core.steering import Steering, Step

HIGHEST = 14.6
"""The largest sigma/alpha of Stable Diffusion, for which `scale` was published."""


@dataclass(frozen=True)
class ParticleGuidance(Steering):
    """Pushes the latents of a group apart while there is more noise than signal.

    noise_i <- noise_i - scale s phi_i with s = sigma/alpha, phi_i = sum_j 2 k_ij (z_i - z_j) / h_i and k_ij =
    exp(-d_ij^2 / h_i). The clean prediction then moves by scale s^2 phi_i, as in the released code with DDIM, its
    default. h_i is the squared median distance over log(n + 1). Published is n - 1, which makes a pair of samples no
    pair. z is the latent scaled to alpha^2 + sigma^2 = 1, as Stable Diffusion has it. Inferred for families that
    start noisier, such as rectified flow: s is at most 14.6, the largest of Stable Diffusion. A group of one is left
    alone. The published image features are not offered. Costs nothing.

    Settings:
        scale (number >= 0, default 30.0): strength of the force; 0 switches the method off. Corso et al. 2024.
        until (number in [0, 1], default 0.5): share of noise sigma/(alpha + sigma) below which the force is off.
    """

    scale: float = 30.0
    until: float = 0.5
    """Share of noise sigma/(alpha + sigma) below which it is off"""

    switched_off = {"scale": 0.0}
    couples = True
    needs_company = True

    def __post_init__(self) -> None:
        """Reject settings outside their range."""
        number_in_range("particle_guidance.scale", self.scale, "[0, inf)")
        number_in_range("particle_guidance.until", self.until, "[0, 1]")

    def __call__(self, step: Step) -> Step:
        """The same step, its clean predictions pushed apart."""
        if self.scale == 0 or step.at.time <= self.until:
            return step

        def shift(x: Tensor, at: Level, rows: Tensor) -> Tensor:
            label = torch.stack([step.groups[rows], replicas(rows)], 1).tolist()
            s = min(ratio(at), HIGHEST)
            return self.scale * s**2 * force(x / math.hypot(at.alpha, at.sigma), label)

        return step.guide(shift)


def force(x: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """x [R, C, h, w] -> phi [R, C, h, w], between rows of equal label."""
    out, members = torch.zeros_like(x), dict[tuple[int, ...], list[int]]()
    for i, label in enumerate(labels):
        members.setdefault(tuple(label), []).append(i)
    for own in members.values():
        if len(own) < 2:
            continue
        z = x[torch.tensor(own, device=x.device)].flatten(1).float()
        # Distances between the samples of one group.
        d = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        apart = d.sort(1).values[:, 1:]  # without the distance to itself
        # Bandwidth: the squared median distance over log(n + 1), for every sample its own.
        h = (apart.median(1).values.square() / math.log(len(own) + 1)).clamp(min=1e-12)
        # Gradient of the kernel exp(-d^2 / h): it pushes every sample away from the others.
        k = (-d.square() / h[:, None]).exp() * 2 / h[:, None]
        phi = k.sum(1, keepdim=True) * z - k @ z
        out[torch.tensor(own, device=x.device)] = phi.view(len(own), *x.shape[1:]).to(x.dtype)
    return out
