"""First-order search: the reward's gradient with respect to the initial noise, through the whole sampler.

Ma et al. 2025 (arXiv 2501.09732) compare it in their appendix and count a backward pass as three forwards; the step
rule is not given there. The tangent step at fixed norm and halving the step after a failure are our design.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space


def tangent(x: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """x, gradient [d] -> x moved by rate*|x| along the gradient's part orthogonal to x, at the norm of x, [d].

    A gradient that is not finite, or has no such part, leaves x as it is.
    """
    p, g = x.double(), gradient.double()
    g = g - (g @ p) * p / (p @ p)
    size = float(g.norm())
    if not 0 < size < float("inf"):
        return x
    moved = p + rate * p.norm() * g / size
    out: Tensor = moved * p.norm() / moved.norm()
    return out.float()


class FirstOrder(Generations):
    """Gradient ascent on the sphere of the noise's norm, with several chains side by side.

    Needs a differentiable reward. A picture costs its evaluations twice, because each step is computed again on the
    way back to hold the activations of one step only, and as many backward rows. Chain 0 starts at the plain
    sample. A chain keeps its rollout key, and starts anew where the gradient vanishes.

    Settings:
        rate (number in (0, 1], default 0.1): tangent of the angle of a step; 0.1 is about 6 degrees. Our choice.
        chains (whole number >= 1, default 1): how many points move side by side.
        halve (true or false, default True): a chain that got worse returns to its best point with half the rate.
            Our choice.
    """

    wants_gradient = True

    def __init__(self, space: Space, key: Key, rate: float = 0.1, chains: int = 1, halve: bool = True) -> None:
        super().__init__()
        number_in_range("first_order.rate", rate, "(0, 1]")
        whole_number("first_order.chains", chains, least=1)
        self._space, self._key, self._restarts = space, key, 0
        keys = [key.fold("candidate", i) for i in range(chains)]
        self._next = [Proposal(space.draw(k), k) for k in keys]
        if not all(bool(p.x.any()) for p in self._next):
            raise FairleadError(
                "first_order keeps the norm of a point, but the plain point of this space is zero: use another search."
            )
        self._rates, self._halve = [rate] * chains, halve
        self._best: list[Feedback | None] = [None] * chains
        self._best_at = [0] * chains
        """The places of the best points among all proposals."""

    def propose(self) -> list[Proposal]:
        """The next point of every chain."""
        return list(self._next)

    def learn(self, generation: Sequence[Feedback]) -> None:
        """One tangent step per chain, from where it stands or, if that was worse, from its best."""
        for i, f in enumerate(generation):
            # A chain that got worse goes back to its best point with half the rate.
            best = self._best[i]
            if best is None or f.value > best.value:
                best = self._best[i] = f
                self._best_at[i] = self.made + i
            elif self._halve:
                f = best
                self._rates[i] /= 2
            # A step along the tangent of the sphere; where the gradient vanishes the chain starts anew.
            x = f.proposal.x
            moved = x if f.gradient is None else tangent(x, f.gradient, self._rates[i])
            origin = self._best_at[i] if f is best else self.made + i
            self._next[i] = self._fresh(i) if moved is x else Proposal(moved, f.proposal.key, origin=origin)

    def _fresh(self, i: int) -> Proposal:
        self._restarts += 1
        key = self._key.fold("restart", self._restarts)
        self._best[i] = None
        return Proposal(self._space.draw(key), key)
