"""The recipe of the embedded preference network: its rule, and that the reward reads what it writes."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from fairlead.pocket import world
from fairlead.rewards.image_reward import MEAN, STD, ImageReward


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "recipes" / "pocket"))
    before = set(sys.modules)
    import preference

    yield preference
    for name in set(sys.modules) - before:
        if name in ("preference", "clip", "common", "damage", "export", "latents", "transformer"):
            del sys.modules[name]


def test_the_rule_counts_conditions(recipe: ModuleType) -> None:
    dog, cat = (world.Item(name, "red", x, 0) for name, x in ((world.NAMES[0], 0), (world.NAMES[1], 32)))
    scene = world.Scene("position", "", (dog, cat), *_ground())
    said = recipe.Plan("position", (dog.name, cat.name), (None, None), "left of", 2)
    assert recipe.match(scene, ["clean", "clean"], said) == 1
    assert recipe.match(scene, ["clean", "clean"], recipe.Plan("position", said.names, said.colours, "right of", 2)) == 0.75
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
    images, ids, values = recipe.make_batch(random.Random(3), 2)
    assert values.shape == (2, 6)
    captions = [" ".join(world.vocabulary()[i] for i in row if i > 3) for row in ids.tolist()]
    with torch.no_grad():
        own = (model(images, ids) - MEAN) / STD
    assert torch.allclose(ImageReward(str(tmp_path))(images, captions)[0], own, atol=1e-5)
