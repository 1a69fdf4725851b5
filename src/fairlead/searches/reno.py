"""ReNO: reward-based noise optimisation for one-step models (Eyring et al. 2024, arXiv 2406.04312).

Gradient ascent with Nesterov momentum on the initial noise, gradient clipped hard, and a regulariser that keeps the
norm where that of normal noise is: the negative logarithm of the density of its norm, |z|^2/2 - (d-1) ln |z|, least
at sqrt(d-1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space
from fairlead.searches._population import Anchor


class Reno(Generations):
    """Gradient ascent with Nesterov momentum on the noise of the plain sample, with its norm regularised.

    The constants of the paper are for 16,384 numbers and its own sum of rewards. As in the paper, the best picture
    is chosen by the reward alone. In the space `product` the shift of the embedding moves too, without the
    regulariser. Needs a differentiable reward. The search ends after a reward or gradient that is not finite. A
    picture costs its evaluations twice.

    Settings:
        rate (number > 0, default 5.0): step size; a step is at most rate * clip before momentum. Eyring et al.
            2024.
        momentum (number in [0, 1), default 0.9): Nesterov momentum. Eyring et al. 2024.
        clip (number > 0, default 0.1): largest norm of the gradient. Eyring et al. 2024.
        regularisation (number >= 0, default 0.01): weight of the negative log density of the norm of the noise.
            Eyring et al. 2024.
        iterations (whole number >= 1 or None, default 50): how many steps to take; None runs until the budget ends.
            Eyring et al. 2024.
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
        self._rate = float(number_in_range("reno.rate", rate, "(0, inf)"))
        self._momentum: float = number_in_range("reno.momentum", momentum, "[0, 1)")
        self._clip = float(number_in_range("reno.clip", clip, "(0, inf)"))
        self._weight = float(number_in_range("reno.regularisation", regularisation, "[0, inf)"))
        self._left: int | None = whole_number("reno.iterations", iterations, least=1, optional=True)
        self._rollout = key.fold("candidate", 0)
        start = space.draw(self._rollout)
        self._normal = start != 0  # a coordinate that starts at zero is a shift, not noise
        if not bool(self._normal.any()):
            raise FairleadError(
                "reno regularises the norm of the noise, but the plain point of this space is zero: "
                "use the space noise or "
                "product, or the search adam."
            )
        self._anchor = Anchor(start, 0.0)
        self._x = start.double()
        self._velocity = torch.zeros_like(self._x)

    def propose(self) -> list[Proposal]:
        """The point as it stands."""
        return [] if self._left == 0 else [Proposal(self._x.float(), self._rollout)]

    def learn(self, generation: Sequence[Feedback]) -> None:
        """One Nesterov step down the loss -reward + regulariser."""
        if self._left is not None:
            self._left -= 1
        reward_gradient = self._anchor.gradient(generation[0])
        if reward_gradient is None:
            self._left = 0
            return
        # Gradient of the loss: the regulariser |z|^2/2 - (d-1) ln |z|, less the reward.
        z = self._x * self._normal
        d = int(self._normal.sum())
        g = self._weight * z * (1 - (d - 1) / float(z.square().sum())) - reward_gradient
        g = g * min(1.0, self._clip / max(float(g.norm()), 1e-30))
        # Nesterov momentum.
        self._velocity = self._momentum * self._velocity + g
        self._x = self._x - self._rate * (g + self._momentum * self._velocity)
