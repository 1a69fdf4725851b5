"""Orders from pairwise comparisons, in rounds of questions that do not wait for each other.

`partition` is what Demon does with a vision-language model (Yeh et al. 2025, arXiv 2410.05760, official code): split
around a pivot, split the larger side once more, 1 for the upper half of the result and 0 for the rest. Ours: the second
split is left out where the first one has found the half, ties, and that pictures between which nothing was asked share
their places (the code takes them as they come). `pairs` is the authors' earlier scheme, `sort` Hoare's quicksort,
`round_robin` the mean of all comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

Compare = Callable[[Sequence[tuple[int, int]]], Sequence[float]]
"""Pairs (i, j) -> for each the share of answers for i: above 1/2 it wins, 1/2 is a tie. Called once a round."""
Parts = list[list[int]]
SCHEMES = ("partition", "sort", "pairs", "round_robin")


def order(scheme: str, priority: Sequence[int], compare: Compare) -> list[float]:
    """n distinct priorities, in whose order members are pivots or paired -> n values in [0, 1], higher is better.

    `sort` gives the share of the others that are beaten, `partition` the share of a member's possible places that lie
    in the upper half, `pairs` and `round_robin` the mean of a member's comparisons. Any answers at all, also circles,
    come to an end within `calls`; who met nobody has 1/2.
    """
    n = len(priority)
    if n < 2:
        return [0.5] * n
    if scheme in ("pairs", "round_robin"):
        drawn = sorted(range(n), key=priority.__getitem__)
        pairs = (
            list(combinations(drawn, 2))
            if scheme == "round_robin"
            else list(zip(drawn[::2], drawn[1::2], strict=False))
        )
        return _means(n, pairs, compare(pairs))
    parts = (_sorted if scheme == "sort" else _halved)(n, priority, compare)
    values = [0.0] * n
    below = 0
    for part in parts:
        top = min(len(part), max(0, below + len(part) - (n - n // 2)))
        share = (below + (len(part) - 1) / 2) / (n - 1) if scheme == "sort" else top / len(part)
        for i in part:
            values[i] = share
        below += len(part)
    return values


def calls(scheme: str, n: int) -> tuple[float, float]:
    """Comparisons of n members without ties, the order being drawn: expected, and at most with any answers.

    Quicksort expects 2 (n + 1) H_n - 4 n (Hoare 1962; H_n is the n-th harmonic number).
    """
    if n < 2:
        return 0.0, 0.0
    every = n * (n - 1) / 2
    if scheme == "sort":
        return 2 * (n + 1) * sum(1 / i for i in range(1, n + 1)) - 4 * n, every
    if scheme == "partition":
        splits = [(w, 1, n - 1 - w) for w in range(n)]
        again = [sizes[at] - 1 for sizes in splits if (at := _straddling(sizes, n)) is not None]
        return n - 1 + sum(again) / n, n - 1 + max(again, default=0)
    return (every, every) if scheme == "round_robin" else (n // 2, n // 2)


def _split(parts: Sequence[list[int]], priority: Sequence[int], compare: Compare) -> list[Parts]:
    """Each part as [worse, tied, better] than its pivot; one round for all of them."""
    pivots = [min(part, key=priority.__getitem__) for part in parts]
    pairs = [(i, pivot) for part, pivot in zip(parts, pivots, strict=True) for i in part if i != pivot]
    found = dict(zip(pairs, compare(pairs), strict=True))
    out = []
    for part, pivot in zip(parts, pivots, strict=True):
        value = {i: found.get((i, pivot), 0.5) for i in part}
        worse = [i for i in part if value[i] < 0.5]
        better = [i for i in part if value[i] > 0.5]
        out.append([worse, [i for i in part if value[i] == 0.5], better])
    return out


def _sorted(n: int, priority: Sequence[int], compare: Compare) -> Parts:
    """Worst first; equals together."""
    parts = [(list(range(n)), True)]
    while todo := [part for part, still in parts if still and len(part) > 1]:
        done = iter(_split(todo, priority, compare))
        pieces: list[tuple[list[int], bool]] = []
        for part, still in parts:
            if still and len(part) > 1:
                worse, tied, better = next(done)
                pieces += [(worse, True), (tied, False), (better, True)]
            else:
                pieces.append((part, False))
        parts = [piece for piece in pieces if piece[0]]
    return [part for part, _ in parts]


def _halved(n: int, priority: Sequence[int], compare: Compare) -> Parts:
    """Worst first, split where it helps to find the upper half, twice at most."""
    (parts,) = _split([list(range(n))], priority, compare)
    inner = _straddling([len(part) for part in parts], n)
    if inner in (0, 2):
        parts[inner : inner + 1] = _split([parts[inner]], priority, compare)[0]
    return [part for part in parts if part]


def _straddling(sizes: Sequence[int], n: int) -> int | None:
    """Which part, worst first, has members in both halves, if one has."""
    below = 0
    half = n - n // 2
    for at, size in enumerate(sizes):
        if below < half < below + size:
            return at
        below += size
    return None


def _means(n: int, pairs: Sequence[tuple[int, int]], found: Sequence[float]) -> list[float]:
    met: list[list[float]] = [[] for _ in range(n)]
    for (i, j), value in zip(pairs, found, strict=True):
        met[i].append(value)
        met[j].append(1 - value)
    return [sum(own) / len(own) if own else 0.5 for own in met]
