"""What calibrate measured: kept, found again for the same model, reward and rung alone, used by the planner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.run import calibrations, engine
from fairlead.run.calibrations import Known
from fairlead.run.price import price
from fairlead.run.spec import Spec
from fairlead.run.view import View
from fairlead.testing.runs import after, small_spec


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return calibrations.path()


def spec_with(**words: Any) -> Spec:
    return small_spec(**{"steps": 8, "draft": 2, "budget": {"nfe": 160.0}, **words})


def keep(spec: Spec, r: float) -> None:
    calibrations.keep(spec, {"few(2)": Known(r, 0.25, 4, 32)})


def test_what_is_kept_is_found_for_the_same_question_alone() -> None:
    spec = spec_with()
    keep(spec, 0.8)
    assert calibrations.look_up(spec, ["few(2)", "few(3)"]) == [Known(0.8, 0.25, 4, 32), None]
    keep(replace(spec, steps=9), 0.1)
    assert calibrations.look_up(replace(spec, prompt="other", seed=5), ["few(2)"])[0] == Known(0.8, 0.25, 4, 32)
    for other in (spec_with(reward="jpeg_size"), spec_with(sampler="heun"), spec_with(steps=12)):
        assert calibrations.look_up(other, ["few(2)"]) == [None]


def test_the_planner_uses_it_and_price_says_so() -> None:
    assumed = price(spec_with()).plan.rungs
    keep(spec_with(), 0.95)
    measured = price(spec_with()).plan.rungs
    assert [rung.source for rung in (assumed[0], measured[0])] == ["assumed", "calibrated"]
    assert [rung.correlation for rung in (assumed[0], measured[0])] == [0.6, 0.95]
    few, many = measured[-1].candidates, assumed[-1].candidates
    assert few is not None
    assert many is not None
    assert few < many


def test_where_drafts_do_not_pay_it_is_best_of(tmp_path: Path) -> None:
    keep(spec_with(), 0.1)
    store = engine.start(spec_with(), tmp_path / "run")
    assert store.spec.draft is None
    assert {c.steps for c in store.candidates()} == {8}
    store.close()
    (sentence,) = View.read(tmp_path / "run").warnings
    assert "correlation with it is 0.10 (calibrated)" in sentence
    assert price(spec_with()).warning == sentence
    assert price(spec_with()).total.nfe == 160
    chosen = engine.start(spec_with(finals=2), tmp_path / "chosen")
    assert chosen.spec.draft == "few(2)"


def test_a_run_does_not_depend_on_the_file_once_it_has_started(tmp_path: Path, state: Path) -> None:
    keep(spec_with(), 0.95)
    whole = engine.start(spec_with(), tmp_path / "whole").candidates()
    engine.start(spec_with(), tmp_path / "run", stop=after(3)).close()
    state.unlink()
    store = engine.resume(tmp_path / "run")
    assert [(c.key, c.reward, c.rung) for c in store.candidates()] == [(c.key, c.reward, c.rung) for c in whole]
    best = store.best()
    assert best is not None
    store.close()
    assert engine.replay(tmp_path / "run", best.index).identical
    drafts, _ = View.read(tmp_path / "run").rungs
    assert drafts.source == "calibrated"


@pytest.mark.parametrize("damage", ["{", "[]", '{"entries": {"a": {"correlation": 2}}}', None])
def test_a_damaged_file_is_a_warning_and_nothing_is_used(damage: str | None, state: Path) -> None:
    keep(spec_with(), 0.9)
    text = state.read_text()
    state.write_text(text.replace("0.9", '"0.9"') if damage is None else damage)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert calibrations.look_up(spec_with(), ["few(2)"]) == [None]


def test_the_file_holds_numbers_alone(state: Path) -> None:
    keep(spec_with(), 0.9)
    (entry,) = json.loads(state.read_text())["entries"].values()
    assert all(isinstance(value, int | float) for value in entry.values())


def test_a_larger_budget_is_planned_with_what_the_finals_showed(tmp_path: Path) -> None:
    """Drafts on nearly all levels predict their finals well: the assumed correlation rises, from the same prior twice.

    The corrected value is recorded with the budget, so a run that is cut then does not depend on later finals.
    """
    spec = spec_with(draft="few(5)", finals=8, budget={"nfe": 200.0})
    engine.start(spec, tmp_path / "run").close()
    first = View.read(tmp_path / "run").rungs[0].correlation
    assert first is not None
    assert first > 0.6
    for budget in (260.0, 320.0):
        before = View.read(tmp_path / "run").rungs[0].correlation
        engine.resume(tmp_path / "run", budget={"nfe": budget}, stop=after(1)).close()
        planned = View.read(tmp_path / "run").plan[0]
        assert (planned.correlation, planned.uncorrected) == (before, 0.6)
        engine.resume(tmp_path / "run").close()
        assert View.read(tmp_path / "run").plan[0] == planned
