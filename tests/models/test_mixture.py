"""The mixture's closed forms against automatic differentiation, quadrature and sampling."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Level, Site
from fairlead.models.mixture import Gaussians, Mixture

MIX = Gaussians(torch.tensor([[1.0, 0.3], [-0.6, 0.8], [0.2, -1.0]]), torch.tensor([2.0, 1.0, 1.0]), 0.5)
LEVELS = [Level(0.0, 1.0), Level(0.3, 0.7), Level(0.8, 0.6), Level(1.0, 0.1), Level(1.0, 14.0)]


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * Key.root(0).normal(16, 2).double()


def clean(n: int) -> torch.Tensor:
    """Samples of the mixture itself."""
    which = torch.searchsorted(MIX.weights.cumsum(0), Key.root(6).uniform(n)).clamp(max=2)
    return MIX.means[which] + MIX.spread * Key.root(7).normal(n, 2).double()


@pytest.mark.parametrize("at", LEVELS)
def test_density_is_the_mixture_of_the_noised_components(at: Level, x: torch.Tensor) -> None:
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    std = math.sqrt(at.alpha**2 * MIX.spread**2 + at.sigma**2)
    own = MixtureSameFamily(
        Categorical(MIX.weights), Independent(Normal(at.alpha * MIX.means, torch.full_like(MIX.means, std)), 1)
    )
    torch.testing.assert_close(MIX.log_density(x, at), own.log_prob(x))


@pytest.mark.parametrize("at", LEVELS)
def test_score_is_the_gradient_of_the_density(at: Level, x: torch.Tensor) -> None:
    x.requires_grad_()
    (slope,) = torch.autograd.grad(MIX.log_density(x, at).sum(), x)
    torch.testing.assert_close(MIX.score(x, at), slope)


@pytest.mark.parametrize("at", LEVELS[1:])
def test_denoiser_is_tweedies_formula(at: Level, x: torch.Tensor) -> None:
    torch.testing.assert_close(MIX.denoise(x, at), (x + at.sigma**2 * MIX.score(x, at)) / at.alpha)


def test_denoiser_at_the_ends(x: torch.Tensor) -> None:
    torch.testing.assert_close(MIX.denoise(x, Level(1.0, 0.0)), x)
    torch.testing.assert_close(MIX.denoise(x, Level(0.0, 1.0)), MIX.mean().expand_as(x))


def test_denoiser_is_the_posterior_mean() -> None:
    """By importance sampling from the prior."""
    z, at, x = clean(200_000), Level(0.6, 0.4), torch.tensor([[0.4, 0.1]], dtype=torch.float64)
    weight = (-(x - at.alpha * z).square().sum(1) / (2 * at.sigma**2)).softmax(0)
    torch.testing.assert_close(MIX.denoise(x, at)[0], weight @ z, rtol=0, atol=0.01)


def test_tilted_is_proportional_to_the_tilt(x: torch.Tensor) -> None:
    slope, at = torch.tensor([1.3, -0.7], dtype=torch.float64), Level(1.0, 0.0)
    ratio = MIX.tilted(slope).log_density(x, at) - MIX.log_density(x, at) - x @ slope
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    constant = MIX.means @ slope + 0.5 * MIX.spread**2 * slope.square().sum()
    torch.testing.assert_close(-ratio[0], (constant + MIX.weights.log()).logsumexp(0))


def test_tilted_moments_by_importance_sampling() -> None:
    slope = torch.tensor([1.3, -0.7], dtype=torch.float64)
    z = clean(200_000)
    weight = (z @ slope).softmax(0)
    tilted = MIX.tilted(slope)
    torch.testing.assert_close(tilted.mean(), weight @ z, rtol=0, atol=0.02)
    gap = tilted.means - tilted.mean()
    covariance = (tilted.weights[:, None] * gap).T @ gap + tilted.spread**2 * torch.eye(2)
    rest = z - weight @ z
    torch.testing.assert_close(covariance, (weight[:, None] * rest).T @ rest, rtol=0, atol=0.03)


def test_as_a_model() -> None:
    model = Mixture(size=3, seed=5)
    assert torch.equal(Mixture(size=3, seed=5).gaussians.means, model.gaussians.means)
    assert not torch.equal(Mixture(size=3, seed=6).gaussians.means, model.gaussians.means)
    z = torch.tensor([-8.0, 0.0, 2.0]).view(1, 1, 1, 3)
    assert model.decode(z)[0, :, 0].tolist() == [[0.0, 0.5, 0.75]] * 3
    with pytest.raises(FairleadError, match="must be positive"):
        Mixture(size=0)
    with pytest.raises(FairleadError, match="no site"):
        model.edit(Site("joint_0", "joint", 0), lambda rows, tokens: tokens)


def test_the_token_moves_the_mixture() -> None:
    from fairlead.testing._check import counting, latents
    from fairlead.testing.models import predict

    model, at = Mixture(size=3), Level(0.4, 0.6)
    shift = torch.tensor([0.3, -0.2, 0.1])
    cond, x = model.encode(["x"] * 2), latents(model, 2)
    with counting(model):
        moved = predict(model, x + at.alpha * shift, at, cond.with_tokens(cond.tokens + shift))
        torch.testing.assert_close(moved, predict(model, x, at, cond) + shift)
