"""Draft, then commit: search with few steps, render the best again; budgets, resume, replay, price. And whole runs of
every noise search on the mixture: budgets at any instant, counted at the network, gradients through the sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.app.report import write_report
from fairlead.core import model as core_model
from fairlead.core.cost import INFINITE, Cost
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.function import Function
from fairlead.core.key import Key
from fairlead.core.sampling import sample
from fairlead.core.search import Proposal
from fairlead.models.mixture import Mixture
from fairlead.run import engine, registry
from fairlead.run.price import price
from fairlead.run.records import Task
from fairlead.run.setup import resolve
from fairlead.run.store import Store
from fairlead.run.view import View, rows
from fairlead.run.worker import Worker
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec

DRAFT: dict[str, Any] = {"steps": 8, "draft": "even(2)", "budget": {"nfe": 60.0}, "search": "zero_order"}


def parts(store: Store) -> tuple[list[Any], list[Any]]:
    every = store.candidates()
    return [c for c in every if c.refines is None], [c for c in every if c.refines is not None]


@pytest.mark.parametrize("reward", ["brightness", "brightness - brightness*brightness"])
def test_best_drafts_are_rendered_again_and_both_scores_kept(reward: str, tmp_path: Path) -> None:
    """Drafts of the mixture are greyer, so that the second reward likes them better than pictures."""
    store = engine.start(small_spec(**DRAFT, finals=2, reward=reward), tmp_path / "run")
    drafts, finals = parts(store)
    assert {c.steps for c in drafts} == {2}
    assert {c.steps for c in finals} == {8}
    top = sorted(drafts, key=lambda c: (-c.reward, c.index))[:2]
    assert {c.refines for c in finals} == {c.index for c in top}
    best = store.best()
    assert best == max(finals, key=lambda c: c.reward)
    assert best.reward != drafts[best.refines].reward
    baseline = store.baseline()
    assert baseline is not None
    assert (baseline.index, baseline.steps) == (-1, 8), "the baseline is at full effort"


@pytest.mark.parametrize("nfe", [18, 19, 33, 60, 61])
@pytest.mark.parametrize("search", ["best_of", "zero_order", "evolution"])
def test_the_reserve_keeps_the_budget(nfe: float, search: str, tmp_path: Path) -> None:
    """Baseline 8, one full rendering 8, drafts 2 each: all that fits, nothing more, as priced."""
    spec = small_spec(**{**DRAFT, "search": search, "finals": 1, "budget": {"nfe": nfe}})
    store = engine.start(spec, tmp_path / "run")
    drafts, finals = parts(store)
    assert len(drafts) == (nfe - 16) // 2
    assert len(finals) == 1
    spent = replace(store.spent(), seconds=0.0)
    assert spent.nfe == 16 + 2 * len(drafts) <= nfe
    assert replace(price(spec).total, seconds=0.0) == spent
    assert price(spec).candidates == len(drafts) + 1


@pytest.mark.parametrize(
    ("search", "group"), [("first_order", 3), ("zero_order(neighbours=2)", 4), ("evolution(population=4, elites=2)", 2)]
)
def test_the_price_of_finals_is_of_the_groups_there_are(search: str, group: int, tmp_path: Path) -> None:
    """A search that asks for fewer at a time than a group has leaves smaller groups, and their finals cost less."""
    spec = small_spec(**{**DRAFT, "search": search, "group": group, "finals": 2, "budget": {"nfe": 80.0}})
    store, found = engine.start(spec, tmp_path / "run"), price(spec)
    drafts, finals = parts(store)
    assert found.candidates == len(drafts) + len(finals)
    assert found.total == replace(store.spent(), seconds=0.0)
    assert found.finals.nfe == 8 * len(finals)


def test_the_table_says_which_draft_was_rendered_again(tmp_path: Path) -> None:
    engine.start(small_spec(**DRAFT, finals=2), tmp_path / "run").close()
    found = rows(View.read(tmp_path / "run"))
    drafts, finals = ([r for r in found if (r["refines"] is None) == draft] for draft in (True, False))
    assert {r["refines"] for r in finals} <= {r["candidate"] for r in drafts}
    assert len(finals) == 2
    page = write_report(tmp_path / "run").read_text()
    assert all(f"<td>{r['steps']}</td><td>{r['refines']}</td>" in page for r in finals)
    engine.start(small_spec(), tmp_path / "plain").close()
    assert "refines" not in rows(View.read(tmp_path / "plain"))[0]


def test_too_small_a_budget_says_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=r"nfe=18"):
        engine.start(small_spec(**{**DRAFT, "finals": 1, "budget": {"nfe": 17}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        {"finals": 3, "batch": 2},
        {"finals": 2, "search": "best_of", "batch": 4},
        {"finals": 2, "group": 2, "batch": 4, "steer": "paths", "budget": {"nfe": 800.0}},
        {"finals": 2, "steer": "dfs", "budget": {"nfe": 100.0}},
    ],
)
def test_drafts_resume_bit_for_bit(words: dict[str, Any], tmp_path: Path) -> None:
    resume_laws(small_spec(**{**DRAFT, **words}), tmp_path)


@pytest.mark.parametrize("search", ["zero_order", "evolution(population=4)", "trust_region(warmup=4)", "first_order"])
def test_every_noise_search_resumes_bit_for_bit(search: str, tmp_path: Path) -> None:
    resume_laws(small_spec(search=search, budget={"nfe": 44.0}), tmp_path)


def test_an_ensemble_of_ranks_chooses_among_the_children(tmp_path: Path) -> None:
    """Specification 3.7: a round compares its children; a steering that scores one by one is refused."""
    words: dict[str, Any] = {
        "reward": "rank_mean(brightness, jpeg_size)",
        "group": 2,
        "batch": 4,
        "budget": {"nfe": 400.0},
    }
    store = engine.start(small_spec(steer="paths", **words), tmp_path / "paths")
    assert len(store.candidates()) == price(small_spec(steer="paths", **words)).candidates > 1
    best = store.best()
    assert best is not None
    assert best.terms["brightness"] > min(c.terms["brightness"] for c in store.candidates())
    with pytest.raises(FairleadError, match="ranks the candidates"):
        engine.start(small_spec(steer="dfs", **words), tmp_path / "dfs")
    with pytest.raises(FairleadError, match="drafts cannot be ranked"):
        engine.start(small_spec(draft=2, **words), tmp_path / "draft")
    with pytest.raises(FairleadError, match="about drafts cannot be compared"):
        engine.start(small_spec(draft=2, reward="human"), tmp_path / "human")


@pytest.mark.parametrize("steer", ["paths", "dfs"])
def test_every_path_search_resumes_bit_for_bit(steer: str, tmp_path: Path) -> None:
    resume_laws(small_spec(steer=steer, group=2, batch=4, budget={"nfe": 60.0 if steer == "dfs" else 500.0}), tmp_path)


def test_a_larger_budget_goes_on_and_keeps_what_was_rendered(tmp_path: Path) -> None:
    engine.start(small_spec(**DRAFT, finals=2), tmp_path / "run").close()
    store = engine.resume(tmp_path / "run", budget={"nfe": 120.0})
    drafts, finals = parts(store)
    assert 2 < len(finals) <= 4
    assert store.spent().nfe <= 120
    top = sorted(drafts, key=lambda c: (-c.reward, c.index))[:2]
    assert {c.index for c in top} <= {c.refines for c in finals}
    again = engine.resume(tmp_path / "run", budget={"nfe": 120.0})
    assert len(again.candidates()) == len(store.candidates()), "nothing is paid for twice"


def test_full_renderings_replay(tmp_path: Path) -> None:
    store = engine.start(small_spec(**DRAFT, finals=2), tmp_path / "run")
    best = store.best()
    assert best is not None
    assert best.refines is not None
    for index in (best.index, best.refines):
        assert engine.replay(tmp_path / "run", index).identical


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"draft": 8}, "draft is 8"),
        ({"draft": 0}, "draft is 0"),
        ({"draft": 2, "finals": 0}, "finals is 0"),
        ({"finals": 2}, "no drafts"),
    ],
)
def test_wrong_drafts_are_one_sentence(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        small_spec(steps=8, **words)


# whole runs


@pytest.mark.parametrize("search", ["best_of", "zero_order", "evolution", "trust_region", "first_order"])
@pytest.mark.parametrize("nfe", [4, 23, 90])
def test_what_is_booked_is_what_the_network_saw(
    search: str, nfe: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Budgets that divide nothing evenly: never exceeded, used up to less than one picture, counted at the network."""
    rows: list[int] = []
    predict = Mixture.predict

    def counted(self: Mixture, x: Tensor, *rest: Any) -> Tensor:
        rows.append(len(x))
        return predict(self, x, *rest)

    monkeypatch.setattr(Mixture, "predict", counted)
    spec = small_spec(search=search, budget={"nfe": nfe})
    store = engine.start(spec, tmp_path / "run")
    spent = store.spent()
    assert spent.nfe == nfe - nfe % 4
    assert spent.forwards == sum(rows) == spent.nfe * (2 if search == "first_order" else 1)
    assert replace(price(spec).total, seconds=0.0) == replace(spent, seconds=0.0)


