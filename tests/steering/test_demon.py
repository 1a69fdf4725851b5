"""Demon: weights, noise, SDE, schedule, cost and the exact worlds; specification, section 7, by its numbers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.intervention import installed
from fairlead.core.key import Key, normals
from fairlead.core.model import Level, level_at
from fairlead.core.samplers import ancestral, euler
from fairlead.core.sampling import sample
from fairlead.core.sde import LOW, Sde, arrive, at_ratios, karras, ratio
from fairlead.core.steering import Chain, Steering
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.run import engine, registry
from fairlead.run.dry_run import CountingModel
from fairlead.run.executor import Local
from fairlead.run.spec import Part
from fairlead.steering._rollout import scoring_moves
from fairlead.steering._synthesis import synthesis, weights
from fairlead.steering.demon import START, Demon
from fairlead.steering.dfs import DepthFirst
from fairlead.steering.paths import Paths
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec
from steered import steered

ROOT = Key.root(31)
ONE = torch.ones(1, dtype=torch.float64)
FLOW = [Level(i / 10, 1 - i / 10) for i in range(11)]
VP = [Level(math.cos(a), math.sin(a)) for a in (math.pi / 2 * (1 - i / 10) for i in range(11))]
VE = [Level(1.0, s) for s in (80.0, 20.0, 5.0, 1.0, 0.2, 0.0)]


class Curved(Mixture):
    """The mixture on another curve."""

    def __init__(self, curve: Sequence[Level], gaussians: Gaussians) -> None:
        super().__init__(gaussians=gaussians)
        self._curve = curve[1:-1]

    def levels(self, steps: int) -> Sequence[Level]:
        ratios = [START * (1 - i / steps) for i in range(steps)]
        return [*at_ratios(self._curve, ratios), Level(1.0, 0.0)]


def gaussian(size: int = 1, spread: float = 1.0) -> Mixture:
    return Mixture(gaussians=Gaussians(torch.zeros(1, size), torch.ones(1), spread))


def linear(z: Tensor) -> Tensor:
    return z.flatten(1)[:, 0]


def run(
    steering: Steering,
    *,
    model: Any = None,
    n: int = 4,
    steps: int = 31,
    sampler: Any = euler,
    score: Callable[[Tensor], Tensor] = linear,
    **more: Any,
) -> tuple[Tensor, Cost]:
    """n samples, with what they cost."""
    model = gaussian(16) if model is None else model
    return steered(steering, model=model, n=n, steps=steps, sampler=sampler, score=score, **more)


def adaptive(values: Tensor, kind: str = "tanh") -> Tensor:
    """values [K] -> weights [K] at the spread as temperature."""
    return weights(values[None].double(), kind, values.double().std()[None])[0]


# weights


def test_weights_of_the_specification() -> None:
    assert adaptive(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-0.6089, 0.6089], abs=1e-4)
    for m, chosen, other in ((1, 0.9989, -0.2449), (2, 0.988, -0.350), (4, 0.932, -0.507), (8, 0.748, -0.748)):
        w = adaptive(torch.tensor([1.0] * m + [0.0] * (16 - m)))
        assert (float(w[0]), float(w[-1])) == pytest.approx((chosen, other), abs=1e-3)


@pytest.mark.parametrize("kind", ["tanh", "boltzmann"])
def test_weights_obey_the_rules(kind: str) -> None:
    for i in range(20):
        v = ROOT.fold("v", i).normal(7).double() * 10 ** (i % 5)
        w, order = adaptive(v, kind), v.argsort()
        assert bool((w[order].diff() >= 0).all()), "monotone"
        assert float((w * (v - v.mean())).sum()) > 0, "Chebyshev"
        assert torch.allclose(adaptive(3 * v + 5, kind), w, atol=1e-9), "affine invariance"
        if kind == "tanh":
            assert float(w.abs().max()) < 1
            assert torch.allclose(adaptive(2 * v.mean() - v), -w, atol=1e-9), "odd"
            assert torch.allclose(adaptive(-v), -w, atol=1e-9)
        else:
            assert float(w.sum()) == pytest.approx(1)
            assert float(w.min()) > 0


def test_limits_of_the_temperature() -> None:
    v = torch.tensor([[3.0, 1.0, 3.0, -2.0]], dtype=torch.float64)
    assert weights(v, "boltzmann", 0 * ONE).tolist() == [[0.5, 0, 0.5, 0]]
    assert weights(v, "tanh", 0 * ONE).tolist() == [[1, -1, 1, -1]]
    assert weights(v, "boltzmann", 1e9 * ONE)[0].tolist() == pytest.approx([0.25] * 4)
    assert weights(1e4 * v, "boltzmann", 1e-3 * ONE).isfinite().all(), "no overflow"
    z = ROOT.normal(1, 4, 8)
    far = synthesis(z, weights(v, "tanh", 1e6 * ONE))
    assert torch.allclose(far, synthesis(z, v - v.mean()), atol=1e-4), "the direction of the centred sum"


@pytest.mark.parametrize("kind", ["tanh", "boltzmann"])
def test_scores_that_are_alike_give_ones(kind: str) -> None:
    for tau in (0.0, 1e-4, 1.0):
        assert weights(torch.full((1, 3), 7.0).double(), kind, tau * ONE).tolist() == [[1, 1, 1]]
        assert weights(torch.full((1, 1), 7.0).double(), kind, tau * ONE).tolist() == [[1]]


# noise


def test_noise_lies_on_the_sphere_and_follows_rotations() -> None:
    z = ROOT.normal(3, 5, 2, 4, 6)
    w = ROOT.fold("w").normal(3, 5)
    out = synthesis(z, w)
    assert out.flatten(1).norm(dim=1).tolist() == pytest.approx([math.sqrt(48)] * 3, rel=1e-5)
    assert torch.allclose(synthesis(z.flip(1), w.flip(1)), out, atol=1e-5), "permutation"
    assert torch.allclose(synthesis(z[1:2], w[1:2]), out[1:2], atol=1e-6), "one norm per sample"
    q = torch.linalg.qr(ROOT.fold("q").normal(48, 48)).Q
    turned = synthesis((z.flatten(2) @ q).view_as(z), w)
    assert torch.allclose(turned.flatten(1), out.flatten(1) @ q, atol=1e-4)
    assert synthesis(z, 0 * w).isfinite().all(), "vanishing weights fall back"


GAINS = [(4, 1.61, 1.01, 1.02), (16, 3.72, 2.41, 1.79)]


@pytest.mark.parametrize(("k", "tanh", "boltzmann", "best"), GAINS)
def test_first_order_gain(k: int, tanh: float, boltzmann: float, best: float) -> None:
    """Linear reward: what a step gains in units of the best direction; Tanh > Boltzmann > best of K."""
    draws = 200
    z = torch.stack([ROOT.fold("gain", i).normal(k, 1024) for i in range(draws)])
    v = z[..., 0].double()
    found = [
        float(synthesis(z, weights(v, kind, tau))[:, 0].mean())
        for kind, tau in (("tanh", v.std(1)), ("boltzmann", v.std(1)), ("boltzmann", 0 * v.std(1)))
    ]
    assert found == pytest.approx([tanh, boltzmann, best], abs=0.15)


# the SDE


def walk(beta: float, x: float, z: float, moves: int, high: float) -> float:
    """One number down the schedule on N(0, 1)."""
    model, levels = gaussian(), [Level(1.0, s) for s in karras(high, LOW, moves)]
    y, noise = torch.full((1, 1), x).double(), torch.full((1, 1), z).double()
    for a, b in pairwise(levels):
        y = Sde(beta)(model.gaussians.denoise, y, model.gaussians.denoise(y, a), a, b, noise, None)
    return float(y)


@pytest.mark.parametrize(
    ("beta", "points", "value"), [(0.1, 100, 0.409766), (0.1, 400, 0.409410), (0.5, 100, 0.096681)]
)
def test_expected_reward_of_the_sde(beta: float, points: int, value: float) -> None:
    """Lemma 1 in closed form: h exp(-beta (sigma - atan sigma)), here by the mean of the Heun steps."""
    assert walk(beta, 3.0, 0.0, points - 1, 5.0) == pytest.approx(value, abs=2e-5)
    exact = 3 / math.sqrt(26) * math.exp(-beta * (5 - math.atan(5)))
    assert walk(beta, 3.0, 0.0, points - 1, 5.0) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("beta", "points", "value"), [(0.1, 32, 0.9830), (0.1, 64, 0.9966), (0.5, 64, 0.993)])
def test_the_sde_keeps_the_marginals(beta: float, points: int, value: float) -> None:
    variance = 1 + START**2
    for a, b in pairwise(karras(START, LOW, points - 1)):
        at, to, none = Level(1.0, a), Level(1.0, b), torch.zeros(1, 1).double()
        one, denoise = none + 1, gaussian().gaussians.denoise
        keeps = float(Sde(beta)(denoise, one, denoise(one, at), at, to, none, None))
        adds = float(Sde(beta)(denoise, none, denoise(none, at), at, to, one, None))
        variance = keeps**2 * variance + adds**2
    assert variance == pytest.approx(value, abs=1e-3)


def test_the_ode_converges_in_second_order() -> None:
    start = torch.full((1, 1), 2.0).double()
    for high, errors in ((START, {5: 0.31, 10: 0.069, 21: 0.015}), (1.0, {5: 0.021, 10: 0.0058, 21: 0.0013})):
        exact = 2.0 / math.sqrt(1 + high**2)
        for moves, error in errors.items():
            levels = [Level(1.0, s) for s in karras(high, LOW, moves)]
            found = float(arrive(gaussian().gaussians.denoise, start, levels))
            assert abs(found / exact - 1) == pytest.approx(error, rel=0.2)
    levels = [*at_ratios(VP[1:-1], karras(START, 0.02, 9)), Level(1.0, 0.0)]
    few = float(arrive(gaussian().gaussians.denoise, start * levels[0].alpha, levels, heun=False))
    assert few == pytest.approx(2.0 / math.sqrt(1 + START**2), rel=0.1)


def test_schedule() -> None:
    way = karras(START, LOW, 63)
    assert way[:4] == pytest.approx([14.648, 13.516, 12.460, 11.476], abs=1e-3)
    assert way[-3:] == pytest.approx([0.0035, 0.00264, 0.002], abs=5e-5)
    assert all(a > b for a, b in pairwise(way))
    assert [scoring_moves(s, 20) for s in (START, 0.1, LOW)] == [21, 7, 1]
    for steps, acting in ((31, 22), (63, 45), (127, 89)):
        levels = Demon().grid(gaussian().levels(steps), gaussian().levels)
        assert sum(0.11 <= ratio(at) < 20 for at in levels[:-1]) == acting
        assert ratio(levels[-1]) == pytest.approx(LOW)
    sparse = Demon().grid(gaussian().levels(1), gaussian().levels)
    assert all(ratio(a) > ratio(b) for a, b in pairwise(sparse))


# runs


def expected(steps: int, k: int, stop: float, each: Callable[[float], int], tail: int = 18) -> tuple[int, int]:
    """(NFE, scores) by the specification's formula, with one move down from pure noise."""
    way = karras(START, LOW, steps)
    nfe, scores = 1, 0
    for a, b in pairwise(way):
        if a < stop:
            return nfe + 2 * scoring_moves(a, tail), scores
        nfe, scores = nfe + 2 + k * (1 + each(b)), scores + k
    return nfe, scores


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({}, lambda b: 2 * scoring_moves(b, 20)),
        ({"estimate": "few"}, lambda b: 4),
        ({"estimate": "clean"}, lambda b: 1),
        ({"look": 3}, lambda b: 2 * scoring_moves(b, 3)),
        ({"estimate": "few", "look": 2}, lambda b: 2),
    ],
)
def test_cost_is_the_formula_and_the_price(settings: dict[str, Any], each: Callable[[float], int]) -> None:
    steering = Demon(**settings)
    _, spent = run(steering, n=1)
    assert (spent.nfe, spent.scores) == expected(31, 16, 0.11, each)
    assert spent.scores == 352
    _, dry = run(steering, n=1, model=CountingModel(gaussian(16)), score=lambda z: 0 * z.flatten(1).sum(1))
    assert dry == spent


