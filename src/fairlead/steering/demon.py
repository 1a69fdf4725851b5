"""Demon (Yeh, Lee and Chen, ICLR 2025, arXiv 2410.05760): each step uses a weighted sum of K scored noises.

At every step, K noises lead to K candidates for the next state. The clean picture that each candidate leads to is
estimated and scored. The scores become weights, and the weighted sum of the noises is scaled to the norm sqrt(N) of
a Gaussian vector. The step is then taken with this noise. No gradient is needed, so any reward can be used.

The schedule, the solver, the defaults and the estimate by the full ODE are those of the paper. These parts are not:

- estimates from fewer evaluations (`few`, `clean`, `sibling`);
- plain ODE steps between steered steps (`every`);
- the score of a candidate whose reward is not a number (`failed`);
- a single ODE step from noise levels above `start`;
- the solver `sampler`.

The method maximises the reward; it does not sample from a distribution tilted by the reward. Use `--watch` with a
second reward to see whether the first one is exploited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, one_of, whole_number
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.key import normals
from fairlead.core.model import Level
from fairlead.core.people import Enough
from fairlead.core.samplers import euler
from fairlead.core.sde import LOW, Sde, at_ratios, karras, ratio
from fairlead.core.sibling import ModelRef
from fairlead.core.steering import Steering, Step
from fairlead.steering._rollout import ESTIMATES, curve_of, look_ahead, scoring_moves
from fairlead.steering._synthesis import FLAT, WEIGHTS, synthesis, weights

TAUS = ("adaptive", "adaptive_first")
SOLVERS = ("sde", "sampler")
FAILED = ("mean", "worst", "error")
START = 14.648
"""Default for the largest ratio sigma/alpha of the schedule: the largest one of Stable Diffusion."""


@dataclass(frozen=True)
class Demon(Steering):
    """Combine the noise of every step from K scored candidates, and continue with this one trajectory.

    A step costs 2 + k * (1 + cost of the estimate) evaluations of one sample. Where sigma/alpha is below `stop`, the
    sample follows the plain ODE. `k=1` is the plain SDE and `beta=0` is the plain ODE.

    Settings:
        k (whole number >= 0, default 16): candidate noises per step, K; 0 switches the method off. Yeh et al. 2025.
        beta (number >= 0, default 0.1): strength of the noise of the SDE. Yeh et al. 2025.
        weights (tanh or boltzmann, default 'tanh'): how scores become weights; `boltzmann` with tau=0 is the best
            of K. Yeh et al. 2025.
        tau (number >= 0, adaptive or adaptive_first, default 'adaptive'): temperature of the weights; `adaptive` is
            the spread of this step's scores, `adaptive_first` that of the first step. Yeh et al. 2025.
        estimate (ode, few, clean or sibling, default 'ode'): how the clean picture of a candidate is estimated. `ode`
            integrates the ODE with Heun's method (published), `few` with a few Euler steps. `clean` takes the
            model's prediction, which costs one evaluation. `sibling` asks a distilled model.
        look (whole number >= 1 or None, default None): length of the estimate. `ode` takes at most look + 1 Heun
            steps of two evaluations each; `few` and `sibling` take `look` evaluations. None is 20 for `ode`, 4 for
            `few` and 1 for `sibling`.
        sibling (name of a model or None, default None): the distilled model of estimate='sibling'; it is used
            without guidance.
        tail (whole number >= 1, default 18): sets the number of plain ODE steps below `stop`. It is tail + 1 from
            the largest possible noise level and smaller from lower ones.
        stop (number >= 0, default 0.11): ratio sigma/alpha below which no step is steered. Yeh et al. 2025.
        start (number > 0.002, default 14.648): largest ratio sigma/alpha of the schedule; the default is that of
            Stable Diffusion. Yeh et al. 2025.
        every (whole number >= 1, default 1): every n-th step is steered; the others follow the ODE. Ours.
        solver (sde or sampler, default 'sde'): `sde` replaces the run's noise levels by the Karras schedule with
            the same number of steps. `sampler` keeps the run's levels and its stochastic sampler (ours).
        failed (mean, worst or error, default 'mean'): what happens if the reward of a candidate is not a number:
            use the mean or the worst score of the others, or stop with an error. Ours.
    """

    k: int = 16
    beta: float = 0.1
    weights: str = "tanh"
    tau: float | str = "adaptive"
    estimate: str = "ode"
    look: int | None = None
    sibling: ModelRef | None = None
    tail: int = 18
    stop: float = 0.11
    start: float = START
    every: int = 1
    solver: str = "sde"
    failed: str = "mean"

    switched_off = {"k": 0}
    cheaper = (
        {"estimate": "few"},
        {"k": 8, "estimate": "few"},
        {"k": 8, "estimate": "few", "look": 2},
        {"k": 8, "estimate": "clean"},
        {"k": 4, "estimate": "clean"},
        {"k": 4, "estimate": "clean", "every": 2},
        {"k": 2, "estimate": "clean", "every": 4},
    )
    compares = True
    asks = True  # a person may stop the questions about a sample; the plain ODE then leads to the preview shown
    decides = "noise"

    def __post_init__(self) -> None:
        """Reject settings outside their range."""
        whole_number("demon.k", self.k, least=0)
        number_in_range("demon.beta", self.beta, "[0, inf)")
        one_of("demon.weights", self.weights, WEIGHTS)
        if isinstance(self.tau, str):
            one_of("demon.tau", self.tau, TAUS)
        else:
            number_in_range("demon.tau", self.tau, "[0, inf)")
        one_of("demon.estimate", self.estimate, ESTIMATES)
        whole_number("demon.look", self.look, least=1, optional=True)
        whole_number("demon.tail", self.tail, least=1)
        number_in_range("demon.stop", self.stop, "[0, inf)")
        number_in_range("demon.start", self.start, f"({LOW}, inf)")
        whole_number("demon.every", self.every, least=1)
        one_of("demon.solver", self.solver, SOLVERS)
        one_of("demon.failed", self.failed, FAILED)
        if (self.estimate == "sibling") != (self.sibling is not None):
            raise FairleadError(
                f"demon.estimate is {self.estimate!r} and demon.sibling is {self.sibling!r}. The estimate 'sibling' "
                "needs the name of a distilled model in demon.sibling. Leave it out for every other estimate."
            )

    @property
    def least_moves(self) -> int:
        """15: the shortest published schedule has 16 points. 0 where the run's own levels are used."""
        return 15 if self.k and self.solver == "sde" else 0

    @property
    def siblings(self) -> tuple[ModelRef, ...]:
        """The distilled model of estimate='sibling', or none."""
        return () if self.sibling is None else (self.sibling,)

    def grid(self, levels: Sequence[Level], schedule: Callable[[int], Sequence[Level]]) -> Sequence[Level]:
        """The Karras schedule with as many moves as `levels`; below `stop` it is replaced by that of the plain ODE."""
        if self.k == 0 or self.solver == "sampler":
            return levels
        # The Karras schedule starts at the run's first level, but at most at `start`.
        sigma_max = min(ratio(levels[0]), self.start)
        sigmas = karras(sigma_max, LOW, len(levels) - 1)
        # Below `stop` no step is steered, and the plain ODE has its own schedule, whose length follows from `tail`.
        end = next((i for i, sigma in enumerate(sigmas[:-1]) if sigma < self.stop), None)
        if end is not None:
            sigmas = sigmas[:end] + karras(sigmas[end], LOW, scoring_moves(sigmas[end], self.tail))
        # If the run starts above `start` (flow models start at pure noise), one step of the ODE leads down to it.
        grid = at_ratios(curve_of(schedule), sigmas)
        if ratio(levels[0]) > 1.001 * sigma_max:
            return [levels[0], *grid]
        return [levels[0], *grid[1:]]

    def __call__(self, step: Step) -> Step:
        """The step with the combined noise, solved by the SDE or by the run's sampler."""
        if self.k == 0:
            return step
        if self.solver == "sampler":
            return self._in_own_sampler(step)
        if ratio(step.at) > 1.001 * self.start:
            return replace(step, sampler=euler)
        if step.index == step.steps - 1:
            alpha = step.to.alpha
            # The grid ends at a small noise level, where x is alpha times the clean sample.
            step = step.then(lambda x: x / alpha)
        steered = self.beta > 0 and self._steers(step)
        step = replace(step, sampler=Sde(self.beta if steered else 0.0))
        return self._with_combined_noise(step) if steered else step

    def _in_own_sampler(self, step: Step) -> Step:
        if not step.sampler.stochastic:
            raise FairleadError(
                "demon.solver is 'sampler', but the sampler of this run draws no noise. Use --sampler ancestral."
            )
        if step.to.sigma == 0 or not self._steers(step):
            return step
        return self._with_combined_noise(step)

    def _steers(self, step: Step) -> bool:
        return ratio(step.at) >= self.stop and step.index % self.every == 0

    def _with_combined_noise(self, step: Step) -> Step:
        """The step with z*, made from K candidates of every sample."""
        step = step.solved()
        b = len(step.x)
        k = self.k
        shape = step.x.shape[1:]
        # K noises z_k per sample, each drawn from its own key.
        keys = tuple(key.fold("demon", i) for key in step.keys for i in range(k))
        z = normals(keys, *shape).to(step.x.device).view(b, k, *shape)
        if k == 1:
            return step.with_noise(synthesis(z, z.new_ones(b, 1)))
        # Rewards v_k of the clean samples to which the candidates lead.
        finished: Tensor = step.memory.setdefault("demon_done", torch.zeros(b, dtype=torch.bool))
        with torch.no_grad():
            v = self._values(step, z, finished)
            # Weights b_k from the rewards, and z* = sqrt(N) sum b_k z_k / |sum b_k z_k|.
            z_star = synthesis(z, weights(v, self.weights, self._tau(step, v)).to(z))
        if not bool(finished.any()):
            return step.with_noise(z_star)
        # A person has stopped the questions about some samples: these follow the ODE or keep their sampler's noise.
        if self.solver == "sde":
            beta = torch.where(finished, 0.0, self.beta).view(-1, 1, 1, 1)
            return replace(step.with_noise(z_star), sampler=Sde(beta.to(z_star)))
        keep = finished.to(z_star.device).view(-1, 1, 1, 1)
        return step.with_noise(torch.where(keep, step.noise, z_star))

    def _values(self, step: Step, z: Tensor, finished: Tensor) -> Tensor:
        """Noises z [B, K, C, h, w] -> rewards [B, K] float64, 0 if finished. May mark samples as finished."""
        k = self.k
        v = torch.zeros(len(z), k, dtype=torch.float64)
        active = (~finished).nonzero()[:, 0]
        if len(active) == 0:
            return v
        rows = active.repeat_interleave(k)
        candidates = step.advance(z[active].flatten(0, 1), rows)
        x0 = look_ahead(step, candidates, rows, self.estimate, self.look, self.sibling)
        for i, row in enumerate(active.tolist()):
            try:
                v[row] = self._scores(step, x0[i * k : i * k + k], row)
            except Enough:
                finished[row] = True
        return v

    def _scores(self, step: Step, x0: Tensor, row: int) -> Tensor:
        """The K scores of one sample, float64 on the CPU. `failed` decides what replaces a score that is not finite."""
        v = step.score(x0, torch.full((self.k,), row)).cpu().double()
        known = v[v.isfinite()]
        if len(known) == 0 or (len(known) < self.k and self.failed == "error"):
            first = int((~v.isfinite()).nonzero()[0, 0])
            raise RewardError(
                f"At step {step.index} of demon the reward of candidate {first} is {float(v[first]):g}; {len(known)} "
                f"of {self.k} candidates have a finite reward. Fix the reward and resume the run. If at least one "
                "reward is finite, demon.failed='mean' also continues."
            )
        replacement = known.mean() if self.failed == "mean" else known.min()
        return torch.where(v.isfinite(), v, replacement)

    def _tau(self, step: Step, v: Tensor) -> Tensor:
        """Temperatures tau [B]: fixed, the standard deviation of these rewards, or the first one above zero."""
        if not isinstance(self.tau, str):
            return torch.full((len(v),), float(self.tau), dtype=torch.float64)
        spread = v.std(1)
        if self.tau == "adaptive":
            return spread
        first: Tensor = step.memory.setdefault("demon_tau", torch.zeros_like(spread))
        first[:] = torch.where((first == 0) & (spread >= FLAT), spread, first)
        return first.clone()
