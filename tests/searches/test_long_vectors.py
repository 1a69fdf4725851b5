"""Searches for long vectors against theorems, closed forms and the `cma` package; specification, section 7."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cma
import pytest
import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback
from fairlead.searches.adam import Adam
from fairlead.searches.reno import Reno
from fairlead.searches.sep_cma import SepCma, weights
from fairlead.searches.snes import Snes
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec
from fairlead.testing.searches import Plain

ROOT = Key.root(7).fold("search")


class At(Plain):
    """R^d whose plain point is the same vector for every key."""

    def __init__(self, start: Tensor) -> None:
        super().__init__(len(start))
        self.start = start.float()

    def draw(self, key: Key) -> Tensor:
        return self.start.clone()


def drive(
    search: Any,
    loss: Callable[[Tensor], float],
    n: int,
    gradient: Callable[[Tensor], Tensor] | None = None,
    target: float = -math.inf,
) -> list[Feedback]:
    """Everything told within n evaluations or until the target; the loss is the reward with its sign turned."""
    told: list[Feedback] = []
    while len(told) < n and not any(-f.reward <= target for f in told[-40:]) and (asked := search.ask(n - len(told))):
        answers = [Feedback(p, -loss(p.x.double()), {}, None if gradient is None else -gradient(p.x)) for p in asked]
        search.tell(answers)
        told += answers
    return told


def evaluations_to(
    target: float, make: Callable[..., Any], loss: Callable[[Tensor], float], dim: int, **more: Any
) -> int:
    told = drive(make(At(torch.ones(dim)), ROOT, **more), loss, 40_000, target=target)
    return next((i for i, f in enumerate(told) if -f.reward <= target), 40_000)


def sphere(x: Tensor) -> float:
    return float(x.square().sum())


def ellipsoid(x: Tensor) -> float:
    return float((10 ** (6 * torch.arange(len(x)) / (len(x) - 1)) * x.square()).sum())


@pytest.mark.parametrize("make", [SepCma, Snes, Adam, Reno])
def test_candidate_0_is_the_plain_sample(make: Any) -> None:
    space = Plain(6)
    (proposal,) = make(space, ROOT).ask(1)
    assert proposal.key == ROOT.fold("candidate", 0)
    assert torch.equal(proposal.x, space.draw(ROOT.fold("candidate", 0)))


# the evolution strategy


@pytest.mark.parametrize("size", [2, 3, 5, 12, 20, 39])
def test_weights(size: int) -> None:
    w, mu, mueff = weights(size, 0.01, 0.04, True)
    assert mu == size // 2
    assert float(w[:mu].sum()) == pytest.approx(1)
    assert float(w[:mu].square().sum()) == pytest.approx(1 / mueff)
    assert (w[1:] <= w[:-1] + 1e-12).all()
    assert (w[:mu] > 0).all()
    assert (w[mu:] <= 0).all()
    plain, *_ = weights(size, 0.01, 0.04, False)
    assert (plain[mu:] == 0).all()


def test_published_constants() -> None:
    """The numbers of the specification for a population of 20 in 158,976 dimensions."""
    search = SepCma(At(torch.zeros(158_976)), ROOT)
    assert search._mu_eff == pytest.approx(5.939, abs=1e-3)
    assert [round(float(v), 4) for v in search._w[:3]] == [0.2796, 0.1972, 0.1490]
    assert float(search._w[10:].sum()) == pytest.approx(-1.2307, abs=1e-4)
    assert (float(search._w[10]), float(search._w[19])) == (
        pytest.approx(-0.0154, abs=1e-4),
        pytest.approx(-0.2133, abs=1e-4),
    )
    assert search._c_1 == pytest.approx(6.26e-6, rel=0.01)
    assert search._c_mu == pytest.approx(2.71e-5, rel=0.01)
    assert search._damping == pytest.approx(24.65, abs=0.01)


@pytest.mark.parametrize(("dim", "step"), [(400, "tpa"), (50, "csa")])
@pytest.mark.parametrize("active", [True, False])
def test_the_same_samples_and_ranks_give_the_state_of_the_cma_package(dim: int, step: str, active: bool) -> None:
    """An independent implementation, fed to ours generation by generation."""
    rule = {"tpa": cma.sigma_adaptation.CMAAdaptSigmaTPA, "csa": cma.sigma_adaptation.CMAAdaptSigmaCSA}[step]
    options = {"popsize": 12, "CMA_diagonal": True, "CMA_active": active, "AdaptSigma": rule, "seed": 3, "verbose": -9}
    theirs = cma.CMAEvolutionStrategy(dim * [0.3], 0.5, options)
    ours = SepCma(At(torch.full((dim,), 0.3, dtype=torch.float64)), ROOT, population=12, step=step, active=active)
    ours._m = torch.full((dim,), 0.3, dtype=torch.float64)
    slope = torch.linspace(0.1, 3, dim, dtype=torch.float64)
    for _ in range(20):
        asked = theirs.ask()
        losses = [float((slope * torch.tensor(x)).square().sum()) for x in asked]
        ours.update([torch.tensor(x) for x in asked], [-v for v in losses])
        theirs.tell(asked, losses)
        assert torch.allclose(ours._m, torch.tensor(theirs.mean), rtol=0, atol=1e-10)
        assert ours._sigma == pytest.approx(theirs.sigma, rel=1e-10)
        assert torch.allclose(ours._d, torch.tensor(theirs.sigma_vec.scaling), rtol=1e-9, atol=0)


def test_a_path_that_is_far_too_long_stops_the_path_of_the_scales() -> None:
    """h_sigma of equation 45 in Hansen's tutorial (arXiv 1604.00772), on samples that all move one way."""
    search = SepCma(At(torch.zeros(50)), ROOT, population=12, step="csa")
    points = [torch.full((50,), 3.0 - 0.1 * k, dtype=torch.float64) for k in range(12)]
    search.update(points, [-float(k) for k in range(12)])
    assert float(search._p_sigma.norm()) > 0
    assert not search._p_c.any()
    few = SepCma(At(torch.zeros(50)), ROOT, population=12, step="csa")
    few.update(few.sample(ROOT), [-float(k) for k in range(12)])
    assert few._p_c.all()