def test_no_tail_and_no_demon() -> None:
    _, spent = run(Demon(k=2, stop=0.0, estimate="clean"), n=1)
    assert (spent.nfe, spent.scores) == expected(31, 2, 0.0, lambda b: 1)
    _, spent = run(Demon(k=2, stop=0.0), n=1, steps=4)
    assert spent.scores == 8, "the last candidates are where they end: no rollout of length zero"
    plain, spent = run(Demon(stop=20.0))
    assert spent.scores == 0
    assert spent.nfe == 4 * (1 + 2 * 19)
    assert torch.equal(plain, run(Demon(stop=20.0, k=3, weights="boltzmann"))[0])


@pytest.mark.parametrize("settings", [{}, {"k": 3}, {"weights": "boltzmann", "tau": 0.0}, {"tau": "adaptive_first"}])
def test_without_beta_it_is_the_ode(settings: dict[str, Any]) -> None:
    ode, spent = run(Demon(beta=0.0, k=1))
    out, other = run(Demon(beta=0.0, **settings))
    assert torch.equal(out, ode)
    assert spent == other
    start = normals(tuple(Key.root(0).fold(i).fold("init") for i in range(4)), 1, 1, 16)
    assert torch.allclose(ode, start, atol=0.02), "the ODE of a Gaussian scales"


