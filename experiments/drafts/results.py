"""What the pools say: correlations and prices of drafts, and the budget at which every policy reaches the target."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments import common
from experiments.drafts import policies
from experiments.drafts.policies import Policy, Prices, Rewards
from experiments.drafts.pools import FLASH_DRAFT, FLASH_FINAL, PICTURE
from fairlead.bench import statistics
from fairlead.core.key import Key
from fairlead.run import planner
from fairlead.run.posterior import PRIOR

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.36, 0.45, 0.6, 0.8, 1.0, 1.3)
"""Budgets that are tried, in shares of the target's."""
RESUMED = 0.3
"""Share of a picture's steps that Flash-BoN's final computes beyond its draft."""
BEST_OF = "best_of"
USELESS = "useless draft"


@dataclass(frozen=True)
class Pool:
    """Pools of equal size of all prompts."""

    prompts: list[str]
    candidates: int
    rewards: list[str]
    """Their names; the first is optimised, the last held out."""
    of: dict[str, dict[str, dict[str, NDArray[np.float64]]]]
    """reward -> prompt -> kind -> [candidates]."""
    rows: dict[str, float]
    """Kind -> network rows of a candidate."""
    seconds: dict[str, dict[str, float]]
    """reward -> kind -> processor seconds of a candidate: network, decoder and this reward."""
    network: dict[str, float]
    """Kind -> processor seconds of a candidate in the network alone."""

    @property
    def kinds(self) -> list[str]:
        """The drafts, without Flash-BoN's."""
        return [kind for kind in self.rows if kind not in (PICTURE, FLASH_DRAFT, FLASH_FINAL)]

    def prices(self, reward: str | None) -> dict[str, float]:
        """In pictures: of rows, or of seconds with a reward. Flash-BoN's final costs what its draft has not paid."""
        found = self.rows if reward is None else self.seconds[reward]
        network = self.rows if reward is None else self.network
        paid = 1 - RESUMED * self.rows[PICTURE] / self.rows[FLASH_FINAL]
        final = found[FLASH_FINAL] - paid * network[FLASH_FINAL]
        return {kind: value / found[PICTURE] for kind, value in {**found, FLASH_FINAL: final}.items()}


