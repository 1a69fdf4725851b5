"""Rungs: the grid of a draft, what a person writes, and whole runs on the mixture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.errors import FairleadError
from fairlead.run import engine, png, rungs
from fairlead.run.calibrate import calibrate
from fairlead.run.executor import Local, rung_costs
from fairlead.run.price import price
from fairlead.run.rung_plan import plan_rungs
from fairlead.run.spec import Spec
from fairlead.run.store import Store
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_draft_visits_the_pictures_own_levels_dense_at_the_start(full: int, steps: int) -> None:
    if steps > full:
        with pytest.raises(FairleadError, match="steps"):
            rungs.kept_levels(full, steps)
        return
    kept = rungs.kept_levels(full, steps)
    assert len(kept) == steps + 1
    assert kept[0] == 0
    assert kept[-1] == full
    assert all(a < b for a, b in pairwise(kept))
    if steps > 1:
        assert kept[1] == 1
    if steps == full:
        assert kept == list(range(full + 1))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (6, "few(6)"),
        ("6", "few(6)"),
        ("even(8)", "even(8)"),
        ("pocket-turbo", "by(pocket-turbo,4)"),
        ("pocket-turbo@3", "by(pocket-turbo,4,after=3)"),
        ("by( pocket-turbo , 2 , after = 1 )", "by(pocket-turbo,2,after=1)"),
        ("auto", "few(6)"),
        (None, None),
    ],
)
def test_what_a_person_writes(written: int | str | None, text: str | None) -> None:
    assert rungs.normal(written, 20) == text
    if text is not None:
        assert str(rungs.read(text)) == text


def test_auto_follows_what_the_model_names() -> None:
    assert rungs.normal("auto", 20, "pocket-turbo@3") == "by(pocket-turbo,4,after=3)"
    assert rungs.normal("auto", 3) is None


@pytest.mark.parametrize("written", [0, 20, "20", "even(25)", "pocket-turbo@20", "few(x)", "turbo@x", "by(a)", -1])
def test_what_cannot_be_a_draft(written: int | str) -> None:
    with pytest.raises(FairleadError, match=r"draft|steps"):
        rungs.normal(written, 20)


def recorded(folder: Path, **words: object) -> Store:
    return engine.start(small_spec(**{"steps": 8, "budget": {"nfe": 80.0}, **words}), folder)


def test_a_draft_on_all_levels_promotes_the_best_plain_picture(tmp_path: Path) -> None:
    """A perfect draft: the winner is the best of all drafts, and its final is the same picture."""
    spec = Spec.from_json(small_spec(steps=8, budget={"nfe": 80.0}, draft="few(7)", finals=1).json())
    perfect = engine.start(Spec(**{**spec.__dict__, "draft": "few(8)"}), tmp_path / "perfect")
    drafts = [c for c in perfect.candidates() if c.refines is None]
    (final,) = (c for c in perfect.candidates() if c.refines is not None)
    assert final.refines == max(drafts, key=lambda c: c.reward).index
    plain = recorded(tmp_path / "plain", budget={"nfe": 8.0 * len(drafts)}).candidates()
    assert [c.key for c in plain] == [c.key for c in drafts]
    assert [c.reward for c in plain] == pytest.approx([c.reward for c in drafts], abs=1e-6)
    assert final.reward == pytest.approx(drafts[final.refines].reward, abs=1e-6)


def test_a_sibling_that_is_the_model_itself_draws_the_plain_picture(tmp_path: Path) -> None:
    """On the same grid: alone from the noise, and after some of the picture's own steps."""
    plain = recorded(tmp_path / "plain", budget={"nfe": 40.0}).candidates()
    for after in (0, 3):
        text = f"by(mixture,8,after={after})" if after else "by(mixture,8)"
        store = recorded(tmp_path / f"after{after}", draft=text, finals=1)
        drafts = [c for c in store.candidates() if c.refines is None]
        assert len(drafts) >= 5
        for draft, picture in zip(drafts, plain, strict=False):
            assert draft.key == picture.key
            assert draft.reward == pytest.approx(picture.reward, abs=1e-5)


