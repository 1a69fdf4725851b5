"""Means over prompts with bootstrap intervals. The prompt is the unit: its seeds are not independent evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairlead.core.key import Key

RESAMPLES = 2000
FEWEST = 3
"""Fewer prompts have no interval: resampling them says nothing."""


@dataclass(frozen=True)
class Mean:
    """A mean over prompts and its 95 % bootstrap interval; NaN where it is not known."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    """Prompts it is a mean over."""

    @property
    def sure(self) -> int:
        """1 if the interval is above zero, -1 if it is below, 0 if it contains zero or there is none."""
        return int(self.low > 0) - int(self.high < 0)


def resamples(n: int, key: Key | None = None) -> NDArray[np.int64]:
    """[RESAMPLES, n] indices drawn with replacement; the same for everything that is compared."""
    u = (key or Key.root(0).fold("bootstrap")).uniform(RESAMPLES, n).numpy()
    return np.minimum((u * n).astype(np.int64), n - 1)


def mean(values: Sequence[float], key: Key | None = None) -> Mean:
    """One number per prompt [P] -> their mean. NaN values are prompts that are not known: left out."""
    x = np.array([v for v in values if v == v], float)
    if not len(x):
        return Mean(math.nan)
    if len(x) < FEWEST:
        return Mean(float(x.mean()), n=len(x))
    low, high = np.quantile(x[resamples(len(x), key)].mean(1), [0.025, 0.975])
    return Mean(float(x.mean()), float(low), float(high), len(x))


def band(curves: Sequence[Sequence[float]]) -> list[Mean]:
    """Curves of prompts [P, G] on one grid -> their mean at each place; NaN where a prompt has no value yet."""
    x = np.array(curves, float)
    if not x.size:
        return []
    if len(x) < FEWEST:
        return [Mean(float(v), n=len(x)) for v in x.mean(0)]
    low, high = np.quantile(x[resamples(len(x))].mean(1), [0.025, 0.975], axis=0)
    return [Mean(float(m), float(a), float(b), len(x)) for m, a, b in zip(x.mean(0), low, high, strict=True)]


def wins(ours: float, theirs: float) -> float:
    """1 for a win, 0.5 for a tie, NaN if one is unknown. A difference by rounding is a tie."""
    if ours != ours or theirs != theirs:
        return math.nan
    return 0.5 if math.isclose(ours, theirs, rel_tol=1e-6) else float(ours > theirs)


def ratio(rows: Sequence[Sequence[float]]) -> Mean:
    """Numbers of pictures, one list per prompt -> their mean over pictures, the interval over prompts."""
    return mean_of([rows])


def mean_of(groups: Sequence[Sequence[Sequence[float]]]) -> Mean:
    """The unweighted mean over groups of each group's mean over pictures; prompts are resampled inside their group."""
    values = []
    draws = []
    n = 0
    for i, rows in enumerate(groups):
        totals = np.array([sum(r) for r in rows], float)
        sizes = np.array([len(r) for r in rows], float)
        values.append(totals.sum() / sizes.sum())
        n += len(rows)
        picks = resamples(len(rows), Key.root(0).fold("bootstrap", i))
        draws.append(totals[picks].sum(1) / sizes[picks].sum(1))
    if min(map(len, groups)) < FEWEST:
        return Mean(float(np.mean(values)), n=n)
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return Mean(float(np.mean(values)), float(low), float(high), n)
