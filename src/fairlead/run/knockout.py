"""A knockout among finished pictures by a judge that sees two at a time. Knows numbers only.

Entrants are numbered in the order of their prior: 0 has the best reward. In every round the better half meets the worse
half, the best against the worst; of an odd number the best waits. A pair is looked at up to `looks` times, with the
sides swapped in between. The better by prior keeps its place unless the looks favour the other one, so an answer that
flips with the sides is a tie. A look that can no longer change the result of its pair is not asked.

The state is a function of the answers alone. So the order in which they arrive changes nothing, and a run that was
interrupted asks nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FIRST, TIE, SECOND = 1.0, 0.5, 0.0
"""The answers to a look: which of the two pictures is better."""
MOST_LOOKS = 3


@dataclass(frozen=True)
class Look:
    """One question: which of two pictures is better, `first` being shown first."""

    first: int
    second: int
    again: bool = False
    """True for the third look at a pair, which repeats the first one."""


@dataclass(frozen=True)
class Pair:
    """A pair that has met."""

    kept: int
    """The better one by prior."""
    other: int
    won: bool | None
    """True if `kept` is still in, False if `other` took its place, None while a look is not answered."""
    tied: bool = False
    """True if `kept` is still in although no answer, or not every answer, was for it."""


@dataclass(frozen=True)
class Standing:
    """How far a knockout is."""

    left: tuple[int, ...]
    """Who has not lost yet, in the order of the prior; the first of them leads."""
    open: tuple[Look, ...] = ()
    """Looks that can be asked now, all of them at once; empty at the end."""
    rounds: tuple[tuple[Pair, ...], ...] = field(default=())

    @property
    def leader(self) -> int:
        """The winner, or while looks are open the best by prior of those that have not lost."""
        return self.left[0]


def most_looks(entrants: int, looks: int) -> int:
    """Looks that a knockout takes at most; it needs at least entrants - 1, or twice that with three looks a pair."""
    return max(0, entrants - 1) * looks


def expected_looks(entrants: int, looks: int) -> float:
    """Looks to expect where the prior says nothing and the judge does not contradict itself: half the first looks are
    for the better one by prior, which ends a pair of two looks; two agreeing looks end a pair of three.
    """
    return max(0, entrants - 1) * {1: 1.0, 2: 1.5, 3: 2.0}[looks]


def affordable_entrants(wanted: int, looks: int, questions: float) -> int:
    """The most entrants up to `wanted` whose knockout takes at most so many looks."""
    return max(1, min(wanted, int((questions + 1e-9) // looks) + 1 if questions < wanted * looks else wanted))


def standing(
    entrants: int, looks: int, answers: Mapping[Look, float], swapped: Callable[[int, int], bool] = lambda a, b: False
) -> Standing:
    """The state after these answers. `swapped(kept, other)`: whether the first look shows `other` first."""
    left = list(range(entrants))
    rounds: list[tuple[Pair, ...]] = []
    while len(left) > 1:
        waits = left[: len(left) % 2]
        rest = left[len(waits) :]
        half = len(rest) // 2
        met = []
        asked = []
        for kept, other in zip(rest[:half], reversed(rest[half:]), strict=True):
            pair, look = _meet(kept, other, looks, answers, swapped(kept, other))
            met.append(pair)
            asked += [] if look is None else [look]
        lost = {pair.other if pair.won else pair.kept for pair in met if pair.won is not None}
        left = [i for i in left if i not in lost]
        rounds.append(tuple(met))
        if asked:
            return Standing(tuple(left), tuple(asked), tuple(rounds))
    return Standing(tuple(left), (), tuple(rounds))


def _meet(kept: int, other: int, looks: int, answers: Mapping[Look, float], swap: bool) -> tuple[Pair, Look | None]:
    """The result of a pair, or the next look at it. `other` needs more than half of one look or of three; of two, both.

    With two or three looks that is a sum above 1.5, because a tie counts a half.
    """
    needed = 0.5 if looks == 1 else 1.5
    total = 0.0
    for number in range(looks):
        first, second = (other, kept) if swap != (number == 1) else (kept, other)
        look = Look(first, second, again=number == 2)
        if look not in answers:
            return Pair(kept, other, None), look
        total += answers[look] if first == other else 1 - answers[look]
        seen = number + 1
        if total > needed:
            return Pair(kept, other, False), None
        if total + (looks - seen) <= needed:
            break
    return Pair(kept, other, True, tied=total > 0), None
