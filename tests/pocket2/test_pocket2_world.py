"""The world: captions, what they ask for, layout, rendering, and the written rules."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pocket2_recipe import compound, judge, parse, rules, world

from fairlead.bench import geneval

Detection = judge.Detection

OBJECT_NAMES = Path(__file__).parents[3] / "shared" / "data" / "geneval" / "object_names.txt"
EVERY_TASK = world.TASKS + world.COMPOUND_TASKS
SIZE_OF = {side: size for size, side in world.SIDES.items()}


def seen(item: world.Item) -> Detection:
    """What a perfect detector says of an object."""
    x0, y0, x1, y1 = item.box
    return Detection(item.name, item.colour, 1.0, (x0, y0, x1, y1), SIZE_OF.get(item.side))


def test_needs_no_torch() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, world.__file__], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_same_seed_same_pictures() -> None:
    first, scenes = world.batch(random.Random(3), 8)
    again, _ = world.batch(random.Random(3), 8)
    assert first.shape == (8, 128, 128, 3)
    assert (first == again).all()
    assert scenes != world.batch(random.Random(4), 8)[1]


@pytest.mark.parametrize("task", EVERY_TASK)
def test_objects_stay_inside_and_apart(task: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = world.sample(rng, task)
        assert 1 <= len(scene.items) == scene.request.total <= world.MOST
        cover = np.zeros((world.SIZE, world.SIZE), int)
        for item in scene.items:
            x0, y0, x1, y1 = item.box
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= world.SIZE
            cover[y0:y1, x0:x1] += 1
            assert item.side in (*world.SIDES.values(), world.CROWDED)
            if len(scene.items) <= 2:
                assert x0 % world.GRID == y0 % world.GRID == 0
        assert cover.max() == 1


@pytest.mark.parametrize("task", world.TASKS)
def test_pictures_satisfy_their_captions_by_genevals_rules(task: str) -> None:
    """A perfect detector finds every rendered scene correct."""
    rng = random.Random(1)
    for _ in range(200):
        scene = world.sample(rng, task, plain=True)
        first = scene.items[0]
        include: tuple[geneval.Wanted, ...] = tuple(geneval.Wanted(i.name, 1, i.colour) for i in scene.items)
        exclude: tuple[geneval.Wanted, ...] = ()
        if task == "counting":
            include = (geneval.Wanted(first.name, len(scene.items)),)
            exclude = (geneval.Wanted(first.name, len(scene.items) + 1),)
        if task == "position":
            (relation,) = (r for r in world.RELATIONS if f" {r} " in scene.caption)
            include = (geneval.Wanted(scene.items[1].name, 1), geneval.Wanted(first.name, 1, None, (relation, 0)))
        prompt = geneval.Prompt(task, scene.caption, include, exclude)
        assert geneval.correct(prompt, [seen(item) for item in scene.items]), scene


@pytest.mark.parametrize("task", EVERY_TASK)
def test_pictures_satisfy_their_captions_by_the_written_rules(task: str) -> None:
    rng = random.Random(2)
    for _ in range(200):
        scene = world.sample(rng, task)
        found = [seen(item) for item in scene.items]
        request = parse.read(scene.caption)
        assert rules.correct(request, found, scene.request.background), scene
        assert rules.share(request, found, scene.request.background) == 1


def test_captions_are_read_back_in_all_wordings() -> None:
    rng = random.Random(3)
    for _ in range(4000):
        scene = world.sample(rng)
        assert parse.read(scene.caption) == scene.request, scene.caption
        assert parse.read(world.caption_of(scene.request)) == scene.request


def test_captions_fit_and_are_known() -> None:
    rng = random.Random(2)
    scenes = [world.sample(rng) for _ in range(4000)]
    captions = [scene.caption for scene in scenes] + [world.caption_of(scene.request) for scene in scenes]
    assert max(len(world.split(caption)) for caption in captions) <= world.TOKENS - 2
    assert not any(world.unknown_words(caption) for caption in captions)
    assert sum(caption.startswith("a photo of ") for caption in captions) > 5000
    used = {word for caption in captions for word in world.split(caption)}
    assert set(world.vocabulary()) - used <= set(world.SPECIAL)


def test_encoded_captions() -> None:
    (row,) = world.encode(["a photo of a red apple"]).tolist()
    words = world.vocabulary()
    assert [words[token] for token in row[:9]] == ["<bos>", "a", "photo", "of", "a", "red", "apple", "<eos>", "<pad>"]
    assert len(row) == world.TOKENS
    assert world.encode(["zeppelin"])[0, 1] == words.index("<unk>")


def test_every_geneval_prompt_of_the_world_is_known() -> None:
    for prompt in geneval.generate(world.NAMES, 60, seed=5):
        assert world.unknown_words(prompt.text) == []


def test_unknown_words_once_in_order() -> None:
    assert world.unknown_words("a photo of a Yak; a zeppelin; and a yak") == ["yak", ";", "zeppelin"]
    assert world.unknown_words("A RED apple left of a dog, on a blue background") == []


def test_what_prompts_ask_for() -> None:
    two = parse.read("three small red apples to the left of an orange against a blue background")
    things = (world.Thing("apple", "red", 3, "small"), world.Thing("orange"))
    assert two == world.Request(things, "left of", "blue")
    assert two.total == 4
    assert parse.read("an orange orange").things == (world.Thing("orange", "orange"),)
    assert parse.read("a huge cake, two dogs and a cup").things == (
        world.Thing("cake", None, 1, "big"),
        world.Thing("dog", None, 2),
        world.Thing("cup"),
    )


@pytest.mark.skipif(not OBJECT_NAMES.exists(), reason="the published class names are not here")
def test_classes_are_genevals() -> None:
    published = set(OBJECT_NAMES.read_text().split("\n"))
    assert set(world.NAMES) <= published
    assert len(set(world.NAMES)) >= 48


def test_colours_are_distinct_on_every_class() -> None:
    """The mean colours of two tints of one class are well apart."""
    for name in world.NAMES:
        alpha = world.sprite(name)[1]
        means = [(world.sprite(name, c)[0] * alpha).sum((0, 1)) / alpha.sum() for c in world.COLOUR_NAMES]
        gaps = [np.abs(p - q).max() for i, p in enumerate(means) for q in means[:i]]
        assert min(gaps) > 20, name


# ---------------------------------------------------------------------------------- the rules


def found(name: str, x: int, colour: str | None = None, size: str | None = None, score: float = 0.9) -> Detection:
    return Detection(name, colour, score, (x, 0, x + 20, 20), size)


def test_the_rules_see_every_difference() -> None:
    request = parse.read("two small red dogs left of a cat on a green background")
    right = [found("dog", 0, "red", "small"), found("dog", 10, "red", "small"), found("cat", 80)]
    assert rules.correct(request, right, "green")
    assert rules.share(request, right, "green") == pytest.approx((3 * 0.9 + 5) / 8)
    wrong = {
        "one is missing": right[1:],
        "one too many": [*right, found("dog", 20, "red", "small")],
        "another class": [*right, found("cup", 100)],
        "a colour": [found("dog", 0, "blue", "small"), *right[1:]],
        "a size": [found("dog", 0, "red"), *right[1:]],
        "a place": [right[0], found("dog", 110, "red", "small"), right[2]],
        "a score": [dataclasses.replace(right[0], score=0.2), *right[1:]],
    }
    for what, objects in wrong.items():
        assert not rules.correct(request, objects, "green"), what
        assert rules.share(request, objects, "green") < rules.share(request, right, "green"), what
    assert not rules.correct(request, right, None)
    assert not rules.correct(request, right, "blue")
    assert rules.correct(request, [*right, found("cup", 100, score=0.3)], "green")
    assert not rules.correct(request, [], "green")


def test_two_things_of_one_class_take_what_fits_them() -> None:
    request = parse.read("a red dog and a blue dog")
    pair = [found("dog", 0, "blue", score=0.95), found("dog", 80, "red")]
    assert rules.correct(request, pair, None)
    assert not rules.correct(request, [pair[0], pair[0]], None)


def test_the_rule_of_places_is_genevals() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        a, b = ((rng.randrange(96), rng.randrange(96), rng.choice((32, 42, 64))) for _ in range(2))
        first, second = ((x, y, x + side, y + side) for x, y, side in (a, b))
        named = {relation for relation in world.RELATIONS if world.lies(relation, first, second)}
        assert named == geneval.relations(first, second)
    assert rules.THRESHOLD == geneval.THRESHOLD


def test_compound_prompts_are_distinct_and_stored_whole() -> None:
    rng = random.Random(6)
    for task in world.COMPOUND_TASKS:
        drawn = compound.draw(rng, task, 25)
        assert len({text for text, _ in drawn}) == 25
        for text, request in drawn:
            assert compound.request_of(compound.record(request)) == request == parse.read(text)
