"""Chains of rungs and captured states on the mixture: budgets, promotions, resuming, replay, price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost
from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.function import Function
from fairlead.run import engine, png, rungs
from fairlead.run.executor import Local, rung_costs
from fairlead.run.price import price
from fairlead.run.records import Candidate
from fairlead.run.rung_plan import plan_rungs
from fairlead.run.spec import Spec
from fairlead.run.states import FOLDER
from fairlead.run.store import Store
from fairlead.run.view import View
from fairlead.testing import resume_laws
from fairlead.testing.runs import after, small_spec

CHAINS = ("few(1) > few(3)", "few(1) > by(mixture,2,after=1)", "peek(3)", "peek(2) > peek(5)", "few(1):4 > peek(4):2")


def chained(chain: str, **words: Any) -> Spec:
    """Eight steps; a hundred and some evaluations that no rung divides evenly."""
    return small_spec(**{"steps": 8, "budget": {"nfe": 131.0}, "rungs": chain, "finals": 3, "batch": 4, **words})


def by_rung(store: Store) -> list[list[Candidate]]:
    every = store.candidates()
    return [[c for c in every if c.rung == rung] for rung in range(len(store.spec.rungs) + 1)]


def pixels(store: Store, candidate: Candidate) -> Any:
    return png.read(store.image(Path(candidate.image).stem))[0].astype(int)


# laws


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("search", ["best_of", "zero_order"])
def test_the_budget_holds_to_the_row_in_every_rung(chain: str, search: str, tmp_path: Path) -> None:
    """Counted per rung: what is planned is what is rendered, what is priced is what is spent."""
    finals = None if ":" in chain else 3
    spec = chained(chain, search=search, finals=finals)
    store = engine.start(spec, tmp_path / "run")
    spent = replace(store.spent(), seconds=0.0)
    assert spent.nfe <= 131
    assert spent.forwards <= 131
    found = price(spec)
    costs = rung_costs(store.spec, Local(store.spec))
    plan = plan_rungs(store.spec, costs)
    for own, entered, planned, cost in zip(by_rung(store), found.entered, plan.rungs, costs.rungs, strict=True):
        assert len(own) == entered == planned.candidates
        assert sum((c.cost for c in own), Cost()).nfe == pytest.approx(cost.nfe * len(own))
    assert spent.nfe > 131 - costs.full.nfe, "money that would pay a picture is left"
    assert replace(found.total, seconds=0.0).nfe == pytest.approx(spent.nfe)


def test_money_for_a_higher_rung_is_never_lent(tmp_path: Path) -> None:
    """The states of the lowest rung are lost, so the middle one costs more: it shrinks, and the finals stay."""
    spec = chained("peek(2) > peek(5)", batch=2)
    whole = by_rung(engine.start(spec, tmp_path / "whole"))
    lowest = len(whole[0])
    engine.start(spec, tmp_path / "run", stop=after(1 + -(-lowest // 2))).close()
    for state in (tmp_path / "run" / FOLDER).iterdir():
        state.unlink()
    store = engine.resume(tmp_path / "run")
    found = by_rung(store)
    assert len(found[0]) == lowest
    assert len(found[1]) < len(whole[1])
    assert len(found[2]) == len(whole[2]) == 3
    assert store.spent().nfe <= 131


@pytest.mark.parametrize("chain", ["few(8)", "by(mixture,8)", "few(1):12 > by(mixture,8)", "few(7):11 > few(8)"])
def test_a_perfect_rung_finds_the_best_of_all_that_entered_it(chain: str, tmp_path: Path) -> None:
    """A rung that draws the picture itself: one final is enough, and it is best_of's winner among them."""
    spec = chained("few(2)" if chain == "few(8)" else "few(1) > few(2)", finals=1)
    spec = replace(spec, draft=chain)
    if ">" in chain:  # a rung as dear as the picture cannot be planned by its price, so the number is fixed
        spec = replace(spec, budget={"nfe": 200.0})
    store = engine.start(spec, tmp_path / "run")
    *_, last, finals = by_rung(store)
    (final,) = finals
    plain = engine.start(small_spec(steps=8, budget={"nfe": 900.0}), tmp_path / "plain").candidates()
    rewards = {c.key: c.reward for c in plain}
    best = max(last, key=lambda c: (rewards[c.key], -c.index))
    assert final.key == best.key
    assert final.reward == pytest.approx(rewards[best.key], abs=1e-6)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_killed_run_resumes_bit_equal_in_every_rung(chain: str, tmp_path: Path) -> None:
    finals = None if ":" in chain else 3
    resume_laws(chained(chain, finals=finals, batch=4, budget={"nfe": 80.0}), tmp_path)


