"""What a run will spend, before it spends it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fairlead.core.cost import Cost, Ledger
from fairlead.core.reward import PaidReward
from fairlead.core.search import Feedback
from fairlead.run import models
from fairlead.run.drafts import number_of_finals
from fairlead.run.dry_run import NO_QUERIES, QueryCost, dry_run, footprint
from fairlead.run.executor import Local
from fairlead.run.judging import JudgingPrice, price_of
from fairlead.run.setup import ASKED_AT_ONCE, Setup, make_search
from fairlead.run.spec import Spec

LOOKAHEAD = 4096
"""Candidates that a dry run of the search asks for at most."""


@dataclass(frozen=True)
class Price:
    """What a run will spend."""

    cost_per_candidate: Cost
    baseline: Cost
    """The plain sample where it is not itself a candidate, else zero."""
    setup_cost: Cost
    """Preparation before the first candidate."""
    finals: Cost
    """Rendering the best drafts again; zero without drafts. Of groups that differ in size, the largest."""
    candidates: int
    """How many the budget affords, drafts included."""
    total: Cost
    memory: int | None = None
    """Bytes for the run's batch and the weights; None where the model cannot be traced."""
    batch: int = 1
    queries: QueryCost = NO_QUERIES
    """Of servers that judge pictures, in all. What is spent is charged as it happens."""
    judging: JudgingPrice | None = None
    """What the final judge is asked, if the run has one."""
    seconds: float | None = None
    """Not known before something was timed on this machine."""

    @property
    def dollars(self) -> float:
        """The most that rewards with a price may cost."""
        return self.queries.dollars + (0.0 if self.judging is None else self.judging.dollars)


def price(spec: Spec) -> Price:
    """What `spec` will spend. Loads the model for its sizes and its text encoder, and runs no network.

    The search is asked for candidates, whose rewards are all zero, until it or the budget ends or `LOOKAHEAD` is
    reached; a search that still asks then is taken to go on to the end of the budget.
    """
    models.check(spec)
    executor = Local(spec)
    executor.check_budget()
    setup = executor.setup
    spec = setup.spec
    need = footprint(setup)
    setup_cost, each = executor.price(steps=spec.draft)
    full = executor.price()[1] if spec.draft else Cost()
    baseline = executor.price(baseline=True)[1] if spec.own_baseline else Cost()
    kept = number_of_finals(spec, setup_cost + baseline, each, full)
    ledger = Ledger(spec.limit - full * (spec.group * kept))
    ledger.settle(Cost(), setup_cost + baseline)
    groups = _affordable_groups(setup, ledger, each)
    candidates = sum(groups)
    if candidates >= LOOKAHEAD:  # the search goes on as long as the budget does
        further = ledger.affordable(each)
        further -= further % spec.group
        ledger.settle(Cost(), each * further)
        candidates += further
    again = sum(sorted(groups)[-kept:]) if kept else 0
    finals = full * again
    ledger.settle(Cost(), finals)
    judging = None
    if setup.final_judge is not None:
        judging = price_of(spec, setup.final_judge, again if spec.draft else candidates)
        ledger.settle(Cost(), Cost(questions=judging.most))
    return Price(
        cost_per_candidate=each,
        baseline=baseline,
        setup_cost=setup_cost,
        finals=finals,
        candidates=candidates + again,
        total=ledger.spent,
        memory=None if need is None else need.at(min(spec.batch, max(candidates, 1))),
        batch=spec.batch,
        queries=_queries(executor, candidates, again),
        judging=judging,
    )


def _affordable_groups(setup: Setup, ledger: Ledger, each: Cost) -> list[int]:
    """The sizes of the groups that the search asks for until it or the budget ends; they are charged to `ledger`."""
    spec = setup.spec
    search = make_search(spec, setup.space)
    groups: list[int] = []
    while sum(groups) < LOOKAHEAD:
        room = ledger.affordable(each, cap=max(ASKED_AT_ONCE, spec.group))
        proposals = search.ask(room - room % spec.group) if room >= spec.group else []
        if not proposals:
            break
        groups += [len(proposals[i : i + spec.group]) for i in range(0, len(proposals), spec.group)]
        ledger.settle(Cost(), each * len(proposals))
        search.tell([Feedback(p, 0.0, {}, torch.zeros_like(p.x)) for p in proposals])
    return groups


def _queries(executor: Local, candidates: int, again: int) -> QueryCost:
    """Of the candidates, of those rendered `again`, of the preparation and of the baseline."""
    setup = executor.setup
    spec = setup.spec
    paid = [leaf for leaf in setup.reward.leaves() if isinstance(leaf, PaidReward)]
    if not any(leaf.questions()[1] or leaf.dollars(spec.prompt) for leaf in paid):
        return NO_QUERIES
    first = dry_run(setup, steps=spec.draft)
    total = first.setup_queries.plus(first.queries, candidates / spec.group)
    if again:
        total = total.plus(dry_run(setup).queries, again / spec.group)
    if spec.own_baseline:
        total = total.plus(dry_run(setup, baseline=True).queries)
    return total._replace(dollars=min(total.dollars, spec.limit.dollars))
