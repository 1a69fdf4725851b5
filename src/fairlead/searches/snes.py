"""Separable natural evolution strategy (Schaul, Glasmachers and Schmidhuber 2011, "High dimensions and heavy tails").

Chosen among SNES, OpenES and LM-MA-ES as the second gradient-free rival in large spaces: its scales learn a thousand
times faster than those of sep_cma at 158,976 dimensions (rate 0.0075), where LM-MA-ES's do not learn either and
OpenES has none; it has no setting that must be tuned beside the first spread; and with noise as the variable it was
among the best of Jajal et al. 2025 (arXiv 2506.00299).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.check import number_in_range
from fairlead.core.key import Key
from fairlead.core.search import Space
from fairlead.searches._population import Population, draws, ranked


class Snes(Population):
    """Samples, ranks, and follows the natural gradient of a normal distribution with a spread per coordinate.

    Settings:
        sigma (number > 0, default 0.5): first spread of every coordinate, in units of the space.
        population (whole number >= 2, default 20): samples in a generation.
        rate (number > 0, default 1.0): learning rate of the mean. Schaul et al. 2011.
        spread_rate (number >= 0 or None, default None): learning rate of the spreads; None is (3 + ln d)/(5 sqrt
            d). Schaul et al. 2011.
        penalty (number >= 0, default 0.0): weight of the mean square distance from the start, which is taken off
            the reward.
        generations (whole number >= 1 or None, default None): how many generations to run; None runs until the
            budget ends.
    """

    word = "snes"

    def __init__(
        self,
        space: Space,
        key: Key,
        sigma: float = 0.5,
        population: int = 20,
        rate: float = 1.0,
        spread_rate: float | None = None,
        penalty: float = 0.0,
        generations: int | None = None,
    ) -> None:
        super().__init__(space, key, sigma, population, generations, penalty)
        n = len(self._start)
        usual = (3 + math.log(n)) / (5 * math.sqrt(n))
        self._rate = float(number_in_range("snes.rate", rate, "(0, inf)"))
        given = number_in_range("snes.spread_rate", spread_rate, "[0, inf)", optional=True)
        self._spread_rate: float = usual if given is None else float(given)
        raw = (math.log(population / 2 + 1) - torch.arange(1, population + 1, dtype=torch.float64).log()).clamp(min=0)
        self._utility = raw / raw.sum() - 1 / population
        self._mean = self._start.double()
        self._spread = torch.full_like(self._mean, self._sigma)

    def sample(self, key: Key) -> list[Tensor]:
        """Normal around the mean."""
        device = self._mean.device
        return [(self._mean + self._spread * z).float() for z in draws(key, self._size, len(self._mean), device)]

    def shrink(self) -> None:
        """Half of every spread."""
        self._spread = self._spread / 2

    def update(self, points: Sequence[Tensor], values: Sequence[float]) -> None:
        """One natural-gradient step on mean and spreads."""
        shift = torch.zeros_like(self._mean)
        squares = torch.zeros_like(self._mean)
        for rank, k in enumerate(ranked(values)):
            # Samples in the natural coordinates of the distribution, weighted by the utility of their rank.
            z = (points[k].double() - self._mean) / self._spread
            shift += float(self._utility[rank]) * z
            squares += float(self._utility[rank]) * (z.square() - 1)
        # Natural gradient: the mean moves additively, the spreads exponentially.
        self._mean = self._mean + self._rate * self._spread * shift
        self._spread = self._spread * (0.5 * self._spread_rate * squares).exp()
