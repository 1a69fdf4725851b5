"""GenEval: prompts, rules, aggregation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fairlead.bench import geneval
from fairlead.bench.geneval import Prompt, Wanted

DATA = Path(__file__).parents[3] / "shared" / "data" / "geneval"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the published prompts are not here")


@dataclass
class Thing:
    name: str
    colour: str | None = None
    score: float = 0.95
    box: tuple[float, float, float, float] = (0, 0, 10, 10)


@needs_data
def test_generator_gives_the_published_file() -> None:
    names = (DATA / "object_names.txt").read_text().split("\n")
    published = geneval.read_prompts(DATA / "evaluation_metadata.jsonl")
    assert geneval.generate([name for name in names if name]) == published
    assert len(published) == 553


def test_generator_stays_in_its_world(tmp_path: Path) -> None:
    prompts = geneval.generate(["cat", "dog", "bus"], 20, seed=1)
    assert {prompt.tag for prompt in prompts} == set(geneval.TAGS)
    assert all(prompt.names <= {"cat", "dog", "bus"} for prompt in prompts)
    assert len(set(prompts)) == len(prompts)
    assert geneval.generate(["cat", "dog", "bus"], 20, seed=1) == prompts != geneval.generate(["cat", "dog", "bus"], 20)


def test_reading_keeps_only_known_classes(tmp_path: Path) -> None:
    rows = [
        {
            "tag": "position",
            "prompt": "p",
            "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}],
        },
        {"tag": "single_object", "prompt": "q", "include": [{"class": "yak", "count": 1}]},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (prompt,) = geneval.read_prompts(path, ["cat", "dog"])
    assert prompt.include[1] == Wanted("dog", 1, None, ("above", 0))
    assert len(geneval.read_prompts(path)) == 2


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (20, 0, 30, 10), {"left of"}),
        ((20, 20, 30, 30), (0, 0, 10, 10), {"right of", "below"}),
        ((0, 0, 100, 100), (10, 0, 110, 100), set()),
        ((0, 0, 100, 100), (40, 0, 140, 100), set()),
        ((0, 0, 100, 100), (41, 0, 141, 100), {"left of"}),
        ((0, 0, 10, 10), (12, 20, 22, 30), {"above"}),
        ((0, 0, 40, 40), (30, -60, 70, -20), {"below"}),
        ((3, 3, 9, 9), (3, 3, 9, 9), set()),
    ],
)
def test_offset_rule(a: geneval.Box, b: geneval.Box, expected: set[str]) -> None:
    assert geneval.relations(a, b) == expected


def test_counting_is_exact_and_strict() -> None:
    three = Prompt("counting", "a photo of three cats", (Wanted("cat", 3),), (Wanted("cat", 4),))
    assert geneval.correct(three, [Thing("cat")] * 3)
    assert not geneval.correct(three, [Thing("cat")] * 2)
    assert not geneval.correct(three, [Thing("cat")] * 4)
    assert geneval.correct(three, [Thing("cat")] * 3 + [Thing("cat", score=0.9)])
    assert not geneval.correct(three, [Thing("cat", score=0.9)] * 3)
    for threshold, tag in ((geneval.THRESHOLD, "single_object"), (geneval.COUNTING_THRESHOLD, "counting")):
        at = float(torch.tensor(threshold))  # as a detector returns it: 0.3 becomes 0.30000001
        assert not geneval.by_class([Thing("cat", score=at)], tag)
        assert geneval.by_class([Thing("cat", score=at + 1e-6)], tag)


def test_the_sixteen_most_confident_of_a_class_count() -> None:
    scores = [0.99 - 0.001 * i for i in range(18)]
    found = [Thing("cat", score=s) for s in reversed(scores)] + [Thing("dog")]
    for tag in ("counting", "single_object"):
        seen = geneval.by_class(found, tag)
        assert [one.score for one in seen["cat"]] == scores[:16], "the published cap"
        assert len(seen["dog"]) == 1


def test_colour_looks_at_the_most_confident_box() -> None:
    red = Prompt("colors", "a photo of a red cat", (Wanted("cat", 1, "red"),))
    assert geneval.correct(red, [Thing("cat", "red", 0.8), Thing("cat", "blue", 0.7)])
    assert not geneval.correct(red, [Thing("cat", "red", 0.7), Thing("cat", "blue", 0.8)])
    assert not geneval.correct(red, [Thing("cat", None)])
    assert not geneval.correct(red, [Thing("cat", "red", 0.3)])


def test_position_needs_its_target() -> None:
    left = Prompt("position", "", (Wanted("dog", 1), Wanted("cat", 1, None, ("left of", 0))))
    cat, dog = Thing("cat", box=(0, 0, 10, 10)), Thing("dog", box=(20, 0, 30, 10))
    assert geneval.correct(left, [dog, cat])
    assert not geneval.correct(left, [cat])
    swapped = [Thing("cat", box=dog.box), Thing("dog", box=cat.box)]
    assert not geneval.correct(left, swapped)


def test_attributes_are_bound() -> None:
    both = Prompt("color_attr", "", (Wanted("cat", 1, "red"), Wanted("dog", 1, "blue")))
    assert geneval.correct(both, [Thing("cat", "red"), Thing("dog", "blue")])
    assert not geneval.correct(both, [Thing("cat", "blue"), Thing("dog", "red")])


def test_overall_is_the_mean_of_tasks() -> None:
    prompts, outcomes = [], []
    for index, (tag, size) in enumerate(zip(geneval.TAGS, (1, 5, 3, 2, 7, 4), strict=True)):
        for repeat in range(size):
            prompts.append(Prompt(tag, f"{tag} {repeat}", ()))
            outcomes.append([(True, True), (True, False), (False, False)][index % 3])
    table = geneval.aggregate(prompts, outcomes)
    assert table.overall == 0.5
    assert [table.tasks[tag] for tag in geneval.TAGS] == [1, 0.5, 0] * 2
    assert "| single_object | 1 | 1.000 |" in table.markdown()


def test_evaluate_pairs_images_with_prompts() -> None:
    class Reader:
        """The value of the first pixel tells what the picture shows."""

        def detect(self, images: torch.Tensor) -> list[list[Thing]]:
            return [[Thing("cat" if image[0, 0, 0] > 0.5 else "dog")] for image in images]

    seeds: list[int] = []

    def render(texts: list[str], seed: int) -> torch.Tensor:
        seeds.append(seed)
        return torch.stack([torch.full((3, 8, 8), float("cat" in text)) for text in texts])

    prompts = [Prompt("single_object", f"a {name}", (Wanted(name, 1),)) for name in ("cat", "dog", "cat", "dog", "bus")]
    table = geneval.evaluate(render, Reader(), prompts, images_per_prompt=2, batch_size=2)
    assert table.tasks == {"single_object": 0.8}
    assert table.images == 10
    assert len(set(seeds)) == 6
