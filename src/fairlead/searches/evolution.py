"""Evolution of a population of noises (EvoSearch, He et al. 2025, arXiv 2505.17618), its stage at the initial noise.

It improves on zero-order search at the same cost per picture: it has several pivots instead of one, so that a rugged
reward does not trap it. Elites, tournament and the variance-preserving mutation with their constants are the paper's;
the tournament's size and how many children a generation has are ours. The later stages of the paper mutate states
inside the trajectory; the steerings do that here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space, best_first


class Evolution(Generations):
    """Elites keep their place and their reward; the rest of a population are children of tournament winners.

    A child is sqrt(1 - mutation^2) * parent + mutation * noise, which is standard normal if the parent is. The
    first generation costs `population` pictures and is best_of's first candidates. Every later one costs
    `population - elites` pictures. All proposals share one rollout key.

    Settings:
        population (whole number >= 2, default 10): pictures in a generation. He et al. 2025.
        elites (whole number in [1, population), default 3): how many of the best survive unchanged. He et al. 2025.
        mutation (number in (0, 1], default 0.2): share of fresh noise in a child. He et al. 2025.
        tournament (whole number >= 1, default 2): how many are drawn to choose a parent from. Our choice.
    """

    def __init__(
        self, space: Space, key: Key, population: int = 10, elites: int = 3, mutation: float = 0.2, tournament: int = 2
    ) -> None:
        super().__init__()
        self._size: int = whole_number("evolution.population", population, least=2)
        self._elites: int = whole_number("evolution.elites", elites, least=1, most=population - 1)
        self._beta: float = number_in_range("evolution.mutation", mutation, "(0, 1]")
        self._tournament: int = whole_number("evolution.tournament", tournament, least=1)
        self._space, self._key = space, key
        self._rollout = key.fold("candidate", 0)
        self._parents: list[Feedback] = []
        self._places: dict[int, int] = {}
        """Of every parent, by its id, the place among all proposals."""
        self._age = 0

    def propose(self) -> list[Proposal]:
        """The first population, or the children of this one."""
        if not self._parents:
            points = [self._space.draw(self._key.fold("candidate", i)) for i in range(self._size)]
            return [Proposal(x, self._rollout) for x in points]
        return [self._child(self._key.fold("child", self._age, j)) for j in range(self._size - self._elites)]

    def _child(self, key: Key) -> Proposal:
        # The parent is the best of a few that are drawn.
        drawn = (key.fold("tournament").uniform(self._tournament) * len(self._parents)).long().tolist()
        chosen = self._parents[min(drawn)]  # parents are ordered by reward
        parent = chosen.proposal.x
        # Fresh noise is mixed in so that the variance stays 1.
        out: Tensor = math.sqrt(1 - self._beta**2) * parent.double() + self._beta * key.normal(len(parent)).double()
        return Proposal(out.float(), self._rollout, origin=self._places[id(chosen)])

    def learn(self, generation: Sequence[Feedback]) -> None:
        """Elites and children together are the next population, best first."""
        places = self._places | {id(f): self.made + i for i, f in enumerate(generation)}
        self._parents = best_first([*self._parents[: self._elites], *generation])
        self._places = {id(f): places[id(f)] for f in self._parents}
        self._age += 1
