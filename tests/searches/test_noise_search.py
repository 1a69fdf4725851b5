"""Searches against theorems: order statistics, closed forms, geometry of neighbours; specification, section 7."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.search import Feedback, Search
from fairlead.run import registry
from fairlead.searches.best_of import BestOf
from fairlead.searches.evolution import Evolution
from fairlead.searches.first_order import FirstOrder, tangent
from fairlead.searches.trust_region import TrustRegion
from fairlead.searches.zero_order import ZeroOrder, angular, ball, vp
from fairlead.testing.searches import Plain

ROOT = Key.root(5)
MOVERS: list[tuple[Any, dict[str, Any]]] = [
    (ZeroOrder, {}),
    (ZeroOrder, {"stall": "restart"}),
    (ZeroOrder, {"stall": "shrink"}),
    (ZeroOrder, {"accept": "always"}),
    (ZeroOrder, {"neighbourhood": "vp"}),
    (ZeroOrder, {"neighbourhood": "ball"}),
    (Evolution, {}),
    (TrustRegion, {"warmup": 6, "batch": 5, "regions": 3}),
]


def drive(
    make: Callable[..., Search],
    score: Callable[[Tensor], float],
    n: int,
    seed: int = 0,
    dim: int = 6,
    **settings: object,
) -> list[Feedback]:
    """Everything told to `make(Plain(dim), key, **settings)` within n evaluations."""
    search, told = make(Plain(dim), Key.root(seed).fold("search"), **settings), []
    while len(told) < n:
        asked = search.ask(n - len(told))
        if not asked:
            break
        answers = [Feedback(p, score(p.x), {}) for p in asked]
        search.tell(answers)
        told += answers
    return told


def rugged(x: Tensor) -> float:
    """Uniform in [0, 1), unrelated between different points."""
    return int.from_bytes(blake2b(x.numpy().tobytes(), digest_size=6).digest(), "big") / 2**48


def first(x: Tensor) -> float:
    return float(x[0])


def test_best_of_has_the_mean_of_the_maximum_of_n_normals() -> None:
    """Expected maxima of n standard normals, to three standard errors."""
    runs = torch.tensor([[f.reward for f in drive(BestOf, first, 64, seed, 2)] for seed in range(300)])
    for n, mean in {2: 0.564, 4: 1.029, 8: 1.424, 16: 1.766, 32: 2.070, 64: 2.344}.items():
        best = runs[:, :n].amax(1)
        assert abs(best.mean() - mean) < 3 * best.std() / math.sqrt(len(best))


def test_best_of_is_nested() -> None:
    few, many = drive(BestOf, first, 5), drive(BestOf, first, 12)
    assert [f.proposal.key for f in few] == [f.proposal.key for f in many[:5]]
    assert all(torch.equal(a.proposal.x, b.proposal.x) for a, b in zip(few, many, strict=False))


@pytest.mark.parametrize(("make", "settings"), [(BestOf, {}), *MOVERS, (FirstOrder, {})])
def test_candidate_0_is_the_plain_sample(make: Any, settings: dict[str, Any]) -> None:
    key = Key.root(3).fold("search").fold("candidate", 0)
    (plain,) = drive(make, first, 1, 3, **settings)
    assert torch.equal(plain.proposal.x, Plain(6).draw(key))
    assert plain.proposal.key == key


@pytest.mark.parametrize(("make", "settings"), MOVERS)
def test_the_map_from_noise_to_picture_is_fixed(make: Any, settings: dict[str, Any]) -> None:
    keys = {f.proposal.key for f in drive(make, lambda x: 0.0, 30, **settings)}
    assert len(keys) == 1 or settings.get("stall") == "restart"


@pytest.mark.parametrize(("make", "settings"), [(BestOf, {}), *MOVERS])
def test_pieces_of_a_generation_change_nothing(make: Any, settings: dict[str, Any]) -> None:
    """Asked in twos or all at once: the same questions."""

    def asked(most: int) -> list[bytes]:
        search, out = make(Plain(6), ROOT, **settings), []
        while len(out) < 40:
            some = search.ask(most)
            search.tell([Feedback(p, first(p.x), {}) for p in some])
            out += [p.x.numpy().tobytes() for p in some]
        return out[:40]

    assert asked(2) == asked(3) == asked(256)


@pytest.mark.parametrize(("make", "settings"), MOVERS)
def test_no_better_than_random_on_a_rugged_reward(make: Any, settings: dict[str, Any]) -> None:
    """The best of 32 different points of a hash has mean 32/33: more is leakage, less is asking twice."""
    best = torch.tensor([max(f.reward for f in drive(make, rugged, 32, seed, **settings)) for seed in range(80)])
    assert abs(float(best.mean()) - 32 / 33) < 3 * float(best.std()) / math.sqrt(len(best))


@pytest.mark.parametrize(("make", "settings"), MOVERS)
def test_nothing_is_asked_twice(make: Any, settings: dict[str, Any]) -> None:
    for score in (first, lambda x: 0.0, lambda x: math.nan):
        points = [f.proposal.x.numpy().tobytes() for f in drive(make, score, 60, **settings)]
        assert len(set(points)) == 60


@pytest.mark.parametrize("make", [ZeroOrder, Evolution, TrustRegion])
def test_climbs_where_the_reward_is_smooth(make: Any) -> None:
    """With 300 evaluations in 40 dimensions, better than the best of 300 draws on a linear reward, seed by seed."""
    settings = {"warmup": 20, "batch": 10, "regions": 5} if make is TrustRegion else {}
    wins = 0
    for seed in range(8):
        mine = max(f.reward for f in drive(make, first, 300, seed, 40, **settings))
        wins += mine > max(f.reward for f in drive(BestOf, first, 300, seed, 40))
    assert wins >= 7


def test_zero_order_costs_its_pivot_once() -> None:
    assert len(drive(ZeroOrder, first, 999, iterations=0)) == 1
    assert len(drive(ZeroOrder, first, 999, neighbours=3, iterations=7)) == 1 + 3 * 7


def test_zero_order_follows_its_closed_form() -> None:
    """Linear reward, large n, literal acceptance: E[r_k] = m_N sqrt((1 + c)/(1 - c)) (1 - c^k); N = 4, c = 0.95."""
    n, seeds, settings = 4096, 60, {"accept": "always", "neighbours": 4, "iterations": 16}

    def score(x: Tensor) -> float:
        return math.sqrt(n) * float(x[0]) / float(x.double().norm())

    paths = []
    for seed in range(seeds):
        told = drive(ZeroOrder, score, 999, seed, n, **settings)
        paths.append([max(f.reward for f in told[1 + 4 * k : 5 + 4 * k]) for k in range(16)])
    mean = torch.tensor(paths).mean(0)
    for k in (8, 16):
        assert float(mean[k - 1]) == pytest.approx(1.029 * math.sqrt(1.95 / 0.05) * (1 - 0.95**k), rel=0.1)


def test_zero_order_alone_drifts_nowhere() -> None:
    """One neighbour, always accepted, is a random walk on the sphere: mean 0 after any number of rounds."""
    last = torch.tensor([drive(ZeroOrder, first, 21, s, neighbours=1, accept="always")[-1].reward for s in range(400)])
    assert abs(float(last.mean())) < 3 * float(last.std()) / 20


def test_zero_order_pivot_never_gets_worse() -> None:
    """Elitist: the cosine of every generation to the best before it stays 0.95."""
    told = drive(ZeroOrder, first, 41, dim=30)
    best = told[0]
    for k in range(10):
        around = told[1 + 4 * k : 5 + 4 * k]
        for f in around:
            cosine = torch.cosine_similarity(f.proposal.x.double(), best.proposal.x.double(), dim=0)
            assert float(cosine) == pytest.approx(0.95, abs=1e-6)
        best = max([best, *around], key=lambda f: f.reward)


def test_zero_order_stall_policies() -> None:
    """A reward that no neighbour improves: others, another pivot, or a smaller step."""

    def rounds(**settings: Any) -> list[Tensor]:
        told = drive(ZeroOrder, lambda x: 0.0, 17, dim=50, neighbours=4, **settings)
        return [f.proposal.x.double() for f in told]

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(torch.cosine_similarity(a, b, dim=0))

    same = rounds(stall="resample")
    assert all(cosine(same[0], x) == pytest.approx(0.95, abs=1e-6) for x in same[1:])
    anew = rounds(stall="restart")
    assert abs(cosine(anew[0], anew[5])) < 0.6, "the sixth point is a fresh pivot"
    assert cosine(anew[5], anew[6]) == pytest.approx(0.95, abs=1e-6)
    finer = rounds(stall="shrink")
    assert [cosine(finer[0], finer[1 + 4 * k]) for k in range(4)] == pytest.approx(
        [0.95, 0.975, 0.9875, 0.99375], abs=1e-6
    )


def test_angular_neighbour_keeps_norm_and_angle() -> None:
    n = 4096
    p = ROOT.fold("p").normal(n)
    near = torch.stack([angular(p, k.normal(n), 0.95) for k in (ROOT.fold(i) for i in range(300))]).double()
    unit = p.double() / p.double().norm()
    assert ((near.norm(dim=1) / p.double().norm() - 1).abs() < 1e-6).all()
    assert ((near @ unit / near.norm(dim=1) - 0.95).abs() < 1e-6).all()
    sideways = (near - 0.95 * p.double()) / math.sqrt(1 - 0.95**2)
    assert float(sideways.mean(0).norm() / p.double().norm()) == pytest.approx(1 / math.sqrt(300), rel=0.1)
    siblings = near[0] @ near[1:].T / near.norm(dim=1)[1:] / near[0].norm()
    assert ((siblings - 0.95**2).abs() < 4 / math.sqrt(n)).all()
    assert float(near.var() / p.double().var()) == pytest.approx(1, abs=0.01)
    assert float(near[0].bfloat16().float().norm() / p.norm()) == pytest.approx(1, abs=0.01)
    assert abs(float(angular(p, ROOT.normal(n), 0.0).double() @ unit)) < 1e-3


def test_vp_neighbour_is_standard_normal_and_ball_is_not() -> None:
    n, seeds = 64, 400
    p = normals(tuple(ROOT.fold("p", i) for i in range(seeds)), n)
    g = normals(tuple(ROOT.fold("g", i) for i in range(seeds)), n)
    near = torch.stack([vp(a, b, 0.95) for a, b in zip(p, g, strict=True)])
    assert abs(float(near.mean())) < 4 / math.sqrt(n * seeds)
    assert float(near.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / (n * seeds)))
    far = torch.stack([ball(a, b, 1.0, 1.0) for a, b in zip(p, g, strict=True)])
    assert float(far.var()) == pytest.approx(2, abs=0.05), "1 + E[(u radius)^2] per entry"


def test_evolution_keeps_elites_and_renders_only_children() -> None:
    told = drive(Evolution, first, 10 + 7 + 7, dim=40, population=10, elites=3)
    old, young = told[:10], told[10:17]
    for child in young:
        closeness = [float(torch.cosine_similarity(child.proposal.x, f.proposal.x, dim=0)) for f in old]
        assert max(closeness) > 0.9, "a child is near its parent"
    assert torch.stack([f.proposal.x for f in told]).var() == pytest.approx(1, abs=0.2)
    ranks = sorted((f.reward for f in old), reverse=True)
    parents = [max(old, key=lambda f: float(f.proposal.x @ c.proposal.x)).reward for c in young]
    assert sum(ranks.index(r) for r in parents) / 7 < 4.5, "tournaments prefer the better half"


def test_children_of_evolution_have_the_variance_of_noise() -> None:
    """sqrt(1 - mutation^2) of a parent and `mutation` of fresh noise."""
    told = drive(Evolution, first, 10 + 7, dim=4096, mutation=0.5)
    old, young = told[:10], told[10:]
    for child in young:
        x = child.proposal.x
        assert float(x.square().mean()) == pytest.approx(1, abs=0.1)
        closest = max(float(x @ f.proposal.x / f.proposal.x.square().sum()) for f in old)
        assert closest == pytest.approx(math.sqrt(0.75), abs=0.05)


def test_smallest_settings_are_accepted() -> None:
    for settings in ({"population": 2, "elites": 1, "tournament": 1, "mutation": 1.0}, {"population": 5, "elites": 4}):
        assert len(drive(Evolution, first, 9, **settings)) == 9
    assert len(drive(TrustRegion, first, 9, warmup=1, batch=1, regions=1, patience=1)) == 9
    assert len(drive(ZeroOrder, first, 9, neighbours=1, cosine=0.0)) == 9
    assert len(BestOf(Plain(6), ROOT, n=1).ask(9)) == 1


def test_evolution_elites_outlive_worse_children() -> None:
    search = Evolution(Plain(6), ROOT, population=6, elites=2)
    told = [Feedback(p, float(i), {}) for i, p in enumerate(search.ask(99))]
    search.tell(told)
    search.tell([Feedback(p, -1.0, {}) for p in search.ask(99)])
    assert [f.reward for f in search._parents] == [5.0, 4.0, -1.0, -1.0, -1.0, -1.0]


def test_trust_region_moves_at_least_one_coordinate_inside_its_box() -> None:
    told = drive(TrustRegion, first, 200, dim=2, warmup=4, batch=4, regions=9, length=0.5)
    assert len(told) == 200, "more regions than points per round and than history"
    best = told[:4]
    for start in range(4, 24, 4):
        centres = sorted(best, key=lambda f: -f.reward)[:4]
        for f, centre in zip(told[start : start + 4], centres, strict=True):
            gap = (f.proposal.x - centre.proposal.x).abs()
            assert 0 < float(gap.max()) <= 0.5 * 1.5**2 / 2 + 1e-6, "re-centred on the best of everything"
        best = [*best, *told[start : start + 4]]


def test_trust_region_sizes_stay_in_bounds() -> None:
    search = TrustRegion(Plain(6), ROOT, warmup=4, batch=6, regions=3)
    lengths = []
    for i in range(120):
        asked = search.ask(99)
        search.tell([Feedback(p, i + first(p.x) if i < 40 else 0.0, {}) for p in asked])
        lengths += [r.length for r in search._regions]
    assert min(lengths) >= 0.05
    assert max(lengths) == pytest.approx(2.4)
    assert len(set(lengths)) > 6, "they move"


def test_trust_region_renorm_keeps_the_norm() -> None:
    told = drive(TrustRegion, lambda x: float(x.norm()), 60, dim=50, warmup=2, batch=2, regions=1, renorm=True)
    start = max(float(f.proposal.x.norm()) for f in told[:2])
    assert max(float(f.proposal.x.norm()) for f in told) == pytest.approx(start, rel=1e-5)
    grown = drive(TrustRegion, lambda x: float(x.norm()), 60, dim=50, warmup=2, batch=2, regions=1)
    assert max(float(f.proposal.x.norm()) for f in grown) > 1.05 * start


def test_first_order_step_is_tangent_and_keeps_the_norm() -> None:
    x, g = ROOT.normal(50), ROOT.fold("g").normal(50)
    moved = tangent(x, g, 0.1)
    assert float(moved.double().norm() / x.double().norm()) == pytest.approx(1, abs=1e-6)
    cosine = torch.cosine_similarity(moved.double(), x.double(), dim=0)
    assert float(cosine) == pytest.approx(1 / math.sqrt(1.01), abs=1e-6)
    assert float(moved @ g) > float(x @ g)
    for nothing in (torch.zeros(50), torch.full((50,), math.nan)):
        assert tangent(x, nothing, 0.1) is x


def test_first_order_finds_the_maximum_on_the_sphere() -> None:
    """Linear reward: the maximum at norm |x| is |x|; halving brings it there from 6 degree steps."""
    search = FirstOrder(Plain(20), ROOT, rate=0.3, chains=2)
    slope = torch.eye(20)[0]
    for _ in range(40):
        told = [Feedback(p, float(p.x[0]), {}, slope) for p in search.ask(9)]
        search.tell(told)
    for f in search._best:
        assert f is not None
        assert f.reward == pytest.approx(float(f.proposal.x.norm()), rel=1e-3)


def test_nan_never_wins() -> None:
    """A search told that its favourites failed does not settle near them."""

    def score(x: Tensor) -> float:
        return math.nan if x[0] > 0.5 else float(x[0])

    for make, settings in MOVERS:
        told = drive(make, score, 80, dim=10, **settings)
        good = [f for f in told if f.reward == f.reward]
        assert len(good) > 20
        assert all(f.value == -math.inf for f in told if f.reward != f.reward)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("zero_order", {"neighbours": 0}, "zero_order.neighbours"),
        ("zero_order", {"cosine": 1.0}, "zero_order.cosine"),
        ("zero_order", {"cosine": -0.1}, "zero_order.cosine"),
        ("zero_order", {"radius": 0}, "zero_order.radius"),
        ("zero_order", {"iterations": -1}, "zero_order.iterations"),
        ("zero_order", {"stall": "give up"}, "zero_order.stall"),
        ("zero_order", {"accept": "worse"}, "zero_order.accept"),
        ("zero_order", {"neighbourhood": "cube"}, "zero_order.neighbourhood"),
        ("evolution", {"population": 1}, "evolution.population"),
        ("evolution", {"elites": 10}, "evolution.elites"),
        ("evolution", {"mutation": 0}, "evolution.mutation"),
        ("evolution", {"tournament": 0}, "evolution.tournament"),
        ("trust_region", {"batch": 0}, "trust_region.batch"),
        ("trust_region", {"length": 3.0}, "must be 0 < shortest <= length <= longest"),
        ("trust_region", {"factor": 1.0}, "trust_region.factor"),
        ("first_order", {"rate": 0.0}, "first_order.rate"),
        ("first_order", {"chains": 0}, "first_order.chains"),
    ],
)
def test_wrong_settings_are_one_sentence(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError) as error:
        registry.resolve("searches", name)(Plain(6), ROOT, **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_angles_around_zero_or_on_a_line() -> None:
    class Zero(Plain):
        def draw(self, key: Key) -> Tensor:
            return torch.zeros(self.dim)

    for make in (ZeroOrder, FirstOrder):
        with pytest.raises(FairleadError, match="zero"):
            make(Zero(6), ROOT)
    ZeroOrder(Zero(6), ROOT, neighbourhood="ball")

    class SecondZero(Plain):
        def draw(self, key: Key) -> Tensor:
            return super().draw(key) * (key != ROOT.fold("candidate", 1))

    class OneZero(Plain):
        def draw(self, key: Key) -> Tensor:
            return super().draw(key) * torch.tensor([0.0, 1, 1, 1, 1, 1])

    FirstOrder(OneZero(6), ROOT)
    FirstOrder(SecondZero(6), ROOT, chains=1)
    with pytest.raises(FairleadError, match="zero"):
        FirstOrder(SecondZero(6), ROOT, chains=2)
    with pytest.raises(FairleadError, match="one dimension"):
        ZeroOrder(Plain(1), ROOT)


def test_best_of_draws_n_whatever_the_pieces() -> None:
    search = BestOf(Plain(2), ROOT, n=5)
    assert [len(search.ask(3)) for _ in range(4)] == [3, 2, 0, 0]


def test_a_region_moves_a_share_of_the_coordinates_between_a_tenth_and_nine_tenths() -> None:
    search = TrustRegion(Plain(400), ROOT, warmup=2, batch=120, regions=1)
    warm = search.ask(2)
    search.tell([Feedback(p, float(i), {}) for i, p in enumerate(warm)])
    share = torch.stack([(p.x != warm[1].x).double().mean() for p in search.ask(120)])
    assert 0.05 < float(share.min()) < 0.18
    assert 0.82 < float(share.max()) < 0.95
    assert float(share.mean()) == pytest.approx(0.5, abs=0.08)
