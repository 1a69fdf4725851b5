"""Strengths from comparisons: published estimates, closed forms, and what an estimate must obey."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from fairlead.core.key import Key
from fairlead.run.agreement import alpha, alpha_of_pairs
from fairlead.run.bradley_terry import Comparison, best_pair, estimate

TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
VICTORIES = (
    (0, 7, 9, 7, 7, 9, 11),
    (6, 0, 7, 5, 11, 9, 9),
    (4, 6, 0, 7, 7, 8, 12),
    (6, 8, 6, 0, 6, 7, 10),
    (6, 2, 6, 7, 0, 7, 12),
    (4, 4, 5, 6, 6, 0, 6),
    (2, 4, 1, 3, 1, 7, 0),
)
"""American League baseball 1987, from Agresti, Categorical Data Analysis."""


def games() -> list[Comparison]:
    pairs = permutations(range(len(TEAMS)), 2)
    return [Comparison(i, j, 1.0, VICTORIES[i][j]) for i, j in pairs]


def test_the_published_strengths_and_their_errors() -> None:
    """As the R package BradleyTerry2 prints them, relative to Baltimore."""
    found = estimate(7, games(), prior=math.inf)
    against = found.values - found.values[6]
    assert against[:6] == pytest.approx([1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839], abs=5e-5)
    errors = np.sqrt(found._spread(6))
    assert errors[:6] == pytest.approx([0.3433, 0.3396, 0.3367, 0.3359, 0.3339, 0.3319], abs=5e-5)


@pytest.mark.parametrize(("won", "tied", "lost"), [(6, 3, 2), (1, 5, 4), (3, 1, 3)])
def test_two_pictures_have_a_closed_form(won: int, tied: int, lost: int) -> None:
    """Davidson 1970: the odds are those of the decided comparisons, and ties are as common as they were."""
    said = [Comparison(0, 1, 1.0)] * won + [Comparison(0, 1, 0.5)] * tied + [Comparison(1, 0, 1.0)] * lost
    found = estimate(2, said, prior=math.inf)
    assert found.values[0] - found.values[1] == pytest.approx(math.log(won / lost))
    assert math.exp(found.tie) == pytest.approx(tied / math.sqrt(won * lost))
    n = won + tied + lost
    assert found.chance(0, 1) == pytest.approx((won / n, tied / n, lost / n))


def some_answers(many: int, n: int = 6, seed: int = 0) -> tuple[list[float], list[Comparison]]:
    """True strengths, and answers drawn from the model with t = 0."""
    key = Key.root(seed)
    truth = (1.5 * key.fold("strengths").normal(n)).tolist()
    u = key.fold("answers").uniform(many, 3).tolist()
    said = []
    for a, b, c in u:
        i = int(a * n)
        j = (i + 1 + int(b * (n - 1))) % n
        d = truth[i] - truth[j]
        weights = [math.exp(d / 2), 1.0, math.exp(-d / 2)]
        place = c * sum(weights)
        passed = sum(place >= bound for bound in (weights[0], weights[0] + weights[1]))
        said.append(Comparison(i, j, (1.0, 0.5, 0.0)[passed]))
    return truth, said


def test_the_estimate_is_the_maximum() -> None:
    """Against the log posterior written out again, in every direction."""
    _, said = some_answers(40)
    found = estimate(6, said)

    def log_posterior(values: np.ndarray, tie: float) -> float:
        total = -(values @ values + tie**2) / (2 * 1.5**2)
        for c in said:
            d = values[c.first] - values[c.second]
            z = math.exp(d / 2) + math.exp(tie) + math.exp(-d / 2)
            total += {1.0: d / 2, 0.5: tie, 0.0: -d / 2}[c.outcome] - math.log(z)
        return float(total)

    highest = log_posterior(found.values, found.tie)
    for i in range(6):
        for h in (-1e-3, 1e-3):
            moved = found.values.copy()
            moved[i] += h
            assert log_posterior(moved, found.tie) < highest
    assert log_posterior(found.values, found.tie + 1e-3) < highest
    assert log_posterior(found.values, found.tie - 1e-3) < highest


def test_intervals_cover_what_they_promise() -> None:
    """Over many small sets of answers, near 95 % of the intervals hold the true strength."""
    inside = []
    for seed in range(60):
        truth, said = some_answers(24, seed=seed)
        found = estimate(6, said)
        centre = sum(truth) / 6
        inside += [found.interval(i)[0] <= truth[i] - centre <= found.interval(i)[1] for i in range(6)]
    assert 0.92 <= sum(inside) / len(inside) <= 0.98


def test_sides_and_names_mean_nothing() -> None:
    _, said = some_answers(30)
    one = estimate(6, said)
    turned = estimate(6, [Comparison(c.second, c.first, 1 - c.outcome) for c in said])
    assert turned.values == pytest.approx(one.values)
    renamed = estimate(6, [Comparison(5 - c.first, 5 - c.second, c.outcome) for c in said])
    assert renamed.values[::-1] == pytest.approx(one.values)


def test_nothing_said_is_no_strength_and_one_victory_is_finite() -> None:
    nothing = estimate(4, [])
    assert nothing.values.tolist() == [0.0] * 4
    assert nothing.places(0) == (1, 4)
    found = estimate(4, [Comparison(0, 1, 1.0)])
    assert found.values[0] > found.values[2] > found.values[1]
    assert abs(found.values).max() < 3
    assert found.interval(2)[1] - found.interval(2)[0] > found.interval(0)[1] - found.interval(0)[0]


def test_the_next_pair_is_the_least_certain() -> None:
    """A picture nobody saw comes before a pair that is known; equals go by their order."""
    said = [Comparison(0, 1, 1.0), Comparison(1, 0, 0.0), Comparison(0, 1, 1.0)]
    gains = estimate(3, said).gains()
    assert gains[0, 1] < min(gains[0, 2], gains[1, 2])
    allowed = [(0, 1), (0, 2), (1, 2)]
    assert best_pair(gains, allowed, [0, 1, 2]) in {(0, 2), (1, 2)}
    same = estimate(3, []).gains()
    assert best_pair(same, allowed, [2, 0, 1]) == (0, 2)
    assert best_pair(same, [], []) is None


def test_asking_the_least_certain_pair_learns_faster_than_chance() -> None:
    """Thirty answers of a judge who is right by the model, over eight pictures."""

    def error(choose: bool, seed: int) -> float:
        key = Key.root(seed)
        truth = np.array((1.5 * key.fold("strengths").normal(8)).tolist())
        truth -= truth.mean()
        pairs = [(i, j) for i in range(8) for j in range(i)]
        said: list[Comparison] = []
        for turn in range(30):
            u = key.fold("turn", turn).uniform(len(pairs) + 1).tolist()
            order = sorted(range(len(pairs)), key=u.__getitem__)
            i, j = pairs[order[0]]
            if choose:
                i, j = best_pair(estimate(8, said).gains(), pairs, order) or (i, j)
            won = u[-1] < 1 / (1 + math.exp(truth[j] - truth[i]))
            said.append(Comparison(i, j, float(won)))
        return float(((estimate(8, said).values - truth) ** 2).mean())

    seeds = range(12)
    assert sum(error(True, s) for s in seeds) < sum(error(False, s) for s in seeds)


RATINGS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
"""Krippendorff 2011: four observers, twelve units."""


def test_the_published_alpha() -> None:
    units = [[float(v) for v in column if v is not None] for column in zip(*RATINGS, strict=True)]
    assert alpha(units, lambda a, b: float(a != b)) == pytest.approx(0.743, abs=5e-4)
    assert alpha(units) == pytest.approx(0.849, abs=5e-4)


def test_agreement_of_comparisons() -> None:
    assert alpha_of_pairs([[1, 1], [0, 0], [1, 1]]) == 1.0
    assert alpha_of_pairs([[1, 1], [1, 1]]) == 1.0, "which of a pair is the first means nothing"
    assert alpha_of_pairs([[1, 0], [0, 1]]) < 0
    assert alpha_of_pairs([[1, 1], [0, 0.5], [1, 1, 1]]) == alpha_of_pairs([[0, 0], [0, 0.5], [0, 0, 0]])
    assert math.isnan(alpha_of_pairs([[1], [0]]))
