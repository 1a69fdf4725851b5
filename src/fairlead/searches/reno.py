"""ReNO: reward-based noise optimisation for one-step models (Eyring et al. 2024, arXiv 2406.04312).

Gradient ascent with Nesterov momentum on the initial noise, gradient clipped hard, and a regulariser that keeps the norm where
that of normal noise is: the negative logarithm of the density of its norm, |z|^2/2 - (d-1) ln |z|, least at sqrt(d-1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space
from fairlead.searches._population import Anchor, not_negative, positive, whole


class Reno(Generations):
    """Steps of at most `rate` * `clip` each, before momentum, on the noise of the plain sample; 50 of them in the paper.

    The paper's constants are for 16,384 numbers and its own sum of rewards, of which it takes the best picture by the
    reward alone, as any run here does. In `product` the shift of the embedding moves too, without the regulariser. Needs
    a differentiable reward. After a reward or gradient that is not finite it ends. A picture costs its evaluations twice.
    """

    wants_gradient = True

    def __init__(
        self,
        space: Space,
        key: Key,
        rate: float = 5.0,
        momentum: float = 0.9,
        clip: float = 0.1,
        regularisation: float = 0.01,
        iterations: int | None = 50,
    ) -> None:
        super().__init__()
        self._rate, self._clip = positive("reno.rate", rate), positive("reno.clip", clip)
        if not 0 <= momentum < 1:
            raise FairleadError(f"reno.momentum is {momentum!r}: give a number from 0 up to but not 1.")
        self._momentum, self._weight = momentum, not_negative("reno.regularisation", regularisation)
        self._left = whole("reno.iterations", iterations)
        self._rollout = key.fold("candidate", 0)
        start = space.draw(self._rollout)
        self._normal = start != 0  # a coordinate that starts at zero is a shift, not noise
        if not bool(self._normal.any()):
            raise FairleadError(
                "reno regularises the norm of the noise, and the plain point of this space is zero: use space noise or "
                "product, or search adam."
            )
        self._anchor = Anchor(start, 0.0)
        self._x = start.double()
        self._speed = torch.zeros_like(self._x)

    def propose(self) -> list[Proposal]:
        """The point as it stands."""
        return [] if self._left == 0 else [Proposal(self._x.float(), self._rollout)]

    def learn(self, generation: Sequence[Feedback]) -> None:
        """One Nesterov step down the loss -reward + regulariser."""
        self._left = None if self._left is None else self._left - 1
        up = self._anchor.gradient(generation[0])
        if up is None:
            self._left = 0
            return
        z = self._x * self._normal
        d = int(self._normal.sum())
        slope = self._weight * z * (1 - (d - 1) / float(z.square().sum())) - up
        slope = slope * min(1.0, self._clip / max(float(slope.norm()), 1e-30))
        self._speed = self._momentum * self._speed + slope
        self._x = self._x - self._rate * (slope + self._momentum * self._speed)
