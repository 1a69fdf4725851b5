"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848): particles resampled by potentials of their rewards.

The clean prediction of every particle is scored at some steps; log-weights grow by the potential and particles are
drawn again by them when their effective number falls. `difference`: tilt*(r_t - r_before); `max`: tilt times the best
so far; `add`: tilt times the sum so far; `current`: tilt*r_t. With the last step among `at` the product of all
potentials is corrected to exp(tilt*r(x0)), so that the tilted distribution is the target of each. Weights are kept
between resamplings and drawn systematically. In a chain after lidar the prediction scored is the guided one, not
corrected for, as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError, unknown
from fairlead.core.steering import Steering, Step

POTENTIALS = ("difference", "max", "add", "current")
LEAST = -1e30
"""Logarithm of no weight: of a particle without a score, until it is replaced by another."""


@dataclass(frozen=True)
class FeynmanKac(Steering):
    """Resamples the particles of a group by potentials of their rewards; the particles are the run's --group.

    The smallest effective sample size is recorded with every candidate as `feynman_kac ess`. Needs a sampler with
    noise, or copies stay copies. Costs no evaluation, but len(at) decodes and scores of every particle.

    Settings:
        tilt (number >= 0, default 10.0): inverse temperature of the reward, lambda; 0 switches the method off.
            Singhal et al. 2025: 10 with ImageReward.
        potential (difference, max, add or current, default 'difference'): how rewards become weights. Singhal et
            al. 2025.
        at (numbers in (0, 1], default (0.2, 0.4, 0.6, 0.8)): shares of the run's steps after which particles are
            weighed; 1 is the finished picture.
        threshold (number in (0, 1], default 0.5): particles are drawn again when the effective sample size is at
            most this share of them; 1 always.
    """

    tilt: float = 10.0
    potential: str = "difference"
    at: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    threshold: float = 0.5

    switched_off = {"tilt": 0.0}
    noticeable = {"tilt": 1000.0}
    stochastic = True
    decides = "rows"
    needs_company = True

    def __post_init__(self) -> None:
        """Refuse shares outside the run and unknown potentials."""
        object.__setattr__(self, "at", tuple(self.at) if isinstance(self.at, list | tuple) else (self.at,))
        if self.potential not in POTENTIALS:
            raise unknown("feynman_kac potential", str(self.potential), POTENTIALS)
        if not self.at or not all(isinstance(share, int | float) and 0 < share <= 1 for share in self.at):
            raise FairleadError(f"feynman_kac.at is {self.at!r}: give shares of the steps above 0 and at most 1.")
        if not (isinstance(self.tilt, int | float) and 0 <= self.tilt < float("inf")):
            raise FairleadError(f"feynman_kac.tilt is {self.tilt!r}: give a number of at least 0.")
        if not 0 < self.threshold <= 1:
            raise FairleadError(
                f"feynman_kac.threshold is {self.threshold!r}: give a share of the particles, 1 for always."
            )

    @property
    def couples(self) -> bool:
        """Particles of a group compete."""
        return self.tilt > 0

    def __call__(self, step: Step) -> Step:
        """The same step, its particles resampled at the end where it is due."""
        due = {max(1, round(share * step.steps)) for share in self.at}
        if self.tilt == 0 or step.index + 1 not in due:
            return step
        step = step.solved()
        assert step.x0 is not None
        value = step.score(step.x0, step.rows).cpu().double()
        known, value = value.isfinite(), value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        state: dict[str, Tensor] = step.memory.setdefault("feynman_kac", {})
        zero = torch.zeros_like(value)
        gain, state["running"] = self._potential(value, state.get("running"))
        log = state.get("log", zero) + (
            gain if step.index + 1 < step.steps else self.tilt * value - state.get("paid", zero)
        )
        log = torch.where(known & (log > LEAST), log, LEAST)
        state["paid"] = state.get("paid", zero) + gain
        chosen, state["log"], ess = self._resampled(step, log)
        lowest = torch.minimum(state.get("ess", ess), ess)
        for name in ("running", "paid"):
            state[name] = state[name][chosen]
        state["ess"] = lowest
        step.note("feynman_kac ess", lowest)
        if torch.equal(chosen, step.rows):
            return step
        if "conditioning" in step.memory:
            step.memory["conditioning"] = step.conditioning.take(chosen)
        return step.then(lambda x: x[chosen.to(x.device)])

    def _potential(self, value: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rewards [B] now and what was remembered -> logarithm of the potential [B], and what to remember."""
        if self.potential == "difference":
            return self.tilt * (value if before is None else value - before), value
        if before is not None and self.potential == "max":
            value = torch.maximum(value, before)
        elif before is not None and self.potential == "add":
            value = value + before
        return self.tilt * value, value

    def _resampled(self, step: Step, log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights [B] -> whom each particle becomes [B], the weights left [B] and the effective sample size [B]."""
        chosen, ess = step.rows, torch.zeros_like(log)
        for g in dict.fromkeys(step.groups.tolist()):
            own = (step.groups == g).nonzero()[:, 0]
            if bool((log[own] <= LEAST).all()):
                log[own] = 0.0  # nobody has a score: nobody is worse than another
            w, n = torch.softmax(log[own], 0), len(own)
            ess[own] = 1 / w.square().sum()
            if float(ess[own[0]]) <= self.threshold * n * (1 + 1e-9):
                u = step.keys[int(own[0])].fold("feynman_kac").uniform(1)
                drawn = torch.searchsorted(w.cumsum(0), (u + torch.arange(n)) / n).clamp(max=n - 1)
                chosen[own], log[own] = own[drawn], 0.0
        return chosen, log, ess
