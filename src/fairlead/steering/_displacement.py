"""How a bank of scored samples moves a clean prediction (Kim et al. 2026, arXiv 2602.03211, Theorem 3.3), and how far.

The dose is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.core.model import Level
from fairlead.core.samplers import PreviousStep, Sampler, StatefulSampler

DOSE = 1.2
HIGHEST_DOSE = 1.7
"""A step moves x/alpha by dose*G: published settings lie between 0.9 and 1.4, and pictures break near 1.9."""


def displacement(x: Tensor, at: Level, bank: Tensor, half: Tensor, tilted: Tensor) -> Tensor:
    """x [R, D] at `at`, bank [n, D], half its squared lengths [n], tilt times rewards [n] -> G [R, D].

    At least float32. Terms of l that do not depend on i are left out. Rewards are best at 0, so that equal ones change
    nothing, bit for bit.
    """
    matmul = torch.backends.cuda.matmul
    fast, matmul.allow_tf32 = matmul.allow_tf32, False  # logits spread over 1e3: ten bits would be no number
    try:
        logits = (at.alpha * (x @ bank.T) - at.alpha**2 * half) / at.sigma**2
        return (torch.softmax(logits + tilted, 1) - torch.softmax(logits, 1)) @ bank
    finally:
        matmul.allow_tf32 = fast


def doses(at: Level, to: Level, sampler: Sampler, before: Level | None = None) -> tuple[float, float]:
    """How far a step moves x/alpha for a unit shift of its own clean predictions, and of those of the step `before`.

    With s = sigma/alpha before and s' after the step, the first is 1 - s'/s for Euler, 1 - (s'/s)^2 for the ancestral
    sampler. The second is 0 unless the sampler is a multistep one. A pipeline's own scheduler is measured by the
    sampler nearest to it, because its steps depend on more than the one before.
    """
    if isinstance(sampler, StatefulSampler):
        sampler = sampler.nearest
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    def moved(own: float, earlier: float) -> float:
        previous = None if before is None else PreviousStep(zero + earlier, before)
        x = sampler(lambda y, level: zero + own, zero, zero + own, at, to, zero, previous)
        return float((x / to.alpha).max())

    return moved(1.0, 0.0), moved(0.0, 1.0)
