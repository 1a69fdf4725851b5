"""Policies resampled from a pool: which candidates they would have drafted and finished, and what that would have cost.

A policy sees a random order of a prompt's candidates, drafts and finishes as its budget affords, and returns its
winner. Numbers only: a pool is a table of rewards [candidates] per kind, and a price per kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.drafts.pools import FLASH_DRAFT, FLASH_FINAL, PICTURE
from fairlead.core.key import Key
from fairlead.run import planner
from fairlead.run.posterior import PRIOR

Rewards = Mapping[str, NDArray[np.float64]]
"""Kind -> [candidates]."""
Prices = Mapping[str, float]
"""Kind -> what a candidate costs, in finished pictures."""
TOP_K = 4
"""Drafts that Flash-BoN refines."""


@dataclass(frozen=True)
class Chosen:
    """The winner of a policy on one order."""

    candidate: int
    kind: str
    """What was returned of it: the finished picture, or Flash-BoN's."""
    spent: float
    """In finished pictures; less than the budget where the pool is used up."""


Policy = Callable[[Rewards, Prices, NDArray[np.int64], float], Chosen | None]
"""Rewards, prices, an order of candidates, a budget in pictures -> the winner; None where the pool is too small."""


def best_of(rewards: Rewards, prices: Prices, order: NDArray[np.int64], budget: float) -> Chosen | None:
    """As many finished pictures as the budget affords."""
    n = math.floor(budget + 1e-9)
    if not 1 <= n <= len(order):
        return None
    own = order[:n]
    return Chosen(int(own[np.argmax(rewards[PICTURE][own])]), PICTURE, n)


def drafting(kind: str, r: float) -> Policy:
    """One kind of draft, planned by fairlead's planner for the correlation `r`; best_of where it says so."""
    return rungs((kind,), (r,))


def rungs(kinds: Sequence[str], correlations: Sequence[float]) -> Policy:
    """A chain of drafts, the cheapest first, planned by fairlead's planner."""

    def policy(rewards: Rewards, prices: Prices, order: NDArray[np.int64], budget: float) -> Chosen | None:
        gains = [planner.plan(budget, prices[k], r).gain for k, r in zip(kinds, correlations, strict=True)]
        if max(gains) <= 0:
            return best_of(rewards, prices, order, budget)
        stages = [planner.Stage(prices[k], prices[k], r) for k, r in zip(kinds, _between(correlations), strict=True)]
        counts = planner.advancing(budget, [*stages, planner.Stage(1.0, 1.0, 1.0)])
        if counts[0] < 1:
            return None
        own = order[: counts[0]]
        spent = len(own) * prices[kinds[0]]
        for kind, above, n in zip(kinds, [*kinds[1:], PICTURE], counts[1:], strict=True):
            own = own[np.argsort(-rewards[kind][own], kind="stable")][:n]
            spent += len(own) * prices[above]
        return Chosen(int(own[np.argmax(rewards[PICTURE][own])]), PICTURE, spent)

    return policy


def _between(correlations: Sequence[float]) -> list[float]:
    """r of each rung with the next one, as the run plans it from measured ones."""
    out = []
    for own, above in zip(correlations, [*correlations[1:], 1.0], strict=True):
        out.append(own / above if own < above else PRIOR)
    return out


def flash(rewards: Rewards, prices: Prices, order: NDArray[np.int64], budget: float) -> Chosen | None:
    """Flash-BoN (specification 2.2): all the rest on drafts, four refined, the best *draft* among them wins."""
    drafts = math.floor((budget - TOP_K * prices[FLASH_FINAL]) / prices[FLASH_DRAFT] + 1e-9)
    if drafts < TOP_K:
        return None
    own = order[:drafts]
    winner = int(own[np.argmax(rewards[FLASH_DRAFT][own])])
    return Chosen(winner, FLASH_FINAL, drafts * prices[FLASH_DRAFT] + TOP_K * prices[FLASH_FINAL])


def flash_by_finals(rewards: Rewards, prices: Prices, order: NDArray[np.int64], budget: float) -> Chosen | None:
    """The same with the four refined pictures judged again: what its released code leaves out."""
    found = flash(rewards, prices, order, budget)
    if found is None:
        return None
    drafts = math.floor((budget - TOP_K * prices[FLASH_FINAL]) / prices[FLASH_DRAFT] + 1e-9)
    own = order[:drafts]
    top = own[np.argsort(-rewards[FLASH_DRAFT][own], kind="stable")][:TOP_K]
    return Chosen(int(top[np.argmax(rewards[FLASH_FINAL][top])]), FLASH_FINAL, found.spent)


def useless(rewards: Rewards, kind: str, key: Key) -> dict[str, NDArray[np.float64]]:
    """The rewards with those of a kind moved to other candidates: a draft that says nothing at the same price."""
    own = rewards[kind]
    places = np.argsort(key.uniform(len(own)).numpy())
    return {**rewards, kind: own[places]}


def orders(candidates: int, many: int, key: Key) -> list[NDArray[np.int64]]:
    """Random orders of a prompt's candidates, the same for every policy."""
    return [np.argsort(key.fold(i).uniform(candidates).numpy()) for i in range(many)]


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's; NaN where one is constant."""
    from scipy.stats import rankdata

    x = rankdata(a) - (len(a) + 1) / 2
    y = rankdata(b) - (len(b) + 1) / 2
    scale = math.sqrt(float((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else math.nan