def test_a_budget_below_one_picture_renders_nothing(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match="nfe=4"):
        engine.start(small_spec(search="zero_order", budget={"nfe": 3}), tmp_path / "run")


@pytest.mark.parametrize("search", ["best_of", "zero_order(stall='restart')", "evolution", "trust_region"])
def test_returned_is_the_best_of_everything(search: str, tmp_path: Path) -> None:
    store = engine.start(small_spec(search=search, budget={"nfe": 200.0}), tmp_path / "run")
    every = store.candidates()
    assert store.best() == max(every, key=lambda c: (c.reward, -c.index))


def test_failed_scores_never_win_and_ties_go_to_the_first(tmp_path: Path) -> None:
    def half(images: Tensor, prompts: Sequence[str]) -> Tensor:
        value = images.mean(dim=(1, 2, 3))
        return torch.where(value > 0.5, torch.full_like(value, math.nan), value)

    words: dict[str, Any] = {"search": "zero_order", "budget": {"nfe": 120.0}}
    best = engine.start(small_spec(**words), tmp_path / "half", reward=Function(half)).best()
    assert best is not None
    assert best.reward <= 0.5
    flat = engine.start(small_spec(**words), tmp_path / "flat", reward=Function(lambda x, p: torch.ones(len(x)))).best()
    assert flat is not None
    assert flat.index == 0
    with pytest.raises(RewardError, match="NaN"):
        engine.start(
            small_spec(**words), tmp_path / "nan", reward=Function(lambda x, p: torch.full((len(x),), math.nan))
        )


