"""Adam on the point itself (Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019).

The gradient-based competitor of Pereira Neto et al. 2025: the gradient of the reward through decoder, sampler and
network, with steps computed again on the way back. What is recorded is the picture whose reward was measured, so the
best so far is kept before the step. The weights never receive gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space
from fairlead.searches._population import PATIENCE, Anchor


class Adam(Generations):
    """Moves one point up the gradient of the reward, once per round, starting from the plain sample.

    Needs a differentiable reward. A picture costs its evaluations twice, because steps are computed again on the
    way back. If a reward or gradient is not finite, the search returns to the last good point with half the rate;
    after three failures in a row it ends.

    Settings:
        rate (number > 0, default 0.01): step size per coordinate, in units of the space.
        beta1 (number in [0, 1), default 0.9): decay of the mean of gradients. Kingma and Ba 2015.
        beta2 (number in [0, 1), default 0.999): decay of the mean of squared gradients. Kingma and Ba 2015.
        eps (number >= 0, default 1e-08): added to the root of the second moment. Kingma and Ba 2015.
        decay (number >= 0, default 0.0): decoupled weight decay; shrinks the point, in the space `embedding` the
            shift. Loshchilov and Hutter 2019.
        clip (number > 0 or None, default None): largest norm of the gradient; None does not clip.
        penalty (number >= 0, default 0.0): weight of the mean square distance from the start, which is taken off
            the reward.
        iterations (whole number >= 1 or None, default None): how many rounds to run; None runs until the budget
            ends.
    """

    wants_gradient = True

    def __init__(
        self,
        space: Space,
        key: Key,
        rate: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        decay: float = 0.0,
        clip: float | None = None,
        penalty: float = 0.0,
        iterations: int | None = None,
    ) -> None:
        super().__init__()
        self._rate = float(number_in_range("adam.rate", rate, "(0, inf)"))
        self._eps = float(number_in_range("adam.eps", eps, "[0, inf)"))
        self._beta1: float = number_in_range("adam.beta1", beta1, "[0, 1)")
        self._beta2: float = number_in_range("adam.beta2", beta2, "[0, 1)")
        self._decay = float(number_in_range("adam.decay", decay, "[0, inf)"))
        self._clip: float | None = number_in_range("adam.clip", clip, "(0, inf)", optional=True)
        self._last: int | None = whole_number("adam.iterations", iterations, least=1, optional=True)
        self._rollout = key.fold("candidate", 0)
        start = space.draw(self._rollout)
        self._anchor = Anchor(start, float(number_in_range("adam.penalty", penalty, "[0, inf)")))
        self._x = self._good = start.double()
        self._m = torch.zeros_like(self._x)
        self._v = torch.zeros_like(self._x)
        self._direction: Tensor | None = None
        self._age = self._steps = self._failed = 0

    def propose(self) -> list[Proposal]:
        """The point as it stands."""
        if self._failed == PATIENCE or self._age == self._last:
            return []
        return [Proposal(self._x.float(), self._rollout)]

    def learn(self, generation: Sequence[Feedback]) -> None:
        """One step up the gradient, or back to where the last one was finite."""
        self._age += 1
        gradient = self._anchor.gradient(generation[0])
        if gradient is None:
            self._failed += 1
            self._rate /= 2
            self._x = self._good if self._direction is None else self._stepped(self._good)
            return
        self._failed = 0
        self._good = self._x
        g = gradient
        if self._clip is not None:
            g = g * min(1.0, self._clip / max(float(g.norm()), 1e-30))

        # Moments m and v of the gradient, and their bias correction (Kingma and Ba 2015).
        self._steps += 1
        self._m = self._beta1 * self._m + (1 - self._beta1) * g
        self._v = self._beta2 * self._v + (1 - self._beta2) * g.square()
        m_hat = self._m / (1 - self._beta1**self._steps)
        v_hat = self._v / (1 - self._beta2**self._steps)
        self._direction = torch.where(m_hat == 0, m_hat, m_hat / (v_hat.sqrt() + self._eps))

        # The step, with decoupled decay (Loshchilov and Hutter 2019).
        self._x = self._stepped(self._x)

    def _stepped(self, x: Tensor) -> Tensor:
        """X [d] one step along the last direction; x itself where that would not be finite."""
        assert self._direction is not None
        out: Tensor = (1 - self._rate * self._decay) * x + self._rate * self._direction
        return out if math.isfinite(float(out.square().sum())) else x
