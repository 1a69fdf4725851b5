"""Search over paths and its depth-first relative: levels, kernel, marginals, selection, cost; specification, section
7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Level, level_at, moves, renoise, stretch
from fairlead.core.samplers import ancestral, dpmpp_2m, euler
from fairlead.core.steering import Chain, Steering
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.run.dry_run import CountingModel
from fairlead.steering.dfs import DepthFirst
from fairlead.steering.paths import Paths, levels
from steered import steered

ROOT = Key.root(12)
MEAN, SPREAD = 0.4, 0.5
FLOW = [Level(i / 10, 1 - i / 10) for i in range(11)]
VP = [Level(math.cos(a), math.sin(a)) for a in (math.pi / 2 * (1 - i / 10) for i in range(10))] + [Level(1.0, 0.0)]
VE = [Level(1.0, s) for s in (80.0, 20.0, 5.0, 1.0, 0.2, 0.0)]


def gaussian(size: int = 1) -> Mixture:
    """x0 ~ N(MEAN, SPREAD^2 I)."""
    return Mixture(gaussians=Gaussians(torch.full((1, size), MEAN), torch.ones(1), SPREAD))


def run(
    steering: Steering,
    *,
    model: Any = None,
    n: int = 8,
    group: int = 4,
    steps: int = 10,
    sampler: Any = euler,
    score: Callable[[Tensor], Tensor] = lambda z: z.flatten(1).sum(1),
    **more: Any,
) -> tuple[Tensor, Cost]:
    """n samples in groups, with what they cost."""
    model = gaussian() if model is None else model
    return steered(steering, model=model, n=n, group=group, steps=steps, sampler=sampler, score=score, **more)


def test_default_levels() -> None:
    assert levels(0.11, 0.78, 0.81) == [0.89, 0.08, 0.86, 0.05, 0.83, 0.02, 0.80, 0.0]
    assert levels(0.5, 0.78, 0.81)[0] == 1.0, "no further up than pure noise"


def test_levels_end_after_the_number_of_rounds_they_should() -> None:
    u = ROOT.uniform(300, 3)
    for a, b, c in u.tolist():
        sigma, delta_f = 0.02 + 0.9 * a, 0.05 + 0.8 * b
        delta_b = delta_f + 0.01 + 0.2 * c
        route = levels(sigma, delta_f, delta_b, highest=0.999)
        rounds = sigma / (delta_b - delta_f)
        assert len(route) // 2 in {math.ceil(rounds - 1e-4), math.ceil(rounds + 1e-4)}
        assert route[-1] == 0
        assert all(0 <= t <= 0.999 for t in route)
        assert all(low < high for high, low in zip(route[::2], route[1::2], strict=True))


@pytest.mark.parametrize("curve", [FLOW, VP, VE])
def test_levels_of_a_curve_lie_on_it(curve: Sequence[Level]) -> None:
    for at in curve:
        found = level_at(curve, at.time)
        assert (found.alpha, found.sigma) == pytest.approx((at.alpha, at.sigma), abs=1e-9)
    middle = level_at(curve, 0.3)
    assert middle.sigma / middle.alpha == pytest.approx(0.3 / 0.7), "equal signal-to-noise ratio"
    assert middle.time == pytest.approx(0.3)


def test_a_curve_of_no_family_is_refused() -> None:
    with pytest.raises(FairleadError, match="none of the curves"):
        level_at([Level(0.0, 1.0), Level(0.7, 0.9), Level(1.0, 0.0)], 0.3)


@pytest.mark.parametrize("curve", [FLOW, VP, VE])
def test_stretch_follows_the_schedule(curve: Sequence[Level]) -> None:
    own = stretch(curve, curve[1].time, curve[4].time, 3)
    assert [at.time for at in own] == pytest.approx([at.time for at in curve[1:5]])
    assert moves(curve, curve[1].time, curve[4].time) == 3
    assert moves(curve, 0.5, 0.5 - 1e-6) == 1
    assert [at.time for at in stretch(curve, 0.6, 0.0, 1)] == pytest.approx([0.6, 0.0])
    assert stretch(curve, 0.6, 0.0, 1)[-1] == Level(1.0, 0.0)


@pytest.mark.parametrize("curve", [FLOW, VP, VE])
def test_forward_kernel_keeps_the_marginals(curve: Sequence[Level]) -> None:
    """From exact samples at a: mean alpha m, variance alpha^2 s^2 + sigma^2 at b; twice equals once; nowhere is
    identity.
    """
    n = 40_000
    z, e, f, g = (ROOT.fold(i).normal(n).double() for i in range(4))
    a, b, c = (level_at(curve, t) for t in (0.2, 0.5, 0.8))
    x = a.alpha * (MEAN + SPREAD * z) + a.sigma * e
    assert torch.equal(renoise(x, a, a, f), x)
    for y, to in ((renoise(x, a, b, f), b), (renoise(x, a, c, f), c), (renoise(renoise(x, a, b, f), b, c, g), c)):
        variance = to.alpha**2 * SPREAD**2 + to.sigma**2
        assert float(y.mean()) == pytest.approx(to.alpha * MEAN, abs=4 * math.sqrt(variance / n))
        assert float(y.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n))


def test_a_constant_verifier_keeps_the_marginal_in_every_round() -> None:
    """Gaussian data: without a preference, every level a round ends at has its exact mean and variance."""
    seen: list[tuple[float, Tensor]] = []
    model = gaussian()
    predict = model.predict

    def watched(x: Tensor, at: Level, *rest: Any) -> Tensor:
        seen.append((at.time, x))
        return predict(x, at, *rest)

    model.predict = watched  # type: ignore[method-assign]
    n = 3000
    out, _ = run(Paths(children=1, moves=24), model=model, n=n, group=1, steps=40, score=lambda z: torch.zeros(len(z)))
    ends = [(t, x) for t, x in seen if any(abs(t - end) < 1e-9 for end in (0.08, 0.05, 0.02))]
    assert [round(t, 2) for t, _ in ends] == [0.08, 0.05, 0.02]
    for t, x in [*ends, (0.0, out)]:
        variance = (1 - t) ** 2 * SPREAD**2 + t**2
        assert float(x.mean()) == pytest.approx((1 - t) * MEAN, abs=0.01 + 4 * math.sqrt(variance / n))
        assert float(x.var()) == pytest.approx(variance, rel=0.05 + 4 * math.sqrt(2 / n))


@pytest.mark.parametrize(("n", "m", "length", "steps"), [(4, 3, 5, 10), (2, 1, 2, 30), (1, 4, 7, 20)])
def test_cost_is_the_formula_and_the_price(n: int, m: int, length: int, steps: int) -> None:
    """N n0 + R N M L + (R - 1) N M evaluations and R N M scores; the grid after sigma costs nothing."""
    steering = Paths(children=m, moves=length)
    _, cost = run(steering, n=n, group=n, steps=steps)
    n0 = sum(1 - i / steps > 0.11 for i in range(steps))
    assert cost.nfe == n * n0 + 4 * n * m * length + 3 * n * m
    assert cost.scores == 4 * n * m
    _, dry = run(steering, model=CountingModel(gaussian()), n=n, group=n, steps=steps)
    assert dry == cost


def test_moves_left_out_are_the_share_of_the_interval() -> None:
    _, cost = run(Paths(children=1), n=1, group=1, steps=100)
    assert cost.nfe == 89 + 4 * 81 - 1 + 3  # from 0.80 to 0 are 80 moves


def test_one_path_of_one_child_is_an_unsearched_path() -> None:
    """N = M = 1: whatever the verifier says, the same sample."""
    a, _ = run(Paths(children=1), n=1, group=1)
    b, _ = run(Paths(children=1), n=1, group=1, score=lambda z: torch.full((len(z),), math.nan))
    assert torch.equal(a, b)
    plain, _ = run(Paths(children=0), n=1, group=1)
    assert not torch.equal(a, plain)


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m, ancestral])
def test_selection_raises_the_reward(sampler: Any) -> None:
    plain, _ = run(Paths(children=0), n=200, sampler=sampler)
    group, _ = run(Paths(children=4), n=200, sampler=sampler)
    parent, _ = run(Paths(children=4, keep="parent"), n=200, sampler=sampler)
    assert float(plain.mean()) < float(parent.mean()) - 0.3
    assert float(parent.mean()) < float(group.mean()) - 0.05


def test_keeps_the_best_of_the_group_or_one_of_each_parent() -> None:
    """Children numbered by their score: exactly the N largest of N M survive, or the largest of every M."""

    class Watch(Paths):
        def _choose(self, step: Any, children: Tensor, x0: Tensor) -> Tensor:
            kept = super()._choose(step, children, x0)
            for g in (0, 1):
                own = children[step.groups == g]
                ranked = own.flatten().sort(descending=True).values
                best = ranked[: len(own)] if self.keep == "group" else own.flatten(1).amax(1)
                assert torch.equal(kept[step.groups == g].flatten().sort().values, best.sort().values)
            return kept

    for keep in ("group", "parent"):
        run(Watch(children=3, keep=keep, moves=1), steps=4)


def test_a_failed_child_is_never_kept() -> None:
    """NaN above 0.3: the survivors are the largest below it, as long as there are enough."""
    out, _ = run(Paths(children=6), n=32, score=lambda z: torch.where(z.flatten(1).sum(1) > 0.3, math.nan, z.flatten()))
    assert float(out.max()) <= 0.3


def test_paths_of_other_groups_do_not_matter() -> None:
    both, _ = run(Paths(), n=8, group=4)
    one, _ = run(Paths(), n=4, group=4)
    assert torch.equal(both[:4], one)


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (Paths, {"delta_f": 0.5, "delta_b": 0.5}, "delta_f < delta_b"),
        (Paths, {"delta_f": 0.0}, "delta_f"),
        (Paths, {"sigma": 0.0}, "sigma"),
        (Paths, {"sigma": 0.3}, "delta_f < 1"),
        (Paths, {"children": -1}, "children"),
        (Paths, {"moves": 0}, "moves"),
        (Paths, {"keep": "all"}, "keep"),
        (DepthFirst, {"at": ()}, "dfs.at"),
        (DepthFirst, {"at": (1.0,)}, "dfs.at"),
        (DepthFirst, {"jump": 0}, "dfs.jump"),
        (DepthFirst, {"retries": -1}, "dfs.retries"),
        (DepthFirst, {"threshold": "high"}, "dfs.threshold"),
        (DepthFirst, {"moves": 0}, "dfs.moves"),
    ],
)
def test_wrong_settings_are_one_sentence(make: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError) as error:
        make(**settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_dfs_spends_only_where_the_score_asks_for_it() -> None:
    plain, base = run(DepthFirst(retries=0))
    content, cheap = run(DepthFirst(threshold=-99.0))
    assert torch.equal(content, plain)
    assert (cheap.nfe, cheap.scores) == (base.nfe, 8 * 2), "two checks a sample and nothing else"
    _, dear = run(DepthFirst(threshold=99.0))
    assert dear.nfe == base.nfe + 8 * 4 * (2 + 1), "all retries, each round(0.25 * 10) moves and a prediction"
    _, dry = run(DepthFirst(), model=CountingModel(gaussian()))
    assert dry.nfe == dear.nfe
    better, some = run(DepthFirst())
    assert cheap.nfe < some.nfe < dear.nfe
    assert float(better.mean()) > float(plain.mean()) + 0.1


def test_dfs_stops_at_its_threshold() -> None:
    """With enough retries every sample's prediction passes, and then nobody retries any more."""
    x0: list[Tensor] = []

    def score(z: Tensor) -> Tensor:
        x0.append(z)
        return z.flatten()

    easy, few = run(DepthFirst(at=(0.3,), retries=50, threshold=0.2), n=40, score=score)
    hard, many = run(DepthFirst(at=(0.3,), retries=50, threshold=0.6), n=40, score=score)
    assert few.nfe < many.nfe
    assert float(easy.min()) > 0.1
    assert float(hard.min()) > 0.5


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m])
def test_dfs_samples_do_not_see_each_other(sampler: Any) -> None:
    many, _ = run(DepthFirst(), n=8, group=8, sampler=sampler)
    few, _ = run(DepthFirst(), n=3, group=1, sampler=sampler)
    assert torch.allclose(many[:3], few, atol=1e-6)
    x = torch.tensor([2.0, -2.0]).view(2, 1, 1, 1)  # the first is content, the second tries again
    pair, cost = run(DepthFirst(threshold=MEAN), n=2, group=1, sampler=sampler, x=x)
    alone, base = run(DepthFirst(threshold=MEAN), n=1, group=1, sampler=sampler, x=x[:1])
    assert cost.nfe > 2 * base.nfe
    assert torch.equal(pair[:1], alone)


