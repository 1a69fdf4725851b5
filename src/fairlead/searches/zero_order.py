"""Zero-order search: a pivot noise and its neighbours (Ma et al. 2025, arXiv 2501.09732, section 3).

The paper gives the loop; the neighbourhood is that of its first author's open implementation. What happens when no
neighbour is better, the cached pivot score and the other two neighbourhoods are our design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fairlead.core.check import number_in_range, one_of, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space, best_first

FINEST = 1e-4
"""`shrink` halves 1 - cosine down to this."""


def angular(pivot: Tensor, noise: Tensor, cosine: float) -> Tensor:
    """pivot, noise [d] -> the neighbour [d] of the pivot's norm at exactly that cosine, in the direction of `noise`."""
    p, g = pivot.double(), noise.double()
    unit = p / p.norm()
    g = g - (g @ unit) * unit
    out: Tensor = p.norm() * (cosine * unit + math.sqrt(1 - cosine**2) * g / g.norm())
    return out.float()


def vp(pivot: Tensor, noise: Tensor, cosine: float) -> Tensor:
    """pivot, noise [d] -> cosine*pivot + sqrt(1 - cosine^2)*noise [d]: standard normal if both are (EvoSearch's
    move).
    """
    return (cosine * pivot.double() + math.sqrt(1 - cosine**2) * noise.double()).float()


def ball(pivot: Tensor, noise: Tensor, radius: float, u: float) -> Tensor:
    """pivot, noise [d], u in [0, 1] -> pivot + u*radius*sqrt(d)*unit(noise): the norm grows, 1 + E[(u radius)^2] per
    entry.
    """
    g = noise.double()
    out: Tensor = pivot.double() + u * radius * math.sqrt(len(g)) * g / g.norm()
    return out.float()


class ZeroOrder(Generations):
    """Hill climbing: looks at neighbours of a pivot at a fixed angle and moves to a better one.

    The pivot starts as the plain sample. K iterations cost 1 + K * neighbours pictures, because a pivot is rendered
    once. Every proposal shares its pivot's rollout key, so that a sampler with noise is searched at fixed noise
    too.

    Settings:
        neighbours (whole number >= 1, default 4): neighbours per iteration, N of the paper. Ma et al. 2025.
        cosine (number in [0, 1), default 0.95): cosine between pivot and neighbour; 0.95 is an angle of 18 degrees.
        neighbourhood (angular, vp or ball, default 'angular'): how a neighbour is made; `ball` ignores `cosine` and
            increases the norm. Ours.
        accept (better or always, default 'better'): move only to a better neighbour, or always to the best one, as
            the paper literally says.
        stall (resample, restart or shrink, default 'resample'): what follows when no neighbour is better: other
            neighbours, a fresh pivot, or half of 1 - cosine. Ours.
        radius (number > 0, default 0.15): largest distance of `ball`, in units of sqrt(d). Ramesh and Mardani 2025.
        iterations (whole number >= 0 or None, default None): how many rounds to run; None runs until the budget
            ends.
    """

    def __init__(
        self,
        space: Space,
        key: Key,
        neighbours: int = 4,
        cosine: float = 0.95,
        neighbourhood: str = "angular",
        accept: str = "better",
        stall: str = "resample",
        radius: float = 0.15,
        iterations: int | None = None,
    ) -> None:
        super().__init__()
        self._n: int = whole_number("zero_order.neighbours", neighbours, least=1)
        self._cosine: float = number_in_range("zero_order.cosine", cosine, "[0, 1)")
        self._radius: float = number_in_range("zero_order.radius", radius, "(0, inf]")
        self._iterations: int | None = whole_number("zero_order.iterations", iterations, least=0, optional=True)
        self._kind: str = one_of("zero_order.neighbourhood", neighbourhood, ("angular", "vp", "ball"))
        self._accept: str = one_of("zero_order.accept", accept, ("better", "always"))
        self._stall: str = one_of("zero_order.stall", stall, ("resample", "restart", "shrink"))
        if neighbourhood == "angular" and space.dim < 2:
            raise FairleadError("A space of one dimension has no angles: set zero_order.neighbourhood=vp.")
        self._space, self._key = space, key
        self._round = self._restarts = 0
        self._begin(key.fold("candidate", 0))

    def _begin(self, rollout: Key) -> None:
        self._rollout, self._pivot = rollout, self._space.draw(rollout)
        self._answer: Feedback | None = None
        """The pivot's, whose reward is the present one."""
        self._place: int | None = None
        """The pivot's place among all proposals, once it was proposed."""
        if self._kind == "angular" and not bool(self._pivot.any()):
            raise FairleadError(
                "The plain point of this space is zero and has no direction: set zero_order.neighbourhood=ball."
            )

    def _neighbour(self, key: Key) -> Tensor:
        noise = key.normal(len(self._pivot))
        if self._kind == "ball":
            return ball(self._pivot, noise, self._radius, float(key.fold("radius").uniform(1)))
        return (angular if self._kind == "angular" else vp)(self._pivot, noise, self._cosine)

    def propose(self) -> list[Proposal]:
        """N neighbours, and the pivot before them while its reward is not known."""
        asked = []
        if self._answer is None:
            self._place = self.made
            asked.append(Proposal(self._pivot, self._rollout))
        points: list[Tensor] = []
        if self._iterations is None or self._round < self._iterations:
            points += [self._neighbour(self._key.fold("round", self._round, j)) for j in range(self._n)]
        elif self._answer is not None:
            return []
        return asked + [Proposal(x, self._rollout, origin=self._place) for x in points]

    def learn(self, generation: Sequence[Feedback]) -> None:
        """Move to the best neighbour, or do what `stall` says."""
        around = list(generation)
        if self._answer is None:
            self._answer = around.pop(0)
        if not around:
            return
        self._round += 1
        # The best of the N neighbours is the next pivot if it is accepted.
        best = best_first(around)[0]
        if best.value > self._answer.value or (self._accept == "always" and best.value > float("-inf")):
            self._place = self.made + next(i for i, f in enumerate(generation) if f is best)
            self._pivot, self._answer = best.proposal.x, best
        elif self._stall == "restart":
            self._restarts += 1
            self._begin(self._key.fold("restart", self._restarts))
        elif self._stall == "shrink":
            self._cosine = min(1 - FINEST, (1 + self._cosine) / 2)
