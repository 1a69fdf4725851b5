"""How much of a search's gain survives when candidates are judged by drafts. Per model, measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Cost
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Model
from fairlead.core.reward import Reward
from fairlead.core.search import Proposal
from fairlead.run.dry_run import with_batch
from fairlead.run.records import Task
from fairlead.run.setup import resolve
from fairlead.run.spec import Spec
from fairlead.run.worker import Worker

RESAMPLES = 500


@dataclass(frozen=True)
class Draft:
    """What one kind of draft is worth."""

    rung: str | None
    """As in `run/rungs.py`; None is the finished picture."""
    nfe: float
    """Evaluations of one draft."""
    price: float
    """Network rows of one draft as a share of a finished picture's."""
    correlation: float
    """Spearman's, between draft and full rewards of one prompt's candidates, mean over prompts; NaN if constant."""
    kept: float
    """(full reward of the best draft - mean) / (best full reward - mean), summed over prompts: 1 loses nothing, 0 is
    what a random choice keeps.
    """
    low: float
    """Bounds of the 95 % bootstrap interval of `kept`, over prompts and over candidates within them."""
    high: float


def ranks(y: Tensor) -> Tensor:
    """y [..., n] -> ranks [..., n] float64 from 1, equal values averaged."""
    less = (y[..., :, None] > y[..., None, :]).sum(-1)
    return less + 0.5 * ((y[..., :, None] == y[..., None, :]).sum(-1) + 1.0)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """a, b [P, n] -> rank correlation per row [P]."""
    a, b = (ranks(y) - (y.shape[-1] + 1) / 2 for y in (a, b))
    out: Tensor = (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return out


def kept(draft: Tensor, full: Tensor) -> Tensor:
    """draft, full [..., P, n] -> share of the gain [...]: gains are summed over prompts before they are divided."""
    chosen = full.gather(-1, draft.argmax(-1, keepdim=True))[..., 0]
    mean = full.mean(-1)
    out: Tensor = (chosen - mean).sum(-1) / (full.amax(-1) - mean).sum(-1)
    return out


def compare(draft: Tensor, full: Tensor, rung: str | None, nfe: float, price: float, key: Key) -> Draft:
    """Rewards draft, full [P, n] of the same candidates -> what the drafts are worth."""
    p, n = full.shape
    rows = (key.fold("prompts").uniform(RESAMPLES, p) * p).long()
    columns = (key.fold("candidates").uniform(RESAMPLES, p, n) * n).long()
    again = [y[rows].gather(-1, columns) for y in (draft, full)]
    shares = kept(*again)
    shares = shares[shares.isfinite()]
    ends = torch.tensor([0.025, 0.975], dtype=shares.dtype)
    low, high = torch.quantile(shares, ends).tolist() if len(shares) else (math.nan, math.nan)
    correlation = spearman(draft, full)
    correlation = correlation[correlation.isfinite()]
    return Draft(rung, nfe, price, float(correlation.mean()), float(kept(draft, full)), low, high)


def calibrate(
    spec: Spec, prompts: Sequence[str], drafts: Sequence[str], n: int, *, reward: Reward | None = None
) -> list[Draft]:
    """Render the first `n` candidates of random search of every prompt by each kind of draft, and compare.

    `drafts` are rungs as in `run/rungs.py`. Candidates whose reward is NaN in any of them are left out, per prompt;
    every prompt must keep two.
    """
    if n < 2 or not prompts:
        raise FairleadError(
            f"{len(prompts)} prompts and {n} candidates: at least 1 prompt and 2 candidates are needed."
        )
    efforts: list[str | None] = [*dict.fromkeys(drafts), None]
    model: Model | None = None
    siblings: dict[str, Model] = {}
    found: dict[str | None, list[Tensor]] = {effort: [] for effort in efforts}
    costs: dict[str | None, Cost] = {}
    for prompt in prompts:
        for effort in efforts:
            asked = replace(spec, prompt=prompt, draft=effort)
            worker = Worker(with_batch(resolve(asked, reward=reward, model=model, siblings=siblings)))
            model = worker.model
            siblings |= {name: sibling.model for name, sibling in worker.siblings.items()}
            rewards, costs[effort] = _rewards(worker, effort, n)
            found[effort].append(rewards)
    table = {effort: torch.stack(rows) for effort, rows in found.items()}
    fine = torch.stack([y.isfinite() for y in table.values()]).all(0)
    least = int(fine.sum(1).min())
    if least < 2:
        raise FairleadError(
            f"Only {least} of {n} candidates of a prompt have a reward in every kind of draft: at least 2 are needed."
        )
    for effort, y in table.items():
        table[effort] = torch.stack([row[ok][:least] for row, ok in zip(y, fine, strict=True)])
    key = Key.root(spec.seed).fold("calibrate")
    full = costs[None].forwards
    return [
        compare(table[e], table[None], e, costs[e].nfe, costs[e].forwards / full, key.fold(str(e))) for e in efforts
    ]


def _rewards(worker: Worker, effort: str | None, n: int) -> tuple[Tensor, Cost]:
    """Rewards [n] float64 of the first n candidates at that effort, and the cost of one."""
    keys = [Key.root(worker.spec.seed).fold("search").fold("candidate", i) for i in range(n)]
    out: list[float] = []
    spent = Cost()
    for first in range(0, n, worker.spec.batch):
        own = keys[first : first + worker.spec.batch]
        proposals = tuple(Proposal(worker.space.draw(key), key, effort) for key in own)
        places = tuple(range(first, first + len(own)))
        outcomes, cost = worker.evaluate(Task(places, proposals, places, INFINITE, is_baseline=True), worker.steering)
        out += [o.reward for o in outcomes]
        spent = spent + cost
    return torch.tensor(out, dtype=torch.float64), spent * (1 / n)