@pytest.mark.parametrize("search", ["zero_order", "evolution", "trust_region"])
def test_batch_size_changes_no_question(search: str, tmp_path: Path) -> None:
    """On the mixture, computed in float64, not even the rewards: the same winner for any batch."""
    runs = [
        engine.start(small_spec(search=search, batch=b, budget={"nfe": 160.0}), tmp_path / str(b)).candidates()
        for b in (1, 3, 16)
    ]
    assert [(c.key, c.reward) for c in runs[0]] == [(c.key, c.reward) for c in runs[1]]
    assert [(c.key, c.reward) for c in runs[0]] == [(c.key, c.reward) for c in runs[2]]


@pytest.mark.parametrize("sampler", ["euler", "heun", "ancestral"])
def test_gradient_of_the_checkpointed_sampler(sampler: str) -> None:
    """d reward / d noise through the whole loop, against a difference quotient; each evaluation is bought twice."""

    def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.square().mean(dim=(1, 2, 3))

    spec = small_spec(search="first_order", sampler=sampler)
    reward = Function(bright, differentiable=True)
    worker = Worker(resolve(spec, reward=reward))
    key = Key.root(0).fold("x")
    x = worker.space.draw(key)

    def value(y: Tensor) -> float:
        with torch.no_grad(), worker.meter.grant(INFINITE):
            step = registry.resolve("samplers", sampler)
            latent, cond = worker.space.place(y[None], worker.model, worker._conditioning(1), (key,))
            out = sample(worker.model, step, latent, cond, worker.model.levels(4), (key,), worker.meter)
            return float(bright(worker.model.decode(out).double(), ["x"])[0])

    (outcome,), cost = worker.evaluate(Task((0,), (Proposal(x, key),), (0,), INFINITE), worker.steering)
    assert outcome.gradient is not None
    direction = Key.root(1).normal(len(x))
    slope = (value(x + 0.01 * direction) - value(x - 0.01 * direction)) / 0.02
    assert float(outcome.gradient @ direction) == pytest.approx(slope, rel=0.02)
    assert cost.forwards == 2 * cost.nfe
    assert cost.backwards == cost.nfe


