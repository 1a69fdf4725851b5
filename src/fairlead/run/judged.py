"""The ranking of a run's pictures by the people who compared them, and which pair to show next. Imports no torch.

Everything is a function of the recorded judgements, so a page that was reloaded shows the same pair on the same sides.
`both bad` counts as a tie, as in Chatbot Arena (Chiang et al. 2024, arXiv 2403.04132), and is counted beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.run import judgements
from fairlead.run.agreement import alpha_of_pairs
from fairlead.run.bradley_terry import Comparison, Strengths, best_pair, estimate
from fairlead.run.judgements import BOTH_BAD, FIRST, PAIR, PICK, SECOND, Judgement

ENTRANTS = 16
"""Pictures that are compared where nobody says how many."""
REPEAT = 4
"""Every so many pairs, one that somebody else has judged is shown: without these, agreement cannot be computed."""
OUTCOMES = {FIRST: 1.0, SECOND: 0.0}
JUDGED = "judged by people"
"""What the ranking is called among rewards. Its unit: log odds of being preferred to the average judged picture of the
run."""


@dataclass(frozen=True)
class Place:
    """One picture in the ranking."""

    candidate: int
    strength: float
    """Log odds against the average of those that were judged."""
    low: float
    high: float
    """95 % of the strength"""
    best_place: int
    worst_place: int
    """The places that it may have, from 1."""
    seen: int
    """Judgements it was part of."""
    bad: int
    """Times it was one of two that were both bad."""

    @property
    def chance(self) -> float:
        """Probability to be preferred to the average picture where one of them is."""
        return _logistic(self.strength)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and tables."""
        return {
            "candidate": self.candidate,
            "strength": self.strength,
            "low": self.low,
            "high": self.high,
            "chance": self.chance,
            "chance_low": _logistic(self.low),
            "chance_high": _logistic(self.high),
            "best_place": self.best_place,
            "worst_place": self.worst_place,
            "seen": self.seen,
            "bad": self.bad,
        }


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass(frozen=True)
class Agreement:
    """How far the judges agree."""

    alpha: float
    """Krippendorff's, NaN where it cannot be computed"""
    pairs: int
    """Pairs that two judges or more have judged."""


@dataclass(frozen=True)
class Preference:
    """One picture was preferred to another."""

    chosen: int
    rejected: int
    judgement: Judgement


