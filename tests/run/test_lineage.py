"""Who was drawn from whom: searches say it, the record keeps it, and it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.run import engine
from fairlead.run.follow import Follower, candidate_json
from fairlead.run.store import Store
from fairlead.testing.runs import small_spec


@pytest.mark.parametrize("batch", [1, 3])
def test_the_record_tells_who_was_drawn_from_whom(batch: int, tmp_path: Path) -> None:
    store = engine.start(small_spec(search="zero_order", batch=batch, budget={"nfe": 60}), tmp_path / "run")
    every = store.candidates()
    assert every[0].origin is None
    assert [c.origin for c in every[1:5]] == [0, 0, 0, 0]
    best = max(every[:5], key=lambda c: c.reward).index
    assert {c.origin for c in every[5:9]} == {best}
    follower = Follower(tmp_path / "run")
    assert [candidate_json(c)["origin"] for c in follower.candidates(-1)] == [c.origin for c in every]
    follower.close()


def test_a_run_that_was_extended_and_resumed_has_one_lineage(tmp_path: Path) -> None:
    whole = engine.start(small_spec(search="evolution", budget={"nfe": 120}), tmp_path / "whole")
    engine.start(small_spec(search="evolution", budget={"nfe": 44}), tmp_path / "part")
    part = engine.resume(tmp_path / "part", budget={"nfe": 120})
    assert [c.origin for c in part.candidates()] == [c.origin for c in whole.candidates()]
    assert any(c.origin is not None for c in whole.candidates())


def test_a_search_without_parents_leaves_no_table(tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "run")
    store = Store.open(tmp_path / "run")
    assert all(c.origin is None for c in store.candidates())
    assert store._db.execute("select count(*) from sqlite_master where name='lineage'").fetchone()[0] == 0
