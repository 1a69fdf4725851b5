"""Particle guidance is the gradient of its kernel, moves a group apart and nobody else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Level
from fairlead.core.samplers import euler
from fairlead.core.steering import Step
from fairlead.models.mixture import Mixture
from fairlead.steering.particle_guidance import ParticleGuidance, force
from fairlead.testing.steerings import _run


def step(x: Tensor, at: Level) -> Step:
    """Four samples of one group at a level, of a model that predicts 0."""
    return Step(
        x=x,
        at=at,
        to=Level(1.0, 0.0),
        index=0,
        steps=1,
        keys=tuple(Key.root(0).fold(i) for i in range(len(x))),
        groups=torch.zeros(len(x), dtype=torch.int64),
        noise=torch.empty(0),
        memory={},
        denoise=lambda y, level, rows: torch.zeros_like(y),
        schedule=lambda steps: [],
        score=lambda z, rows: torch.zeros(len(z)),
        sampler=euler,
    )


def test_the_force_is_the_gradient_of_the_kernel() -> None:
    x = Key.root(1).normal(3, 2, 1, 2).double().float()
    d = torch.cdist(x.flatten(1), x.flatten(1))
    h = torch.stack([d[i][d[i] > 0].median() ** 2 / math.log(4) for i in range(3)])

    def minus_kernels(i: int, z: torch.Tensor) -> torch.Tensor:
        return -sum((-(z - x[j]).square().sum() / h[i]).exp() for j in range(3) if j != i)

    for i in range(3):
        z = x[i].clone().requires_grad_()
        (slope,) = torch.autograd.grad(minus_kernels(i, z), z)
        torch.testing.assert_close(force(x, [[0]] * 3)[i], slope, rtol=1e-4, atol=1e-5)


def test_groups_and_pairs() -> None:
    x = Key.root(2).normal(5, 1, 1, 6)
    both = force(x, [[0], [1], [0], [1], [2]])
    assert bool((both[4] == 0).all())
    torch.testing.assert_close(both[[0, 2]], force(x[[0, 2]], [[0], [0]]))
    a, b = x[0], x[2]
    assert float(((both[0] - both[2]) * (a - b)).sum()) > 0, "two samples repel"
    assert force(x[[0, 0]], [[0], [0]]).isfinite().all(), "twins stay where they are"


def test_samples_of_a_group_end_further_apart() -> None:
    model = Mixture(size=6, seed=4)

    def spread(scale: float) -> float:
        return float(_run(model, ParticleGuidance(scale), euler)[0].flatten(1)[:2].diff(dim=0).norm())

    assert spread(0.02) > spread(0.0) * 1.01


NOISY = Level(0.0729, 0.99734)
"""Where 50 steps of DDIM begin."""


@pytest.mark.parametrize("at", [NOISY, Level(0.6, 0.8), Level(1.0, 13.0)], ids=["noisy", "late", "exploding"])
def test_the_strength_is_that_of_the_released_code(at: Level) -> None:
    """noise - coeff sigma/alpha phi, on the latents of DDIM, seen from the clean prediction."""
    z, coeff = Key.root(3).normal(4, 1, 2, 6), 30.0
    ready = step(z * math.hypot(at.alpha, at.sigma), at)
    shift = ParticleGuidance(coeff)(ready).denoise(ready.x, at, ready.rows)
    s = at.sigma / at.alpha
    noise = -coeff * s * force(z, [[0]] * 4)
    torch.testing.assert_close(shift, -s * noise, rtol=1e-4, atol=1e-5)


def test_it_stays_finite_where_nothing_but_noise_is_left() -> None:
    ready = step(Key.root(3).normal(4, 1, 2, 6), Level(0.0, 1.0))
    shift = ParticleGuidance()(ready).denoise(ready.x, ready.at, ready.rows)
    torch.testing.assert_close(shift, 30.0 * 14.6**2 * force(ready.x, [[0]] * 4))


def test_what_it_declares() -> None:
    """The engine never cuts a group, and a group of one is a warning."""
    assert ParticleGuidance.couples
    assert ParticleGuidance.needs_company
    assert (ParticleGuidance().scale, ParticleGuidance().until) == (30.0, 0.5)


def test_wrong_settings() -> None:
    with pytest.raises(FairleadError, match="must be a finite number"):
        ParticleGuidance(-1.0)


def test_that_it_couples_is_no_setting() -> None:
    with pytest.raises(TypeError):
        ParticleGuidance(couples=False)  # type: ignore[call-arg]
