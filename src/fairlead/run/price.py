"""The cost of a run by dry run: the same worker and the same loop around a model that only counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fairlead.core.algebra import Sum, Watched
from fairlead.core.cost import INFINITE, Cost, Ledger, Meter
from fairlead.core.key import Key
from fairlead.core.model import Conditioning, Edit, Level, Model, Rows, Site
from fairlead.core.reward import EarlyReward, PaidReward, PairwiseReward, Reward, early_level
from fairlead.core.search import Feedback, Proposal
from fairlead.run import memory
from fairlead.run.records import Task
from fairlead.run.spec import Spec
from fairlead.run.worker import Worker

LOOK = 4096
"""Candidates a dry run looks ahead at most."""


class Mirage:
    """A model seen through its sizes: charges like the real one, computes nothing."""

    def __init__(self, model: Model, told: Conditioning | None = None) -> None:
        self._model, self._meter, self._told = model, Meter(), told
        self.latent, self.device, self.sites, self.branches = model.latent, model.device, model.sites, model.branches
        self.autoencoder = model.autoencoder
        self.rows = self.decodes = 0
        """The most asked for in one call."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The real conditioning: it is small, and its shapes matter. `told` where it is known, for encoders are large."""
        if self._told is not None and self._told.prompts == tuple(prompts):
            return self._told
        return self._model.encode(prompts)

    def levels(self, steps: int) -> Sequence[Level]:
        """The real levels."""
        return self._model.levels(steps)

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """Charged as the model's rows a sample, again where a gradient makes it compute again; returns zeros."""
        each = self.rows_each(rows)
        self._meter.charge(Cost(forwards=len(x) * each))
        self.rows = max(self.rows, len(x))
        told = torch.stack([t.float().flatten(1).mean(1) for t in cond.text.values()]).sum(0).view(-1, 1, 1, 1)
        return x * (
            0 * told + torch.zeros_like(x)
        )  # an operation that keeps a tensor, or nothing would be computed again

    def rows_each(self, rows: Rows) -> int:
        """The real number."""
        return self._model.rows_each(rows)

    def decode(self, x: Tensor) -> Tensor:
        """Charged; returns grey 8x8 pictures [B, 3, 8, 8]."""
        self._meter.charge(Cost(decodes=len(x)))
        self.decodes = max(self.decodes, len(x))
        return torch.full((len(x), 3, 8, 8), 0.5, device=x.device) + 0 * x.mean()

    def meter(self, meter: Meter) -> None:
        """Charge this meter."""
        self._meter = meter

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """Nothing to edit: costs do not depend on tokens."""
        return lambda: None


LOWEST = -1e9


class _Leaf(EarlyReward):
    """Charged like a real reward; never pleased, so that a method that stops when it is is priced at its dearest."""

    differentiable = True

    def __init__(self, like: Reward) -> None:
        self.name, self.level, self.like = like.name, early_level(like), like
        self.seen = Counter[int]()
        """Pictures by how many compete at once; those that stand alone at 1."""

    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        """The same low number for every image, [B]."""
        return self._seen(images, 1)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `compare`, and not through it: every door charges."""
        return self._seen(images, 1)

    def _seen(self, images: Tensor, rivals: int) -> Tensor:
        self.seen[rivals] += len(images)
        return LOWEST + 0 * images.mean(dim=(1, 2, 3))


class _PairwiseLeaf(_Leaf, PairwiseReward):
    """The same in place of a reward that ranks pictures which compete."""

    def rank(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The same low number, remembered as rivals."""
        return self._seen(images, len(images))


def _leaf(like: Reward) -> _Leaf:
    return _PairwiseLeaf(like) if isinstance(like, PairwiseReward) else _Leaf(like)


class Asked(NamedTuple):
    """What rewards ask of servers that judge pictures."""

    expected: float = 0.0
    """questions"""
    most: float = 0.0
    """if every answer can be read"""
    dollars: float = 0.0
    """at most, unreadable answers asked again"""

    def plus(self, other: Asked, times: float = 1.0) -> Asked:
        """With `other` so many times."""
        return Asked(*(a + b * times for a, b in zip(self, other, strict=True)))


NOTHING = Asked()


class _Dry(NamedTuple):
    once: Cost
    cost: Cost
    worker: Worker
    asked_once: Asked
    asked: Asked


@dataclass(frozen=True)
class Price:
    """What a run will spend."""

    unit: Cost
    """One candidate."""
    plain: Cost
    """The baseline where it is not itself a candidate, else zero."""
    once: Cost
    """Preparation before the first candidate."""
    finals: Cost
    """Rendering the best drafts again; zero without drafts. Where the search leaves groups smaller, of the largest."""
    candidates: int
    """How many the budget affords, drafts included."""
    total: Cost
    memory: int | None = None
    """Bytes with the run's batch, weights included; None where the model cannot be traced."""
    batch: int = 1
    asked: Asked = NOTHING
    """Of servers that judge pictures, in all. What is spent is charged as it happens."""
    seconds: float | None = None
    """Not known before something was timed on this machine."""

    @property
    def dollars(self) -> float:
        """The most that rewards with a price may cost."""
        return self.asked.dollars


def unit(worker: Worker, *, steps: int | None = None, plain: bool = False) -> tuple[Cost, Cost]:
    """(once, unit): what preparation and one candidate cost, counted by running them on nothing."""
    once, cost, *_ = _dry(worker, steps, plain)
    return replace(once, seconds=0.0), replace(cost * (1 / (1 if plain else worker.spec.group)), seconds=0.0)


