"""Ratios of noise to signal, Karras's spacing, and the two ways to walk the ODE."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fairlead.core.key import Key
from fairlead.core.model import Level
from fairlead.core.sde import LOW, Sde, arrive, at_ratios, karras, ratio

FLOW = [Level(1 - t, t) for t in (1.0, 0.7, 0.4, 0.1, 0.0)]
SPREAD = 0.5
"""Standard deviation of the data, a Gaussian around 0."""


def test_ratio() -> None:
    assert ratio(Level(0.5, 0.25)) == 0.5
    assert ratio(Level(0.0, 1.0)) == math.inf
    assert LOW == 0.002, "Karras et al. 2022, table 1"


def test_ratios_of_karras() -> None:
    """Equation 5 with rho 7."""
    ratios = karras(80.0, 0.002, 4)
    a, b = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    assert ratios == pytest.approx([(a + i / 4 * (b - a)) ** 7 for i in range(5)])
    assert (ratios[0], ratios[-1], len(ratios)) == (80.0, 0.002, 5)
    assert karras(4.0, 1.0, 2, rho=1.0) == [4.0, 2.5, 1.0]
    assert karras(4.0, 1.0, 1) == [4.0, 1.0]
    assert karras(4.0, 1.0, 0) == [4.0]
    assert karras(math.inf, 1.0, 3) == [math.inf, 1.0]
    assert karras(4.0, 0.0, 3) == [4.0, 0.0]
    assert karras(1.0, 1.0, 3) == [1.0, 1.0]


def test_levels_of_ratios() -> None:
    levels = at_ratios(FLOW, [3.0, 1.0, 0.25])
    assert [ratio(at) for at in levels] == pytest.approx([3.0, 1.0, 0.25])
    assert [at.alpha + at.sigma for at in levels] == pytest.approx([1.0] * 3)


def denoise(x: Tensor, at: Level) -> Tensor:
    """The exact posterior mean of the Gaussian."""
    gain: Tensor = at.alpha * SPREAD**2 / (at.alpha**2 * SPREAD**2 + at.sigma**2) * x
    return gain


def exact(x: Tensor, at: Level, to: Level) -> Tensor:
    """The ODE keeps the quantile."""

    def deviation(level: Level) -> float:
        return math.sqrt((level.alpha * SPREAD) ** 2 + level.sigma**2)

    return x * deviation(to) / deviation(at)


@pytest.mark.parametrize(("heun", "error"), [(True, 4e-3), (False, 2e-2)])
def test_arriving_is_the_ode(heun: bool, error: float) -> None:
    """free of the last level's alpha."""
    levels = [Level(1 - t, t) for t in torch.linspace(0.9, 0.2, 25).tolist()]
    x = Key.root(0).normal(3, 1, 2, 2)
    out = arrive(denoise, x, levels, heun)
    torch.testing.assert_close(out, exact(x, levels[0], levels[-1]) / levels[-1].alpha, rtol=error, atol=0)


@pytest.mark.parametrize(("heun", "calls"), [(True, 7), (False, 4)])
def test_evaluations(heun: bool, calls: int) -> None:
    """Two a move, but one for the move to the end."""
    seen: list[Level] = []

    def counted(x: Tensor, at: Level) -> Tensor:
        seen.append(at)
        return denoise(x, at)

    arrive(counted, Key.root(0).normal(1, 1, 1, 1), [Level(0.1, 0.9), *FLOW[1:]], heun)
    assert len(seen) == calls


@pytest.mark.parametrize("beta", [0.0, 0.3, torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)])
def test_every_beta_keeps_the_marginal(beta: float | Tensor) -> None:
    step = Sde(beta)
    assert step.stochastic
    n = 4000
    levels = [Level(1 - t, t) for t in torch.linspace(0.9, 0.3, 40).tolist()]
    x = math.sqrt(0.01 * SPREAD**2 + 0.81) * Key.root(1).normal(2, 1, 1, n)
    for i, (at, to) in enumerate(pairwise(levels)):
        noise = Key.root(2).fold(i).normal(2, 1, 1, n)
        x = step(denoise, x, denoise(x, at), at, to, noise, None)
    wanted = math.sqrt(0.49 * SPREAD**2 + 0.09)
    assert x.flatten(1).std(1).tolist() == pytest.approx([wanted] * 2, rel=0.03)