def test_gradient_sees_the_interventions(tiny_flux: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are computed again on the way back: edits must still be installed then, as if all had been kept."""

    def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.square().mean(dim=(1, 2, 3))

    model = tiny_flux(true_cfg_scale=2.0)
    spec = small_spec(search="first_order", intervene="token_mean_damping(strength=0.7)")

    def gradient() -> Tensor:
        worker = Worker(resolve(spec, reward=Function(bright, differentiable=True), model=model))
        key = Key.root(0)
        task = Task((0,), (Proposal(worker.space.draw(key), key),), (0,), INFINITE)
        found = worker.evaluate(task, worker.steering)[0][0].gradient
        assert found is not None
        return found

    computed_again = gradient()
    monkeypatch.setattr(core_model, "checkpoint", lambda function, x, **how: function(x))
    assert torch.equal(computed_again, gradient())
    assert float(computed_again.abs().max()) > 0


def test_first_order_climbs(tmp_path: Path) -> None:
    store = engine.start(small_spec(search="first_order", budget={"nfe": 80.0}), tmp_path / "run")
    rewards = [c.reward for c in store.candidates()]
    assert max(rewards) > rewards[0] + 0.01
    assert store.spent().backwards == 80


def test_first_order_is_priced(tmp_path: Path) -> None:
    spec = small_spec(search="first_order", budget={"nfe": 24.0})
    store = engine.start(spec, tmp_path / "run")
    assert len(store.candidates()) == price(spec).candidates == 6


def test_first_order_needs_a_gradient(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match="gradients"):
        engine.start(small_spec(search="first_order", reward="jpeg_size"), tmp_path / "run")


def test_steered_grants_cover_partial_groups(tmp_path: Path) -> None:
    """A search that asks five at a time in groups of two: the odd one is a group of one, and pays for itself only."""
    spec = small_spec(search="zero_order", steer="paths", group=2, batch=4, budget={"nfe": 800.0})
    store = engine.start(spec, tmp_path / "run")
    unit = price(spec).cost_per_candidate
    assert all(c.cost.nfe == unit.nfe for c in store.candidates())
    assert store.spent().nfe <= 800
    assert store.spent().nfe + 2 * unit.nfe > 800 - price(spec).baseline.nfe


def test_adaptive_steering_gives_back_what_it_does_not_need(tmp_path: Path) -> None:
    spec = small_spec(steer="dfs(threshold=0.45)", budget={"nfe": 300.0})
    store = engine.start(spec, tmp_path / "run")
    assert len(store.candidates()) > price(spec).candidates
    assert store.spent().nfe <= 300
    assert Cost(nfe=300 - store.spent().nfe).nfe < price(spec).cost_per_candidate.nfe
