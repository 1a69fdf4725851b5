"""What searches share that move a distribution by the ranks of a population, or one point by its gradient."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space

PATIENCE = 3
"""Failed generations in a row after which a search gives up."""


class Anchor:
    """A penalty on leaving the start: weight * mean((x - start)^2), taken off the reward a search sees."""

    def __init__(self, start: Tensor, weight: float) -> None:
        self._start, self._weight = start, weight

    def value(self, feedback: Feedback) -> float:
        """The reward less the penalty, minus infinity where it failed."""
        if self._weight == 0 or not math.isfinite(feedback.value):
            return feedback.value if math.isfinite(feedback.value) else -math.inf
        return feedback.value - self._weight * float((feedback.proposal.x - self._start).double().square().mean())

    def gradient(self, feedback: Feedback) -> Tensor | None:
        """[d] float64, None where reward or gradient are not finite."""
        if (
            feedback.gradient is None
            or not math.isfinite(feedback.value)
            or not bool(feedback.gradient.isfinite().all())
        ):
            return None
        away = (feedback.proposal.x - self._start).double()
        return feedback.gradient.double() - (2 * self._weight / len(away)) * away


class Population(Generations):
    """`population` samples a generation around a mean that starts at the plain point, which is asked first.

    Only ranks are used. A failed sample (NaN, infinite) ranks last; a generation of failures halves the spread and is
    drawn again, three in a row end the search. All share one rollout key, so the reward is a function of the point.
    """

    word: ClassVar[str]
    """The registered name, for errors."""

    def __init__(
        self, space: Space, key: Key, sigma: float, population: int, generations: int | None, penalty: float
    ) -> None:
        super().__init__()
        name = self.word
        self._sigma = float(number_in_range(f"{name}.sigma", sigma, "(0, inf)"))
        self._size: int = whole_number(f"{name}.population", population, least=2)
        self._last: int | None = whole_number(f"{name}.generations", generations, least=1, optional=True)
        self._key, self._rollout = key, key.fold("candidate", 0)
        self._start = space.draw(self._rollout)
        if len(self._start) < 2:
            raise FairleadError(
                f"{name} needs at least 2 dimensions, but this space has {len(self._start)}: use another search."
            )
        self._anchor = Anchor(self._start, float(number_in_range(f"{name}.penalty", penalty, "[0, inf)")))
        self._age = self._failed = 0

    @abstractmethod
    def sample(self, key: Key) -> list[Tensor]:
        """`population` points [d] float32 on the cpu."""

    @abstractmethod
    def update(self, points: Sequence[Tensor], values: Sequence[float]) -> None:
        """The points of `sample` in order with their values, higher is better, minus infinity where failed."""

    def shrink(self) -> None:
        """Half the spread: everything drawn failed."""
        self._sigma /= 2

    def propose(self) -> list[Proposal]:
        """A generation; the first is led by the plain point."""
        if self._failed == PATIENCE or self._age == self._last:
            return []
        points = self.sample(self._key.fold("generation", self._age, self._failed))
        first = [self._start] if self._fresh else []
        return [Proposal(x, self._rollout) for x in [*first, *points]]

    @property
    def _fresh(self) -> bool:
        return self._age == 0 and self._failed == 0

    def learn(self, generation: Sequence[Feedback]) -> None:
        """Update from the ranks, or draw again closer by if there are none."""
        feedback = generation[1:] if self._fresh else generation
        values = [self._anchor.value(f) for f in feedback]
        if max(values) == -math.inf:
            self._failed += 1
            self.shrink()
            return
        self.update([f.proposal.x for f in feedback], values)
        self._age += 1
        self._failed = 0


def ranked(values: Sequence[float]) -> list[int]:
    """Indices, best first; the earlier of equals first."""
    return sorted(range(len(values)), key=lambda i: -values[i])


def draws(key: Key, n: int, dim: int, device: torch.device) -> list[Tensor]:
    """n unit normal vectors [d] float64, each from its own key."""
    return [key.fold(k).normal(dim).to(device).double() for k in range(n)]
