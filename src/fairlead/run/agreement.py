"""How far people agree: Krippendorff's alpha. Knows numbers only.

Alpha is 1 minus the disagreement that is seen over the one that chance would give: 1 is perfect agreement, 0 is what
chance gives, below 0 is contradiction. Unlike Cohen's kappa it takes any number of judges of whom each has judged only
some pairs. Source: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

Distance = Callable[[float, float], float]


def squared(a: float, b: float) -> float:
    """The distance of numbers on a scale of equal steps."""
    return (a - b) ** 2


def alpha(units: Sequence[Sequence[float]], distance: Distance = squared) -> float:
    """Values that the judges gave to each unit -> alpha; NaN where no two of them differ or none has two values."""
    known = [list(values) for values in units if len(values) > 1]
    every = [value for values in known for value in values]
    if not every:
        return math.nan
    seen = sum(_total(values, distance) / (len(values) - 1) for values in known) / len(every)
    chance = _total(every, distance) / (len(every) * (len(every) - 1))
    return 1 - seen / chance if chance > 0 else math.nan


def _total(values: Sequence[float], distance: Distance) -> float:
    """The sum over ordered pairs."""
    many = Counter(values)
    return sum(many[a] * many[b] * distance(a, b) for a, b in product(many, many))


def alpha_of_pairs(units: Sequence[Sequence[float]]) -> float:
    """Alpha of comparisons: 1 for the first picture, 0 for the second, 0.5 for a tie, which lies half-way.

    Which picture of a pair is called the first means nothing, so every pair is counted in both orders.
    """
    return alpha([*units, *map(_turned, units)])


def _turned(values: Sequence[float]) -> list[float]:
    return [1 - value for value in values]
