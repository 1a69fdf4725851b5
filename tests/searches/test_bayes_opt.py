"""Bayesian optimisation: geometry of mixtures, and the search itself where BoTorch is installed."""

from __future__ import annotations

import importlib.util
import math
import time
from itertools import pairwise

import pytest
import torch

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.search import Feedback
from fairlead.searches.bayes_opt import LONGEST, SHORTEST, BayesOpt, _promise, angular_chart, mix, normal_scores
from fairlead.searches.best_of import BestOf
from fairlead.testing.searches import Plain

ROOT = Key.root(8)
HERE = importlib.util.find_spec("botorch") is not None
needs_botorch = pytest.mark.skipif(not HERE, reason="needs the extra bo")


def test_mixtures_of_normals_are_normal() -> None:
    n, k = 20_000, 8
    seeds = normals(tuple(ROOT.fold("seed", i) for i in range(k)), n)
    for i in range(k):
        assert torch.equal(mix(torch.eye(k)[i], seeds), seeds[i]), "a corner is its seed, bit for bit"
    w = torch.nn.functional.normalize(normals((ROOT.fold("v"), ROOT.fold("w")), k).double(), dim=1)
    a, b = mix(w[0], seeds), mix(w[1], seeds)
    assert abs(float(a.mean())) < 4 / math.sqrt(n)
    assert float(a.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / n))
    assert float(torch.cosine_similarity(a, b, dim=0)) == pytest.approx(float(w[0] @ w[1]), abs=4 / math.sqrt(n))


def test_chart_gives_unit_weights_none_negative() -> None:
    u = torch.stack([ROOT.fold(i).uniform(7) for i in range(200)])
    w = torch.stack([angular_chart(row) for row in u])
    assert (w.norm(dim=1) - 1).abs().max() < 1e-12
    assert (w >= 0).all()
    assert torch.equal(angular_chart(torch.zeros(3)).round(), torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    assert torch.equal(angular_chart(torch.ones(3)).round(), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))


def test_normal_scores_see_only_the_order() -> None:
    y = torch.tensor([3.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    z = normal_scores(y)
    assert torch.equal(z, normal_scores(y.exp() * 100))
    assert z[2] == z[3] == 0
    assert z[0] == -z[1]


@pytest.mark.skipif(HERE, reason="only where BoTorch is missing")
def test_says_what_to_install() -> None:
    with pytest.raises(FairleadError, match=r"pip install 'fairlead\[bo\]'"):
        BayesOpt(Plain(6), ROOT)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"seeds": 1}, "seeds"), ({"batch": 0}, "batch"), ({"init": 3}, "init"), ({"weights": "any"}, "weights")],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, object], said: str) -> None:
    with pytest.raises(FairleadError, match=f"bayes_opt.{said}"):
        BayesOpt(Plain(6), ROOT, **settings)  # type: ignore[arg-type]


@needs_botorch
def test_corners_are_the_candidates_of_random_search() -> None:
    space, key = Plain(30), ROOT.fold("search")
    mine, random = BayesOpt(space, key, seeds=5).ask(5), BestOf(space, key).ask(5)
    assert all(torch.equal(a.x, b.x) for a, b in zip(mine, random, strict=True))
    assert {p.key for p in mine} == {random[0].key}


@needs_botorch
@pytest.mark.parametrize("weights", ["signed", "positive"])
def test_beats_random_search_inside_its_subspace(weights: str) -> None:
    """Smooth reward of the weights: in 60 pictures better than the best of 60 draws, every time."""
    for seed in range(3):
        key, space = Key.root(seed).fold("search"), Plain(200)
        search = BayesOpt(space, key, seeds=6, weights=weights)
        goal = mix(angular_chart(torch.full((5,), 0.4)), search._seeds)
        best, points = -math.inf, set()
        for _ in range(99):
            asked = search.ask(60 - len(points))
            if not asked:
                break
            told = [Feedback(p, -float((p.x - goal).square().sum()), {}) for p in asked]
            best = max(best, *(f.reward for f in told))
            points |= {p.x.numpy().tobytes() for p in asked}
            search.tell(told)
            assert SHORTEST <= search._length <= LONGEST
        assert len(points) == 60, "no point twice"
        random = max(-float((p.x - goal).square().sum()) for p in BestOf(space, key).ask(60))
        assert best > 0.5 * random