@pytest.mark.parametrize("step", ["csa", "tpa"])
@pytest.mark.parametrize(
    ("loss", "low", "high"), [(sphere, 500, 2800), (ellipsoid, 1200, 6000)], ids=["sphere", "ellipsoid"]
)
def test_converges_as_fast_as_published(step: str, loss: Any, low: int, high: int) -> None:
    """10 dimensions, population 10, to 1e-9: within twice the specification's 1,240-1,390 and 2,570-2,930."""
    assert low < evaluations_to(1e-9, SepCma, loss, 10, population=10, step=step) < high


def test_scales_are_learnt_where_there_are_few() -> None:
    search = SepCma(At(torch.ones(12)), ROOT, population=12, step="csa")
    drive(search, ellipsoid, 4000)
    assert (search._d[1:] < search._d[:-1]).float().mean() > 0.8
    assert float(search._d[0] / search._d[-1]) > 100


@pytest.mark.parametrize("make", [SepCma, Snes])
def test_only_ranks_matter(make: Any) -> None:
    plain = drive(make(At(torch.ones(8)), ROOT), sphere, 200)
    bent = drive(make(At(torch.ones(8)), ROOT), lambda x: math.log(sphere(x)) * 1e3 - 7, 200)
    assert all(torch.equal(a.proposal.x, b.proposal.x) for a, b in zip(plain, bent, strict=True))


@pytest.mark.parametrize("step", ["csa", "tpa"])
def test_candidates_move_with_the_start_and_scale_with_the_step(step: str) -> None:
    def asked(start: Tensor, sigma: float, centre: Tensor) -> Tensor:
        search = SepCma(At(start), ROOT, sigma=sigma, population=6, step=step)
        return torch.stack([f.proposal.x for f in drive(search, lambda x: sphere((x - centre) / sigma), 60)])

    plain = asked(torch.zeros(5), 0.5, torch.ones(5))
    shifted = asked(torch.full((5,), 2.0), 0.5, torch.full((5,), 3.0))
    assert torch.allclose(shifted - 2, plain, atol=1e-4)
    scaled = asked(torch.zeros(5), 2.0, 4 * torch.ones(5))
    assert torch.allclose(scaled / 4, plain, atol=1e-4)


def test_the_first_two_lie_on_the_line_of_the_last_move() -> None:
    search = SepCma(At(torch.zeros(400)), ROOT, population=8)
    drive(search, lambda x: float(x[0]), 1 + 8)
    mean, move = search._m.clone(), search._last_move
    assert move is not None
    forward, backward = ((p.x.double() - mean) / search._sigma for p in search.ask(8)[:2])
    assert torch.allclose(forward, -backward, atol=1e-4)
    assert float(torch.nn.functional.cosine_similarity(forward, move, 0)) == pytest.approx(1, abs=1e-6)
    assert float((forward / search._d).norm()) == pytest.approx(math.sqrt(400), rel=0.15)


