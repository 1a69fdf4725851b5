"""Random search: independent draws from the prior, the best one wins (Ma et al. 2025, arXiv 2501.09732, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.core.check import whole_number
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Proposal, Space


class BestOf:
    """Draws candidates independently until the budget ends, or until there are `n` of them.

    Candidate i depends on the run's seed and on i alone, so the best of 64 contains the best of 32. Candidate 0 is
    the plain sample of the seed. This is the reference that every other search must beat at equal cost.

    Settings:
        n (whole number >= 1 or None, default None): how many candidates to draw; None draws until the budget ends.
    """

    wants_gradient = False
    independent = True
    """No candidate depends on the answers about earlier ones."""

    def __init__(self, space: Space, key: Key, n: int | None = None) -> None:
        self._n: int | None = whole_number("best_of.n", n, least=1, optional=True)
        self._space, self._key = space, key
        self._asked = 0

    def ask(self, n: int) -> list[Proposal]:
        """The next draws, at most n."""
        if self._n is not None:
            n = min(n, self._n - self._asked)
        keys = [self._key.fold("candidate", self._asked + i) for i in range(n)]
        self._asked += len(keys)
        return [Proposal(self._space.draw(key), key) for key in keys]

    def tell(self, feedback: Sequence[Feedback]) -> None:
        """Nothing to learn: draws are independent."""
