"""Evolution strategy with a diagonal covariance, for vectors of any length (Ros and Hansen 2008, sep-CMA-ES).

Pereira Neto et al. 2025 (arXiv 2511.03913) run the `cma` package's diagonal variant, and so does this file: learning
rates of its own, an exponential update of the scales with negative weights for the worse half, and two-point
adaptation of the step size (TPA; Hansen 2008; Hansen, Atamna and Auger 2014) from 300 dimensions on, cumulative adaptation
(CSA) below. At 158,976 dimensions the scales change by less than 0.1 % in 100 generations and CSA cannot move the step
size at all: everything useful there is TPA (measured in the project's notes on that paper).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError, unknown
from fairlead.core.key import Key
from fairlead.core.search import Space
from fairlead.searches._population import Population, draws, ranked

RULES = ("auto", "tpa", "csa")
TPA_FROM = 300
"""Dimensions from which `auto` means TPA."""


def weights(population: int, c1: float, cmu: float, active: bool) -> tuple[Tensor, int, float]:
    """(w [population], mu, mueff): positive ones sum to 1, negative ones keep the scales neutral without selection."""
    raw = math.log((population + 1) / 2) - torch.arange(1, population + 1, dtype=torch.float64).log()
    mu = population // 2
    w = raw / raw[:mu].sum()
    mueff = float(1 / w[:mu].square().sum())
    worse = -raw[mu:].clamp(max=0)
    if not active or float(worse.sum()) == 0 or cmu == 0:
        return torch.cat([w[:mu], torch.zeros(population - mu, dtype=torch.float64)]), mu, mueff
    other = float(worse.sum() ** 2 / worse.square().sum())
    size = min(1 + c1 / cmu, 1 + 2 * other / (mueff + 2))
    return torch.cat([w[:mu], -worse / worse.sum() * size]), mu, mueff


class SepCma(Population):
    """Samples, ranks, moves the mean towards the better half, and adapts the scales and the step size.

    Memory is a few vectors of the space's dimension on `device`, besides the candidates. TPA spends two samples of
    a generation on the line of the last move.

    Settings:
        sigma (number > 0, default 0.5): first step size, in units of the space.
        population (whole number >= 2, default 20): samples in a generation (lambda).
        step (auto, tpa or csa, default 'auto'): rule for the step size; `auto` is tpa from 300 dimensions on and
            csa below.
        active (true or false, default True): the worse half of a generation moves the scales too, with negative
            weights.
        penalty (number >= 0, default 0.0): weight of the mean square distance from the start, which is taken off
            the reward.
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
        if step not in RULES:
            raise unknown("sep_cma.step", str(step), RULES)
        n = len(self._start)
        self._tpa = step == "tpa" or (step == "auto" and n >= TPA_FROM)
        try:
            self._device = torch.zeros(0, device=device).device
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            raise FairleadError(
                f"sep_cma.device is {device!r}, which this machine has not: give cpu, or the model's."
            ) from error
        _, _, mueff = weights(population, 0, 0, False)
        self._cc = (1 + 1 / n + mueff / n) / (math.sqrt(n) + 1 / n + 2 * mueff / n)
        self._c1 = 1 / (n + 2 * math.sqrt(n) + mueff / n)
        self._cmu = min(1 - self._c1, (0.25 + mueff + 1 / mueff - 2) / (n + 4 * math.sqrt(n) + mueff / 2))
        self._w, self._mu, self._mueff = weights(population, self._c1, self._cmu, active)
        self._cs = (mueff + 2) / (n + mueff + 3)
        self._damping = 1 + 2 * max(0.0, math.sqrt((mueff - 1) / (n + 1)) - 1) + self._cs
        if self._tpa:
            self._damping = 0.7 + 2 * math.log(n) + 2 * math.log(max(1, population - n))
        self._mean = self._start.to(self._device).double()
        self._scales = torch.ones_like(self._mean)
        self._path, self._length = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        self._moved: Tensor | None = None
        self._trend, self._updates = 0.0, 0

    def sample(self, key: Key) -> list[Tensor]:
        """Normal around the mean; under TPA the first two lie forward and backward on the line of the last move."""
        n, on = len(self._mean), self._device
        steps = [self._scales * z for z in draws(key, self._size, n, on)]
        if self._tpa and self._moved is not None:
            as_long = key.fold("line").normal(n).double().norm().item()
            ahead = self._moved * (as_long / (self._moved / self._scales).norm())
            steps[:2] = [ahead, -ahead]
        return [(self._mean + self._sigma * y).float().cpu() for y in steps]

    def shrink(self) -> None:
        """Half the step, and no line: nothing is known of the last move's merit."""
        super().shrink()
        self._moved = None

    def update(self, points: Sequence[Tensor], values: Sequence[float]) -> None:
        """Mean, paths, scales and step size, in this order."""
        order, n = ranked(values), len(self._mean)
        shift, squares = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        for rank, k in enumerate(order):
            z = (points[k].to(self._device).double() - self._mean) / (self._sigma * self._scales)
            squares += float(self._w[rank]) * (z.square() - 1)
            if rank < self._mu:
                shift += float(self._w[rank]) * z
        self._updates += 1
        self._moved = self._sigma * self._scales * shift
        self._mean = self._mean + self._moved
        cs, cc = self._cs, self._cc
        self._length = (1 - cs) * self._length + math.sqrt(cs * (2 - cs) * self._mueff) * shift
        long = float(self._length.square().sum()) / (1 - (1 - cs) ** (2 * self._updates)) / n
        calm = long < 2 + 4 / (n + 1)  # a long path means the step size is far too small: the scales wait
        self._path = (1 - cc) * self._path + calm * math.sqrt(cc * (2 - cc) * self._mueff) * shift
        c1 = self._c1 * (1.0 if calm else 1 - cc * (2 - cc))
        grown = c1 * (self._path.square() - 1) + self._cmu * squares
        self._scales = self._scales * (0.5 * math.log(2) * grown).exp()
        self._sigma *= math.exp(self._two_points(values) if self._tpa else self._cumulated(n))

    def _two_points(self, values: Sequence[float]) -> float:
        """Logarithm of the change: forward better than backward, by the ranks between them, smoothed."""
        better = [sum(v > values[k] for v in values) for k in (0, 1)]
        z = (better[1] - better[0]) / (len(values) - 1)
        self._trend = 0.7 * self._trend + 0.3 * math.copysign(math.sqrt(abs(z)), z)
        return self._trend / self._damping

    def _cumulated(self, n: int) -> float:
        """Logarithm of the change: the path is longer than that of random steps."""
        usual = math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))  # mean length of a normal vector
        return min(1.0, self._cs / self._damping * (float(self._length.norm()) / usual - 1))