class Fed(Steering):
    """The plain SDE with the noises of a demon that has no preference."""

    def __init__(self, like: Demon) -> None:
        self._like = like
        self.grid = like.grid

    def __call__(self, step: Any) -> Any:
        plain = replace(self._like, k=1)(step)
        if ratio(step.at) > 20 or ratio(step.at) < self._like.stop:
            return plain
        k, shape = self._like.k, step.x.shape[1:]
        noise = torch.stack([normals(tuple(key.fold("demon", i) for i in range(k)), *shape) for key in step.keys])
        return plain.with_noise(synthesis(noise, torch.ones(len(noise), k)))


@pytest.mark.parametrize("kind", ["tanh", "boltzmann"])
def test_a_constant_reward_is_the_plain_sde_bit_for_bit(kind: str) -> None:
    steering = Demon(k=3, weights=kind, estimate="clean")
    assert torch.equal(run(steering, score=lambda z: 0 * linear(z) + 5)[0], run(Fed(steering))[0])


def test_one_candidate_never_sees_the_reward() -> None:
    out, spent = run(Demon(k=1))
    assert torch.equal(out, run(Demon(k=1), score=lambda z: linear(z) * math.nan)[0])
    assert spent.scores == 0
    assert not torch.equal(out, run(Demon(beta=0.0))[0])


