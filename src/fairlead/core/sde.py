"""The diffusion SDEs that share their marginals with the probability-flow ODE, on any model's levels.

Everything here works on X = x/alpha at the ratio s = sigma/alpha, the coordinate of variance-exploding models, in which
eps, v and flow networks on the same Gaussian path are one (Karras et al. 2022, section 2). Formulas: Yeh et al. 2025,
arXiv 2410.05760: with e the noise prediction, dX = (1 + beta s) e ds + s sqrt(2 beta) dw has the same marginals for
every constant beta >= 0 as long as e is a score, which guided networks only resemble.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fairlead.core.model import Level, level_at
from fairlead.core.samplers import Inner, PreviousStep, dpmpp_2m

LOW = 0.002
"""The ratio where trajectories end (Karras et al. 2022, table 1)."""


def ratio(at: Level) -> float:
    """sigma/alpha, infinite at pure noise."""
    return at.sigma / at.alpha if at.alpha > 0 else math.inf


def karras(high: float, low: float, moves: int, rho: float = 7.0) -> list[float]:
    """`moves` + 1 ratios from `high` down to `low`, spaced evenly in their rho-th root (Karras et al. 2022, eq. 5)."""
    if not (0 < low < high < math.inf and moves >= 1):
        return [high, low] if moves >= 1 else [high]
    a = high ** (1 / rho)
    b = low ** (1 / rho)
    return [high, *((a + (b - a) * i / moves) ** rho for i in range(1, moves)), low]


def at_ratios(curve: Sequence[Level], ratios: Sequence[float]) -> list[Level]:
    """The levels of those finite ratios on the curve these levels lie on; give a few inner ones."""
    return [level_at(curve, s / (1 + s)) for s in ratios]


class Sde:
    """One stochastic Heun step, Itô and Stratonovich alike because the noise does not depend on the state.

    Needs one more evaluation, at the level it goes to. `beta` is a number or one per row, [R, 1, 1, 1]; zero is Heun on
    the ODE, and the noise is not looked at.
    """

    stochastic = True

    def __init__(self, beta: float | Tensor) -> None:
        self._beta = beta

    def __call__(
        self, denoise: Inner, x: Tensor, x0: Tensor, at: Level, to: Level, noise: Tensor, previous: PreviousStep | None
    ) -> Tensor:
        """x, x0, noise [R, C, h, w] -> x at `to`; at sigma 0 the clean prediction."""
        if to.sigma == 0:
            return to.alpha * x0
        a = ratio(at)
        b = ratio(to)
        beta = self._beta
        start = x / at.alpha
        drift = (1 + beta * a) * (start - x0) / a
        kick: Tensor | float = 0.0
        if isinstance(beta, Tensor) or beta > 0:
            kick = (2 * beta) ** 0.5 * math.sqrt(a - b) * noise
        near = start + (b - a) * drift + a * kick
        end = (1 + beta * b) * (near - denoise(near * to.alpha, to)) / b
        return (start + 0.5 * (b - a) * (drift + end) + 0.5 * (a + b) * kick) * to.alpha


def arrive(denoise: Inner, x: Tensor, levels: Sequence[Level], heun: bool = True) -> Tensor:
    """x [R, C, h, w] at levels[0] along the ODE -> the sample [R, C, h, w] at levels[-1], free of its alpha.

    `heun`: two evaluations a move. Else DPM-Solver++ 2M, one a move.
    """
    solve = Sde(0.0)
    none = torch.empty(0)
    previous = None
    for a, b in pairwise(levels):
        x0 = denoise(x, a)
        x = solve(denoise, x, x0, a, b, none, None) if heun else dpmpp_2m(denoise, x, x0, a, b, none, previous)
        previous = PreviousStep(x0, a)
    return x / levels[-1].alpha
