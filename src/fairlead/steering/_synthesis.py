"""One noise from K scored ones: weights from the scores, and the sum on the sphere (Yeh et al. 2025, arXiv
2410.05760).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WEIGHTS = ("tanh", "boltzmann")
FLAT = 1e-8
"""A spread of scores below this counts as zero."""


def weights(v: Tensor, kind: str, tau: Tensor) -> Tensor:
    """Scores v [B, K] float64, temperatures tau [B] -> weights b [B, K].

    Where all scores are equal the weights are ones; tau = 0 gives the limit.
    """
    tau = tau[:, None]
    if kind == "tanh":
        # b_k = tanh((v_k - mean v) / tau)
        centred = v - v.mean(1, keepdim=True)
        b = torch.where(tau > 0, torch.tanh(centred / tau), torch.sign(centred))
    else:
        # b_k = exp((v_k - max v) / tau) / sum_j exp((v_j - max v) / tau)
        below = v - v.amax(1, keepdim=True)
        best = (below == 0).double()
        b = torch.where(tau > 0, (below / tau).softmax(1), best / best.sum(1, keepdim=True))
    spread = v.std(1, keepdim=True) if v.shape[1] > 1 else torch.zeros_like(v)
    no_preference = (spread < FLAT) | (b.abs().sum(1, keepdim=True) == 0)
    return torch.where(no_preference, torch.ones_like(b), b)


def synthesis(z: Tensor, b: Tensor) -> Tensor:
    """Noises z [B, K, C, h, w], weights b [B, K] -> z* = sqrt(N) sum_k b_k z_k / |sum_k b_k z_k|, [B, C, h, w]."""
    flat = z.flatten(2)
    total = (b.to(z.dtype)[..., None] * flat).sum(1)
    # Weights that cancel leave no direction: the plain sum has one.
    norm = total.norm(dim=1, keepdim=True)
    total = torch.where(norm > 0, total, flat.sum(1))
    z_star: Tensor = total * (math.sqrt(total.shape[1]) / total.norm(dim=1, keepdim=True))
    return z_star.view_as(z[:, 0])
