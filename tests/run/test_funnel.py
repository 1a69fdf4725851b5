"""The funnel: rungs as rows, from the record alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.run import engine, funnel
from fairlead.run.records import Candidate
from fairlead.run.view import View, rows
from fairlead.testing.runs import small_spec


def test_every_rung_has_a_row(tmp_path: Path) -> None:
    engine.start(small_spec(steps=8, draft=2, finals=2, budget={"nfe": 60.0}), tmp_path / "run").close()
    view = View.read(tmp_path / "run")
    drafts, finished = view.rungs
    assert (drafts.name, finished.name) == ("few(2)", funnel.PICTURE)
    assert drafts.entered + finished.entered == len(view.candidates)
    assert (drafts.advanced, drafts.failed) == (2, 0)
    assert (finished.entered, finished.advanced) == (2, 0)
    assert drafts.price_in_pictures == pytest.approx(2 / 8)
    assert finished.price_in_pictures == 1
    assert (drafts.spent + finished.spent).nfe == pytest.approx(view.spent.nfe - 8)
    assert (finished.correlation, finished.interval) == (None, None)
    assert {row["rung"] for row in rows(view)} == {0, 1}


def test_a_run_without_drafts_has_no_funnel(tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "run").close()
    assert View.read(tmp_path / "run").rungs == []


def test_the_correlation_is_that_of_the_chosen_with_the_spread_of_all() -> None:
    """Forty drafts of which the best ten are finished; finals follow drafts exactly."""
    spec = small_spec(steps=8, draft=2, budget={"nfe": 60.0})
    each = Cost(nfe=2, forwards=2)
    drafts = [Candidate(i, float(i % 7), {}, each, "", "00", i, 2) for i in range(40)]
    best = sorted(drafts, key=lambda c: -c.reward)[:10]
    finals = [Candidate(40 + i, c.reward, {}, each * 4, "", "00", 40, 8, c.index, 1) for i, c in enumerate(best)]
    failed = Candidate(99, math.nan, {}, each, "", "00", 41, 2)
    plan = (funnel.PlannedRung("few(2)", 0.25, 0.5, funnel.CALIBRATED, 41),)
    row, _ = funnel.rung_summaries(spec, [*drafts, failed, *finals], plan)
    assert (row.planned, row.failed, row.source) == (41, 1, "calibrated")
    assert row.correlation == pytest.approx((10 * 1 + 8 * 0.5) / 18)
    assert row.interval == pytest.approx((1, 1))


def test_a_plan_survives_its_record_and_nothing_else_is_read() -> None:
    plan = (funnel.PlannedRung("few(2)", 0.25, 0.6, funnel.ASSUMED, None),)
    assert funnel.read_plan(funnel.plan_text(plan)) == plan
    assert funnel.read_plan(None) == ()
    for text in ('[{"name": "few(2)"}]', "[1]", "{", funnel.plan_text(plan).replace("0.6", "NaN")):
        with pytest.raises(StoreError, match="plan"):
            funnel.read_plan(text)