@pytest.mark.parametrize("solver", ["sde", "sampler"])
def test_the_first_candidates_do_not_depend_on_how_many(solver: str) -> None:
    seen: list[list[Tensor]] = []
    for k in (2, 4):
        seen.append([])
        run(
            Demon(k=k, estimate="clean", solver=solver),
            sampler=ancestral,
            steps=8,
            n=1,
            score=lambda z: (seen[-1].append(z.clone()), linear(z))[1],
        )  # type: ignore[func-returns-value]
    assert torch.allclose(seen[0][0], seen[1][0][:2], atol=1e-6)


def test_all_families_walk_the_same_way() -> None:
    """The same Gaussian, the same start in x/alpha: flow, variance-preserving and -exploding end at one place."""
    means = ROOT.fold("means").normal(3, 16)
    world, noise = Gaussians(means, torch.ones(3), 0.4), ROOT.fold("start").normal(4, 1, 1, 16) * START
    ends = []
    for curve in (FLOW, VP, VE):
        model = Curved(curve, world)
        out, spent = run(Demon(k=4), model=model, x=noise * model.levels(3)[0].alpha)
        ends.append(out)
        assert spent.nfe == 4 * (expected(31, 4, 0.11, lambda b: 2 * scoring_moves(b, 20))[0] - 1), (
            "no move from pure noise"
        )
    assert torch.allclose(ends[0], ends[1], atol=2e-4)
    assert torch.allclose(ends[0], ends[2], atol=2e-4)


