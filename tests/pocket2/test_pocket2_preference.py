"""The recipe of the embedded preference network: its rule, and that the reward reads what it writes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pocket2_recipe import export, kinds, scenes, world
from pocket2_recipe import preference as recipe
from safetensors.torch import save_file

from fairlead.rewards.image_reward import MEAN, STD, ImageReward

table, sixes = scenes.table, kinds.sixes


def _judged(scene: world.Scene, request: world.Request, states: list[int]) -> Any:
    """Which conditions of a request hold in the picture of a scene; states above 1 are ruined."""
    caption = world.caption_of(request)
    shown, asked = table([scene]), table([world.Scene("", caption, (), *_ground(), request)])
    padded = torch.tensor([states + [0] * (world.MOST - len(states))])
    return recipe.judged(shown, asked, padded)


def test_the_rule_counts_conditions() -> None:
    names = world.NAMES[:2]
    items = tuple(world.Item(name, "red", x, 0) for name, x in zip(names, (0, world.CELL), strict=True))
    said = world.Request(tuple(world.Thing(name) for name in names), "left of")
    scene = world.Scene("position", world.caption_of(said), items, *_ground(), said)
    right = _judged(scene, said, [0, 1])
    assert float(right.share) == 1
    assert float(recipe.match(right)) == 1
    opposite = _judged(scene, world.Request(said.things, "right of"), [0, 0])
    assert float(opposite.share) == 0.75
    assert float(recipe.match(opposite)) == 0.375
    ruined = _judged(scene, said, [0, 3])
    assert float(ruined.share) == 0.5
    blue = world.Request((world.Thing(names[0], "blue"),))
    one = world.Scene("colors", scene.caption, items[:1], *_ground(), world.Request(said.things[:1]))
    one = replace(one, caption=world.caption_of(one.request))
    assert float(_judged(one, blue, [1]).share) == pytest.approx(2 / 3)
    looks = torch.tensor([8.0])
    assert float(recipe.value(right, looks)) > float(recipe.value(ruined, looks))


def _ground() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    plain = world.sample(random.Random(0), "single_object")
    return plain.top, plain.bottom


def test_the_loss_is_least_at_the_rules_own_values() -> None:
    values = torch.tensor([[0.0, 1, 2, 3, 4, 5]])
    best, right = recipe.loss_of(values.flatten(), values)
    assert right == 1
    for other in (2 * values, 0.5 * values, values.flip(1)):
        assert recipe.loss_of(other.flatten(), values)[0] > best


def test_the_reward_reads_what_the_recipe_writes(tmp_path: Path) -> None:
    tokenizer = export.tokenizer

    torch.manual_seed(0)
    model = recipe.Preference().eval()
    save_file(recipe.published(model), tmp_path / "model.safetensors")
    tokenizer().save_pretrained(tmp_path)
    images = torch.rand(4, 3, world.SIZE, world.SIZE, generator=torch.Generator().manual_seed(3))
    captions = [world.sample(random.Random(index)).caption for index in range(4)]
    with torch.no_grad():
        own = (model(images, torch.from_numpy(world.encode(captions))) - MEAN) / STD
    assert torch.allclose(ImageReward(str(tmp_path))(images, captions)[0], own, atol=1e-5)


def test_the_aids_have_labels_that_agree_with_the_rule() -> None:
    """Every condition of the rule is asked of a noun or of token 0, and nothing else is."""
    draw = torch.Generator().manual_seed(5)
    shown = recipe.fresh(table(sixes(random.Random(5), 72)), draw)
    asked, states = recipe.compose(shown, draw)
    found = recipe.judged(shown, asked, states)
    truth, wanted = recipe.labels(asked, found)
    assert (wanted["number"] == (asked.things[:, :, 1] >= 0)).all()
    holds = [(truth[key] | ~wanted[key]).reshape(72, -1).all(1) for key in recipe.HOLDS]
    assert (torch.stack(holds).all(0) == found.right).all()
    assert bool(found.right.view(12, 6)[:, :2].any(1).any()), "clean pictures of the caption's own scene fit"
    assert not bool(found.right.view(12, 6)[:, 2].any()), "the third picture of a caption has ruined objects"
    names, _ = recipe.patches(shown.items, states)
    assert bool((names == recipe.NAMES).any(1).view(12, 6)[:, 2].all())
    losses = recipe.Aids()(
        torch.zeros(72, 65, recipe.WIDTH), torch.zeros(72, world.TOKENS, recipe.WIDTH), shown, asked, states, found
    )
    assert all(float(v.detach()) > 0 for v in losses.values())


def test_variants_differ_in_the_kind_that_is_named() -> None:
    for kind in kinds.KINDS:
        scenes = kinds.pairs(random.Random(kind), 20, kind)
        for own, other in zip(scenes[::2], scenes[1::2], strict=True):
            assert kinds.satisfies(own, own)
            assert not kinds.satisfies(other, own)
            same_things = sorted(map(str, own.request.things)) == sorted(map(str, other.request.things))
            assert same_things == (kind in ("relation", "background"))
