"""What the recipe draws, labels and counts, on pictures whose objects are known."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from pocket2_recipe import detector, hard, judge, rules, scenes, world

Detection, STRIDE = judge.Detection, judge.STRIDE


def clean_painter(drawn: list[world.Scene]) -> Any:
    """A painter with the clean sprites of these scenes only, which are quick to make."""
    painter = object.__new__(scenes.Painter)
    painter.device = torch.device("cpu")
    painter.step = torch.linspace(0, 1, world.SIZE)
    painter.per_colour = 1
    banks = [torch.zeros(len(world.NAMES), scenes.OWN + 1, 4, side, side) for side in scenes.CELLS]
    for item in (item for scene in drawn for item in scene.items):
        colour = scenes.OWN if item.colour is None else world.COLOUR_NAMES.index(item.colour)
        rgb, alpha = world.sprite(item.name, item.colour, item.side)
        sprite = torch.from_numpy(np.concatenate([rgb, alpha * 255], 2).round()).permute(2, 0, 1)
        banks[scenes.CELLS.index(item.side)][world.NAMES.index(item.name), colour] = sprite
    painter.banks = [bank.to(torch.uint8).flatten(0, 1) for bank in banks]
    return painter


def test_painter_draws_what_the_world_renders() -> None:
    rng = random.Random(1)
    drawn = [world.sample(rng) for _ in range(60)]
    painter = clean_painter(drawn)
    table = scenes.table(drawn)
    painted = painter.paint(table.items, table.ground).mul(255).round().permute(0, 2, 3, 1).numpy()
    rendered = np.stack([world.render(scene) for scene in drawn])
    assert np.abs(painted - rendered).max() <= 1


def varied(rng: random.Random, scene: world.Scene) -> world.Scene:
    """The scene with one thing of its picture changed, or none."""
    items = list(scene.items)
    request = scene.request
    change = rng.choice(("none", "class", "colour", "missing", "swap", "ground"))
    at = rng.randrange(len(items))
    if change == "class":
        items[at] = dataclasses.replace(items[at], name=rng.choice(world.NAMES))
    elif change == "colour":
        items[at] = dataclasses.replace(items[at], colour=rng.choice((None, *world.COLOUR_NAMES)))
    elif change == "missing" and len(items) > 1:
        del items[at]
    elif change == "swap" and len({item.side for item in items}) == 1:
        places = [(item.x, item.y) for item in items]
        rng.shuffle(places)
        items = [dataclasses.replace(item, x=x, y=y) for item, (x, y) in zip(items, places, strict=True)]
    elif change == "ground":
        request = dataclasses.replace(request, background=rng.choice((None, *world.BACKGROUNDS)))
    return dataclasses.replace(scene, items=tuple(items), request=request)


def test_conditions_of_tables_are_the_written_rules() -> None:
    rng = random.Random(2)
    asked = [world.sample(rng) for _ in range(1500)]
    shown = [varied(rng, scene) for scene in asked]
    captions = scenes.table(asked)
    pictures = scenes.table([dataclasses.replace(s, request=a.request) for a, s in zip(asked, shown, strict=True)])
    grounds = (None, *world.COLOUR_NAMES)
    ground = torch.tensor([grounds.index(scene.request.background) - 1 for scene in shown])
    there = pictures.items[:, :, 0] >= 0
    result = scenes.conditions(pictures.items, ground, there, captions.things, captions.whole)
    sizes = {side: size for size, side in world.SIDES.items()}
    right = []
    for number, (a, s) in enumerate(zip(asked, shown, strict=True)):
        found = [Detection(i.name, i.colour, 1.0, i.box, sizes.get(i.side)) for i in s.items]
        right.append(rules.correct(a.request, found, s.request.background))
        assert bool(result.right[number]) == right[-1], (a, s)
        surplus = any(sum(i.name == t.name for i in s.items) > t.count for t in a.request.things)
        if not surplus:
            assert result.share[number] == pytest.approx(rules.share(a.request, found, s.request.background))
    assert 0.2 < sum(right) / len(right) < 0.8


def test_the_judges_targets_lie_at_the_centres() -> None:
    """Read as the network's answer, the targets give back every object of a scene."""
    rng = random.Random(3)
    drawn = [world.sample(rng) for _ in range(300)]
    items = scenes.table(drawn).items
    good = items[:, :, 0] >= 0
    good[0, 0] = False
    label, weight, sides = detector.targets(items, good)
    cells = torch.tensor(scenes.CELLS)[sides.clamp(min=0)].float()
    peaks = judge._peaks(torch.where(label < len(world.NAMES), 0.9, 0.01), cells)
    assert len(peaks) == int(good.sum())
    first = drawn[0].items[0]
    row, column = (round((start + first.side / 2) / STRIDE) for start in (first.y, first.x))
    assert weight[0, row, column] == detector.CENTRE
    assert label[0, row, column] == len(world.NAMES)
    for index, row, column in peaks.tolist():
        middle = column * STRIDE, row * STRIDE
        side = int(cells[index, row, column])
        near = [
            item
            for item in drawn[index].items
            if max(abs(item.x + item.side / 2 - middle[0]), abs(item.y + item.side / 2 - middle[1])) <= 2
        ]
        assert [world.NAMES.index(item.name) for item in near] == [int(label[index, row, column])]
        assert near[0].side == side


def test_colours_and_backgrounds_are_measured() -> None:
    rng = random.Random(4)
    for _ in range(60):
        scene = world.sample(rng)
        pixels = world.render(scene).astype(np.float32) / 255
        assert judge.background(pixels, [item.box for item in scene.items]) == scene.request.background, scene
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        boxes = torch.tensor([item.box for item in scene.items]).float() + rng.randint(-1, 1)
        index = torch.zeros(len(boxes), dtype=torch.long)
        names = [item.name for item in scene.items]
        assert judge.colours_of(image, index, names, boxes) == [item.colour for item in scene.items]


def test_of_two_near_peaks_one_is_kept() -> None:
    scores = torch.zeros(2, 32, 32)
    scores[0, 16, 8], scores[0, 16, 14], scores[0, 16, 24] = 0.9, 0.8, 0.7
    sides = torch.full((2, 32, 32), 64.0)
    assert judge._peaks(scores, sides).tolist() == [[0, 16, 8], [0, 16, 24]]
    assert judge._peaks(scores, sides / 2).tolist() == [[0, 16, 8], [0, 16, 14], [0, 16, 24]]


def test_the_hard_split_is_chosen_by_its_rates() -> None:
    rng = random.Random(5)
    rows = [
        {"tag": rng.choice(world.COMPOUND_TASKS), "prompt": str(n), "rate": rng.choice((0, 0, 1, 2, 5, 9, 30)) / 64}
        for n in range(500)
    ]
    chosen = hard.choose(rows, 0.05, 100)
    assert len(chosen) == 100
    assert 0.01 <= sum(row["rate"] for row in chosen) / 100 <= 0.05
    assert all(0 < row["rate"] <= 0.2 for row in chosen)
    few = hard.choose([row for row in rows if row["rate"] in (0, 30 / 64)], 0.1, 100)
    assert len(few) >= 60
    assert sum(row["rate"] for row in few) / len(few) <= 0.1
    drawn = hard.propose(60, 1)
    assert {row["tag"] for row in drawn} == set(world.COMPOUND_TASKS)