@needs_botorch
@pytest.mark.parametrize("value", [0.0, math.nan])
def test_survives_rewards_that_say_nothing(value: float) -> None:
    search, points = BayesOpt(Plain(20), ROOT, seeds=4, batch=3), []
    for _ in range(60):
        asked = search.ask(99)
        search.tell([Feedback(p, value, {}) for p in asked])
        points += [p.x.numpy().tobytes() for p in asked]
    assert len(set(points)) == len(points) > 100
    assert search._restarts > 0, "a search that never succeeds starts anew"


@needs_botorch
def test_its_own_time_is_small() -> None:
    """Processor seconds per picture at 100 evaluations in 16 dimensions."""
    search, spent = BayesOpt(Plain(64), ROOT), 0.0
    slope = ROOT.fold("slope").normal(64)
    for _ in range(20):
        began = time.process_time()
        asked = search.ask(99)
        spent += time.process_time() - began
        search.tell([Feedback(p, float(p.x @ slope), {}) for p in asked])
    assert spent / 100 < 0.1


@needs_botorch
def test_a_smallest_improvement_counts() -> None:
    """A margin in units of the reward would make `rank_mean(v, v)` search otherwise than `v`."""
    search = BayesOpt(Plain(20), ROOT, seeds=3, batch=1)
    search.tell([Feedback(p, float(i), {}) for i, p in enumerate(search.ask(99))])
    search.tell([Feedback(p, 5.0 + 1e-6, {}) for p in search.ask(99)])
    assert (search._wins, search._losses) == (1, 0)


@needs_botorch
def test_the_shortlist_is_by_posterior_mean_plus_deviation() -> None:
    """By hand as by BoTorch, and the noise may be as small as BoTorch lets it be."""
    from botorch.models.utils.gpytorch_modules import MIN_INFERRED_NOISE_LEVEL

    search = BayesOpt(Plain(20), ROOT, seeds=4)
    w = torch.stack([search._random(ROOT.fold("w", i)) for i in range(12)])
    choices = torch.stack([search._random(ROOT.fold("c", i)) for i in range(7)])
    y = normal_scores(w @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64))
    model, lengths = search._fit(w, y)
    assert lengths.shape == (4,)
    posterior = model.posterior(choices)
    expected = (posterior.mean + posterior.variance.sqrt())[:, 0]
    torch.testing.assert_close(_promise(model, w, y, choices), expected.detach(), rtol=1e-4, atol=1e-4)
    assert float(model.likelihood.noise_covar.raw_noise_constraint.lower_bound) == pytest.approx(
        MIN_INFERRED_NOISE_LEVEL
    )


@needs_botorch
def test_equal_rewards_say_nothing_and_the_batch_is_random() -> None:
    search = BayesOpt(Plain(20), ROOT, seeds=3, batch=2)
    search.tell([Feedback(p, 1.0, {}) for p in search.ask(99)])
    asked = search.ask(99)
    key = ROOT.fold("round", 1)
    for i, proposal in enumerate(asked):
        assert torch.equal(proposal.x, mix(search._random(key.fold(i)), search._seeds))
    assert len(asked) == 2


@needs_botorch
def test_lengths_are_learnt_once_and_again_when_the_data_doubled() -> None:
    search, learnt = BayesOpt(Plain(20), ROOT, seeds=4, batch=4), []
    for _ in range(6):
        asked = search.ask(99)
        search.tell([Feedback(p, float(p.x.sum()), {}) for p in asked])
        learnt.append(search._fitted[0])
    assert learnt[0] == 0
    first = learnt[1]
    assert first > 0
    assert learnt[-1] >= 2 * first
    assert all(after in (before, 0) or before == 0 or after >= 2 * before for before, after in pairwise(learnt))
