"""Samplers against theorems, and the algebra of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning, Level, Model, Rows
from fairlead.core.samplers import PreviousStep, ancestral, consistency, dpmpp_2m, euler, heun
from fairlead.core.sampling import replicas, sample
from fairlead.core.steering import Chain, EarlyPredictions, Steering, Step
from fairlead.models.mixture import Gaussians, Mixture

TWO = Gaussians(torch.tensor([[1.0, 0.3], [-0.6, 0.8]]), torch.tensor([0.6, 0.4]), 0.5)
ONE = Gaussians(torch.tensor([[0.7, -0.4]]), torch.tensor([1.0]), 0.6)


def solve(sampler: Any, gaussians: Gaussians, x: Tensor, levels: Sequence[Level]) -> Tensor:
    previous: PreviousStep | None = None
    for at, to in pairwise(levels):
        x0 = gaussians.denoise(x, at)
        x, previous = sampler(gaussians.denoise, x, x0, at, to, torch.empty(0), previous), PreviousStep(x0, at)
    return x


def flow(steps: int, low: float = 0.0, high: float = 1.0) -> list[Level]:
    """Rectified flow, equal steps of sigma from `high` to `low`."""
    sigmas = np.linspace(high, low, steps + 1)
    return [Level(1 - s, s) for s in sigmas.tolist()]


def even(steps: int) -> list[Level]:
    """Rectified flow, equal steps of log(alpha/sigma), away from both ends: where multistep theory applies."""
    lam = np.linspace(-3, 2, steps + 1)
    return [Level(v, 1 - v) for v in (1 / (1 + np.exp(-lam))).tolist()]


def preserving(steps: int) -> list[Level]:
    """Variance preserving: alpha^2 + sigma^2 = 1."""
    angles = np.linspace(1.4, 0.1, steps + 1)
    return [Level(math.cos(a), math.sin(a)) for a in angles.tolist()]


@cache
def reference(levels: Callable[[int], list[Level]]) -> tuple[Tensor, Tensor]:
    """Start and exact end of 16 trajectories: 512 steps of second order."""
    x = Key.root(1).normal(16, 2).double()
    return x, solve(heun, TWO, x, levels(512))


def order(sampler: Any, levels: Callable[[int], list[Level]]) -> float:
    """Slope of log error against log step size."""
    x, exact = reference(levels)
    counts = (20, 40, 80)
    errors = [float((solve(sampler, TWO, x, levels(n)) - exact).abs().mean()) for n in counts]
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize("levels", [even, preserving])
@pytest.mark.parametrize(("sampler", "expected"), [(euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler: Any, expected: int, levels: Any) -> None:
    assert order(sampler, levels) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(("sampler", "expected"), [(euler, 1), (heun, 2)])
def test_order_over_the_whole_schedule(sampler: Any, expected: int) -> None:
    assert order(sampler, flow) == pytest.approx(expected, abs=0.15)


def test_multistep_is_much_better_than_euler_over_the_whole_schedule() -> None:
    x, exact = reference(flow)
    gap = {s: float((solve(s, TWO, x, flow(40)) - exact).abs().mean()) for s in (euler, dpmpp_2m)}
    assert gap[dpmpp_2m] < 0.25 * gap[euler]


def test_heun_is_the_trapezoid_on_the_velocity() -> None:
    """On rectified flow dx/dsigma = (x - x0) / sigma."""
    x, at, to = Key.root(2).normal(5, 2).double(), Level(0.4, 0.6), Level(0.55, 0.45)

    def velocity(y: Tensor, level: Level) -> Tensor:
        return (y - TWO.denoise(y, level)) / level.sigma

    h = to.sigma - at.sigma
    k1 = velocity(x, at)
    k2 = velocity(x + h * k1, to)
    got = heun(TWO.denoise, x, TWO.denoise(x, at), at, to, torch.empty(0), None)
    torch.testing.assert_close(got, x + h * (k1 + k2) / 2)


def test_multistep_is_the_published_update() -> None:
    """DPM-Solver++ 2M, Lu et al. 2022, Algorithm 2, lines 7 and 8, transcribed."""
    before, at, to = Level(0.3, 0.7), Level(0.45, 0.55), Level(0.7, 0.4)
    x, old = Key.root(3).normal(2, 4, 2).double()
    x0, x0_before = TWO.denoise(x, at), TWO.denoise(old, before)
    lam = [math.log(v.alpha / v.sigma) for v in (before, at, to)]
    h_before, h = lam[1] - lam[0], lam[2] - lam[1]
    r = h_before / h
    d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_before
    expected = to.sigma / at.sigma * x - to.alpha * (math.exp(-h) - 1) * d
    torch.testing.assert_close(
        dpmpp_2m(TWO.denoise, x, x0, at, to, torch.empty(0), PreviousStep(x0_before, before)), expected
    )


def test_multistep_starts_as_euler() -> None:
    x, at, to = Key.root(3).normal(4, 2), Level(0.4, 0.6), Level(0.7, 0.3)
    x0 = TWO.denoise(x, at).float()
    first = dpmpp_2m(TWO.denoise, x, x0, at, to, torch.empty(0), None)
    assert torch.equal(first, euler(TWO.denoise, x, x0, at, to, torch.empty(0), None))


def test_multistep_is_exact_where_the_prediction_is_linear_in_log_snr() -> None:
    """x0(lambda) = a + b lambda has an exact solution; one step of first order misses it, second order is off by
    h^3.
    """
    a, b = 0.7, 0.3

    def error(h: float) -> float:
        lam = [-h, 0.0, h]
        levels = [Level(1 / math.sqrt(1 + math.exp(-2 * v)), 1 / math.sqrt(1 + math.exp(2 * v))) for v in lam]
        x = torch.tensor([1.1], dtype=torch.float64)
        # x(t)/sigma_t = x(s)/sigma_s + int_s^t e^lambda x0(lambda) dlambda
        integral = (a - b) * (math.exp(h) - 1) + b * h * math.exp(h)
        exact = levels[2].sigma * (x / levels[1].sigma + integral)
        x0, previous = (
            torch.tensor([a], dtype=torch.float64),
            PreviousStep(torch.tensor([a - b * h], dtype=torch.float64), levels[0]),
        )
        return float((dpmpp_2m(None, x, x0, levels[1], levels[2], torch.empty(0), previous) - exact).abs())  # type: ignore[arg-type]

    assert math.log2(error(0.2) / error(0.1)) == pytest.approx(3, abs=0.2)


def test_ancestral_step_is_the_exact_posterior() -> None:
    """Given x0, x_at and x_to are jointly Gaussian: the step must have their conditional mean and variance."""
    at, to, x0 = Level(0.3, 0.7), Level(0.6, 0.4), torch.zeros(1, dtype=torch.float64)
    ratio = at.alpha / to.alpha
    kernel = at.sigma**2 - ratio**2 * to.sigma**2
    x = torch.tensor([1.0], dtype=torch.float64)
    mean = float(ancestral(None, x, x0, at, to, torch.zeros(1, dtype=torch.float64), None))  # type: ignore[arg-type]
    up = float(ancestral(None, x, x0, at, to, torch.ones(1, dtype=torch.float64), None)) - mean  # type: ignore[arg-type]
    assert mean == pytest.approx(ratio * to.sigma**2 / at.sigma**2)
    assert up**2 == pytest.approx(kernel * to.sigma**2 / at.sigma**2)


@pytest.mark.parametrize("sampler", [heun, ancestral])
def test_one_gaussian_comes_out_exactly(sampler: Any) -> None:
    """With one Gaussian the ODE is a known affine map, and the SDE has known moments."""
    n, levels = 4000, flow(100)
    x = Key.root(4).normal(n, 2).double()
    previous: PreviousStep | None = None
    y = x
    for i, (at, to) in enumerate(pairwise(levels)):
        x0 = ONE.denoise(y, at)
        y, previous = (
            sampler(ONE.denoise, y, x0, at, to, Key.root(4).fold(i).normal(n, 2).double(), previous),
            PreviousStep(x0, at),
        )
    if sampler is heun:
        torch.testing.assert_close(y, ONE.means + ONE.spread * x, rtol=0, atol=2e-3)
    else:
        assert (y.mean(0) - ONE.mean()).abs().max() < 5 * ONE.spread / math.sqrt(n)
        assert (torch.cov(y.T) - ONE.spread**2 * torch.eye(2)).abs().max() < 0.04


# the loop and the algebra of a step


class Counting(Steering):
    """A steering that sees every step of a run."""

    couples = False

    def __init__(self, act: Callable[[Step], Step]) -> None:
        self._act = act
        self.seen: list[Step] = []

    def __call__(self, step: Step) -> Step:
        self.seen.append(step)
        return self._act(step)


def run(
    act: Callable[[Step], Step] = lambda s: s, sampler: Any = euler, steps: int = 4, n: int = 3, **more: Any
) -> tuple[Tensor, float, list[Step]]:
    """Samples of the mixture, their NFE, and the steps as the steering saw them."""
    model, meter, steering = Mixture(size=4), Meter(), Counting(act)
    model.meter(meter)
    keys = tuple(Key.root(8).fold(i) for i in range(n))
    x = normals(tuple(k.fold("init") for k in keys), *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        out = sample(
            model,
            sampler,
            x,
            model.encode(["x"] * n),
            model.levels(steps),
            keys,
            meter,
            steering=steering,
            score=lambda z, cond: model.decode(z).mean((1, 2, 3)),
            **more,
        )
    return out, meter.spent.nfe, steering.seen


PLAIN = {s.__name__: run(sampler=s) for s in (euler, heun, dpmpp_2m, ancestral)}  # type: ignore[attr-defined]


def test_evaluations_of_each_sampler() -> None:
    assert {k: v[1] / 3 for k, v in PLAIN.items()} == {"euler": 4, "heun": 7, "dpmpp_2m": 4, "ancestral": 4}


def test_the_loop_is_the_sampler_step_by_step() -> None:
    model = Mixture(size=4)
    x = PLAIN["dpmpp_2m"][2][0].x
    previous: PreviousStep | None = None
    for at, to in pairwise(model.levels(4)):
        x0 = model.gaussians.denoise(x.flatten(1), at).float().view_as(x)
        x, previous = dpmpp_2m(None, x, x0, at, to, torch.empty(0), previous), PreviousStep(x0, at)  # type: ignore[arg-type]
    torch.testing.assert_close(x, PLAIN["dpmpp_2m"][0])


def test_steps_say_where_they_are() -> None:
    seen = PLAIN["ancestral"][2]
    levels = Mixture().levels(4)
    assert [(s.at, s.to, s.index, s.steps) for s in seen] == [(a, b, i, 4) for i, (a, b) in enumerate(pairwise(levels))]
    assert len({k for s in seen for k in s.keys}) == 12
    assert all(torch.equal(s.groups, torch.arange(3)) for s in seen)
    assert all(s.noise.shape == s.x.shape for s in seen)
    assert PLAIN["euler"][2][0].noise.numel() == 0


def test_noise_belongs_to_its_sample() -> None:
    few = run(sampler=ancestral, n=2)[2]
    for a, b in zip(PLAIN["ancestral"][2], few, strict=True):
        assert torch.equal(a.noise[:2], b.noise)
        assert a.keys[:2] == b.keys
    first = PLAIN["ancestral"][2][0]
    assert not torch.equal(first.noise[0], first.noise[1])
    assert not torch.equal(first.noise, PLAIN["ancestral"][2][1].noise)
    assert not torch.equal(first.noise[0], first.keys[0].normal(1, 1, 4)), "steering's keys are not the loop's"


def test_solving_is_paid_once() -> None:
    assert run(lambda s: s.solved().solved())[1] == 12
    assert run(lambda s: s.solved().guide(lambda x, at, rows: 0 * x).solved())[1] == 12
    assert torch.equal(run(lambda s: s.solved())[0], PLAIN["euler"][0])


def test_guiding_before_and_after_solving_is_the_same() -> None:
    def shift(x: Tensor, at: Level, rows: Tensor) -> Tensor:
        return 0.1 * x + at.sigma

    for sampler in (euler, heun, dpmpp_2m):
        before = run(lambda s: s.guide(shift), sampler)
        after = run(lambda s: s.solved().guide(shift), sampler)
        assert torch.equal(before[0], after[0])
        assert before[1] == after[1] == PLAIN[sampler.__name__][1]  # type: ignore[attr-defined]
        assert not torch.equal(before[0], PLAIN[sampler.__name__][0])  # type: ignore[attr-defined]


def test_a_gradient_is_per_row_and_charged_as_often_as_the_network_saw_it() -> None:
    meter = Meter()
    found: list[tuple[Tensor, Tensor, float]] = []

    class Asks(Steering):
        def __call__(self, step: Step) -> Step:
            def f(x: Tensor) -> Tensor:
                meter.charge(Cost(forwards=2 * len(x)))
                return x.flatten(1).square().sum(1)

            before = meter.spent.backwards
            value, slope = step.gradient(f, step.x)
            found.append(
                (value - step.x.flatten(1).square().sum(1), slope - 2 * step.x, meter.spent.backwards - before)
            )
            return step

    model = Mixture(size=4)
    model.meter(meter)
    keys = tuple(Key.root(0).fold(i) for i in range(3))
    x = normals(keys, *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        sample(model, euler, x, model.encode(["x"] * 3), model.levels(4), keys, meter, steering=Asks())
    assert len(found) == 4
    for value, slope, backwards in found:
        assert not value.any()
        assert not slope.any()
        assert not value.requires_grad
        assert backwards == 6


def test_early_predictions_are_those_of_the_nearest_step() -> None:
    levels = [Level(1 - t, t) for t in (1.0, 0.75, 0.5, 0.25, 0.0)]
    early = EarlyPredictions(levels, (0.9, 0.7, 0.375, 0.1, 0.26))
    for i, at in enumerate(levels[:-1]):
        early(_solved(i, at))
    assert {wanted: float(x0) for wanted, x0 in early.found.items()} == {0.9: 0, 0.7: 1, 0.375: 2, 0.1: 3, 0.26: 3}


def _solved(index: int, at: Level) -> Step:
    """A step whose clean prediction is its index."""
    x = torch.full((1, 1, 1, 1), float(index))
    return Step(
        x=x,
        at=at,
        to=Level(1.0, 0.0),
        index=index,
        steps=4,
        keys=(Key.root(0),),
        groups=torch.zeros(1, dtype=torch.int64),
        noise=torch.empty(0),
        memory={},
        denoise=lambda y, level, rows: y,
        schedule=lambda steps: [],
        score=lambda z, rows: torch.zeros(len(z)),
        sampler=euler,
    )


def test_a_consistency_step_is_the_prediction_with_fresh_noise() -> None:
    x, x0, noise = Key.root(4).normal(3, 2, 1, 1, 2)
    out = consistency(lambda y, at: y, x, x0, Level(0.3, 0.7), Level(0.6, 0.4), noise, None)
    torch.testing.assert_close(out, 0.6 * x0 + 0.4 * noise)
    assert torch.equal(consistency(lambda y, at: y, x, x0, Level(0.3, 0.7), Level(0.9, 0.0), noise, None), 0.9 * x0)
    assert consistency.stochastic


def test_two_guides_add() -> None:
    one = run(lambda s: s.guide(lambda x, at, rows: 0.5 * torch.ones_like(x)))
    two = run(lambda s: s.guide(lambda x, at, rows: 0.2 + 0 * x).guide(lambda x, at, rows: 0.3 + 0 * x))
    torch.testing.assert_close(one[0], two[0])


def test_then_applies_in_order_and_forgets_history() -> None:
    out = run(lambda s: s.then(lambda x: 2 * x).then(lambda x: x + 1))[0]
    assert not torch.equal(out, PLAIN["euler"][0])
    last: list[Tensor] = []

    def keep(step: Step) -> Step:
        return step.then(lambda x: (last.append(x), x)[1])

    multi, _, seen = run(keep, dpmpp_2m)
    first_order = run(sampler=euler)[0]
    assert torch.equal(multi, first_order), "without history every multistep step is an Euler step"
    assert torch.equal(last[-1], multi)
    assert all("previous" not in s.memory for s in seen)
    order = run(lambda s: s.then(lambda x: 2 * x).then(lambda x: x + 1) if s.index == 3 else s)[0]
    torch.testing.assert_close(order, 2 * first_order + 1)


def test_with_noise_replaces_it() -> None:
    quiet = run(lambda s: s.with_noise(torch.zeros_like(s.noise)), ancestral)[0]
    assert not torch.equal(quiet, PLAIN["ancestral"][0])
    own = run(lambda s: s.with_noise(s.noise.clone()), ancestral)[0]
    assert torch.equal(own, PLAIN["ancestral"][0])


def test_advance_moves_copies_without_disturbing_the_step() -> None:
    moved: list[Tensor] = []

    def act(step: Step) -> Step:
        with pytest.raises(RuntimeError, match="solved"):
            step.advance(step.noise, step.rows)
        step = step.solved()
        rows = torch.tensor([2, 2, 0])
        moved.append(step.advance(step.noise[rows], rows))
        return step

    for sampler in (ancestral, heun, dpmpp_2m):
        moved.clear()

        def play(step: Step, sampler: Any = sampler) -> Step:
            return act(step if sampler is ancestral else step.with_noise(torch.zeros_like(step.x)))

        out, nfe, seen = run(play, sampler)
        torch.testing.assert_close(out, PLAIN[sampler.__name__][0])  # type: ignore[attr-defined]
        ends = [s.x for s in seen[1:]] + [out]
        for m, x in zip(moved, ends, strict=True):
            torch.testing.assert_close(m, x[torch.tensor([2, 2, 0])])
        assert nfe == PLAIN[sampler.__name__][1] + (9 if sampler is heun else 0)  # type: ignore[attr-defined]


def test_peek_is_a_short_ode_and_is_paid_for() -> None:
    peeked: list[Tensor] = []

    def act(step: Step) -> Step:
        if step.index == 1:
            peeked.append(step.peek(step.x, step.at, step.rows, 4))
        return step

    _, nfe, seen = run(act)
    assert nfe == 12 + 9, "three levels are left from sigma 3/4"
    torch.testing.assert_close(peeked[0], PLAIN["euler"][0])
    assert torch.equal(seen[1].x, PLAIN["euler"][2][1].x)


def test_peek_sees_guidance() -> None:
    """A steering behind another in a chain looks ahead with what the first made of the denoiser."""
    ahead: list[Tensor] = []

    def look(step: Step) -> Step:
        if step.index == 0:
            ahead.append(step.peek(step.x, step.at, step.rows, 4))
        return step

    def guide(step: Step) -> Step:
        return step.guide(lambda x, at, rows: torch.ones_like(x))

    run(look)
    run(lambda s: look(guide(s)))
    torch.testing.assert_close(ahead[0], PLAIN["euler"][0])
    torch.testing.assert_close(ahead[1], run(guide)[0])


def test_score_decodes_the_rows_it_is_told() -> None:
    got: list[Tensor] = []

    def act(step: Step) -> Step:
        got.append(step.score(step.x[[1, 1]], torch.tensor([1, 1])))
        return step

    run(act, steps=1)
    assert got[0].shape == (2,)
    assert got[0][0] == got[0][1]


def test_a_step_without_reward_says_so() -> None:
    model, meter, keys = Mixture(), Meter(), (Key.root(0),)

    def act(step: Step) -> Step:
        step.score(step.x, step.rows)
        return step

    x, cond, watch = normals(keys, *model.latent), model.encode(["x"]), Counting(act)
    with meter.grant(INFINITE), pytest.raises(RuntimeError, match="needs a reward"):
        sample(model, euler, x, cond, model.levels(2), keys, meter, steering=watch)


def test_chain_is_composition() -> None:
    order: list[str] = []
    a = Counting(lambda s: (order.append("a"), s.guide(lambda x, at, rows: x))[1])
    b = Counting(lambda s: (order.append("b"), s)[1])
    run(Chain((a, b)), steps=2)
    assert order == ["a", "b", "a", "b"]
    assert not Chain((a, b)).couples
    assert Chain(()).couples is False
    b.couples = True
    assert Chain((a, b)).couples


def test_rows_tell_whose_row_is_whose() -> None:
    assert replicas(torch.tensor([0, 1, 0, 0, 1, 2])).tolist() == [0, 0, 1, 2, 1, 0]
    seen: list[Rows] = []

    class Watched(Mixture):
        def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
            seen.append(rows)
            return super().predict(x, at, cond, rows)

    model: Model = Watched(size=2)
    meter, keys = Meter(), tuple(Key.root(1).fold(i) for i in range(3))

    def act(step: Step) -> Step:
        rows = torch.tensor([2, 0, 2])
        step.denoise(step.x[rows], step.at, rows)
        return step

    with meter.grant(INFINITE):
        x = normals(keys, *model.latent)
        sample(
            model,
            euler,
            x,
            model.encode(["x"] * 3),
            model.levels(2),
            keys,
            meter,
            steering=Counting(act),
            groups=torch.tensor([5, 5, 9]),
        )
    assert [r.base.tolist() for r in seen] == [[2, 0, 2], [0, 1, 2]] * 2
    assert [r.group.tolist() for r in seen] == [[9, 5, 9], [5, 5, 9]] * 2
    assert seen[0].replica.tolist() == [0, 0, 1]
    assert [r.step for r in seen] == [0, 0, 1, 1]
    assert all(r.steps == 2 and bool(r.conditional.all()) for r in seen)
    assert seen[0].level == model.levels(2)[0]
    doubled = seen[0].doubled()
    assert doubled.base.tolist() == [2, 0, 2, 2, 0, 2]
    assert doubled.conditional.tolist() == [False] * 3 + [True] * 3
