"""What a draft says about its final, learned from the finals so far, and when to stop. Numbers only, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from fairlead.core.check import number_in_range

PRIOR = 0.6
"""Correlation to plan for where none was measured: planning for it is cheap whatever the truth is."""
PRIOR_WEIGHT = 8.0
"""Pairs of draft and final that the prior counts for."""
LEAST_PAIRS = 4
"""Fewer pairs than these say nothing."""

Pairs = Sequence[tuple[float, float]]
"""The rewards of (draft, final), of the drafts that were finished."""


def measured_correlation(
    drafts: Sequence[float], pairs: Pairs, prior: float = PRIOR, weight: float = PRIOR_WEIGHT
) -> float:
    """r from the rewards of all drafts and the (draft, final) pairs of those finished, shrunk to the prior.

    The finished drafts are the best ones, so their plain correlation is biased. Their selection leaves the regression
    of the final on the draft unbiased: r = b sd(d) / sqrt(b^2 var(d) + s^2), with sd(d) over all drafts.
    """
    raw = regression_correlation(drafts, pairs)
    if raw is None:
        return prior
    return (len(pairs) * min(1.0, max(0.0, raw)) + weight * prior) / (len(pairs) + weight)


@dataclass(frozen=True)
class Line:
    """final = intercept + slope * draft, with what the pairs leave unexplained."""

    slope: float
    intercept: float
    residual: float
    """Standard deviation around the line."""
    slope_error: float
    """Standard error of the slope."""


def regression(pairs: Pairs) -> Line | None:
    """The least-squares line; None with fewer than four pairs, where drafts are all alike, or huge numbers."""
    if len(pairs) < LEAST_PAIRS or not all(map(_has_a_square, chain.from_iterable(pairs))):
        return None
    draft_mean = fmean(d for d, _ in pairs)
    final_mean = fmean(f for _, f in pairs)
    width = sum((d - draft_mean) ** 2 for d, _ in pairs)
    if width == 0:
        return None
    slope = sum((d - draft_mean) * (f - final_mean) for d, f in pairs) / width
    intercept = final_mean - slope * draft_mean
    variance = sum((f - intercept - slope * d) ** 2 for d, f in pairs) / (len(pairs) - 2)
    return Line(slope, intercept, math.sqrt(variance), math.sqrt(variance / width))


def regression_correlation(drafts: Sequence[float], pairs: Pairs) -> float | None:
    """The correlation before it is shrunk; None where the pairs or the drafts do not tell."""
    line = regression(pairs)
    return None if line is None else _correlation(line.slope, line.residual, spread(drafts))


def correlation_interval(drafts: Sequence[float], pairs: Pairs) -> tuple[float, float] | None:
    """About 95 %: the correlations at two standard errors of the slope to either side."""
    line = regression(pairs)
    sd = spread(drafts)
    if line is None or sd == 0:
        return None
    ends = [_correlation(line.slope + 2 * side * line.slope_error, line.residual, sd) for side in (-1, 1)]
    low, high = ends
    return None if low is None or high is None else (low, high)


def _correlation(slope: float, residual: float, sd: float) -> float | None:
    scale = math.hypot(slope * sd, residual)
    return slope * sd / scale if sd > 0 and scale > 0 else None


def _has_a_square(value: float) -> bool:
    return abs(value) < 1e150


def spread(values: Sequence[float]) -> float:
    """Standard deviation; 0 for fewer than two values, or where one is too large for a square."""
    if len(values) < 2 or not all(map(_has_a_square, values)):
        return 0.0
    mean = fmean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def forecast(
    drafts: Sequence[float], pairs: Pairs, left: Sequence[float], prior: float = PRIOR
) -> tuple[list[float], float] | None:
    """Expected finals of the drafts in `left` and their common spread: f = mean + r sd(f) (d - mean(d)) / sd(d).

    r is shrunk to the prior; sd(f) and the means follow from the pairs, the spread of d from all drafts.
    """
    line = regression(pairs)
    sd = spread(drafts)
    if line is None or sd == 0:
        return None
    r = measured_correlation(drafts, pairs, prior)
    final_sd = math.hypot(line.slope * sd, line.residual)
    draft_mean = fmean(d for d, _ in pairs)
    final_mean = fmean(f for _, f in pairs)
    means = [final_mean + r * final_sd * (d - draft_mean) / sd for d in left]
    return means, final_sd * math.sqrt(1 - r * r)


def reservation(mean: float, sd: float, price: float) -> float:
    """The reward at which opening a final of posterior `mean` and `sd` is no longer worth `price` (Weitzman 1979).

    mean + sd z, where z solves phi(z) - z (1 - Phi(z)) = price / sd.
    """
    number_in_range("sd", sd, "(0, inf)")
    number_in_range("price", price, "(0, inf)")
    low = -price / sd - 10.0
    high = 10.0
    for _ in range(80):
        z = (low + high) / 2
        low, high = (z, high) if expected_excess(z) > price / sd else (low, z)
    return mean + sd * z


def expected_excess(z: float) -> float:
    """E max(x - z, 0) for a standard normal x."""
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return density - z * 0.5 * math.erfc(z / math.sqrt(2))


def stop(best: float, rest: Sequence[float], sd: float, price: float) -> bool:
    """Whether to open no more finals: the best so far reaches the reservation of every posterior mean in `rest`."""
    return len(rest) == 0 or best >= reservation(max(rest), sd, price)