@pytest.mark.parametrize("first", [True, False])
def test_nothing_is_done_to_a_sample_whose_paths_have_arrived(first: bool) -> None:
    """A retry that waits for a level below the paths' own would re-noise pictures that are finished."""
    late, paths = DepthFirst(at=(0.05,), threshold=99.0), Paths()
    alone, cost = run(paths, steps=30)
    both, same = run(Chain((paths, late) if first else (late, paths)), steps=30)
    assert torch.equal(alone, both)
    assert cost == same


def test_constant_scores_and_no_scores_are_survived() -> None:
    for value in (0.0, math.nan):
        for steering in (Paths(), DepthFirst()):
            out, _ = run(steering, score=lambda z, value=value: torch.full((len(z),), value))  # type: ignore[misc]
            assert bool(out.isfinite().all())


def test_dfs_goes_back_up_by_its_jump_and_no_further() -> None:
    times: list[float] = []

    class Watched(Mixture):
        def predict(self, x: Tensor, at: Level, *more: Any) -> Tensor:
            times.append(at.time)
            return super().predict(x, at, *more)

    model = Watched(gaussians=gaussian().gaussians)
    run(DepthFirst(at=(0.5,), jump=0.25, threshold=99.0), model=model)
    below = next(i for i, time in enumerate(times) if time <= 0.5)
    assert max(times[below:]) == pytest.approx(0.75, abs=1e-6)


def test_dfs_keeps_the_first_of_equals() -> None:
    """A retry that is no better changes nothing, bit for bit."""
    plain, _ = run(DepthFirst(retries=0))
    tried, _ = run(DepthFirst(threshold=99.0), score=lambda z: torch.zeros(len(z)))
    assert torch.equal(tried, plain)