def read(folder: Path) -> Pool:
    """The pools of a folder, cut to what all prompts have."""
    rows = common.Rows(folder / "pool.csv.gz").read()
    bills = common.Rows(folder / "costs.csv").read()
    rewards = [name for name in rows[0] if name not in ("prompt", "candidate", "kind")]
    every: dict[str, dict[str, dict[str, dict[int, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for row in rows:
        for reward in rewards:
            every[reward][row["prompt"]][row["kind"]][int(row["candidate"])] = float(row[reward])
    first = every[rewards[0]]
    prompts = list(first)
    n = min(len(own) for kinds in first.values() for own in kinds.values())
    of = {
        reward: {
            p: {k: np.array([own[i] for i in range(n)]) for k, own in by_kind.items()} for p, by_kind in found.items()
        }
        for reward, found in every.items()
    }
    kinds = list(dict.fromkeys(row["kind"] for row in bills))
    row_cost = {k: float(np.mean([float(b["rows"]) for b in bills if b["kind"] == k])) for k in kinds}
    seconds: dict[str, dict[str, float]] = {reward: {} for reward in rewards}
    for kind in kinds:
        own = [b for b in bills if b["kind"] == kind]
        for reward in rewards:
            # medians: other work on the machine slows single blocks
            each = [(float(b["rest"]) + float(b["decode"]) + float(b[reward])) / int(b["candidates"]) for b in own]
            seconds[reward][kind] = float(np.median(each))
    network = {}
    for kind in kinds:
        each = [float(b["rest"]) / int(b["candidates"]) for b in bills if b["kind"] == kind]
        network[kind] = float(np.median(each))
    return Pool(prompts, n, rewards, of, row_cost, seconds, network)


def correlations(pool: Pool, reward: str, kind: str) -> list[float]:
    """Rank correlation of draft and picture inside every prompt."""
    return [policies.rank_correlation(own[kind], own[PICTURE]) for own in pool.of[reward].values()]


def calibrated(pool: Pool, reward: str, kind: str, without: int) -> float:
    """What `calibrate` would have stored from the other prompts, to two digits."""
    others = [rho for i, rho in enumerate(correlations(pool, reward, kind)) if i != without and not math.isnan(rho)]
    return round(min(0.99, max(0.0, planner.correlation_of_ranks(float(np.mean(others))))), 2)


@dataclass(frozen=True)
class Curve:
    """A policy at every budget: means over orders [prompts, budgets] of the winner's rewards."""

    reward: NDArray[np.float64]
    held_out: NDArray[np.float64]


class Resampled:
    """Policies on the pools of one reward, at prices of rows or of seconds."""

    def __init__(self, pool: Pool, reward: str, prices: Prices, target: int, many: int) -> None:
        self.pool = pool
        self.reward = reward
        self.prices = prices
        self.target = target
        self.budgets = [share * target for share in SHARES]
        self._orders = policies.orders(pool.candidates, many, Key.root(0).fold("orders"))
        self.best_of = self.curve([policies.best_of] * len(pool.prompts))

    def curve(self, own: Sequence[Policy], spoiled: str | None = None) -> Curve:
        """`own`: the policy of every prompt, which may be planned with what the others say."""
        shape = (len(self.pool.prompts), len(self.budgets))
        reward = np.full(shape, math.nan)
        held_out = np.full(shape, math.nan)
        for i, prompt in enumerate(self.pool.prompts):
            table: Rewards = self.pool.of[self.reward][prompt]
            if spoiled is not None:
                table = policies.useless(table, spoiled, Key.root(1).fold(prompt))
            other = self.pool.of[self.pool.rewards[-1]][prompt]
            for j, budget in enumerate(self.budgets):
                found = [own[i](table, self.prices, order, budget) for order in self._orders]
                won = [one for one in found if one is not None]
                if len(won) == len(found):
                    reward[i, j] = np.mean([table[one.kind][one.candidate] for one in won])
                    held_out[i, j] = np.mean([other[one.kind][one.candidate] for one in won])
        return Curve(reward, held_out)

    def reached(self, curve: Curve, prompts: Sequence[int] | NDArray[np.int64]) -> float:
        """The budget, as a share of the target's, at which the mean over these prompts is best_of's at the target."""
        aim = self.best_of.reward[prompts, SHARES.index(1.0)].mean()
        mean = curve.reward[prompts].mean(0)
        for j, share in enumerate(SHARES):
            if mean[j] >= aim:
                if j == 0 or math.isnan(mean[j - 1]):
                    return share
                part = (aim - mean[j - 1]) / (mean[j] - mean[j - 1])
                return float(SHARES[j - 1] * (share / SHARES[j - 1]) ** part)
        return math.inf

    def share(self, curve: Curve) -> str:
        """The same with its interval over prompts; target and policy are resampled together."""
        n = len(self.pool.prompts)
        every = [self.reached(curve, picks) for picks in statistics.resamples(n)[:500]]
        low, high = np.quantile(every, [0.025, 0.975], method="nearest")
        return f"{_share(self.reached(curve, range(n)))} ({_share(low)} to {_share(high)})"

    def at_equal_reward(self, curve: Curve) -> str:
        """Held-out reward where the policy has reached the target, minus best_of's there."""
        reached = self.reached(curve, range(len(self.pool.prompts)))
        if math.isinf(reached):
            return "–"
        place = next(j for j, share in enumerate(SHARES) if share >= reached - 1e-9)
        gap = curve.held_out[:, place] - self.best_of.held_out[:, SHARES.index(1.0)]
        return interval(gap)


def _share(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:.2f}"


def interval(values: NDArray[np.float64]) -> str:
    """Mean with its interval over prompts."""
    mean = statistics.mean(values.tolist())
    return f"{mean.value:+.3g} ({mean.low:+.3g} to {mean.high:+.3g})"


def tried(pool: Pool, reward: str, chains: Sequence[tuple[str, ...]]) -> dict[str, list[Policy]]:
    """Policies by name, one for every prompt."""
    places = range(len(pool.prompts))
    out: dict[str, list[Policy]] = {}
    for kind in pool.kinds:
        out[kind] = [policies.drafting(kind, calibrated(pool, reward, kind, i)) for i in places]
        out[f"{kind}, r assumed"] = [policies.drafting(kind, PRIOR) for _ in places]
    for chain in chains:
        known = [[calibrated(pool, reward, kind, i) for kind in chain] for i in places]
        out[" > ".join(chain)] = [policies.rungs(chain, rs) for rs in known]
    out["Flash-BoN"] = [policies.flash for _ in places]
    out["Flash-BoN, finals judged"] = [policies.flash_by_finals for _ in places]
    return out


def chains_of(pool: Pool, prices: Mapping[str, float]) -> list[tuple[str, ...]]:
    """The cheapest draft before each that costs more."""
    ordered = sorted(pool.kinds, key=lambda kind: prices[kind])
    return [(ordered[0], kind) for kind in ordered[1:]]


def report(folder: Path, target: int, many: int) -> str:
    """The page."""
    pool = read(folder)
    target = min(target, pool.candidates)
    lines = [
        f"# Drafts resampled from {len(pool.prompts)} pools of {pool.candidates} candidates",
        "",
        f"Target: the mean reward of best-of-{target}. {many} orders of every pool; intervals are 95 %, over prompts "
        f"and paired. Held out: {pool.rewards[-1]}. Seconds are the processor's: network, decoder and the reward.",
        "",
    ]
    head = ["kind", "rows", "price", "price in seconds", *(f"rank correlation, {name}" for name in pool.rewards)]
    table = []
    for kind in pool.rows:
        each = [correlations(pool, reward, kind) for reward in pool.rewards]
        cells = [f"{np.nanmean(rho):.2f} ({np.nanmin(rho):.2f} to {np.nanmax(rho):.2f})" for rho in each]
        rows = pool.rows[kind]
        slow = pool.seconds[pool.rewards[0]]
        table.append(
            [kind, f"{rows:g}", f"{rows / pool.rows[PICTURE]:.2f}", f"{slow[kind] / slow[PICTURE]:.2f}", *cells]
        )
    lines += [*common.table(head, table), ""]
    for reward in pool.rewards[:-1]:
        for unit, own in (("network rows", None), ("seconds", reward)):
            lines += [
                f"## {reward}, {unit}",
                "",
                *_policies(Resampled(pool, reward, pool.prices(own), target, many)),
                "",
            ]
    return "\n".join(lines)


def _policies(resampled: Resampled) -> list[str]:
    """The table of one reward and one kind of price."""
    pool = resampled.pool
    shown = [SHARES.index(share) for share in (0.15, 0.3, 0.6, 1.0)]
    base = resampled.best_of
    head = ["policy", "share of the target's cost", "held out there, minus best_of's"]
    head += [f"reward minus best_of's at {resampled.budgets[j]:.3g} pictures" for j in shown]
    table = []
    every = tried(pool, resampled.reward, chains_of(pool, resampled.prices))
    curves = {name: resampled.curve(own) for name, own in every.items()}
    spoiled = next((kind for kind in pool.kinds if "after" in kind), pool.kinds[0])
    places = range(len(pool.prompts))
    curves[f"{USELESS}, calibrated"] = resampled.curve([policies.drafting(spoiled, 0.0) for _ in places], spoiled)
    curves[f"{USELESS}, r assumed"] = resampled.curve([policies.drafting(spoiled, PRIOR) for _ in places], spoiled)
    for name, curve in {BEST_OF: base, **curves}.items():
        gaps = [interval(curve.reward[:, j] - base.reward[:, j]) for j in shown]
        table.append([name, resampled.share(curve), resampled.at_equal_reward(curve), *gaps])
    return common.table(head, table)
