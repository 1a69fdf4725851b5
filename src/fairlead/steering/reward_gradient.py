"""Gradient of the reward through the clean prediction: DPS (Chung et al. 2023), universal guidance (Bansal et al.
2023).

The score moves by scale * d r(D(x)) / dx, so the clean prediction by scale * sigma^2/alpha of it. Biased: D(x) is the
mean of what x may become, and a reward of the mean is not a mean reward. Ours: `normalise`, which makes one number
fit all rewards; where alpha is below 0.01 (the first step of rectified flow) the formula has no number and nothing is
done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.steering import Steering, Step


@dataclass(frozen=True)
class RewardGradient(Steering):
    """Moves the clean prediction up the gradient of the reward.

    A guided step costs one backward pass and the forward pass that it repeats, one decode and one score. A search
    with gradients takes the shift as given and pays for the prediction once more.

    Settings:
        scale (number >= 0, default 0.1): strength; with `normalise` the shift has root mean square scale * sigma,
            without it the published formula holds (15 for SD 1.5, 3 for SDXL with ImageReward); 0 switches the
            method off.
        normalise (true or false, default True): makes one scale fit all rewards. Ours.
        every (whole number >= 1, default 1): every n-th step is guided.
        start (number in (stop, 1], default 1.0): flow time from which steps are guided.
        stop (number in [0, start), default 0.0): flow time down to which steps are guided.
        jacobian (true or false, default True): `false` leaves the network out of the gradient, as if dD/dx were
            1/alpha, and costs no backward pass through it.
    """

    scale: float = 0.1
    normalise: bool = True
    every: int = 1
    start: float = 1.0
    stop: float = 0.0
    jacobian: bool = True

    switched_off = {"scale": 0.0}
    differentiates = True

    def __post_init__(self) -> None:
        """Reject settings outside their range."""
        whole_number("reward_gradient.every", self.every, least=1)
        number_in_range("reward_gradient.scale", self.scale, "[0, inf)")
        if not 0 <= self.stop < self.start <= 1:
            raise FairleadError(
                f"reward_gradient.stop is {self.stop!r} and reward_gradient.start is {self.start!r}: "
                "must be flow times 0 <= stop < start <= 1."
            )

    def __call__(self, step: Step) -> Step:
        """The same step, its prediction solved on the way, moved up the gradient."""
        at = step.at
        due = step.index % self.every == 0 and self.stop < at.time <= self.start and at.alpha >= 0.01
        if self.scale == 0 or not due:
            return step
        if self.jacobian:
            seen: list[Tensor] = []

            def value(x: Tensor) -> Tensor:
                x0 = step.denoise(x, at, step.rows)
                seen.append(x0.detach())
                return step.score(x0, step.rows)

            _, g = step.gradient(value, step.x)
            if not step.x.requires_grad:  # else a search differentiates this step, and what was seen is cut off from it
                step = replace(step, x0=seen[0])
        else:
            step = step.solved()
            assert step.x0 is not None
            _, g = step.gradient(lambda x0: step.score(x0, step.rows), step.x0)
            g = g / at.alpha
        g = g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        if self.normalise:
            size = g.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
            shift = torch.where(size > 0, self.scale * at.sigma * g / size.clamp(min=1e-30), 0 * g)
        else:
            shift = self.scale * at.sigma**2 / at.alpha * g
        return step.guide(lambda x, level, rows: shift[rows.to(shift.device)])
