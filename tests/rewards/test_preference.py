"""The recipe of the embedded preference network: its rule, and that the reward reads what it writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

import by_path
import fairlead
from fairlead.pocket import world
from fairlead.rewards.image_reward import MEAN, STD, ImageReward
from fairlead.run.store import Store


@pytest.fixture
def recipe() -> Iterator[ModuleType]:
    with by_path.recipe("preference") as module:
        yield module


def test_the_rule_counts_conditions(recipe: ModuleType) -> None:
    dog, cat = (world.Item(name, "red", x, 0) for name, x in ((world.NAMES[0], 0), (world.NAMES[1], 32)))
    scene = world.Scene("position", "", (dog, cat), *_ground())
    said = recipe.Plan("position", (dog.name, cat.name), (None, None), "left of", 2)
    assert recipe.match(scene, ["clean", "clean"], said) == 1
    assert (
        recipe.match(scene, ["clean", "clean"], recipe.Plan("position", said.names, said.colours, "right of", 2))
        == 0.75
    )
    assert recipe.match(scene, ["clean", "blurred"], said) == 0.5
    blue = recipe.Plan("colors", (dog.name,), ("blue",), "", 1)
    assert recipe.match(world.Scene("colors", "", (dog,), *_ground()), ["mild"], blue) == pytest.approx(2 / 3)
    assert recipe.value(scene, ["clean", "clean"], said) > recipe.value(scene, ["clean", "blurred"], said)


def _ground() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    plain = world.sample(random.Random(0), "single_object")
    return plain.top, plain.bottom


def test_the_loss_is_least_at_the_rules_own_values(recipe: ModuleType) -> None:
    values = torch.tensor([[0.0, 1, 2, 3, 4, 5]])
    best, right = recipe.loss_of(values.flatten(), values)
    assert right == 1
    for other in (2 * values, 0.5 * values, values.flip(1)):
        assert recipe.loss_of(other.flatten(), values)[0] > best


def test_the_reward_reads_what_the_recipe_writes(recipe: ModuleType, tmp_path: Path) -> None:
    from export import tokenizer

    torch.manual_seed(0)
    model = recipe.Preference().eval()
    save_file(recipe.published(model), tmp_path / "model.safetensors")
    tokenizer().save_pretrained(tmp_path)
    batch = recipe.make_batch(random.Random(3), 2)
    images, ids = batch["images"], batch["ids"]
    assert batch["values"].shape == (2, 6)
    captions = [" ".join(world.vocabulary()[i] for i in row if i > 3) for row in ids.tolist()]
    with torch.no_grad():
        own = (model(images, ids) - MEAN) / STD
    assert torch.allclose(ImageReward(str(tmp_path))(images, captions)[0], own, atol=1e-5)


def test_the_aids_have_labels_that_agree_with_the_rule(recipe: ModuleType) -> None:
    """Every condition of the rule is asked of a noun or of token 0, and nothing else is."""
    batch = recipe.make_batch(random.Random(5), 12)
    asked = torch.cat([batch["there"].flatten(1), batch["whole"]], 1)
    assert set(asked.unique().tolist()) == {recipe.NONE, 0, 1}
    assert ((batch["nouns"][..., 1] < 0) == (batch["there"][..., 0] == recipe.NONE)).all()
    ruined = (batch["names"] == recipe.NAMES).any(1).view(12, 6)
    assert bool(ruined[:, 2].all()), "the third picture of a caption has only ruined objects"
    losses = recipe.Aids()(torch.zeros(72, 65, recipe.WIDTH), torch.zeros(72, world.TOKENS, recipe.WIDTH), batch)
    assert all(float(v.detach()) > 0 for v in losses.values())


def test_the_shipped_network(recipe: ModuleType) -> None:
    """What the model card says, on fewer pictures: all but relations, which it does not see."""
    from fairlead.pocket.load import preference_folder

    right = recipe.evaluate(preference_folder(), captions=40)
    assert right["ruined"] >= 0.95
    assert all(right[what] >= 0.85 for what in ("colour", "number", "object") if what in right)
    scores = ImageReward()(recipe.make_batch(random.Random(6), 8)["images"], ["a photo of a dog"] * 48)[0]
    assert scores.isfinite().all()
    assert scores.std() > 0.2


def test_three_networks_rank_together_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier ensemble of the noise-search paper: three embedded networks, none of which agrees with another."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    formula = "rank_mean(clip_score, aesthetic, image_reward)"
    fairlead.run("a photo of a dog", reward=formula, steps=2, budget={"nfe": 12}, out=tmp_path / "run")
    found = Store.open(tmp_path / "run").candidates()
    terms = {name: torch.tensor([c.terms[name] for c in found]) for name in ("clip_score", "aesthetic", "image_reward")}
    orders = {tuple(v.argsort().tolist()) for v in terms.values()}
    assert len(found) == 6
    assert len(orders) == 3
    worth = torch.stack([v[:, None] > v for v in terms.values()]).float().sum((0, 2)) / 15
    assert torch.tensor([c.reward for c in found]) == pytest.approx(worth, abs=1e-5)
