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
from fairlead.core.model import Level
from fairlead.core.steering import Steering, Step


@dataclass(frozen=True)
class RewardGradient(Steering):
    """Moves the clean prediction up the gradient of the reward.

    The gradient is taken wherever a prediction is asked for, also by a look ahead (Heun, demon, svdd). Each costs one
    backward pass and the forward pass that it repeats, one decode and one score. A search with gradients takes the
    shift as given and pays for the prediction once more.

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
        """The same step, every prediction moved up the gradient at the place where it is made."""
        if self.scale == 0:
            return step

        def guided(x: Tensor, at: Level, rows: Tensor) -> Tensor:
            if not self._due(step, at):
                return step.denoise(x, at, rows)
            x0, g = self._slope(step, x, at, rows)
            return x0 + self._shift(g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), at)

        return replace(step, denoise=guided, x0=None if self._due(step, step.at) else step.x0)

    def _due(self, step: Step, at: Level) -> bool:
        """True if a prediction at this level is moved: the step that passes it is due, and it lies in the stretch."""
        above = sum(level.time >= at.time for level in step.levels[:-1])
        index = max(0, above - 1) if step.levels else step.index
        return index % self.every == 0 and self.stop < at.time <= self.start and at.alpha >= 0.01

    def _slope(self, step: Step, x: Tensor, at: Level, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The clean prediction at x and the gradient of its reward in x, [R, C, h, w] each."""
        if not self.jacobian:
            known = step.x0 if x is step.x and at == step.at else None
            x0 = step.denoise(x, at, rows) if known is None else known
            _, g = step.gradient(lambda z: step.score(z, rows), x0)
            return x0, g / at.alpha
        seen: list[Tensor] = []

        def value(y: Tensor) -> Tensor:
            x0 = step.denoise(y, at, rows)
            seen.append(x0.detach())
            return step.score(x0, rows)

        _, g = step.gradient(value, x)
        conditioning = step.memory.get("conditioning")
        outside = x.requires_grad or (conditioning is not None and conditioning.requires_grad)
        if outside and torch.is_grad_enabled():  # a search or `date` differentiates this prediction too
            return step.denoise(x, at, rows), g
        return seen[0], g

    def _shift(self, g: Tensor, at: Level) -> Tensor:
        """Gradient -> what is added to the clean prediction, [R, C, h, w] both."""
        if not self.normalise:
            return self.scale * at.sigma**2 / at.alpha * g
        size = g.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
        return torch.where(size > 0, self.scale * at.sigma * g / size.clamp(min=1e-30), 0 * g)
