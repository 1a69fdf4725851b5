"""A dry run: the same worker and the same loop around a model that only counts. It gives prices and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fairlead.core.algebra import Sum, Watched
from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Edit, Level, Model, Rows, Site
from fairlead.core.reward import EarlyReward, PaidReward, PairwiseReward, Reward, early_level
from fairlead.core.search import Proposal
from fairlead.run import memory, rungs
from fairlead.run.records import Task
from fairlead.run.rungs import Effort
from fairlead.run.setup import Setup
from fairlead.run.worker import Worker

LOWEST = -1e9
"""What every picture of a dry run is worth: a method that stops once it is satisfied then takes its dearest path."""


class CountingModel:
    """A model of the same sizes that charges like the real one and computes nothing."""

    def __init__(self, model: Model, conditioning: Conditioning | None = None) -> None:
        self._model = model
        self._conditioning = conditioning
        self._meter = Meter()
        self.latent = model.latent
        self.device = model.device
        self.sites = model.sites
        self.branches = model.branches
        self.autoencoder = model.autoencoder
        self.forget()

    def forget(self) -> None:
        """Start counting again."""
        self.rows = self.decodes = 0
        """The most that was asked for in one call."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The real conditioning, because its shapes matter; not encoded again where it is known already."""
        if self._conditioning is not None and self._conditioning.prompts == tuple(prompts):
            return self._conditioning
        return self._model.encode(prompts)

    def levels(self, steps: int) -> Sequence[Level]:
        """The real levels."""
        return self._model.levels(steps)

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """Zeros, charged as many network rows as the real model would use; again where a gradient computes it again."""
        self._meter.charge(Cost(forwards=len(x) * self.rows_each(rows)))
        self.rows = max(self.rows, len(x))
        text = torch.stack([t.float().flatten(1).mean(1) for t in cond.text.values()]).sum(0).view(-1, 1, 1, 1)
        # A product with x, so that autograd keeps a tensor: otherwise nothing would be computed again for a gradient.
        return x * (0 * text + torch.zeros_like(x))

    def rows_each(self, rows: Rows) -> int:
        """The real number of network rows per sample."""
        return self._model.rows_each(rows)

    def decode(self, x: Tensor) -> Tensor:
        """Grey pictures [B, 3, 8, 8], charged."""
        self._meter.charge(Cost(decodes=len(x)))
        self.decodes = max(self.decodes, len(x))
        return torch.full((len(x), 3, 8, 8), 0.5, device=x.device) + 0 * x.mean()

    def meter(self, meter: Meter) -> None:
        """Charge this meter from now on."""
        self._meter = meter

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """Edit nothing: costs do not depend on tokens."""
        return lambda: None


class CountingReward(EarlyReward):
    """Charged like a real reward; gives every picture the same low value and remembers how many it saw together."""

    differentiable = True

    def __init__(self, real: Reward) -> None:
        self.name = real.name
        self.level = early_level(real)
        self.real = real
        self.seen = Counter[int]()
        """Number of pictures by how many competed at once; 1 for those that stood alone."""

    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        """The same low number for every image, [B]."""
        return self._count(images, 1)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The same low number for every image, [B]. Not by way of `compare`: each method charges by itself."""
        return self._count(images, 1)

    def _count(self, images: Tensor, competitors: int) -> Tensor:
        self.seen[competitors] += len(images)
        return LOWEST + 0 * images.mean(dim=(1, 2, 3))


class CountingPairwiseReward(CountingReward, PairwiseReward):
    """In place of a reward that ranks pictures which compete."""

    def rank(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The same low number for every image of a group that competes, [B]."""
        return self._count(images, len(images))


def _counting_leaf(real: Reward) -> CountingReward:
    return CountingPairwiseReward(real) if isinstance(real, PairwiseReward) else CountingReward(real)


class QueryCost(NamedTuple):
    """Questions to servers that judge pictures, and what they cost."""

    expected: float = 0.0
    """Questions."""
    most: float = 0.0
    """Questions if every answer can be read."""
    dollars: float = 0.0
    """At most, with unreadable answers asked again."""

    def plus(self, other: QueryCost, times: float = 1.0) -> QueryCost:
        """With `other` added so many times."""
        return QueryCost(*(a + b * times for a, b in zip(self, other, strict=True)))


