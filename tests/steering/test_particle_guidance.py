"""Particle guidance is the gradient of its kernel, moves a group apart and nobody else."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.steering.particle_guidance import ParticleGuidance, force
from fairlead.testing.steerings import Mixture, _run, euler


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

    assert spread(2.0) > spread(0.0) * 1.01


def test_wrong_settings() -> None:
    with pytest.raises(FairleadError, match="must be a finite number"):
        ParticleGuidance(-1.0)


def test_that_it_couples_is_no_setting() -> None:
    with pytest.raises(TypeError):
        ParticleGuidance(couples=False)  # type: ignore[call-arg]