def test_a_schedule_that_scales_its_first_level_has_a_curve() -> None:
    """Stable Diffusion with Euler starts at (1/14.6, 1) and goes on variance-preserving."""
    curve = [Level(1 / START, 1.0), *at_ratios(VP[1:-1], karras(13.0, 0.03, 20)), Level(1.0, 0.0)]
    assert level_at(curve, 0.5) == level_at(VP, 0.5)


TOY = [({}, 14.01), ({"weights": "boltzmann"}, 9.04), ({"weights": "boltzmann", "tau": 0.0}, 6.84), ({"k": 1}, 0.0)]


@pytest.mark.parametrize(("settings", "reward"), TOY)
def test_the_exact_gaussian_world(settings: dict[str, Any], reward: float) -> None:
    """Toy 20: N = 256, r = x_1. The clean prediction is the exact one times a number, which tau = adaptive does not
    see.
    """
    out, _ = run(Demon(estimate="clean", **settings), model=gaussian(256), n=30)
    values = linear(out)
    assert float(values.mean()) == pytest.approx(reward, abs=0.5)
    assert float(out.flatten(1)[:, 1:].std()) == pytest.approx(0.97, abs=0.03)


def test_two_modes() -> None:
    """Toy 21: a linear reward brings every run into the good mode, the plain SDE a quarter of them."""
    means = torch.zeros(2, 64)
    means[:, 0] = torch.tensor([3.0, -3.0])
    model = Mixture(gaussians=Gaussians(means, torch.tensor([0.25, 0.75]), 0.5))
    plain, _ = run(Demon(k=1), model=model, n=64, steps=23)
    good, _ = run(Demon(look=10), model=model, n=12, steps=23)
    assert 0.1 < float((linear(plain) > 0).float().mean()) < 0.4
    assert bool((linear(good) > 0).all())


def test_first_temperature_is_kept_only_where_asked() -> None:
    """`adaptive_first` agrees in the first step and differs afterwards; a flat first step does not freeze it at
    zero.
    """
    seen: dict[str, list[Tensor]] = {"adaptive": [], "adaptive_first": []}
    for tau, own in seen.items():
        run(Demon(k=4, tau=tau, estimate="clean"), n=1, score=lambda z, own=own: (own.append(z.clone()), linear(z))[1])  # type: ignore[misc]
    a, b = seen.values()
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[2], b[2])
    asked = iter(range(10_000))
    late = run(Demon(k=4, tau="adaptive_first", estimate="clean"), n=1, score=lambda z: linear(z) * (next(asked) >= 2))[
        0
    ]
    assert late.isfinite().all()
    assert float(linear(late)) > 1


def test_composes() -> None:
    for parts in ((DepthFirst(), Demon(k=2)), (Paths(children=2), Demon(k=2)), (Demon(k=2), Paths(children=2))):
        for sampler in (euler, ancestral):
            assert run(Chain(parts), sampler=sampler, steps=6)[0].isfinite().all()
    out, spent = run(Demon(k=4, estimate="clean", every=3))
    assert spent.scores < 4 * 352 / 3
    assert out.isfinite().all()
    fast, spent = run(Demon(k=4, estimate="few", look=2, solver="sampler"), sampler=ancestral, steps=8)
    assert float(linear(fast).mean()) > float(linear(run(Chain(), sampler=ancestral, steps=8)[0]).mean()) + 0.5
    assert spent.nfe == 4 * (8 + 7 * 4 * 2), "the first move comes from pure noise and is steered too"
    with pytest.raises(FairleadError, match="draws no noise"):
        run(Demon(solver="sampler"))


