"""Nothing is spent that was not granted."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.cost import INFINITE, BudgetExceeded, Cost, Ledger, Meter, Unmetered
from fairlead.core.errors import FairleadError

whole = st.integers(0, 50)
costs = st.builds(Cost, nfe=whole, forwards=whole, backwards=whole, decodes=whole, scores=whole)
limits = st.dictionaries(st.sampled_from(["nfe", "forwards", "decodes", "scores"]), st.integers(1, 300), min_size=1)
WIDE = Cost(nfe=1, forwards=1, backwards=1, decodes=1, scores=1, seconds=0)


@given(costs, costs, costs)
def test_arithmetic(a: Cost, b: Cost, c: Cost) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b) - b == a
    assert a * 2 == a + a
    assert a.fits(a + b)
    assert a.fits(b) == (not a.over(b))
    assert a.fits(INFINITE)
    assert Cost(**a.as_dict()) == a


def test_a_sum_has_every_entry() -> None:
    one = Cost(**{f.name: 1.0 for f in fields(Cost)})
    assert one + one == one * 2


@given(limits, st.lists(st.tuples(costs, st.booleans()), max_size=12))
def test_a_budget_is_never_exceeded(limit: dict[str, float], wishes: list[tuple[Cost, bool]]) -> None:
    """Whatever is asked for, what is reserved and spent together fits; a refusal changes nothing."""
    ledger = Ledger(Cost.budget(limit))
    for unit, settle in wishes:
        n = ledger.affordable(unit, cap=20)
        assert n == 20 or not (unit * (n + 1)).fits(ledger.left)
        assert (unit * n).fits(ledger.left)
        before = ledger.left
        with nullcontext() if (unit * 2).fits(before) else pytest.raises(BudgetExceeded):
            ledger.reserve(unit * 2)
            if settle:
                ledger.settle(unit * 2, unit)
        assert (unit * 2).fits(before) or ledger.left == before
        assert ledger.spent.fits(ledger.budget)
        assert all(getattr(ledger.left, f.name) >= -1e-6 for f in fields(Cost))


@given(st.lists(costs, max_size=8), costs)
def test_the_meter_stops_before_the_grant_is_passed(charges: list[Cost], grant: Cost) -> None:
    meter = Meter()
    spent = Cost()
    with meter.grant(replace(grant, seconds=math.inf)):
        for charge in charges:
            if (spent + charge).fits(grant):
                meter.charge(charge)
                spent = spent + charge
            else:
                before = meter.spent
                with pytest.raises(BudgetExceeded) as told:
                    meter.charge(charge)
                assert meter.spent == before
                assert told.value.names == (spent + charge).over(grant)
    assert replace(meter.spent, seconds=0.0) == spent


def test_outside_a_grant_nothing_is_charged() -> None:
    meter = Meter()
    with pytest.raises(Unmetered, match="3 nfe"):
        meter.charge(Cost(nfe=3))
    with meter.grant(INFINITE):
        meter.charge(Cost(nfe=3))
    with pytest.raises(Unmetered):
        meter.charge(Cost(nfe=1))
    assert meter.spent.nfe == 3


def test_a_grant_covers_itself_alone() -> None:
    """What an earlier grant left over is gone."""
    meter = Meter()
    with meter.grant(Cost(nfe=10, seconds=60)):
        meter.charge(Cost(nfe=1))
    with meter.grant(Cost(nfe=1, seconds=60)):
        meter.charge(Cost(nfe=1))
        with pytest.raises(BudgetExceeded, match="1 nfe wanted, 0 left"):
            meter.charge(Cost(nfe=1))


def test_grants_do_not_nest() -> None:
    meter = Meter()
    with meter.grant(INFINITE):
        with pytest.raises(RuntimeError, match="nest"), meter.grant(INFINITE):
            pass
        meter.charge(WIDE)
    with pytest.raises(Unmetered):
        meter.charge(WIDE)


def test_a_grant_ends_with_an_exception() -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="x"), meter.grant(INFINITE):
        raise ValueError("x")
    with pytest.raises(Unmetered):
        meter.charge(WIDE)
    with meter.grant(INFINITE):
        meter.charge(WIDE)


def test_seconds_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fairlead.core.cost.time", SimpleNamespace(perf_counter=lambda: now[0]))
    meter = Meter()
    with meter.grant(Cost(nfe=100, seconds=2)):
        now[0] = 1.9
        meter.charge(Cost(nfe=1))
        now[0] = 2.1
        with pytest.raises(BudgetExceeded) as told:
            meter.charge(Cost(nfe=1))
    assert told.value.names == ["seconds"]
    assert meter.spent == Cost(nfe=1, seconds=2.1)


def test_what_is_settled_is_booked_even_beyond_the_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fairlead.core.cost.time", SimpleNamespace(perf_counter=lambda: now[0]))
    meter = Meter()
    with pytest.raises(Unmetered, match=r"0\.5 dollars"):
        meter.settle(Cost(dollars=0.5))
    with meter.grant(Cost(dollars=1.0, seconds=10)):
        meter.settle(Cost(dollars=0.75))
        now[0] = 50.0
        meter.settle(Cost(dollars=0.25))
        with pytest.raises(BudgetExceeded, match=r"0\.5 dollars wanted, 0 left") as told:
            meter.settle(Cost(dollars=0.5))
    assert told.value.left.seconds == -40
    assert meter.spent.dollars == 1.5
    with meter.grant(Cost(dollars=1.0, seconds=10)):
        meter.settle(Cost(dollars=0.9))
        with pytest.raises(BudgetExceeded) as told:
            meter.settle(Cost(dollars=0.3))
    assert told.value.wanted.dollars == 0.3
    assert told.value.left.dollars == pytest.approx(0.1)
    assert told.value.left.seconds == 10, "since this grant began"


def test_a_pause_spends_no_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fairlead.core.cost.time", SimpleNamespace(perf_counter=lambda: now[0]))
    meter = Meter()
    with meter.grant(Cost(nfe=1, seconds=2)):
        now[0] = 1.0
        with meter.paused():
            now[0] = 100.0
        now[0] = 100.5
        meter.charge(Cost(nfe=1))
    assert meter.spent == Cost(nfe=1, seconds=1.5)
    assert meter.paid_since(Cost(nfe=1, seconds=0.5)) == Cost(seconds=1.0)


def test_ledger_reservation_is_given_back() -> None:
    ledger = Ledger(Cost.budget({"nfe": 10}))
    ledger.reserve(Cost(nfe=8))
    with pytest.raises(BudgetExceeded, match="3 nfe wanted, 2 left"):
        ledger.reserve(Cost(nfe=3))
    ledger.settle(Cost(nfe=8), Cost(nfe=5))
    assert ledger.left.nfe == 5
    assert ledger.affordable(Cost(nfe=2)) == 2
    assert ledger.affordable(Cost(decodes=1), cap=7) == 7


def test_a_ledger_out_of_time_affords_nothing() -> None:
    ledger = Ledger(Cost.budget({"seconds": 1.0}))
    assert ledger.affordable(Cost(nfe=1), cap=5) == 5
    ledger.settle(Cost(), Cost(seconds=1.5))
    assert ledger.affordable(Cost(nfe=1), cap=5) == 0


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_budgets_are_positive(bad: float) -> None:
    with pytest.raises(FairleadError, match="must be > 0"):
        Cost.budget({"nfe": bad})


def test_budgets_have_known_names() -> None:
    with pytest.raises(FairleadError, match="Did you mean 'decodes'"):
        Cost.budget({"decode": 3})
    budget = Cost.budget({"nfe": 3})
    assert budget.limits() == {"nfe": 3}
    assert budget.decodes == math.inf
