"""What the recipe's evaluation counts, on pictures whose objects are known."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

import by_path
from fairlead.bench.geneval import Prompt, Wanted
from fairlead.pocket.judge import Detection


@pytest.fixture
def evaluate() -> Iterator[ModuleType]:
    with by_path.recipe("evaluate") as module:
        yield module


def seen(name: str, colour: str | None = None, score: float = 0.95, x: int = 0) -> Detection:
    return Detection(name, colour, score, (x, 0, x + 20, 20))


def test_failures_are_counted_by_what_was_found(evaluate: ModuleType) -> None:
    three = Prompt("counting", "", (Wanted("dog", 3),), (Wanted("dog", 4),))
    both = Prompt("two_object", "", (Wanted("dog", 1), Wanted("cat", 1)))
    left = Prompt("position", "", (Wanted("cat", 1), Wanted("dog", 1, position=("left of", 0))))
    tinted = Prompt("color_attr", "", (Wanted("dog", 1, "red"), Wanted("cat", 1, "blue")))
    one = Prompt("colors", "", (Wanted("dog", 1, "red"),))
    dog, cat = seen("dog"), seen("cat", x=40)
    judged = [
        (three, [dog] * 3),
        (three, [dog] * 4),
        (three, [dog] * 4 + [cat]),
        (three, [dog] * 9),
        (three, [seen("dog", score=0.5)]),
        (both, [dog, cat]),
        (both, [dog, dog]),
        (left, [dog, cat]),
        (left, [seen("dog", x=40), seen("cat")]),
        (left, []),
        (tinted, [seen("dog", "red"), seen("cat", "blue")]),
        (tinted, [seen("dog", "blue"), seen("cat", "red")]),
        (tinted, [seen("dog", "blue"), seen("cat", "blue")]),
        (tinted, [seen("dog", "red")]),
        (one, []),
    ]
    assert evaluate.failures(judged) == {
        "counting": {3: {0: 1, 3: 1, 4: 2, 5: 1}},
        "two_object": {"pictures": 2, "both": 1, "right": 1},
        "position": {"pictures": 3, "both": 2, "right": 1},
        "color_attr": {"pictures": 4, "both": 3, "right": 1, "exchanged": 1},
    }
