"""Strengths of pictures from comparisons of two at a time, with their intervals, and the pair to compare next.

The model is Bradley and Terry's (1952) with the ties of Davidson (1970). For strengths s and d = s_i - s_j,

    P(i wins) : P(tie) : P(j wins)  =  exp(d/2) : exp(t) : exp(-d/2),

where t says how common ties are. A strength is a log odds: 1.1 more is preferred three times as often. Strengths have a
normal prior, so that one victory does not make a picture infinitely good. Intervals are those of the normal
approximation at the maximum. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR = 1.5
"""Standard deviation of the strengths before anything is known; 1.5 more is preferred four times as often."""
STEPS = 100
"""Newton's method has converged long before."""
Z95 = 1.96
"""Of a 95 % interval, in standard deviations."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What was said about two pictures, numbered from 0."""

    first: int
    second: int
    outcome: float
    """1 if the first one is better, 0 if the second one is, 0.5 for a tie."""
    weight: float = 1.0


@dataclass(frozen=True)
class Strengths:
    """The estimate."""

    values: Array
    """[n], of mean 0"""
    covariance: Array
    """[n, n], of the values"""
    tie: float
    """t; minus infinity where there was no tie"""

    def chance(self, i: int, j: int) -> tuple[float, float, float]:
        """Probabilities that i wins, of a tie, and that j wins."""
        p = _probabilities(np.array([self.values[i] - self.values[j]]), self.tie)[:, 0]
        return float(p[0]), float(p[1]), float(p[2])

    def interval(self, i: int) -> tuple[float, float]:
        """95 % of the strength of i."""
        half = Z95 * math.sqrt(self.covariance[i, i])
        return float(self.values[i] - half), float(self.values[i] + half)

    def places(self, i: int) -> tuple[int, int]:
        """The best and the worst place that i may have: those that certainly are better or worse are counted."""
        d = self.values - self.values[i]
        half = Z95 * np.sqrt(np.maximum(0.0, self._spread(i)))
        better = int((d > half + 1e-9).sum())
        worse = int((d < -half - 1e-9).sum())
        return 1 + better, len(d) - worse

    def _spread(self, i: int) -> Array:
        """Variances of the differences to i [n]."""
        diagonal = np.diag(self.covariance)
        return np.asarray(diagonal + diagonal[i] - 2 * self.covariance[i])

    def gains(self) -> Array:
        """[n, n]: what a comparison of two is expected to tell, in units of entropy.

        It is log(1 + I V), with the Fisher information I of the answer and the variance V of the difference.
        """
        d = self.values[:, None] - self.values[None]
        diagonal = np.diag(self.covariance)
        variance = diagonal[:, None] + diagonal[None] - 2 * self.covariance
        return np.asarray(np.log1p(_information(d, self.tie) * np.maximum(0.0, variance)))


def estimate(n: int, comparisons: Iterable[Comparison], prior: float = PRIOR) -> Strengths:
    """The most probable strengths of n pictures; with an infinite prior those of maximum likelihood, if they exist."""
    won = np.zeros((n, n))
    tied = np.zeros((n, n))
    if n == 0:
        return Strengths(np.zeros(0), won, -math.inf)
    for c in comparisons:
        if c.outcome == 0.5:
            tied[c.first, c.second] += c.weight
        else:
            better, worse = (c.first, c.second) if c.outcome > 0.5 else (c.second, c.first)
            won[better, worse] += c.weight
    tied = tied + tied.T
    has_ties = bool(tied.any())
    x = np.zeros(n + 1)
    x[n] = 0.0 if has_ties else -math.inf
    precision = 0.0 if math.isinf(prior) else 1 / prior**2
    value = _log_posterior(x, won, tied, precision)
    for _ in range(STEPS):
        gradient, hessian = _derivatives(x, won, tied, precision)
        step = _solve(hessian, gradient, n, has_ties)
        scale = 1.0
        while (after := _log_posterior(x + scale * step, won, tied, precision)) < value - 1e-12 and scale > 1e-6:
            scale /= 2
        x = x + scale * step
        value = after
        if np.abs(step).max() < 1e-10:
            break
    values = x[:n] - x[:n].mean()
    return Strengths(values, _covariance(_derivatives(x, won, tied, precision)[1], n, has_ties), float(x[n]))


def best_pair(gains: Array, allowed: Sequence[tuple[int, int]], order: Sequence[int]) -> tuple[int, int] | None:
    """The allowed pair that tells most; of equals the first by `order`, one number per allowed pair."""
    if not allowed:
        return None
    most = max(gains[i, j] for i, j in allowed)
    equal = [k for k, (i, j) in enumerate(allowed) if gains[i, j] >= most - 1e-9]
    return allowed[min(equal, key=lambda k: order[k])]


def _probabilities(d: Array, tie: float) -> Array:
    """Differences [...] -> probabilities [3, ...] of winning, tying, losing."""
    exponents = np.stack([d / 2, np.full_like(d, tie), -d / 2])
    weights = np.exp(exponents - exponents.max(0))
    return np.asarray(weights / weights.sum(0))


def _information(d: Array, tie: float) -> Array:
    """Fisher information of an answer about the difference: the variance of 1/2, 0 and -1/2."""
    win, _, lose = _probabilities(d, tie)
    return np.asarray((win + lose) / 4 - ((win - lose) / 2) ** 2)


def _log_posterior(x: Array, won: Array, tied: Array, precision: float) -> float:
    s = x[:-1]
    p = _probabilities(s[:, None] - s[None], x[-1])
    total = float((won * np.log(p[0])).sum()) - precision * float(s @ s) / 2
    if tied.any():
        total += float((np.triu(tied) * np.log(p[1])).sum()) - precision * float(x[-1]) ** 2 / 2
    return total


def _derivatives(x: Array, won: Array, tied: Array, precision: float) -> tuple[Array, Array]:
    """Gradient [n+1] and negative Hessian [n+1, n+1] of the log posterior; the last entry is that of t."""
    n = len(x) - 1
    d = x[:n, None] - x[None, :n]
    win, equal, lose = _probabilities(d, x[n])
    many = won + won.T + tied
    gradient = np.zeros(n + 1)
    gradient[:n] = (won.sum(1) - won.sum(0)) / 2 - (many * (win - lose) / 2).sum(1) - precision * x[:n]
    information = many * _information(d, x[n])
    hessian = np.zeros((n + 1, n + 1))
    hessian[:n, :n] = np.diag(information.sum(1) + precision) - information
    if math.isfinite(x[n]):
        half = np.triu(many)
        gradient[n] = np.triu(tied).sum() - (half * equal).sum() - precision * x[n]
        hessian[n, n] = (half * equal * (1 - equal)).sum() + precision
        cross = -(many * equal * (win - lose) / 2).sum(1)
        hessian[n, :n] = cross
        hessian[:n, n] = cross
    return gradient, hessian


def _solve(hessian: Array, gradient: Array, n: int, has_ties: bool) -> Array:
    """Newton's step; along directions that nothing is known about it is zero."""
    size = n + 1 if has_ties else n
    step = np.zeros(n + 1)
    step[:size] = np.linalg.lstsq(hessian[:size, :size], gradient[:size], rcond=1e-12)[0]
    return step


def _covariance(hessian: Array, n: int, has_ties: bool) -> Array:
    """Of the strengths after their mean was taken off [n, n]; t is integrated out."""
    size = n + 1 if has_ties else n
    every = np.linalg.pinv(hessian[:size, :size], rcond=1e-12, hermitian=True)[:n, :n]
    centre = np.eye(n) - 1 / n
    return np.asarray(centre @ every @ centre)