@pytest.mark.parametrize("chain", CHAINS)
def test_equal_keys_have_equal_noise_in_every_rung(chain: str, tmp_path: Path) -> None:
    """What advances keeps its key, and finished from the noise it is the plain picture of that key, bit for bit."""
    finals = None if ":" in chain else 3
    store = engine.start(chained(chain, finals=finals, batch=1, exact=True), tmp_path / "run")
    other = engine.start(small_spec(steps=8, batch=1, budget={"nfe": 900.0}), tmp_path / "plain")
    plain = {c.key: c for c in other.candidates()}
    every = {c.index: c for c in store.candidates()}
    for candidate in every.values():
        if candidate.refines is not None:
            assert candidate.key == every[candidate.refines].key
            assert candidate.rung == every[candidate.refines].rung + 1
    for final in by_rung(store)[-1]:
        assert final.reward == plain[final.key].reward
        assert (pixels(store, final) == pixels(other, plain[final.key])).all()


def test_a_failed_draft_never_advances_and_the_earlier_of_equals_does(tmp_path: Path) -> None:
    calls: list[int] = []

    def odd(images: Tensor, prompts: Sequence[str]) -> Tensor:
        first = len(calls)
        calls.extend(range(len(images)))
        places = torch.arange(first, first + len(images))
        return torch.where(places % 2 == 1, torch.ones(len(images)), torch.full((len(images),), math.nan))

    store = engine.start(chained("few(1) > few(3)", finals=2), tmp_path / "run", reward=Function(odd))
    lowest, middle, _ = by_rung(store)
    fine = [c.index for c in lowest if not math.isnan(c.reward)]
    assert [c.refines for c in middle] == fine[: len(middle)]
    assert {c.refines for c in store.candidates() if c.rung == 2} <= {
        c.index for c in middle if not math.isnan(c.reward)
    }


@pytest.mark.parametrize("chain", ["few(1) > few(3)", "peek(2) > peek(5)"])
def test_batches_change_nothing(chain: str, tmp_path: Path) -> None:
    """On the mixture, computed in float64, neither what advances nor any reward."""
    runs = [engine.start(chained(chain, batch=batch), tmp_path / str(batch)).candidates() for batch in (1, 3, 4, 16)]
    for other in runs[1:]:
        assert [(c.key, c.rung, c.refines) for c in other] == [(c.key, c.rung, c.refines) for c in runs[0]]
        assert [c.reward for c in other] == pytest.approx([c.reward for c in runs[0]], abs=1e-6)


def test_a_device_is_kept_busy(tmp_path: Path) -> None:
    """Every batch of a rung but the last is full, whatever groups it is made of and however many are asked at once."""
    spec = small_spec(steps=2, rungs="few(1)", batch=6, group=2, finals=10, budget={"nfe": 2.0 + 2 * 20 + 270})
    store = engine.start(spec, tmp_path / "run")
    for own in by_rung(store):
        sizes = [len([c for c in own if c.task == task]) for task in dict.fromkeys(c.task for c in own)]
        assert set(sizes[:-1]) == {6}
        assert sum(sizes) == len(own)
    assert [len(own) for own in by_rung(store)] == [270, 20]


@pytest.mark.parametrize("search", ["zero_order(neighbourhood='ball')", "evolution", "trust_region(warmup=4)"])
@pytest.mark.parametrize("space", ["noise", "embedding", "product"])
def test_any_search_may_propose_drafts(search: str, space: str, tmp_path: Path) -> None:
    store = engine.start(chained("few(1) > few(3)", search=search, space=space), tmp_path / "run")
    lowest, middle, finals = by_rung(store)
    assert len(lowest) > len(middle) > 0
    assert len(finals) == 3
    best = store.best()
    assert best is not None
    assert best.rung == 2