class Judged:
    """The judgements of a run that hold, and what follows from them."""

    def __init__(self, every: Sequence[Judgement], who: str | None = None) -> None:
        """`who`: only this person's."""
        self._rows = every
        held = judgements.valid(every)
        self.every = held
        self.judgements = [j for j in held if who is None or j.who == who]
        if who is not None and not self.judgements:
            names = ", ".join(sorted({j.who or "(no name)" for j in held})) or "nobody"
            raise FairleadError(f"Nothing was judged by {who!r}. Judges of this run: {names}.")

    @staticmethod
    def of(folder: Path, who: str | None = None) -> Judged:
        """Of a run folder."""
        return Judged(judgements.of(folder), who)

    @cached_property
    def candidates(self) -> list[int]:
        """Those that were judged, in order."""
        return sorted({index for j in self.judgements for index in j.shown})

    @cached_property
    def ranking(self) -> list[Place]:
        """Every judged picture, the best first."""
        found = self.strengths(self.candidates)
        places = [self._place(found, n, index) for n, index in enumerate(self.candidates)]
        return sorted(places, key=lambda place: (-place.strength, place.candidate))

    def _place(self, found: Strengths, n: int, index: int) -> Place:
        low, high = found.interval(n)
        best, worst = found.places(n)
        part = [j for j in self.judgements if index in j.shown]
        bad = sum(j.answer == BOTH_BAD for j in part)
        return Place(index, float(found.values[n]), low, high, best, worst, len(part), bad)

    def strengths(self, candidates: Sequence[int]) -> Strengths:
        """The estimate for these candidates, which must include those that were judged."""
        place = {index: n for n, index in enumerate(candidates)}
        return estimate(len(candidates), comparisons(self.judgements, place))

    @cached_property
    def judges(self) -> dict[str, int]:
        """Judgements by name."""
        return dict(Counter(j.who for j in self.every))

    @cached_property
    def agreement(self) -> Agreement:
        """Over the pairs that were shown to several people; of a person the last answer to a pair counts."""
        said: dict[tuple[int, ...], dict[str, float]] = {}
        for j in self.every:
            if j.kind == PAIR:
                turned = j.shown[0] > j.shown[1]
                value = OUTCOMES.get(j.answer, 0.5)
                said.setdefault(tuple(sorted(j.shown)), {})[j.who] = 1 - value if turned else value
        units = [list(values.values()) for values in said.values() if len(values) > 1]
        return Agreement(alpha_of_pairs(units), len(units))

    @cached_property
    def preferences(self) -> list[Preference]:
        """Every picture that was preferred to another one; ties and `both bad` prefer none."""
        return [Preference(good, bad, j) for j in self.judgements for good, bad in _decided(j)]

    def next_pair(
        self,
        entrants: Sequence[int],
        who: str,
        turn: int,
        seed: str = "",
        fits: Callable[[int, int], bool] = lambda one, two: True,
    ) -> tuple[int, int] | None:
        """The two entrants to show this person, left and right; None when they have judged every pair of them.

        `fits` says which pairs may be shown.
        The pair is the one about which the least is certain. Equals, and the sides, go by lot. A pair that was taken
        back is shown again first.
        """
        if (again := self._shown_again(entrants, who, PAIR)) is not None:
            return again[0], again[1]
        known = sorted({*entrants, *self.candidates})
        gains = self.strengths(known).gains()
        place = {index: n for n, index in enumerate(known)}
        mine = {frozenset(j.shown) for j in self.every if j.who == who and j.kind == PAIR}
        every = [pair for pair in combinations(sorted(entrants), 2) if fits(*pair)]
        left = [pair for pair in every if frozenset(pair) not in mine]
        theirs = {frozenset(j.shown) for j in self.every if j.who != who and j.kind == PAIR}
        shared = [pair for pair in left if frozenset(pair) in theirs]
        if shared and turn % REPEAT == REPEAT - 1:
            left = shared
        order = [_lot(seed, who, turn, *pair) for pair in left]
        found = best_pair(gains, [(place[a], place[b]) for a, b in left], order)
        if found is None:
            return None
        one, two = known[found[0]], known[found[1]]
        return (one, two) if _lot(seed, who, turn, one, two, "side") % 2 else (two, one)

    def next_pick(self, entrants: Sequence[int], size: int, who: str, turn: int, seed: str = "") -> tuple[int, ...]:
        """Some entrants to choose from: those that the least is known about, by lot where equal."""
        if (again := self._shown_again(entrants, who, PICK)) is not None:
            return again
        known = sorted({*entrants, *self.candidates})
        found = self.strengths(known)
        place = {index: n for n, index in enumerate(known)}

        def certain(index: int) -> tuple[float, int]:
            return -round(float(found.covariance[place[index], place[index]]), 9), _lot(seed, who, turn, index)

        chosen = sorted(entrants, key=certain)[:size]
        return tuple(sorted(chosen, key=lambda index: _lot(seed, who, turn, index, "side")))

    def _shown_again(self, entrants: Collection[int], who: str, kind: str) -> tuple[int, ...] | None:
        """The pictures of the judgement that was just taken back, if they still take part."""
        last = judgements.taken_back(self._rows, who)
        return last.shown if last is not None and last.kind == kind and set(last.shown) <= set(entrants) else None


def _lot(*words: object) -> int:
    return int.from_bytes(blake2b("\n".join(map(str, words)).encode(), digest_size=6).digest())


def comparisons(judged: Iterable[Judgement], place: dict[int, int]) -> Iterator[Comparison]:
    """What the judgements say about two pictures at a time; a tie says something too.

    A pick of k pictures compares every chosen one with every other one. They weigh as much as k - 1 comparisons, since
    more than these are not independent.
    """
    for j in judged:
        if j.kind == PAIR:
            yield Comparison(place[j.shown[0]], place[j.shown[1]], OUTCOMES.get(j.answer, 0.5))
            continue
        decided = list(_decided(j))
        weight = min(1.0, (len(j.shown) - 1) / max(1, len(decided)))
        for good, bad in decided:
            yield Comparison(place[good], place[bad], 1.0, weight)


def _decided(j: Judgement) -> Iterator[tuple[int, int]]:
    """The better and the worse candidate of every decided comparison."""
    for good in j.chosen:
        for bad in j.shown:
            if bad not in j.chosen:
                yield good, bad


def entrants(
    finished: Sequence[int], baseline: int | None, many: int | None, among: Collection[int] | None = None
) -> list[int]:
    """Who is to be compared: of the finished candidates, the best first, `many` at most, and the baseline beside them.

    `among`: only these, and then without the baseline unless it is one of them.
    """
    chosen = [index for index in finished if among is None or index in among][:many]
    if among is None and baseline is not None and baseline not in chosen:
        chosen = [*chosen[: max(1, len(chosen) - 1)], baseline] if many is not None else [*chosen, baseline]
    return chosen
