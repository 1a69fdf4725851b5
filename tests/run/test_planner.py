"""The planner of drafts: theorems first, then the table of the specification, then simulations."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead.core.key import Key
from fairlead.run import planner, posterior


def test_expected_best_of_known_sizes() -> None:
    assert planner.expected_best(1) == pytest.approx(0, abs=1e-9)
    assert planner.expected_best(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    for n, value in ((8, 1.424), (16, 1.766), (64, 2.344)):
        assert planner.expected_best(n) == pytest.approx(value, abs=6e-4)


def test_one_final_keeps_r_of_the_gain_and_all_finals_keep_everything() -> None:
    for drafts in (2, 17, 300):
        assert planner.expected_winner(drafts, 1, 0.7) == pytest.approx(0.7 * planner.expected_best(drafts))
        assert planner.expected_winner(drafts, drafts, 0.2) == pytest.approx(planner.expected_best(drafts))
        assert planner.expected_winner(drafts, min(2, drafts), 1.0) == pytest.approx(planner.expected_best(drafts))


def test_the_simulation_agrees_with_a_direct_one() -> None:
    """M normals, their noisy finals, the K best drafts finished: no spacings, no shortcut."""
    key = Key.root(1)
    d = key.fold("d").normal(20_000, 30).double()
    f = 0.6 * d + 0.8 * key.fold("f").normal(20_000, 30).double()
    best = d.topk(5, dim=1).indices
    direct = f.gather(1, best).amax(1).mean()
    assert planner.expected_winner(30, 5, 0.6) == pytest.approx(float(direct), abs=0.02)


def test_the_value_grows_with_drafts_and_with_r() -> None:
    by_drafts = [planner.expected_winner(m, 4, 0.6) for m in (8, 16, 64, 256)]
    by_r = [planner.expected_winner(64, 4, r) for r in (0.1, 0.4, 0.7, 0.95)]
    assert by_drafts == sorted(by_drafts)
    assert by_r == sorted(by_r)


GOLDEN = [
    # rho, price, budget, drafts, finals, gain over best-of-N in standard deviations
    (0.3, 0.025, 16, 160, 12, 0.38),
    (0.3, 0.5, 8, 8, 4, -0.19),
    (0.5, 0.05, 16, 160, 8, 0.54),
    (0.5, 0.1, 16, 70, 9, 0.39),
    (0.5, 0.25, 64, 164, 23, 0.19),
    (0.7, 0.1, 8, 50, 3, 0.59),
    (0.7, 0.25, 32, 88, 10, 0.32),
    (0.9, 0.05, 16, 240, 4, 0.99),
    (0.9, 0.5, 64, 112, 8, 0.20),
]


@pytest.mark.parametrize(("rho", "price", "budget", "drafts", "finals", "gain"), GOLDEN)
def test_the_table_of_the_specification(
    rho: float, price: float, budget: int, drafts: int, finals: int, gain: float
) -> None:
    r = planner.correlation_of_ranks(rho)
    found = planner.expected_winner(drafts, finals, r) - planner.expected_best(budget)
    assert found == pytest.approx(gain, abs=0.02)
    ruled = planner.plan(budget, price, r)
    assert ruled.gain >= gain - 0.1, "the rule loses at most a tenth of a standard deviation against the optimum"
    assert ruled.drafts * price + ruled.finals <= budget + 1e-6


def test_fewer_finals_the_better_the_drafts() -> None:
    finals = [planner.plan(32, 0.1, r).finals for r in (0.2, 0.5, 0.8, 0.99)]
    assert finals == sorted(finals, reverse=True)
    assert planner.plan(64, 1e-4, 0.999).finals == 1


@pytest.mark.parametrize("budget", [8, 16, 64])
def test_dear_drafts_are_advised_against(budget: int) -> None:
    for r in (0.3, 0.6, 0.9):
        assert not planner.plan(budget, 1.05 * r, r).pays
    assert planner.plan(budget, 0.1, 0.7).pays


def test_continuing_from_the_drafts_state_leaves_money_for_more_drafts() -> None:
    assert planner.plan(16, 0.3, 0.8, saved=0.3).drafts > planner.plan(16, 0.3, 0.8).drafts


def test_a_budget_that_is_too_small_plans_plain_pictures() -> None:
    assert planner.plan(1, 0.5, 0.6) == planner.DraftPlan(1, 1, 0.0)
    assert not planner.plan(1.2, 0.5, 0.6).pays


@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_the_regression_is_unbiased_where_the_plain_correlation_is_not(truth: float) -> None:
    """The finals are the top drafts, as in every run."""
    key = Key.root(7).fold(str(truth))
    plain, ruled = [], []
    for trial in range(2000):
        d = key.fold(trial).fold("d").normal(64).double()
        f = truth * d + math.sqrt(1 - truth**2) * key.fold(trial).fold("f").normal(64).double()
        top = d.topk(16).indices
        pairs = list(zip(d[top].tolist(), f[top].tolist(), strict=True))
        plain.append(float(torch.corrcoef(torch.tensor(pairs).T)[0, 1]))
        found = posterior.regression_correlation(d.tolist(), pairs)
        assert found is not None
        ruled.append(found)
    assert sum(plain) / 2000 < truth - 0.2
    assert torch.tensor(ruled).median() == pytest.approx(truth, abs=0.04)


def test_few_pairs_or_equal_drafts_leave_the_prior() -> None:
    assert posterior.measured_correlation([1.0, 2.0], [(2.0, 3.0)]) == posterior.PRIOR
    assert posterior.measured_correlation([1.0] * 9, [(1.0, float(i)) for i in range(9)]) == posterior.PRIOR
    huge = [(1e300 * i, float(i)) for i in range(9)]
    assert posterior.measured_correlation([d for d, _ in huge], huge) == posterior.PRIOR
    assert posterior.forecast([d for d, _ in huge], huge, [1.0]) is None
    many = [(float(i), float(i)) for i in range(400)]
    assert posterior.measured_correlation([d for d, _ in many], many) > 0.98


def test_the_stop_rule_is_not_below_any_fixed_number_of_finals() -> None:
    """Net value, reward minus price times finals opened, on simulated boxes opened in falling draft order."""
    key, r, price, draws = Key.root(3), 0.7, 0.15, 3000
    d = key.fold("d").normal(draws, 24).double().sort(1, descending=True).values
    sd = math.sqrt(1 - r * r)
    f = r * d + sd * key.fold("f").normal(draws, 24).double()
    fixed = [float((f[:, :k].amax(1) - price * k).mean()) for k in range(1, 25)]
    ruled = 0.0
    for drafts, finals in zip(d, f, strict=True):
        best, opened = -math.inf, 0
        while not posterior.stop(best, (r * drafts[opened:]).tolist(), sd, price):
            best = max(best, float(finals[opened]))
            opened += 1
        ruled += (best - price * opened) / draws
    assert ruled >= max(fixed) - 0.01


def test_the_reservation_is_where_the_expected_gain_equals_the_price() -> None:
    value = posterior.reservation(2.0, 0.5, 0.1)
    x = 2.0 + 0.5 * Key.root(5).fold("x").normal(400_000).double()
    assert float((x - value).clamp(min=0).mean()) == pytest.approx(0.1, abs=2e-3)
    assert posterior.reservation(0.0, 1.0, 4.0) == pytest.approx(-4.0, abs=1e-3)


def test_the_forecast_is_the_regression_for_many_pairs_and_the_prior_for_few() -> None:
    key = Key.root(11)
    d = key.fold("d").normal(4000).double()
    f = 5 + 2 * (0.8 * d + 0.6 * key.fold("f").normal(4000).double())
    top = d.topk(400).indices
    pairs = list(zip(d[top].tolist(), f[top].tolist(), strict=True))
    found = posterior.forecast(d.tolist(), pairs, [0.0, 1.0])
    assert found is not None
    means, sd = found
    assert means == pytest.approx([5.0, 6.6], abs=0.45)
    assert sd == pytest.approx(1.2, abs=0.1)
    assert posterior.forecast(d.tolist(), pairs[:3], [0.0]) is None
    few = posterior.forecast(d.tolist(), pairs[:4], [0.0, 1.0], prior=0.1)
    many = posterior.forecast(d.tolist(), pairs[:4], [0.0, 1.0], prior=0.9)
    assert few is not None
    assert many is not None
    assert few[0][1] - few[0][0] < many[0][1] - many[0][0]