@pytest.mark.parametrize("step", ["csa", "tpa"])
def test_the_step_grows_where_it_is_too_small(step: str) -> None:
    search = SepCma(At(torch.zeros(10)), ROOT, sigma=1e-3, population=10, step=step)
    drive(search, lambda x: float(x[0]), 400)
    assert search._sigma > 0.1


def test_the_step_changes_at_most_by_its_damping_and_is_neutral_without_selection() -> None:
    changes = []
    for seed in range(30):
        search = SepCma(At(torch.zeros(300)), Key.root(seed), population=8)
        luck = Key.root(seed).fold("luck")
        sigma = [search._sigma]
        for i in range(20):
            asked = search.ask(99)
            values = luck.fold(i).normal(len(asked)).tolist()
            search.tell([Feedback(p, v, {}) for p, v in zip(asked, values, strict=True)])
            sigma.append(search._sigma)
        steps = torch.tensor(sigma).log().diff()
        assert float(steps.abs().max()) <= 1 / (0.7 + 2 * math.log(300)) + 1e-9
        changes.append(float(steps.mean()))
    mean = torch.tensor(changes)
    assert abs(float(mean.mean())) < 3 * float(mean.std()) / math.sqrt(len(changes))
    assert float(search._d.log().mean().abs()) < 3e-2


def low_rank(dim: int, k: int = 16) -> Callable[[Tensor], float]:
    rows = Key.root(1).normal(k, dim).double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    target = 3 * Key.root(2).normal(k).double()
    return lambda x: float((rows @ x - target).square().sum() / target.square().sum())


def test_in_a_large_space_two_points_find_the_step_and_the_path_does_not() -> None:
    """Section 2.9: what is useful in large spaces is TPA. 4,000 dimensions, an objective of rank 16, a step too
    large.
    """
    best = {}
    for step in ("tpa", "csa"):
        search = SepCma(At(torch.zeros(4_000)), ROOT, sigma=2.0, population=20, step=step)
        best[step] = -max(f.reward for f in drive(search, low_rank(4_000), 1 + 20 * 60))
    assert best["tpa"] < 0.1
    assert best["csa"] > 3 * best["tpa"]


def test_memory_does_not_grow_with_the_population() -> None:
    """Besides the candidates, five vectors of the space's length."""
    search = SepCma(At(torch.zeros(5000)), ROOT, population=20)
    drive(search, sphere, 100)
    kept = [v for v in vars(search).values() if isinstance(v, Tensor) and v.numel() >= 5000]
    assert len(kept) == 6
    assert all(v.numel() == 5000 for v in kept)


@pytest.mark.parametrize("make", [SepCma, Snes])
def test_failures_rank_last_and_a_generation_of_them_halves_the_spread(make: Any) -> None:
    bad = drive(make(At(torch.zeros(6)), ROOT), lambda x: math.nan if float(x[0]) > 0 else -float(x[0]), 400)
    fine = [f.reward for f in bad[-20:] if f.reward == f.reward]
    assert len(fine) > 5, "NaN beyond the edge repels, it does not attract"
    assert max(fine) > -0.5
    search = make(At(torch.zeros(6)), ROOT, sigma=1.0)
    sizes = []
    while asked := search.ask(99):
        sizes.append(float(torch.stack([p.x for p in asked[-20:]]).std()))
        search.tell([Feedback(p, math.nan, {}) for p in asked])
    assert len(sizes) == 3
    assert sizes[2] / sizes[0] == pytest.approx(0.25, rel=0.3)
    infinite = make(At(torch.zeros(6)), ROOT)
    asked = infinite.ask(99)
    infinite.tell([Feedback(p, math.inf if i == 3 else float(-p.x[0]), {}) for i, p in enumerate(asked)])
    assert all(bool(p.x.isfinite().all()) for p in infinite.ask(99))


@pytest.mark.parametrize("make", [SepCma, Snes])
def test_the_penalty_keeps_the_search_near_its_start(make: Any) -> None:
    def far(penalty: float) -> float:
        told = drive(make(At(torch.zeros(30)), ROOT, penalty=penalty), lambda x: -float(x.sum()), 600)
        return float(told[-1].proposal.x.norm())

    assert far(30.0) < 0.5 * far(0.0)


def test_snes_learns_scales_and_converges() -> None:
    assert evaluations_to(1e-6, Snes, sphere, 8, population=10) < 4000
    assert evaluations_to(1e-6, Snes, ellipsoid, 6, population=10) < 20_000


