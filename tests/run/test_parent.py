"""Runs that start from a picture of another run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.core import trust
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, models, png
from fairlead.run.options import RunOptions
from fairlead.run.parent import locate
from fairlead.run.spec import Spec
from fairlead.run.store import Store
from fairlead.testing.runs import small_spec


def child_of(folder: Path, index: int | str = 5, prompt: str = "", verb: str = "like", **options: Any) -> Spec:
    return models.spec_of(RunOptions(prompt, **{verb: f"{folder}:{index}"}, **options))


def pixels(store: Store, index: int) -> Any:
    return png.read(store.image(Path(store.get(index).image).stem))[0]


PARENTS: dict[str, dict[str, Any]] = {
    "best_of": {},
    "ancestral": {"sampler": "ancestral"},
    "zero_order": {"search": "zero_order"},
    "evolution": {"search": "evolution", "settings": {"evolution": {"population": 3, "elites": 1}}},
    "drafts": {"rungs": "2", "finals": 2},
    "steering": {"steer": "demon", "steps": 15, "settings": {"demon": {"k": 2, "estimate": "clean"}}},
}


@pytest.mark.parametrize("kind", PARENTS)
def test_the_first_candidate_is_the_parent_bit_for_bit(kind: str, tmp_path: Path) -> None:
    words = {"budget": {"nfe": 400 if kind == "steering" else 40}, **PARENTS[kind]}
    parent = engine.start(small_spec(**words), tmp_path / "parent")
    chosen = parent.candidates()[-1]
    spec = child_of(tmp_path / "parent", chosen.index)
    assert str(tmp_path) not in spec.json(), "no path of this machine in what others may read"
    child = engine.start(spec, tmp_path / "child")
    first = child.get(0)
    assert first.image == chosen.image, "the same file"
    assert (first.reward, first.terms, first.cost.nfe) == (chosen.reward, chosen.terms, 0)
    assert child.count() > 1
    assert child.spec.parent is not None
    assert child.spec.parent.candidate == chosen.index
    assert child.spec.parent.picture == Path(chosen.image).stem
    assert child.spec.parent.run == parent.spec.id()
    assert str(tmp_path) not in child.spec.json()
    shutil.rmtree(tmp_path / "parent")
    assert engine.replay(tmp_path / "child", 2).identical, "the record is enough"
    again = engine.resume(tmp_path / "child", budget={"nfe": 2 * spec.budget["nfe"]})
    assert again.count() > child.count() or child.status == "finished"


def test_drawn_again_the_first_point_gives_the_parents_picture(tmp_path: Path) -> None:
    """The point, the key and the sampler's noise are the parent's: only the batch may round differently."""
    parent = engine.start(small_spec(sampler="ancestral", search="zero_order", batch=1), tmp_path / "parent")
    spec = child_of(tmp_path / "parent", 5, reward="jpeg_size", batch=1)
    child = engine.start(spec, tmp_path / "child")
    assert child.get(0).cost.nfe > 0, "another reward: it is drawn again"
    assert (pixels(child, 0) == pixels(parent, 5)).all()


def test_another_prompt_keeps_the_noise(tmp_path: Path) -> None:
    options = {"model": "pocket", "reward": "brightness", "steps": 4, "batch": 2, "budget": {"nfe": 12}}
    parent = engine.start(small_spec(**options), tmp_path / "parent")
    spec = child_of(tmp_path / "parent", 1, prompt="a photo of a red apple")
    child = engine.start(spec, tmp_path / "child")
    assert child.spec.prompt == "a photo of a red apple"
    assert child.get(0).key == parent.get(1).key
    start = engine.ancestry.recorded(child)
    assert start is not None
    drawn = engine.Local(parent.spec).space.draw(spec.parent.first_key)  # type: ignore[union-attr]
    assert torch.equal(start, drawn)
    assert (pixels(child, 0) != pixels(parent, 1)).any()


def test_a_grandchild_starts_where_its_parent_was_found(tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "a")
    engine.start(child_of(tmp_path / "a", 3), tmp_path / "b")
    middle = Store.open(tmp_path / "b")
    child = engine.start(child_of(tmp_path / "b", 4), tmp_path / "c")
    assert child.get(0).image == middle.get(4).image
    assert child.spec.parent is not None
    assert child.spec.parent.name == "b"


def test_different_from_is_a_group_that_repels_its_parent(tmp_path: Path) -> None:
    words = {"model": "pocket", "reward": "brightness", "steps": 2, "batch": 2, "budget": {"nfe": 8}}
    parent = engine.start(small_spec(**words), tmp_path / "parent")
    spec = child_of(tmp_path / "parent", 1, verb="unlike", group=4, budget="nfe=20")
    assert [part.name for part in spec.interventions] == ["repulsion"]
    assert (spec.group, spec.search.name, spec.search.settings["n"]) == (4, "best_of", 4)
    child = engine.start(spec, tmp_path / "child")
    assert child.count() == 4
    assert child.get(0).key == parent.get(1).key
    mixture = engine.start(small_spec(), tmp_path / "mixture")
    spec = child_of(mixture.folder, 1, verb="unlike")
    assert [part.name for part in (*spec.steering, *spec.interventions)] == ["repulsion"] or spec.steering


def test_the_rest_is_the_parents_unless_it_is_chosen(tmp_path: Path) -> None:
    engine.start(small_spec(seed=3, steps=5, batch=2), tmp_path / "parent")
    spec = child_of(tmp_path / "parent", "best")
    assert (spec.prompt, spec.seed, spec.steps, spec.batch) == ("a photo of a dog", 3, 5, 2)
    assert (spec.search.name, spec.budget) == ("zero_order", {"nfe": 40.0})
    spec = child_of(tmp_path / "parent", 1, search="evolution", budget="nfe=20", seed=9)
    assert (spec.search.name, spec.budget, spec.seed) == ("evolution", {"nfe": 20.0}, 9)
    assert Spec.from_json(spec.json()).parent is not None


@pytest.mark.parametrize(
    ("like", "words", "said"),
    [
        ("nowhere:5", {}, "nowhere"),
        ("parent", {}, "must be RUN:CANDIDATE"),
        ("parent:99", {}, "has no candidate 99"),
        ("parent:1", {"model": "pocket-turbo"}, "'pocket-turbo', but the picture of .* was made with 'mixture'"),
        ("parent:1", {"steps": 7}, "steps is 7, but .* with 4"),
        ("parent:1", {"unlike": "parent:2"}, "choose one of them"),
    ],
)
def test_what_cannot_be_a_parent_is_one_sentence(
    like: str, words: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine.start(small_spec(), tmp_path / "parent")
    with pytest.raises((FairleadError, StoreError), match=said):
        models.spec_of(RunOptions("", like=like, **words))


def test_a_parent_of_somebody_else_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def bright(images, prompts):\n    return images.mean((1, 2, 3))\n")
    engine.start(small_spec(reward=f"{mine}:bright"), tmp_path / "parent")
    spec = child_of(tmp_path / "parent", 1)
    monkeypatch.setattr(trust, "_executed", set())  # as in another process, whose user named nothing
    with pytest.raises(FairleadError, match="add --trust"):
        engine.start(spec, tmp_path / "child")
    assert not trust.is_stored()
    assert not (tmp_path / "child").exists()
    assert engine.start(spec, tmp_path / "child", trust=True).count() > 1


def test_a_parent_that_has_changed_is_refused(tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "parent")
    spec = child_of(tmp_path / "parent", 1)
    shutil.rmtree(tmp_path / "parent")
    engine.start(small_spec(seed=1), tmp_path / "parent")
    with pytest.raises(StoreError, match="has changed"):
        engine.start(spec, tmp_path / "child")


def test_a_place_is_a_run_and_a_candidate() -> None:
    assert locate("runs/a:b:5", "like") == (Path("runs/a:b"), 5)
    assert locate("runs/a:best", "like") == (Path("runs/a"), "best")