def test_a_sibling_looks_ahead_in_the_same_bill(tmp_path: Path) -> None:
    """A model that is its own sibling looks as `clean` does; price, bill and resume hold in a run."""
    words: dict[str, Any] = {"steer": "demon", "budget": {"nfe": 180}, "reward": "brightness"}
    ways = {"clean": {"estimate": "clean"}, "sibling": {"estimate": "sibling", "sibling": "mixture"}}
    found = {}
    for name, settings in ways.items():
        spec = small_spec(settings={"demon": {"k": 3, **settings}}, **words)
        _, unit = Local(spec).price()
        store = engine.start(spec, tmp_path / name)
        found[name] = [c.reward for c in store.candidates()]
        assert all(c.cost.nfe == unit.nfe and c.cost.forwards == unit.forwards for c in store.candidates())
        assert store.spent().nfe <= 180
    assert found["clean"] == found["sibling"]
    resume_laws(small_spec(settings={"demon": {"k": 3, **ways["sibling"]}}, **words), tmp_path / "resume")
    for wrong in ({"estimate": "sibling"}, {"sibling": "mixture"}):
        with pytest.raises(FairleadError, match=r"demon\.sibling"):
            Demon(**wrong)  # type: ignore[arg-type]


def test_composes_with_lidar_and_searches_at_its_price() -> None:
    """A bank guides every candidate and the kept step; a search sits above; the budget holds."""
    for words in ({"search": "zero_order"}, {"search": "best_of", "reward": "rank_mean(brightness, jpeg_size)"}):
        steer = ["lidar(n=4, steps=2)", "demon(k=3, estimate='clean')"]
        spec = small_spec(**{"steer": steer[-1:] if "reward" in words else steer, "budget": {"nfe": 140}, **words})
        executor = Local(spec)
        once, unit = executor.price()
        with tempfile.TemporaryDirectory() as folder:
            store = engine.start(spec, Path(folder) / "run")
            assert {c.cost.nfe for c in store.candidates()} == {unit.nfe}
            assert once.nfe + unit.nfe < store.spent().nfe <= 140


def test_guidance_reaches_the_candidates() -> None:
    """What a part before it adds to the prediction is in what demon looks at."""

    class Up(Steering):
        def __call__(self, step: Any) -> Any:
            return step.guide(lambda x, at, rows: torch.full_like(x, 2.0))

    seen: list[Tensor] = []
    run(Chain((Up(), Demon(k=2, estimate="clean"))), score=lambda z: (seen.append(z), linear(z))[1], n=1)  # type: ignore[func-returns-value]
    assert all(float(z.mean()) > 1 for z in seen)


def test_copies_never_mix_under_repulsion(tiny_flux: Callable[..., Any]) -> None:
    """A group of one under K copies is untouched by an intervention that mixes groups; groups of two are not."""
    model = tiny_flux()
    off = registry.build("interventions", Part("repulsion", {"strength": 0.0, "first": 99}))
    on = registry.build("interventions", Part("repulsion", {"strength": 0.5, "first": 99}))
    cond = model.encode(["a dog"] * 2)
    own = tuple(ROOT.fold("copy", i) for i in range(2))
    x = normals(own, *model.latent)
    for groups, same in (([0, 1], True), ([0, 0], False)):
        out = []
        for repulsion in (off, on):
            meter = Meter()
            model.meter(meter)
            with torch.no_grad(), meter.grant(INFINITE), installed(model, [repulsion]):
                out.append(
                    sample(
                        model,
                        euler,
                        x,
                        cond,
                        model.levels(3),
                        own,
                        meter,
                        steering=Demon(k=2, estimate="clean"),
                        groups=torch.tensor(groups),
                        score=lambda z, prompts: linear(z),
                    )
                )
        assert torch.equal(*out) == same