# going on from a state


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "ancestral"])
def test_a_final_goes_on_from_its_peek(sampler: str, tmp_path: Path) -> None:
    """Together as many evaluations as the plain picture, and equal to it up to rounding, whatever the sampler."""
    spec = chained("peek(2) > peek(5)", sampler=sampler, finals=2, budget={"nfe": 160.0})
    store = engine.start(spec, tmp_path / "run")
    other = engine.start(small_spec(steps=8, sampler=sampler, budget={"nfe": 900.0}), tmp_path / "plain")
    plain = {c.key: c for c in other.candidates()}
    *_, finals = by_rung(store)
    assert finals
    every = {c.index: c for c in store.candidates()}
    for final in finals:
        assert final.refines is not None
        middle = every[final.refines]
        assert middle.refines is not None
        assert [every[middle.refines].steps, middle.steps, final.steps] == [2, 3, 3]
        together = every[middle.refines].cost + middle.cost + final.cost
        assert together.nfe == pytest.approx(plain[final.key].cost.nfe)
        assert final.reward == pytest.approx(plain[final.key].reward, abs=1e-5)
        assert abs(pixels(store, final) - pixels(other, plain[final.key])).max() <= 1


def test_a_peek_at_everything_is_the_picture(tmp_path: Path) -> None:
    spec = replace(chained("peek(3)", finals=1), draft="peek(8)")
    drafts, _ = by_rung(engine.start(replace(spec, exact=True), tmp_path / "run"))
    plain = engine.start(small_spec(steps=8, batch=4, budget={"nfe": 900.0}), tmp_path / "plain").candidates()
    rewards = {c.key: c.reward for c in plain}
    assert [c.reward for c in drafts] == pytest.approx([rewards[c.key] for c in drafts], abs=1e-6)


def test_states_are_there_while_they_are_needed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    engine.start(chained("peek(3)"), folder, stop=after(3)).close()
    assert len(list((folder / FOLDER).iterdir())) == 8
    engine.resume(folder).close()
    assert not (folder / FOLDER).exists()


def test_a_damaged_state_is_refused_and_a_missing_one_is_not_needed(tmp_path: Path) -> None:
    spec = chained("peek(3)", budget={"nfe": 60.0})
    for name in ("damaged", "missing"):
        engine.start(spec, tmp_path / name, stop=after(4)).close()
        for state in (tmp_path / name / FOLDER).iterdir():
            if name == "missing":
                state.unlink()
            else:
                state.write_bytes(state.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="damaged"):
        engine.resume(tmp_path / "damaged")
    store = engine.resume(tmp_path / "missing")
    assert store.spent().nfe <= 60
    assert {c.steps for c in by_rung(store)[-1]} == {8}


@pytest.mark.parametrize("chain", CHAINS)
def test_every_rung_replays(chain: str, tmp_path: Path) -> None:
    finals = None if ":" in chain else 3
    store = engine.start(chained(chain, finals=finals), tmp_path / "run")
    for own in by_rung(store):
        assert engine.replay(tmp_path / "run", own[-1].index).identical
    best = store.best()
    assert best is not None
    assert engine.replay(tmp_path / "run", best.index, alone=True).max_pixel_difference <= 1


@pytest.mark.parametrize("chain", ["few(1) > few(3)", "peek(2) > peek(5)"])
def test_a_larger_budget_keeps_every_final(chain: str, tmp_path: Path) -> None:
    first = engine.start(chained(chain, finals=None), tmp_path / "run").candidates()
    store = engine.resume(tmp_path / "run", budget={"nfe": 260.0})
    assert store.candidates()[: len(first)] == first
    assert len(by_rung(store)[0]) > len([c for c in first if c.rung == 0])
    assert 200 < store.spent().nfe <= 260
    for index in [c.index for c in by_rung(store)[-1]]:
        assert engine.replay(tmp_path / "run", index).identical


# one pool


POOL: dict[str, Any] = {"rungs": "few(2)", "steer": "lidar(bank='drafts')", "budget": {"nfe": 100.0}}


