"""Bayesian optimisation over mixtures of a few noises; needs the extra `bo` (BoTorch).

Not part of Ma et al. 2025, who do not use it. Built from: linear combinations of Gaussian noises that stay Gaussian
(Bodin et al. 2024, arXiv 2408.08558), weights as the search space (Willis et al. 2025, arXiv 2509.23800), the trust
region of TuRBO (Eriksson et al. 2019), noisy expected improvement from BoTorch. How they are put together, and every
default, is our design. It is a search and not a space, because its seeds are the run's own candidates: the first
corner is the plain sample, the corners together are best_of's first candidates, and a restart draws new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.check import one_of, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space

START, SHORTEST, LONGEST = 0.8, 0.5**7, 1.6
CHOICES, SHORTLIST, SAMPLES, MOST = 1024, 48, 32, 512
"""Points looked at; how many with the highest mean + deviation the acquisition chooses from, by how many samples of it;
evaluations fitted to. Small, so that choosing stays below a twentieth of rendering: experiments/noise_search."""


def angular_chart(u: Tensor) -> Tensor:
    """u [K - 1] in [0, 1] -> weights [K] float64 of unit norm, none negative: sines and cosines of quarter turns."""
    turn = u.double() * (math.pi / 2)
    ones = torch.ones(1, dtype=torch.float64)
    return torch.cat([torch.sin(turn), ones]) * torch.cat([ones, torch.cos(turn).cumprod(0)])


def mix(weights: Tensor, seeds: Tensor) -> Tensor:
    """weights [K] of unit norm, seeds [K, d] standard normal -> [d], standard normal for weights chosen without
    looking.
    """
    out: Tensor = weights.double() @ seeds.double()
    return out.float()


def normal_scores(y: Tensor) -> Tensor:
    """y [n] -> normal quantiles of its ranks [n] float64, equal values averaged: robust against heavy tails."""
    less = (y[:, None] > y).sum(1) + 0.5 * (y[:, None] == y).sum(1)
    out: Tensor = torch.special.ndtri(less.double() / len(y))
    return out


@torch.no_grad()
def _promise(model: Any, w: Tensor, y: Tensor, choices: Tensor) -> Tensor:
    """Posterior mean plus deviation of each choice alone, [n]: by hand, because a joint posterior of all is slow."""
    mean, kernel = model.mean_module.constant, model.covar_module
    noisy = kernel(w).to_dense() + model.likelihood.noise * torch.eye(len(w), dtype=w.dtype)
    root = torch.linalg.cholesky(noisy)
    cross = torch.linalg.solve_triangular(root, kernel(w, choices).to_dense(), upper=False)
    residual = torch.linalg.solve_triangular(root, (y - mean)[:, None], upper=False)
    variance = kernel.outputscale - cross.square().sum(0)
    out: Tensor = mean + (cross.T @ residual)[:, 0] + variance.clamp_min(0).sqrt()
    return out


class BayesOpt(Generations):
    """A Gaussian process over mixtures of a few noises proposes `batch` points at a time.

    The process has a Matern-5/2 kernel with one length per seed, on normal scores of the rewards. Failed pictures
    are left out of it. If it cannot be fitted, the batch is random. Below about four times `seeds` pictures this is
    random search. All proposals share one rollout key. Only ranks matter: the trust region grows after rounds with
    a new best picture, where TuRBO asks for a margin.

    Settings:
        seeds (whole number >= 2, default 16): noises that are mixed, K.
        batch (whole number >= 1, default 4): points proposed at a time.
        init (whole number >= seeds or None, default None): first pictures, the seeds themselves and random
            mixtures; None is twice the seeds.
        weights (signed or positive, default 'signed'): searches the whole sphere of weights or its non-negative
            part.
    """

    def __init__(
        self, space: Space, key: Key, seeds: int = 16, batch: int = 4, init: int | None = None, weights: str = "signed"
    ) -> None:
        super().__init__()
        whole_number("bayes_opt.seeds", seeds, least=2)
        whole_number("bayes_opt.batch", batch, least=1)
        whole_number("bayes_opt.init", init, least=seeds, optional=True)
        one_of("bayes_opt.weights", weights, ("signed", "positive"))
        try:
            import botorch  # noqa: F401
        except ImportError:
            raise FairleadError("bayes_opt needs BoTorch: install it with pip install 'fairlead[bo]'.") from None
        self._space, self._key, self._rollout = space, key, key.fold("candidate", 0)
        self._k, self._q, self._init, self._signed = seeds, batch, init or 2 * seeds, weights == "signed"
        self._round, self._restarts = 0, 0
        self._fitted: tuple[int, dict[str, Any]] = (0, {})
        self._begin([key.fold("candidate", i) for i in range(seeds)])

    def _begin(self, keys: Sequence[Key]) -> None:
        self._seeds = torch.stack([self._space.draw(k) for k in keys])
        self._w = torch.empty(0, self._k, dtype=torch.float64)
        self._answers: list[Feedback] = []
        self._length, self._wins, self._losses, self._fitted = START, 0, 0, (0, {})

    def propose(self) -> list[Proposal]:
        """The corners and random mixtures first, then what the acquisition chooses inside the trust region."""
        key, self._round = self._key.fold("round", self._round), self._round + 1
        if len(self._w) == 0:
            more = [self._random(key.fold(i)) for i in range(self._init - self._k)]
            self._asked = torch.stack([*torch.eye(self._k, dtype=torch.float64), *more])
        else:
            self._asked = self._choose(key)
        return [Proposal(mix(w, self._seeds), self._rollout) for w in self._asked]

    def _random(self, key: Key) -> Tensor:
        if not self._signed:
            return angular_chart(key.uniform(self._k - 1))
        w = key.normal(self._k).double()
        return torch.nn.functional.normalize(w, dim=0)

    def _choose(self, key: Key) -> Tensor:
        values = self._values(self._answers)
        known = values.isfinite()
        y = values[known]
        if len(y) >= 2 and float(y.max()) > float(y.min()):
            newest = known.nonzero()[:, 0][-MOST:]
            try:
                return self._acquire(self._w[newest], normal_scores(values[newest]), key)
            except (RuntimeError, ValueError, ArithmeticError):
                pass
        return torch.stack([self._random(key.fold(i)) for i in range(self._q)])

    def _acquire(self, w: Tensor, y: Tensor, key: Key) -> Tensor:
        from botorch.acquisition import qLogExpectedImprovement
        from botorch.optim import optimize_acqf_discrete
        from botorch.sampling import SobolQMCNormalSampler
        from botorch.utils.sampling import manual_seed

        seed = key.integer() % 2**31
        with manual_seed(seed):
            # A Gaussian process over the weights, fitted to the normal scores of the rewards.
            model, lengths = self._fit(w, y)
            # Candidates inside the trust region around the best; a shortlist by the process itself.
            choices = self._box(w[int(y.argmax())], lengths, seed)
            choices = choices[_promise(model, w, y, choices).topk(min(SHORTLIST, len(choices))).indices]
            # The batch with the largest expected improvement, chosen jointly.
            sampler = SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed)
            acquisition = qLogExpectedImprovement(model, best_f=y.max(), sampler=sampler)
            picked, _ = optimize_acqf_discrete(acquisition, min(self._q, len(choices)), choices, unique=True)
        out: Tensor = picked.detach()
        return out

    def _fit(self, w: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        """The process [n, K] -> [n] and its K lengths. Lengths are learned again once the data doubled."""
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.constraints import GreaterThan
        from gpytorch.kernels import MaternKernel, ScaleKernel
        from gpytorch.likelihoods import GaussianLikelihood
        from gpytorch.mlls import ExactMarginalLogLikelihood
        from gpytorch.priors import GammaPrior

        kernel = ScaleKernel(
            MaternKernel(nu=2.5, ard_num_dims=self._k, lengthscale_prior=GammaPrior(3.0, 6.0)),
            outputscale_prior=GammaPrior(2.0, 0.15),
        )
        noise = GaussianLikelihood(
            noise_prior=GammaPrior(1.1, 0.05), noise_constraint=GreaterThan(1e-4, initial_value=0.1)
        )
        model = SingleTaskGP(w, y[:, None], likelihood=noise, covar_module=kernel, outcome_transform=None)
        size, state = self._fitted
        if state:
            model.load_state_dict(state)
        if not state or len(y) >= 2 * size:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(noise, model), optimizer_kwargs={"options": {"maxiter": 25}})
            self._fitted = (len(y), {k: v.clone() for k, v in model.state_dict().items()})
        model.eval()
        return model, kernel.base_kernel.lengthscale.detach()[0]

    def _box(self, centre: Tensor, lengths: Tensor, seed: int) -> Tensor:
        """Choices [n, K] on the sphere around `centre`, some coordinates moved, none of them asked before."""
        sobol = torch.quasirandom.SobolEngine(2 * self._k, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        u: Tensor = sobol.draw(CHOICES, dtype=torch.float64)
        side = self._length * lengths / lengths.log().mean().exp()
        moved = u[:, : self._k] < min(1.0, 20 / self._k)
        w = centre + moved * side * (u[:, self._k :] - 0.5)
        w = w if self._signed else w.clamp_min(0)
        w = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
        out: Tensor = w[((w @ self._w.T).amax(1) < 1 - 1e-6) & (w.norm(dim=1) > 0.5)]
        return out

    @staticmethod
    def _values(answers: Sequence[Feedback]) -> Tensor:
        """The present rewards [n] float64."""
        return torch.tensor([f.reward for f in answers], dtype=torch.float64)

    def learn(self, generation: Sequence[Feedback]) -> None:
        """Add the answers; grow, shrink or restart the trust region."""
        new, old = self._values(generation), self._values(self._answers)
        new, old = new[new.isfinite()], old[old.isfinite()]
        first = not self._answers
        self._w, self._answers = torch.cat([self._w, self._asked]), [*self._answers, *generation]
        if first:
            return
        # The trust region doubles after three successes, halves after enough failures, and restarts when it is short.
        won = len(new) > 0 and len(old) > 0 and float(new.max()) > float(old.max())
        self._wins, self._losses = (self._wins + 1, 0) if won else (0, self._losses + 1)
        if self._wins == 3:
            self._length, self._wins = min(2 * self._length, LONGEST), 0
        elif self._losses == math.ceil(max(4 / self._q, self._k / self._q)):
            self._length, self._losses = self._length / 2, 0
        if self._length < SHORTEST:
            self._restarts += 1
            self._begin([self._key.fold("seeds", self._restarts, i) for i in range(self._k)])
