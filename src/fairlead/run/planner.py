"""How many drafts to make and how many of them to finish. Knows numbers only.

Within one prompt the rewards of a draft and of its final are modelled as standard normal with correlation r. A draft
costs c full pictures, a final 1 - s of one (s > 0 if it goes on from the draft's own state). Of M drafts the best K are
finished; V(M, K) is the expected best of those finals, in standard deviations of the final reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.key import Key
from fairlead.run.posterior import PRIOR

DRAWS = 40_000


@dataclass(frozen=True)
class DraftPlan:
    """What to do with a budget."""

    drafts: int
    finals: int
    gain: float
    """Expected reward of the winner minus that of best-of-N at equal cost, in standard deviations of finals."""

    @property
    def pays(self) -> bool:
        """False where drafts cost more than they tell: every picture should then be finished."""
        return self.gain > 0


def correlation_of_ranks(rho: float) -> float:
    """Spearman's rank correlation to the correlation of two normal variables: 2 sin(pi rho / 6)."""
    return 2 * math.sin(math.pi * rho / 6)


@lru_cache(maxsize=4096)
def expected_best(n: int) -> float:
    """e(n): the expected largest of n independent standard normal numbers."""
    whole_number("n", n, 1)
    x = torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(x * n * density * torch.special.ndtr(x) ** (n - 1), x))


@lru_cache(maxsize=4096)
def expected_winner(drafts: int, finals: int, r: float) -> float:
    """V(M, K): the expected best final of the `finals` best of `drafts`. Simulated, seeded; exact for K = 1 and K = M.

    The best K of M uniform numbers are drawn from their spacings, so the work does not grow with M.
    """
    whole_number("finals", finals, 1, drafts)
    number_in_range("r", r, "[0, 1]")
    if finals == 1:
        return r * expected_best(drafts)
    if finals == drafts or r == 1:
        return expected_best(drafts)
    draws = DRAWS if finals <= 20 else DRAWS * 3 // 8
    key = Key.root(0).fold("planner").fold(drafts).fold(finals)
    uniform = key.fold("spacings").uniform(draws, finals).double().clamp(1e-12, 1 - 1e-12)
    left = torch.arange(drafts, drafts - finals, -1, dtype=torch.float64)
    best = torch.special.ndtri((uniform.log() / left).cumsum(1).exp().clamp(1e-300, 1 - 1e-16))
    noise = key.fold("noise").normal(draws, finals).double()
    return float((r * best + math.sqrt(1 - r * r) * noise).amax(1).mean())


def plan(budget: float, price: float, r: float = PRIOR, saved: float = 0.0) -> DraftPlan:
    """M and K for a budget of `budget` pictures and drafts at `price`: K = 1 + (1 - r) budget, drafts for the rest.

    `saved` is s, the part of a final that its draft has already paid. Where the drafts do not pay, `gain` is <= 0.
    """
    number_in_range("saved", saved, "[0, 1)")
    everything = max(1, math.floor(budget + 1e-9))
    drafts, finals = advancing(budget, [Stage(price, price, r), Stage(1.0, 1 - saved, 1.0)])
    if drafts < max(finals, 2):
        return DraftPlan(everything, everything, 0.0)
    return DraftPlan(drafts, finals, expected_winner(drafts, finals, r) - expected_best(everything))


@dataclass(frozen=True)
class Stage:
    """One rung as the planner sees it; the last stage is the finished picture."""

    whole: float
    """Price of a candidate from the noise, in finished pictures."""
    price: float
    """Price where the state of the rung below is there to go on from."""
    correlation: float
    """With the rewards of the next stage."""
    wanted: int | None = None
    """How many enter it, where that is fixed."""


def advancing(budget: float, stages: Sequence[Stage]) -> list[int]:
    """How many candidates enter each stage: n = 1 + (1 - r) money / price from the last stage back to the first.

    `money` is what the stages up to there may spend together, r the correlation of the stage before with this one. A
    stage never has more candidates than the one before it.
    """
    for stage in stages:
        number_in_range("price", stage.price, "(0, inf)")
    out: list[int] = []
    money = budget
    for index in range(len(stages) - 1, 0, -1):
        stage = stages[index]
        below = stages[index - 1]
        together = stage.price + sum(earlier.price for earlier in stages[:index])
        most = math.floor(money / together + 1e-9)
        n = stage.wanted or max(1, min(round(1 + (1 - below.correlation) * money / stage.whole), most))
        out.insert(0, n)
        money -= n * stage.price
    out.insert(0, max(0, math.floor(money / stages[0].price + 1e-9)))
    return out