def test_the_drafts_are_the_bank_at_no_further_cost(tmp_path: Path) -> None:
    """The bank holds the pictures and rewards of the drafts; only drafts, finals and the baseline are paid."""
    store = engine.start(small_spec(steps=8, finals=3, batch=4, **POOL), tmp_path / "run")
    drafts, finals = by_rung(store)
    assert replace(store.spent(), seconds=0.0).nfe == 8 + 2 * len(drafts) + 8 * len(finals) <= 100
    kept = store.recall_prepared("steering from drafts")
    assert kept is not None
    bank = load(kept[0])
    assert bank["0.rewards"].tolist() == pytest.approx([c.reward for c in drafts])
    worker = Local(store.spec).worker
    with torch.no_grad(), worker.meter.grant(INFINITE):
        pictures = worker.model.decode(bank["0.bank"])
    for draft, picture in zip(drafts, pictures, strict=True):
        assert (png.pixels(picture) == pixels(store, draft)).all()
    off = small_spec(steps=8, finals=3, batch=4, **{**POOL, "steer": "lidar(bank='drafts', tilt=0)"})
    plain = by_rung(engine.start(off, tmp_path / "off"))
    assert [c.reward for c in plain[0]] == [c.reward for c in drafts], "drafts are not steered"
    assert [c.reward for c in plain[1]] != [c.reward for c in finals], "finished pictures are"


def test_a_run_with_one_pool_resumes_and_replays(tmp_path: Path) -> None:
    spec = small_spec(steps=8, finals=3, batch=4, **{**POOL, "budget": {"nfe": 70.0}})
    resume_laws(spec, tmp_path)
    for own in by_rung(Store.open(tmp_path / "whole")):
        assert engine.replay(tmp_path / "whole", own[0].index).identical


# what is asked for


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"rungs": "few(3) > few(2)"}, "must rise in price"),
        ({"rungs": "few(2) > even(2)"}, "must rise in price"),
        ({"rungs": "peek(2)", "steer": "dfs"}, "peek judges an early prediction"),
        ({"rungs": "peek(2)", "draft": 2}, "write the whole chain once"),
        ({"rungs": "peek(2,from=1)"}, "leave out 'from'"),
        ({"rungs": "few(2):0"}, "advances"),
        ({"steer": "lidar(bank='drafts')", "finals": None}, "has no drafts"),
        ({"rungs": "few(2) > > few(3)"}, "draft is"),
    ],
)
def test_what_cannot_be_a_chain(words: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=sentence):
        engine.start(small_spec(**{"steps": 8, "budget": {"nfe": 131.0}, "finals": 3, **words}), tmp_path / "run")


def test_a_chain_is_written_once_and_read_back() -> None:
    spec = chained("1:4 > mixture@1 > peek(6)")
    assert spec.draft == "few(1):4 > by(mixture,4,after=1) > peek(6)"
    assert Spec.from_json(spec.json()) == spec
    assert spec.rungs == ("few(1)", "by(mixture,4,after=1)", "peek(6)")
    assert spec.advancing == (4, None, 3)
    assert spec.efforts[-1] == "peek(8,from=6)"
    assert replace(spec, exact=True).efforts[-1] is None
    assert rungs.from_noise("peek(8,from=6)", 8) is None


def test_draft_search_is_best_of_with_the_draft_that_suits_the_model() -> None:
    spec = small_spec(search="draft", steps=20)
    assert (spec.search.name, spec.draft, spec.finals) == ("best_of", "few(6)", 0)
    assert small_spec(search="draft", steps=20, draft=4).draft == "few(4)"


def test_the_view_shows_the_chain(tmp_path: Path) -> None:
    engine.start(chained("few(1) > few(3)"), tmp_path / "run").close()
    lowest, middle, finished = View.read(tmp_path / "run").rungs
    assert (lowest.name, middle.name) == ("few(1)", "few(3)")
    assert lowest.advanced == middle.entered == middle.planned
    assert middle.advanced == finished.entered == finished.planned == 3
    assert [row.price_in_pictures for row in (lowest, middle, finished)] == pytest.approx([1 / 8, 3 / 8, 1])