NO_QUERIES = QueryCost()


@dataclass(frozen=True)
class DryRun:
    """Preparation and one group of pictures, or one picture of the baseline, on a model that only counts."""

    setup_cost: Cost
    cost: Cost
    worker: Worker
    """With what the counting model has seen after preparation."""
    setup_queries: QueryCost
    queries: QueryCost


def dry_run(setup: Setup, *, steps: Effort = None, baseline: bool = False) -> DryRun:
    """Prepare and sample one group on a counting model; `baseline` samples one picture without controls."""
    spec = replace(setup.spec, watch=(), batch=setup.spec.batch or setup.spec.group)
    model = CountingModel(setup.model, setup.conditioning)
    siblings = {
        name: replace(sibling, model=CountingModel(sibling.model, sibling.cond))
        for name, sibling in setup.siblings.items()
    }
    worker = Worker(replace(setup, spec=spec, model=model, siblings=siblings, reward=_counting_reward(setup.reward)))
    ready, setup_cost = worker.prepare(INFINITE)
    setup_queries = _queries(worker.reward, spec.prompt)
    for counting in (model, *(sibling.model for sibling in siblings.values())):
        assert isinstance(counting, CountingModel)
        counting.forget()
    n = 1 if baseline else spec.group
    keys = [Key.root(0).fold("price", i) for i in range(n)]
    proposals = tuple(Proposal(worker.space.draw(key), key, steps) for key in keys)
    going_on = rungs.starts_from_a_state(steps)
    states = (torch.zeros(2, *model.latent),) * n if going_on else ()
    _, cost = worker.evaluate(Task(tuple(range(n)), proposals, (0,) * n, INFINITE, baseline, states=states), ready)
    return DryRun(setup_cost, cost, worker, setup_queries, _queries(worker.reward, spec.prompt))


def costs(setup: Setup, *, steps: Effort = None, baseline: bool = False) -> tuple[Cost, Cost]:
    """(cost of the preparation, cost per candidate). Seconds are left out: they are not known before work is timed."""
    found = dry_run(setup, steps=steps, baseline=baseline)
    share = 1 / (1 if baseline else setup.spec.group)
    return replace(found.setup_cost, seconds=0.0), replace(found.cost * share, seconds=0.0)


def footprint(setup: Setup) -> memory.Footprint | None:
    """Memory of a run: its model and its siblings, each with the most rows it computes at once, and gradients."""
    worker = dry_run(setup).worker
    pairs = [(setup.model, worker.model)]
    pairs += [(sibling.model, worker.siblings[name].model) for name, sibling in setup.siblings.items()]
    share = 1 / setup.spec.group
    gradient = setup.wants_gradient or setup.steers_by_gradient
    weights: dict[int, int] = {}
    picture = 0
    for model, counting in pairs:
        assert isinstance(counting, CountingModel)
        part = memory.footprint(model, counting.rows * share, counting.decodes * share, gradient)
        if part is None:
            return None
        weights[id(model)] = part.weights
        picture = max(picture, part.picture)
    return memory.Footprint(sum(weights.values()), picture)


def with_batch(setup: Setup) -> Setup:
    """The setup with its batch chosen by the free memory, where the Spec leaves it open."""
    return replace(setup, spec=memory.fitted(setup.spec, setup.model, lambda: footprint(setup)))


def _queries(reward: Reward, prompt: str) -> QueryCost:
    """What the pictures counted since the last call would have been asked about."""
    out = NO_QUERIES
    for leaf in reward.leaves():
        assert isinstance(leaf, CountingReward)
        for competitors, n in leaf.seen.items():
            if isinstance(leaf.real, PaidReward):
                questions = leaf.real.questions(competitors)
                out = out.plus(QueryCost(*questions, leaf.real.dollars(prompt, competitors)), n)
        leaf.seen.clear()
    return out


def _counting_reward(reward: Reward) -> Reward:
    """As many leaves in the same roles, every one of them counting."""
    optimised = {id(leaf): _counting_leaf(leaf) for leaf in reward.optimised.leaves()}
    target = Sum(tuple(optimised.values()))
    watched = [leaf for leaf in reward.leaves() if id(leaf) not in optimised]
    return Watched(target, {str(i): _counting_leaf(leaf) for i, leaf in enumerate(watched)}) if watched else target