# gradients


def quadratic(x: Tensor) -> float:
    return float((torch.arange(1, len(x) + 1) * (x - 1).square()).sum())


def its_slope(x: Tensor) -> Tensor:
    return 2 * torch.arange(1, len(x) + 1) * (x - 1)


@pytest.mark.parametrize("settings", [{}, {"decay": 0.1}, {"beta1": 0.5, "beta2": 0.9}, {"clip": 1.0}])
def test_adam_is_that_of_torch(settings: dict[str, float]) -> None:
    told = drive(Adam(At(torch.zeros(5)), ROOT, rate=0.05, **settings), quadratic, 50, its_slope)
    x = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    betas = (settings.get("beta1", 0.9), settings.get("beta2", 0.999))
    theirs = torch.optim.AdamW([x], lr=0.05, betas=betas, weight_decay=settings.get("decay", 0.0))
    for f in told:
        assert torch.allclose(f.proposal.x.double(), x.detach(), atol=1e-5)
        x.grad = its_slope(x.detach())
        if "clip" in settings:
            torch.nn.utils.clip_grad_norm_([x], settings["clip"])
        theirs.step()


def test_the_first_adam_step_is_the_rate_in_the_sign_of_the_gradient() -> None:
    first, second = drive(Adam(At(torch.zeros(4)), ROOT, rate=0.03), quadratic, 2, its_slope)
    assert torch.allclose(second.proposal.x - first.proposal.x, torch.full((4,), 0.03), atol=1e-6)


def test_adam_goes_back_from_what_is_not_finite_with_half_the_rate() -> None:
    def wall(x: Tensor) -> float:
        return math.nan if float(x[0]) > 0.3 else quadratic(x)

    told = drive(Adam(At(torch.zeros(3)), ROOT, rate=0.2), wall, 40, its_slope)
    fails = [i for i, f in enumerate(told) if f.reward != f.reward]
    assert fails[0] == 2
    first = told[fails[0]].proposal.x - told[fails[0] - 1].proposal.x
    assert torch.allclose(told[fails[0] + 1].proposal.x - told[fails[0] - 1].proposal.x, first / 2, atol=1e-6)
    assert len(told) < 40, "three failures in a row end it"
    holes = drive(Adam(At(torch.zeros(3)), ROOT), quadratic, 9, lambda x: x * math.nan)
    assert len(holes) == 3
    assert all(torch.equal(f.proposal.x, torch.zeros(3)) for f in holes)


def test_adam_is_pulled_back_by_the_penalty() -> None:
    told = drive(Adam(At(torch.zeros(4)), ROOT, rate=0.05, penalty=40.0), quadratic, 400, its_slope)
    k = torch.arange(1.0, 5.0)
    assert torch.allclose(told[-1].proposal.x, k / (k + 10), atol=0.02), "argmin of k (x-1)^2 + 40 mean(x^2)"


def test_reno_is_nesterov_with_the_norms_density() -> None:
    start = Key.root(9).normal(64)
    told = drive(Reno(At(start), ROOT, rate=0.5, iterations=12), quadratic, 99, its_slope)
    assert len(told) == 12
    z = start.double().requires_grad_()
    theirs = torch.optim.SGD([z], lr=0.5, momentum=0.9, nesterov=True)
    for f in told:
        assert torch.allclose(f.proposal.x.double(), z.detach(), atol=1e-4)
        theirs.zero_grad()
        k = torch.arange(1, 65)
        size = z.square().sum()
        ((k * (z - 1).square()).sum() + 0.01 * (size / 2 - 63 * size.sqrt().log())).backward()
        torch.nn.utils.clip_grad_norm_([z], 0.1)
        theirs.step()


def test_renos_regulariser_keeps_the_norm_of_normal_noise() -> None:
    start = 2 * Key.root(9).normal(400)
    told = drive(Reno(At(start), ROOT, iterations=200), lambda x: 0.0, 200, torch.zeros_like)
    assert float(told[-1].proposal.x.norm()) == pytest.approx(math.sqrt(399), rel=0.02)


