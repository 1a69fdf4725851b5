"""Demon (Yeh, Lee, Chen, ICLR 2025, arXiv 2410.05760): the noise of every step is made from K scored ones.

Each of K noises gives a candidate next state, each state is taken to a clean picture and scored, and the noises are
added up with weights made of their scores; the sum is stretched to the norm sqrt(N) of a Gaussian and the step taken
again with it. No gradient, so any reward will do. Schedule, solver, defaults and the full-rollout estimate as
published. Inferred or ours: the estimates from fewer steps, the ODE between asked steps, what a missing score counts,
one step of the ODE from levels above `start`, the run's own sampler. It climbs, it does not sample a tilted
distribution: watch a held-out reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError, RewardError, unknown
from fairlead.core.key import normals
from fairlead.core.model import Level
from fairlead.core.people import Enough
from fairlead.core.samplers import euler
from fairlead.core.sde import LOW, Sde, at_ratios, karras, ratio
from fairlead.core.sibling import ModelRef
from fairlead.core.steering import Steering, Step
from fairlead.steering._rollout import ESTIMATES, inner, look_ahead, scoring_moves
from fairlead.steering._synthesis import FLAT, WEIGHTS, synthesis, weights

TAUS = ("adaptive", "adaptive_first")
SOLVERS = ("sde", "sampler")
FAILED = ("mean", "worst", "error")
START = 14.648
"""Noisiest ratio sigma/alpha: that of Stable Diffusion."""


@dataclass(frozen=True)
class Demon(Steering):
    """K candidates a step, their noises joined by their scores; one trajectory is kept.

    `weights` are tanh (signed) or boltzmann (with `tau=0` the best of K); `tau` is a number, `adaptive` (the spread of the
    step's scores) or `adaptive_first` (of the first step's). `estimate` says how a candidate is looked at: `ode` by Heun
    with up to `look` + 1 moves of two evaluations, `few` by `look` evaluations (4 if left out) on the model's own spacing,
    `clean` by one, `sibling` by one (or up to `look`) of the distilled model that `sibling` names, unguided. Each step
    costs 2 + `k`*(1 + that), the last part of the way below the ratio `stop` is plain ODE.

    `solver` `sde` walks the Karras schedule with the run's number of steps and noise of strength `beta`, from ratio `start`
    at most; `sampler` leaves the run's own levels and stochastic sampler. `every` n-th step is steered, the others
    follow the ODE. A candidate without a score counts as the `mean` of the others, or the `worst`, or is an `error`.
    `k=1` is the plain SDE, `beta=0` the plain ODE, `k=0` switches it off.
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
    compares = True
    """Asks for the rewards of exactly those candidates that compete."""
    asks = True
    """A person may give them; when they have seen enough of a sample, the ODE takes it to where its preview was."""
    decides = "noise"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for name, value, known in (
            ("weights", self.weights, WEIGHTS),
            ("estimate", self.estimate, ESTIMATES),
            ("solver", self.solver, SOLVERS),
            ("failed", self.failed, FAILED),
        ):
            if value not in known:
                raise unknown(f"demon.{name}", str(value), known)
        if isinstance(self.tau, str) and self.tau not in TAUS:
            raise unknown("demon.tau", self.tau, TAUS)
        for name, least in (("k", 0), ("look", 1), ("tail", 1), ("every", 1)):
            value = getattr(self, name)
            if (value is not None or name != "look") and (type(value) is not int or value < least):
                raise FairleadError(f"demon.{name} is {value!r}: give a whole number of at least {least}.")
        for name, low in (("beta", 0.0), ("tau", 0.0), ("stop", 0.0), ("start", LOW)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and low <= value < math.inf and (name != "start" or value > low)
            if not number and not (name == "tau" and isinstance(value, str)):
                raise FairleadError(
                    f"demon.{name} is {value!r}: give a finite number {'above' if low else 'of at least'} {low:g}."
                )
        if (self.estimate == "sibling") != (self.sibling is not None):
            raise FairleadError(
                f"demon.estimate is {self.estimate!r} and demon.sibling {self.sibling!r}: a sibling estimate needs the name of a "
                "distilled model, the others need none."
            )

    @property
    def least_moves(self) -> int:
        """The published schedules have 16 points and more; 0 on the run's own levels."""
        return 15 if self.k and self.solver == "sde" else 0

    @property
    def siblings(self) -> tuple[ModelRef, ...]:
        """The model that looks ahead, if it is another one."""
        return () if self.sibling is None else (self.sibling,)

    def grid(self, levels: Sequence[Level], schedule: Callable[[int], Sequence[Level]]) -> Sequence[Level]:
        """As many moves on the Karras schedule, cut at `stop` and ended by the ODE's own; pure noise comes before."""
        if self.k == 0 or self.solver == "sampler":
            return levels
        high = min(ratio(levels[0]), self.start)
        way = karras(high, LOW, len(levels) - 1)
        cut = next((i for i, s in enumerate(way[:-1]) if s < self.stop), None)
        if cut is not None:
            way = way[:cut] + karras(way[cut], LOW, scoring_moves(way[cut], self.tail))
        out = at_ratios(inner(schedule), way)
        return [levels[0], *out] if ratio(levels[0]) > 1.001 * high else [levels[0], *out[1:]]

    def __call__(self, step: Step) -> Step:
        """The step with the joined noise, in the SDE's or the run's own solver."""
        if self.k == 0:
            return step
        if self.solver == "sampler":
            if not step.sampler.stochastic:
                raise FairleadError(
                    "demon.solver is 'sampler' and this run's draws no noise: choose --sampler ancestral."
                )
            return self._steered(step) if step.to.sigma > 0 and self._acts(step) else step
        if ratio(step.at) > 1.001 * self.start:
            return replace(step, sampler=euler)
        if step.index == step.steps - 1:
            alpha = step.to.alpha
            step = step.then(lambda x: x / alpha)
        acts = self.beta > 0 and self._acts(step)
        step = replace(step, sampler=Sde(self.beta if acts else 0.0))
        return self._steered(step) if acts else step

    def _acts(self, step: Step) -> bool:
        return ratio(step.at) >= self.stop and step.index % self.every == 0

    def _steered(self, step: Step) -> Step:
        """K candidates of every sample in one batch, their scores, the joined noise."""
        step, k = step.solved(), self.k
        keys = tuple(key.fold("demon", i) for key in step.keys for i in range(k))
        noise = normals(keys, *step.x.shape[1:]).to(step.x.device).view(len(step.x), k, *step.x.shape[1:])
        if k == 1:
            return step.with_noise(synthesis(noise, noise.new_ones(len(noise), 1)))
        done: Tensor = step.memory.setdefault("demon_done", torch.zeros(len(step.x), dtype=torch.bool))
        values = torch.zeros(len(step.x), k, dtype=torch.float64)
        with torch.no_grad():
            live = (~done).nonzero()[:, 0]
            rows = live.repeat_interleave(k)
            x0 = self._look(step, noise[live].flatten(0, 1), rows) if len(live) else noise[live]
            for i, b in enumerate(live.tolist()):
                try:
                    values[b] = self._scores(step, x0[i * k : i * k + k], b)
                except Enough:
                    done[b] = True
            joined = synthesis(noise, weights(values, self.weights, self._tau(step, values)).to(noise))
        if bool(done.any()) and self.solver == "sde":
            beta = torch.where(done, 0.0, self.beta).view(-1, 1, 1, 1)
            return replace(step.with_noise(joined), sampler=Sde(beta.to(joined)))
        keep = done.to(joined.device).view(-1, 1, 1, 1)
        return step.with_noise(torch.where(keep, step.noise, joined) if bool(done.any()) else joined)

    def _look(self, step: Step, noise: Tensor, rows: Tensor) -> Tensor:
        return look_ahead(step, step.advance(noise, rows), rows, self.estimate, self.look, self.sibling)

    def _scores(self, step: Step, x0: Tensor, b: int) -> Tensor:
        """The K scores of sample b, float64 on the CPU; those without a number replaced."""
        values = step.score(x0, torch.full((self.k,), b)).cpu().double()
        known = values[values.isfinite()]
        if len(known) == 0 or (len(known) < self.k and self.failed == "error"):
            first = int((~values.isfinite()).nonzero()[0, 0])
            raise RewardError(
                f"At step {step.index} demon got {float(values[first]):g} for candidate {first} and {len(known)} numbers for "
                f"{self.k}: mend the reward and resume, or set demon.failed where some have one."
            )
        return torch.where(values.isfinite(), values, known.mean() if self.failed == "mean" else known.min())

    def _tau(self, step: Step, values: Tensor) -> Tensor:
        """Temperatures [B]: fixed, the spread now, or the first spread that was one."""
        if not isinstance(self.tau, str):
            return torch.full((len(values),), float(self.tau), dtype=torch.float64)
        spread = values.std(1)
        if self.tau == "adaptive":
            return spread
        first: Tensor = step.memory.setdefault("demon_tau", torch.zeros_like(spread))
        first[:] = torch.where((first == 0) & (spread >= FLAT), spread, first)
        return first.clone()