def footprint(worker: Worker) -> memory.Footprint | None:
    """Memory of a run: its model and siblings, each with the most that the steering asks of it at once, and gradients."""
    dry = _dry(worker, None, False).worker
    asked = [
        (worker.model, dry.model),
        *((kin.model, dry.siblings[name].model) for name, kin in worker.siblings.items()),
    ]
    weights, picture = {}, 0
    for model, seen in asked:
        assert isinstance(seen, Mirage)
        each = 1 / worker.spec.group
        part = memory.footprint(
            model, seen.rows * each, seen.decodes * each, worker.wants_gradient or worker.steers_by_gradient
        )
        if part is None:
            return None
        weights[id(model)], picture = part.weights, max(picture, part.picture)
    return memory.Footprint(sum(weights.values()), picture)


def _dry(worker: Worker, steps: int | None, plain: bool) -> _Dry:
    """Preparation and one group (one picture if `plain`) on nothing: what both cost, and the worker with what it saw."""
    spec = replace(worker.spec, watch=(), batch=worker.spec.batch or worker.spec.group)
    siblings = {name: Mirage(kin.model, kin.cond) for name, kin in worker.siblings.items()}
    dry = Worker(
        spec,
        reward=_counting(worker.reward),
        model=Mirage(worker.model, worker.cond),
        siblings=siblings,
        want_gradient=worker.wants_gradient,
    )
    ready, once = dry.prepare(INFINITE)
    asked_once = _asked(dry.reward, spec.prompt)
    for seen in (dry.model, *(kin.model for kin in dry.siblings.values())):
        seen.rows = seen.decodes = 0  # type: ignore[attr-defined]
    group = 1 if plain else spec.group
    keys = [Key.root(0).fold("price", i) for i in range(group)]
    proposals = tuple(Proposal(dry.space.draw(key), key, steps) for key in keys)
    task = Task(tuple(range(group)), proposals, (0,) * group, INFINITE, plain)
    _, cost = dry.evaluate(task, ready)
    return _Dry(once, cost, dry, asked_once, _asked(dry.reward, spec.prompt))


def _asked(reward: Reward, prompt: str) -> Asked:
    """What the pictures seen since the last time would have asked."""
    out = NOTHING
    for leaf in reward.leaves():
        assert isinstance(leaf, _Leaf)
        for rivals, n in leaf.seen.items():
            if isinstance(leaf.like, PaidReward):
                out = out.plus(Asked(*leaf.like.questions(rivals), leaf.like.dollars(prompt, rivals)), n)
        leaf.seen.clear()
    return out


def _counting(reward: Reward) -> Reward:
    """As many leaves in the same roles, all of them zero."""
    own = {id(leaf): _leaf(leaf) for leaf in reward.optimised.leaves()}
    target = Sum(tuple(own.values()))
    held = [leaf for leaf in reward.leaves() if id(leaf) not in own]
    return Watched(target, {str(i): _leaf(leaf) for i, leaf in enumerate(held)}) if held else target


def price(spec: Spec) -> Price:
    """What `spec` will spend, before spending it. Loads the model for its sizes and its text encoder, runs no network.

    The search is asked and told nothing but zeros until it or the budget ends, at most `LOOK` candidates far.
    """
    from fairlead.run import engine, models
    from fairlead.run.executor import Local

    models.check(spec)
    executor = Local(spec, want_gradient=bool(engine.search_class(spec).wants_gradient))
    spec = executor.worker.spec
    need = footprint(executor.worker)
    once, each = executor.price(steps=spec.draft)
    full = executor.price()[1] if spec.draft else Cost()
    plain = executor.price(plain=True)[1] if spec.own_baseline else Cost()
    ledger = Ledger(spec.limit - full * (spec.group * spec.finals))
    ledger.settle(Cost(), once + plain)
    search, n, groups = engine.make_search(spec, executor), 0, list[int]()
    while n < LOOK:
        room = ledger.affordable(each, cap=max(engine.ASK, spec.group))
        proposals = search.ask(room - room % spec.group) if room >= spec.group else []
        if not proposals:
            break
        n += len(proposals)
        groups += [len(proposals[i : i + spec.group]) for i in range(0, len(proposals), spec.group)]
        ledger.settle(Cost(), each * len(proposals))
        search.tell([Feedback(p, 0.0, {}, torch.zeros_like(p.x)) for p in proposals])
    again = sum(sorted(groups)[-spec.finals :]) if spec.draft else 0
    finals = full * again
    ledger.settle(Cost(), finals)
    bytes_ = None if need is None else need.at(min(spec.batch, max(n, 1)))
    asked = NOTHING
    paid = [leaf for leaf in executor.worker.reward.leaves() if isinstance(leaf, PaidReward)]
    if any(leaf.questions()[1] or leaf.dollars(spec.prompt) for leaf in paid):
        asked = _all_asked(executor.worker, n, again)
        asked = asked._replace(dollars=min(asked.dollars, spec.limit.dollars))
    return Price(each, plain, once, finals, n + again, ledger.spent, bytes_, spec.batch, asked)


def _all_asked(worker: Worker, n: int, again: int) -> Asked:
    """Of n candidates, `again` of them rendered a second time, of preparation and baseline."""
    spec = worker.spec
    first = _dry(worker, spec.draft, False)
    asked = first.asked_once.plus(first.asked, n / spec.group)
    if again:
        asked = asked.plus(_dry(worker, None, False).asked, again / spec.group)
    return asked.plus(_dry(worker, None, True).asked) if spec.own_baseline else asked