def test_renos_regulariser_leaves_a_shift_alone() -> None:
    start = torch.cat([Key.root(9).normal(50), torch.zeros(10)])
    told = drive(
        Reno(At(start), ROOT, iterations=30), lambda x: -float(x[-1]), 30, lambda x: -(torch.arange(60) == 59).float()
    )
    last = told[-1].proposal.x
    assert float(last[59]) > 1
    assert not bool(last[50:59].any())


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (SepCma, {"sigma": 0}, "sep_cma.sigma is 0"),
        (SepCma, {"sigma": math.nan}, "sep_cma.sigma is nan"),
        (SepCma, {"population": 1}, "sep_cma.population is 1: must be a whole number >= 2"),
        (SepCma, {"step": "cas"}, "csa"),
        (SepCma, {"generations": 0}, "sep_cma.generations is 0"),
        (SepCma, {"penalty": -1}, "sep_cma.penalty is -1"),
        (SepCma, {"device": "tpu"}, "sep_cma.device='tpu'"),
        (Snes, {"sigma": -2}, "snes.sigma is -2"),
        (Snes, {"population": 2.5}, "snes.population is 2.5"),
        (Adam, {"rate": 0}, "adam.rate is 0"),
        (Adam, {"beta1": 1}, "adam.beta1 is 1"),
        (Adam, {"iterations": 0}, "adam.iterations is 0"),
        (Reno, {"clip": 0}, "reno.clip is 0"),
        (Reno, {"momentum": 1}, "reno.momentum is 1"),
    ],
)
def test_wrong_settings(make: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        make(At(torch.ones(4)), ROOT, **settings)


def test_wrong_spaces() -> None:
    with pytest.raises(FairleadError, match="plain point of this space is zero"):
        Reno(At(torch.zeros(4)), ROOT)
    with pytest.raises(FairleadError, match="at least 2 dimensions"):
        SepCma(At(torch.zeros(1)), ROOT)


# runs


@pytest.mark.parametrize(
    "words",
    [
        {"search": "sep_cma(population=5)", "space": "embedding"},
        {"search": "sep_cma(population=5, step='tpa', sigma=3.0)", "space": "product", "sampler": "ancestral"},
        {"search": "snes(population=4)", "space": "embedding"},
        {"search": "adam(rate=0.3)", "space": "embedding", "budget": {"nfe": 24.0}},
        {"search": "reno", "space": "product", "budget": {"nfe": 24.0}},
    ],
)
def test_resume_in_the_middle_of_a_search(words: dict[str, Any], tmp_path: Path) -> None:
    resume_laws(small_spec(**words), tmp_path)


@pytest.mark.parametrize("population", [2, 3])
def test_a_generation_of_step_size_points_only_is_refused(population: int) -> None:
    """Under TPA two samples lie on the line of the last move: with none beside them nothing is ever compared."""
    with pytest.raises(FairleadError, match=r"must be a whole number >= 4.*step='csa'"):
        SepCma(Plain(300), Key.root(0), population=population)
    SepCma(Plain(300), Key.root(0), population=population, step="csa")
    SepCma(Plain(299), Key.root(0), population=population)
    SepCma(Plain(300), Key.root(0), population=4)


def test_snes_moves_its_mean_by_rate_times_spread_times_the_weighted_step() -> None:
    """Schaul et al. 2011, one generation by hand: the mean, and the spread that follows."""
    sigma, rate, spread_rate = 0.25, 0.5, 0.3
    search = Snes(Plain(3), Key.root(1), sigma=sigma, population=4, rate=rate, spread_rate=spread_rate)
    start = search._mean.clone()
    plain, *asked = search.ask(5)
    assert torch.equal(plain.x.double(), start)
    search.tell([Feedback(p, float(p.x.sum()), {}) for p in (plain, *asked)])
    z = torch.stack([(p.x.double() - start) / sigma for p in sorted(asked, key=lambda p: -float(p.x.sum()))])
    raw = torch.tensor([max(0.0, math.log(3) - math.log(i)) for i in range(1, 5)], dtype=torch.float64)
    utility = (raw / raw.sum() - 0.25)[:, None]
    assert torch.allclose(search._mean, start + rate * sigma * (utility * z).sum(0), atol=1e-6)
    spread = sigma * (0.5 * spread_rate * (utility * (z.square() - 1)).sum(0)).exp()
    assert torch.allclose(search._spread, spread, atol=1e-6)


def test_reno_takes_the_published_number_of_steps() -> None:
    search = Reno(Plain(2), Key.root(0))
    assert sum(len(told(search, 1)) for _ in range(60)) == 50


def told(search: Any, n: int) -> list[Any]:
    """Asked once and answered with a gradient."""
    asked = search.ask(n)
    search.tell([Feedback(p, 0.0, {}, torch.zeros_like(p.x)) for p in asked])
    return list(asked)