def test_gradients_flow_through_the_kept_step_alone() -> None:
    model, meter = gaussian(4), Meter()
    model.meter(meter)
    x = normals((ROOT.fold("g"),), 1, 1, 4).requires_grad_(True)
    with meter.grant(INFINITE):
        out = sample(
            model,
            euler,
            x,
            model.encode(["x"]),
            model.levels(6),
            (ROOT,),
            meter,
            steering=Demon(k=3),
            score=lambda z, c: linear(z),
        )
        (slope,) = torch.autograd.grad(linear(out).sum(), x)
    assert slope.isfinite().all()
    assert float(slope.abs().sum()) > 0


# bad input

WRONG: list[dict[str, Any]] = [
    {"k": -1},
    {"k": 2.5},
    {"k": True},
    {"beta": -0.1},
    {"beta": math.nan},
    {"beta": math.inf},
    {"tau": -1.0},
    {"tau": math.nan},
    {"tau": "adaptve"},
    {"weights": "optimal"},
    {"estimate": "odee"},
    {"solver": "heun"},
    {"stop": -1.0},
    {"start": 0.002},
    {"start": math.inf},
    {"every": 0},
    {"look": 0},
    {"tail": 0},
    {"failed": "tie"},
    {"beta": "high"},
    {"stop": "low"},
    {"k": None},
    {"beta": None},
]


@pytest.mark.parametrize("settings", WRONG)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(FairleadError, match=next(iter(settings))):
        Demon(**settings)


def broken(bad: float, everywhere: bool = False) -> Callable[[Tensor], Tensor]:
    def score(z: Tensor) -> Tensor:
        values = linear(z).clone()
        values[1 if not everywhere else slice(None)] = bad
        return values

    return score


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_without_a_number(bad: float) -> None:
    for failed in ("mean", "worst"):
        out, _ = run(Demon(k=4, estimate="clean", failed=failed), score=broken(bad))
        assert out.isfinite().all()
    with pytest.raises(RewardError, match=r"step 1 of demon the reward of candidate 1 is .*; 3 of 4"):
        run(Demon(k=4, estimate="clean", failed="error"), score=broken(bad))
    with pytest.raises(RewardError, match="; 0 of 4"):
        run(Demon(k=4, estimate="clean"), score=broken(bad, everywhere=True))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_scores_of_any_kind_of_number(kind: torch.dtype) -> None:
    assert run(Demon(k=4, estimate="clean"), score=lambda z: (linear(z) > 0).to(kind))[0].isfinite().all()


def test_odd_numbers_of_steps_and_candidates() -> None:
    """One step, K = 1, one sample: finite, at the price."""
    for steps in (1, 2):
        for k in (1, 2):
            out, spent = run(Demon(k=k, estimate="clean"), n=1, steps=steps)
            _, dry = run(
                Demon(k=k, estimate="clean"),
                n=1,
                steps=steps,
                model=CountingModel(gaussian(16)),
                score=lambda z: 0 * linear(z),
            )
            assert out.isfinite().all()
            assert dry == spent


def test_expected_reward_rises_with_candidates_and_steps() -> None:
    """Property 22."""
    by_k = [
        float(linear(run(Demon(k=k, estimate="clean"), model=gaussian(64), n=24, steps=15)[0]).mean())
        for k in (1, 2, 4, 8)
    ]
    assert by_k == sorted(by_k)
    by_stop = [
        float(linear(run(Demon(k=4, estimate="clean", stop=stop), model=gaussian(64), n=24, steps=15)[0]).mean())
        for stop in (8.0, 2.0, 0.11)
    ]
    assert by_stop == sorted(by_stop)


def test_a_mean_over_noise_is_the_mean_over_pictures() -> None:
    """Property 19: over x of the noised Gaussian, the mean of a quadratic reward of where the ODE ends is the clean
    one's.
    """
    for sigma in (5.0, 0.5):
        x = math.sqrt(1 + sigma**2) * ROOT.fold("h").normal(4000, 1).double()
        ends = arrive(gaussian().gaussians.denoise, x, [Level(1.0, s) for s in karras(sigma, LOW, 20)])
        assert float(ends.square().mean()) == pytest.approx(1.0, abs=0.08)