@pytest.mark.parametrize("draft", ["few(3)", "even(3)", "by(mixture,2,after=1)", 3])
def test_the_budget_holds_and_the_price_is_the_bill(draft: int | str, tmp_path: Path) -> None:
    words = {"steps": 8, "budget": {"nfe": 97.0}, "draft": draft}
    store = engine.start(small_spec(**words), tmp_path / "run")
    spent = store.spent()
    assert spent.nfe <= 97
    assert price(small_spec(**words)).total.nfe == spent.nfe
    costs = rung_costs(store.spec, Local(store.spec))
    assert costs.rungs[0].nfe == 3
    finals = [c for c in store.candidates() if c.refines is not None]
    assert len(finals) == plan_rungs(store.spec, costs).rungs[-1].candidates > 1


def test_a_final_is_the_plain_picture_of_its_key(tmp_path: Path) -> None:
    store = recorded(tmp_path / "run", draft="few(3)", finals=2, batch=1)
    drafts = {c.index: c for c in store.candidates() if c.refines is None}
    other = recorded(tmp_path / "plain", budget={"nfe": 400.0}, batch=1)
    plain = {c.key: c for c in other.candidates()}
    for final in (c for c in store.candidates() if c.refines is not None):
        assert final.refines is not None
        assert final.key == drafts[final.refines].key
        own, _ = png.read(store.image(Path(final.image).stem))
        again, _ = png.read(other.image(Path(plain[final.key].image).stem))
        assert (own == again).all()
        assert final.reward == plain[final.key].reward


def test_runs_with_rungs_resume_bit_for_bit(tmp_path: Path) -> None:
    for draft in ("few(2)", "by(mixture,1,after=1)"):
        resume_laws(small_spec(steps=8, budget={"nfe": 80.0}, draft=draft), tmp_path / str(len(draft)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"draft": "mixture", "sampler": "ancestral"}, "adds noise at every step"),
        ({"draft": "mixture", "steer": "feynman_kac", "sampler": "ancestral"}, "would not be controlled"),
    ],
)
def test_what_a_sibling_cannot_draft(words: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=sentence):
        recorded(tmp_path / "run", **words)


@pytest.mark.parametrize("wrong", [1e300, {"few": 3}, ["few(3)"]])
def test_what_is_no_chain_is_one_sentence(wrong: Any) -> None:
    with pytest.raises(FairleadError, match="draft is"):
        rungs.models_in(wrong)


def test_an_old_record_keeps_its_number_and_its_name() -> None:
    """`draft` as a number is how fairlead 0.1 recorded even steps; nothing about such a Spec has changed."""
    text = small_spec(steps=8, budget={"nfe": 60.0}, draft="even(2)", finals=1).json().replace('"even(2)"', "2")
    spec = Spec.from_json(text)
    assert spec.draft == 2
    assert spec.json() == text
    assert str(rungs.read(spec.draft)) == "even(2)"
    assert torch.tensor(rungs.evaluations(spec.draft, 8)) == 2


def test_calibrate_measures_price_and_correlation_of_every_kind_of_draft() -> None:
    """A draft on all levels, by the model or by itself as a sibling, predicts everything and saves nothing."""
    spec = small_spec(steps=6, batch=4)
    found = calibrate(spec, ["x", "y"], ["few(2)", "few(6)", "by(mixture,6)"], 8)
    by_rung = {row.rung: row for row in found}
    assert list(by_rung) == ["few(2)", "few(6)", "by(mixture,6)", None]
    assert [row.price for row in found] == pytest.approx([1 / 3, 1, 1, 1])
    for rung in ("few(6)", "by(mixture,6)", None):
        assert by_rung[rung].correlation == pytest.approx(1)
        assert by_rung[rung].kept == pytest.approx(1)
    assert by_rung["few(2)"].correlation < 1
