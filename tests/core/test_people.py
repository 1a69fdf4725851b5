"""Questions to people: their names, and how answers are read."""

from __future__ import annotations

import pytest

from fairlead.core.people import Question, chunks

PICK = Question("pick", "Which are good?", ("a", "b", "c"))
PAIR = Question("pair", "Which is better?", ("a", "b"))
STEER = Question("steer", "Which way?", ("a", "b", "c"))


def test_a_name_is_16_digits_of_all_that_is_asked() -> None:
    others = [
        Question("pair", *_rest(PICK)),
        Question("pick", "Which?", PICK.pictures),
        Question("pick", PICK.text, ()),
    ]
    names = {one.name for one in (PICK, *others)}
    assert len(names) == 4
    assert PICK.name == "e86f9f369e70adee"
    assert Question(PICK.kind, PICK.text, PICK.pictures).name == PICK.name


def _rest(question: Question) -> tuple[str, tuple[str, ...]]:
    return question.text, question.pictures


@pytest.mark.parametrize(
    ("question", "answer", "chosen"),
    [
        (PICK, "1", (0,)),
        (PICK, "3, 1 3", (0, 2)),
        (PICK, "none", ()),
        (PICK, "0", ()),
        (PAIR, "2", (1,)),
        (PAIR, "tie", ()),
        (STEER, "1 -3", (~2, 0)),
        (STEER, "-1,-2", (~1, ~0)),
        (STEER, "none", ()),
        (STEER, " finish ", ()),
    ],
)
def test_answers(question: Question, answer: str, chosen: tuple[int, ...]) -> None:
    assert question.read(answer) == chosen


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        (PICK, "4", "numbers from 1 to 3"),
        (PICK, "1 0", "numbers from 1 to 3"),
        (PICK, "1 b", "numbers from 1 to 3"),
        (PICK, "-1", "numbers from 1 to 3"),
        (PICK, "finish", "numbers from 1 to 3"),
        (PAIR, "1 2", "names both"),
        (STEER, "4", "-1 to -3"),
        (STEER, "1 -4", "-1 to -3"),
        (STEER, "1 0", "-1 to -3"),
        (STEER, "2 -2", "likes and dislikes 2"),
    ],
)
def test_what_is_no_answer(question: Question, answer: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        question.read(answer)


def test_only_a_steering_ends_early() -> None:
    assert STEER.ends("finish ")
    assert not STEER.ends("1")
    assert not PICK.ends("finish")


def test_chunks() -> None:
    assert chunks("abcde", 2) == [("a", "b"), ("c", "d"), ("e",)]
    assert chunks([], 3) == []
