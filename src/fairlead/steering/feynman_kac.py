"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848): particles resampled by potentials of their rewards.

The clean prediction of every particle is scored at some steps. Log-weights grow by the logarithm of a potential, and
the particles are drawn again by their weights when the effective sample size falls. With r_t the reward at a step,
the logarithms are

    difference: tilt * (r_t - r_before)        max: tilt * (best r so far)
    add:        tilt * (sum of r so far)       current: tilt * r_t

If the last step is among `at`, the product of all potentials is corrected to exp(tilt * r(x0)), so that every
potential aims at the tilted distribution. Weights are kept between resamplings, and resampling is systematic. In a
chain after lidar the guided prediction is scored, without a correction, as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, one_of
from fairlead.core.errors import FairleadError
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
        """Reject shares outside the run and unknown potentials."""
        object.__setattr__(self, "at", tuple(self.at) if isinstance(self.at, list | tuple) else (self.at,))
        one_of("feynman_kac.potential", self.potential, POTENTIALS)
        if not self.at:
            raise FairleadError("feynman_kac.at is empty: must name at least one share of the steps in (0, 1].")
        for share in self.at:
            number_in_range("feynman_kac.at", share, "(0, 1]")
        number_in_range("feynman_kac.tilt", self.tilt, "[0, inf)")
        number_in_range("feynman_kac.threshold", self.threshold, "(0, 1]")

    @property
    def couples(self) -> bool:
        """Particles of a group compete."""
        return self.tilt > 0

    def __call__(self, step: Step) -> Step:
        """The same step, its particles resampled at the end where it is due."""
        due = {max(1, round(share * step.steps)) for share in self.at}
        if self.tilt == 0 or step.index + 1 not in due:
            return step
        # Reward r of the clean prediction of every particle.
        step = step.solved()
        assert step.x0 is not None
        r = step.score(step.x0, step.rows).cpu().double()
        scored = r.isfinite()
        r = r.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

        # Log-weights grow by the potential; the last one corrects their product to exp(tilt * r).
        state: dict[str, Tensor] = step.memory.setdefault("feynman_kac", {})
        zero = torch.zeros_like(r)
        log_potential, state["running"] = self._potential(r, state.get("running"))
        paid = state.get("paid", zero)
        if step.index + 1 == step.steps:
            log_w = state.get("log", zero) + (self.tilt * r - paid)
        else:
            log_w = state.get("log", zero) + log_potential
        log_w = torch.where(scored & (log_w > LEAST), log_w, LEAST)
        state["paid"] = paid + log_potential

        # Resampling; what belongs to a particle moves with it.
        chosen, state["log"], ess = self._resampled(step, log_w)
        lowest_ess = torch.minimum(state.get("ess", ess), ess)
        for name in ("running", "paid"):
            state[name] = state[name][chosen]
        state["ess"] = lowest_ess
        step.note("feynman_kac ess", lowest_ess)
        if torch.equal(chosen, step.rows):
            return step
        if "conditioning" in step.memory:
            step.memory["conditioning"] = step.conditioning.take(chosen)
        return step.then(lambda x: x[chosen.to(x.device)])

    def _potential(self, r: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rewards r [B] and what was remembered -> logarithm of the potential [B], and what to remember."""
        if self.potential == "difference":
            return self.tilt * (r if before is None else r - before), r
        if before is not None and self.potential == "max":
            r = torch.maximum(r, before)
        elif before is not None and self.potential == "add":
            r = r + before
        return self.tilt * r, r

    def _resampled(self, step: Step, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights [B] -> whom each particle becomes [B], the weights left [B] and the effective sample size [B]."""
        chosen = step.rows
        ess = torch.zeros_like(log_w)
        for g in dict.fromkeys(step.groups.tolist()):
            own = (step.groups == g).nonzero()[:, 0]
            n = len(own)
            if bool((log_w[own] <= LEAST).all()):
                log_w[own] = 0.0  # no particle has a score, so none is worse than another
            w = torch.softmax(log_w[own], 0)
            # Effective sample size 1 / sum w^2.
            ess[own] = 1 / w.square().sum()
            if float(ess[own[0]]) <= self.threshold * n * (1 + 1e-9):
                # Systematic resampling: one uniform number for all n particles.
                u = step.keys[int(own[0])].fold("feynman_kac").uniform(1)
                drawn = torch.searchsorted(w.cumsum(0), (u + torch.arange(n)) / n).clamp(max=n - 1)
                chosen[own] = own[drawn]
                log_w[own] = 0.0
        return chosen, log_w, ess
