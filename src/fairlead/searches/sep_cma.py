"""Evolution strategy with a diagonal covariance, for vectors of any length (Ros and Hansen 2008, sep-CMA-ES).

Pereira Neto et al. 2025 (arXiv 2511.03913) use the diagonal variant of the `cma` package. This file does the same as
that package, which differs from Ros and Hansen in three points:

- It has other learning rates.
- It updates the scales exponentially, with negative weights for the worse half of a generation.
- From 300 dimensions on it adapts the step size by TPA (two-point adaptation; Hansen 2008; Hansen, Atamna and Auger
  2014). Below, it uses CSA (cumulative step-size adaptation) as they do.

At 158,976 dimensions, the size of a prompt embedding, CSA leaves the step size unchanged, and the scales change by
less than 0.1 % in 100 generations. All progress there comes from TPA and from the moves of the mean.

The symbols are those of the papers. There are n dimensions and lambda samples in a generation, of which mu are
selected with weights w.

    m         mean of the distribution                sigma     step size
    d         scales of the coordinates               p_sigma   path of the step size (CSA), with rate c_sigma
    c_1, c_mu learning rates of the scales            p_c       path of the scales, with rate c_c
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.check import one_of
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Space
from fairlead.searches._population import Population, draws, ranked

RULES = ("auto", "tpa", "csa")
TPA_FROM = 300
"""Dimensions from which `auto` means TPA."""


def weights(population: int, c_1: float, c_mu: float, active: bool) -> tuple[Tensor, int, float]:
    """(w [population], mu, mu_eff): weights by rank, number of selected samples, effective number of selected samples.

    The positive weights sum to 1. The sum of the negative ones is chosen so that the scales keep their expected size
    if the ranks are random.
    """
    raw = math.log((population + 1) / 2) - torch.arange(1, population + 1, dtype=torch.float64).log()
    mu = population // 2
    w = raw / raw[:mu].sum()
    mu_eff = float(1 / w[:mu].square().sum())
    worse = -raw[mu:].clamp(max=0)
    if not active or float(worse.sum()) == 0 or c_mu == 0:
        return torch.cat([w[:mu], torch.zeros(population - mu, dtype=torch.float64)]), mu, mu_eff
    mu_eff_negative = float(worse.sum() ** 2 / worse.square().sum())
    total = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_negative / (mu_eff + 2))
    return torch.cat([w[:mu], -worse / worse.sum() * total]), mu, mu_eff


class SepCma(Population):
    """Sample around a mean, move it towards the better half, and adapt the scales and the step size.

    Besides the candidates, memory holds a few vectors of the space's dimension on `device`. TPA uses two samples of
    each generation: one forward and one backward along the last move of the mean.

    Settings:
        sigma (number > 0, default 0.5): initial step size, in units of the space.
        population (whole number >= 2, default 20): samples in a generation (lambda).
        step (auto, tpa or csa, default 'auto'): rule for the step size; `auto` is tpa from 300 dimensions on and
            csa below.
        active (true or false, default True): also update the scales with the worse half of a generation, with
            negative weights.
        penalty (number >= 0, default 0.0): this number times the mean square distance from the start is subtracted
            from the reward.
        generations (whole number >= 1 or None, default None): how many generations to run; None runs until the
            budget ends.
        device (name of a device, default 'cpu'): where the vectors of the distribution are kept.
    """

    word = "sep_cma"

    def __init__(
        self,
        space: Space,
        key: Key,
        sigma: float = 0.5,
        population: int = 20,
        step: str = "auto",
        active: bool = True,
        penalty: float = 0.0,
        generations: int | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(space, key, sigma, population, generations, penalty)
        one_of("sep_cma.step", step, RULES)
        n = len(self._start)
        self._n = n
        self._tpa = step == "tpa" or (step == "auto" and n >= TPA_FROM)
        self._device = _device(device)
        # Learning rates of the paths and the scales.
        _, _, mu_eff = weights(population, 0, 0, False)
        self._c_c = (1 + 1 / n + mu_eff / n) / (math.sqrt(n) + 1 / n + 2 * mu_eff / n)
        self._c_1 = 1 / (n + 2 * math.sqrt(n) + mu_eff / n)
        c_mu = (0.25 + mu_eff + 1 / mu_eff - 2) / (n + 4 * math.sqrt(n) + mu_eff / 2)
        self._c_mu = min(1 - self._c_1, c_mu)
        self._w, self._mu, self._mu_eff = weights(population, self._c_1, self._c_mu, active)
        # Rate and damping of the step size.
        self._c_sigma = (mu_eff + 2) / (n + mu_eff + 3)
        if self._tpa:
            self._damping = 0.7 + 2 * math.log(n) + 2 * math.log(max(1, population - n))
        else:
            self._damping = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + self._c_sigma
        # The state.
        self._m = self._start.to(self._device).double()
        self._d = torch.ones_like(self._m)
        self._p_c = torch.zeros_like(self._m)
        self._p_sigma = torch.zeros_like(self._m)
        self._last_move: Tensor | None = None
        self._trend = 0.0
        self._updates = 0

    def sample(self, key: Key) -> list[Tensor]:
        """Points around the mean. Under TPA, the first two lie forward and backward along the last move of the mean."""
        steps = [self._d * z for z in draws(key, self._size, self._n, self._device)]
        if self._tpa and self._last_move is not None:
            # Both are as long as a random sample, measured in the scales of the distribution.
            length = key.fold("line").normal(self._n).double().norm().item()
            forward = self._last_move * (length / (self._last_move / self._d).norm())
            steps[:2] = [forward, -forward]
        return [(self._m + self._sigma * y).float().cpu() for y in steps]

    def shrink(self) -> None:
        """Halve the step size after a failed generation. TPA pauses, because no sample has tested the last move."""
        super().shrink()
        self._last_move = None

    def update(self, points: Sequence[Tensor], values: Sequence[float]) -> None:
        """Update the mean, the paths, the scales and the step size, in this order."""
        # Weighted sums over the ranked samples z_k = (x_k - m) / (sigma d).
        z_w = torch.zeros_like(self._m)
        squares = torch.zeros_like(self._m)
        for rank, k in enumerate(ranked(values)):
            z = (points[k].to(self._device).double() - self._m) / (self._sigma * self._d)
            squares += float(self._w[rank]) * (z.square() - 1)
            if rank < self._mu:
                z_w += float(self._w[rank]) * z
        self._updates += 1

        # Mean.
        self._last_move = self._sigma * self._d * z_w
        self._m = self._m + self._last_move

        # Path of the step size. A long path means that the step size is far too small. h_sigma is then 0, which stops
        # the path of the scales until the step size has grown.
        c_sigma = self._c_sigma
        self._p_sigma = (1 - c_sigma) * self._p_sigma + math.sqrt(c_sigma * (2 - c_sigma) * self._mu_eff) * z_w
        length = float(self._p_sigma.square().sum()) / (1 - (1 - c_sigma) ** (2 * self._updates)) / self._n
        h_sigma = length < 2 + 4 / (self._n + 1)

        # Path of the scales, then the scales.
        c_c = self._c_c
        self._p_c = (1 - c_c) * self._p_c + h_sigma * math.sqrt(c_c * (2 - c_c) * self._mu_eff) * z_w
        c_1 = self._c_1 * (1.0 if h_sigma else 1 - c_c * (2 - c_c))
        growth = c_1 * (self._p_c.square() - 1) + self._c_mu * squares
        self._d = self._d * (0.5 * math.log(2) * growth).exp()

        # Step size.
        self._sigma *= math.exp(self._two_points(values) if self._tpa else self._cumulated())

    def _two_points(self, values: Sequence[float]) -> float:
        """TPA: log of the factor of sigma. Positive if the forward point ranks above the backward one, and smoothed."""
        better_than_forward = sum(v > values[0] for v in values)
        better_than_backward = sum(v > values[1] for v in values)
        z = (better_than_backward - better_than_forward) / (len(values) - 1)
        self._trend = 0.7 * self._trend + 0.3 * math.copysign(math.sqrt(abs(z)), z)
        return self._trend / self._damping

    def _cumulated(self) -> float:
        """CSA: log of the factor of sigma. Positive if p_sigma is longer than a random normal vector."""
        n = self._n
        expected = math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
        return min(1.0, self._c_sigma / self._damping * (float(self._p_sigma.norm()) / expected - 1))


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise FairleadError(
            f"sep_cma.device={name!r} is not available on this machine. Use 'cpu', or the device of the model."
        ) from error
