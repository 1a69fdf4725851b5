"""The world: captions, layout, rendering."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairlead.bench import geneval
from fairlead.pocket import world

OBJECT_NAMES = Path(__file__).parents[3] / "shared" / "data" / "geneval" / "object_names.txt"


def test_needs_no_torch() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, world.__file__], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_same_seed_same_pictures() -> None:
    first, scenes = world.batch(random.Random(3), 8)
    again, _ = world.batch(random.Random(3), 8)
    assert first.shape == (8, 64, 64, 3)
    assert (first == again).all()
    assert scenes != world.batch(random.Random(4), 8)[1]


@pytest.mark.parametrize("task", world.TASKS)
def test_objects_stay_inside_and_apart(task: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = world.sample(rng, task)
        cover = np.zeros((64, 64), int)
        for item in scene.items:
            x0, y0, x1, y1 = item.box
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= 64
            assert x0 % 8 == y0 % 8 == 0
            cover[y0:y1, x0:x1] += 1
        assert cover.max() == 1


@pytest.mark.parametrize("task", world.TASKS)
def test_pictures_satisfy_their_captions(task: str) -> None:
    """A perfect detector finds every rendered scene correct by GenEval's rules."""

    class Seen:
        def __init__(self, item: world.Item) -> None:
            self.name, self.colour, self.score, self.box = item.name, item.colour, 1.0, item.box

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
        assert geneval.correct(prompt, [Seen(item) for item in scene.items]), scene


def test_captions_fit_and_are_known() -> None:
    rng = random.Random(2)
    captions = [world.sample(rng).caption for _ in range(3000)]
    assert max(len(world.split(caption)) for caption in captions) <= world.TOKENS - 2
    assert not any(world.unknown_words(caption) for caption in captions)
    assert sum(caption.startswith("a photo of ") for caption in captions) > 1500
    for word in ("picture", "next", "under", "three"):
        assert any(word in caption.split() for caption in captions)


def test_every_geneval_prompt_of_the_world_is_known() -> None:
    for prompt in geneval.generate(world.NAMES, 60, seed=5):
        assert world.unknown_words(prompt.text) == []


def test_unknown_words_once_in_order() -> None:
    assert world.unknown_words("a photo of a Yak, a zeppelin and a yak") == ["yak", ",", "zeppelin"]
    assert world.unknown_words("A RED apple left of a dog") == []


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
