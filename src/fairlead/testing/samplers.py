"""Laws of a sampler: one step, and where many of them lead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fairlead.core.key import Key, normals
from fairlead.core.model import Level
from fairlead.core.samplers import PreviousStep, Sampler
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.testing._check import close, differs, equal, global_randomness_untouched, keys, law

LEVELS = (Level(0.0, 1.0), Level(0.3, 0.7), Level(0.8, 0.6), Level(0.7, 0.3), Level(0.9, 0.1), Level(1.0, 0.0))
"""Of rectified flow, but for one variance-preserving level in the middle: a sampler may only use the two numbers."""


def sampler_laws(sampler: Sampler, *, exact: bool = True) -> None:
    """Checks: inputs are not written to; rows are independent; noise is used exactly where the sampler says so; with
    the clean picture known it lands on it and keeps the noise level on the way; the mixture's moments come out,
    unless the method is not `exact` for a denoiser that predicts a mean.
    """
    with global_randomness_untouched("The sampler"):
        _known_picture(sampler)
        _one_step(sampler)
        if exact:
            _moments(sampler)


def _known_picture(sampler: Sampler) -> None:
    """If the denoiser always says z, then x stays at alpha z + sigma (unit noise), and is z at the end."""
    n = 50_000
    z = torch.tensor(1.7)
    eps = Key.root(3).normal(n, 1, 1, 1)
    x = LEVELS[0].alpha * z + LEVELS[0].sigma * eps
    previous: PreviousStep | None = None
    for i, (at, to) in enumerate(pairwise(LEVELS)):
        noise = Key.root(3).fold(i).normal(n, 1, 1, 1)
        x0 = z.expand_as(x)
        x = sampler(lambda y, level: z.expand_as(y), x, x0, at, to, noise, previous)
        previous = PreviousStep(x0, at)
        rest = (x - to.alpha * z).double()
        mean = float(rest.mean())
        std = float(rest.std())
        law(
            abs(mean) <= 6 * to.sigma / math.sqrt(n) + 1e-6,
            f"Given the picture, x at sigma {to.sigma:g} has mean noise {mean:.3g}.",
        )
        law(
            abs(std - to.sigma) <= 6 * to.sigma / math.sqrt(2 * n) + 1e-6,
            f"Given the picture, x at sigma {to.sigma:g} carries noise of size {std:.4g}.",
        )
    close(x, z.expand_as(x), "Given the picture, the sampler does not end on it", 1e-6)


def _one_step(sampler: Sampler) -> None:
    model = Mixture(size=5, seed=2)
    at = Level(0.4, 0.6)
    to = Level(0.6, 0.4)
    before = Level(0.2, 0.8)
    x, noise, old = (normals(keys(4, name), 1, 1, 5) for name in ("x", "noise", "old"))
    shape = (-1, 1, 1, 5)

    def denoise(y: Tensor, level: Level) -> Tensor:
        return model.gaussians.denoise(y.flatten(1), level).float().view(shape)

    x0 = denoise(x, at)
    previous = PreviousStep(denoise(old, before), before)
    copies = [t.clone() for t in (x, x0, noise, previous.x0)]
    out = sampler(denoise, x, x0, at, to, noise, previous)
    for t, c, name in zip((x, x0, noise, previous.x0), copies, ("x", "x0", "noise", "previous"), strict=True):
        equal(t, c, f"The sampler wrote to {name}")
    equal(sampler(denoise, x, x0, at, to, noise, previous), out, "The same step twice differs")
    for i in range(4):
        own = PreviousStep(previous.x0[i : i + 1], before)
        alone = sampler(denoise, x[i : i + 1], x0[i : i + 1], at, to, noise[i : i + 1], own)
        close(alone[0], out[i], "A row depends on its companions", 1e-6)
    other = sampler(denoise, x, x0, at, to, noise + 1, previous)
    law(differs(other, out) == sampler.stochastic, f"stochastic is {sampler.stochastic}, and the noise says otherwise.")
    if not sampler.stochastic:
        equal(sampler(denoise, x, x0, at, to, torch.empty(0), previous), out, "A deterministic sampler needs noise")


def draw(sampler: Sampler, gaussians: Gaussians, n: int, levels: Sequence[Level]) -> Tensor:
    """[n, d] samples of the mixture by that sampler, from standard normal noise, in float64."""
    d = gaussians.means.shape[1]
    key = Key.root(5).fold("draw")
    x = key.normal(n, d).double()
    previous: PreviousStep | None = None
    for i, (at, to) in enumerate(pairwise(levels)):
        x0 = gaussians.denoise(x, at)
        noise = key.fold(i).normal(n, d).double() if sampler.stochastic else x
        x, previous = sampler(gaussians.denoise, x, x0, at, to, noise, previous), PreviousStep(x0, at)
    return x


def _moments(sampler: Sampler) -> None:
    """Mean and covariance of a two-component mixture, within statistics and a small discretisation error."""
    gaussians = Gaussians(torch.tensor([[1.0, 0.0], [-0.5, 0.8]]), torch.tensor([0.7, 0.3]), 0.4)
    got = draw(sampler, gaussians, 5_000, Mixture().levels(60))
    allowed = 0.07
    gap = gaussians.means - gaussians.mean()
    covariance = (gaussians.weights[:, None] * gap).T @ gap + gaussians.spread**2 * torch.eye(2)
    close(got.mean(0), gaussians.mean(), "The mixture's mean does not come out", allowed)
    close(torch.cov(got.T), covariance, "The mixture's covariance does not come out", allowed)
