"""Questions to people: data, so that whoever has a person at hand can ask them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Question:
    """One question about pictures. Equal questions are one question, whenever they are asked."""

    kind: str
    """`pick`: any of the pictures; `pair`: one of two, or neither."""
    text: str
    pictures: tuple[str, ...]
    """Names of pictures in the run's record."""

    @property
    def name(self) -> str:
        """16 hex digits."""
        return blake2b("\n".join((self.kind, self.text, *self.pictures)).encode(), digest_size=8).hexdigest()

    def read(self, answer: str) -> tuple[int, ...]:
        """Positions from 0 of the chosen pictures; ValueError with a sentence if the answer is no answer to this."""
        words = answer.replace(",", " ").split()
        if words in (["none"], ["tie"], ["0"]):
            words = []
        if not all(word.isdigit() and 1 <= int(word) <= len(self.pictures) for word in words):
            raise ValueError(f"{answer!r} is not a list of numbers from 1 to {len(self.pictures)}, 'none' or 'tie'")
        if self.kind == "pair" and len(words) > 1:
            raise ValueError(f"{answer!r} names both pictures: choose one, or say 'tie'")
        return tuple(sorted({int(word) - 1 for word in words}))


class Pending(Exception):
    """Nobody has answered yet. The run stops here and goes on when somebody has."""

    def __init__(self, question: Question) -> None:
        super().__init__(question.text)
        self.question = question


Ask = Callable[[Question], tuple[int, ...]]
"""The answer as chosen positions, or `Pending`."""


def chunks(names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """At most `size` at a time, in order."""
    return [tuple(names[i : i + size]) for i in range(0, len(names), size)]
