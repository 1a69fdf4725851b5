"""What a run will spend, before it spends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fairlead.core.cost import Cost, Ledger
from fairlead.core.reward import PaidReward
from fairlead.core.search import Feedback
from fairlead.run import models
from fairlead.run.affordable import settings_that_fit
from fairlead.run.batches import asked_at_once
from fairlead.run.dry_run import NO_QUERIES, QueryCost, dry_run, footprint
from fairlead.run.executor import Local, rung_costs
from fairlead.run.judging import JudgingPrice, price_of
from fairlead.run.rung_plan import RungCosts, RungPlan, plan_rungs, without_drafts
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
    """The rungs above the first; zero without drafts. Of groups that differ in size, the largest."""
    candidates: int
    """How many the budget affords, drafts included."""
    total: Cost
    memory: int | None = None
    """Bytes for the run's batch and the weights; None where the model cannot be traced."""
    batch: int = 1
    queries: QueryCost = NO_QUERIES
    """Of servers that judge pictures, in all. What is spent is charged as it happens."""
    fits: str = ""
    """Options that the budget does cover, where it covers no picture."""
    judging: JudgingPrice | None = None
    """What the final judge is asked, if the run has one."""
    seconds: float | None = None
    """Not known before something was timed on this machine."""
    plan: RungPlan = field(default_factory=RungPlan)
    """The rungs with their correlations and where these come from; empty without drafts."""
    entered: tuple[int, ...] = ()
    """Candidates at every rung, the finished pictures last."""
    warning: str = ""
    """Why drafts are left out, where they were asked for and do not pay."""

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
    costs = rung_costs(executor.setup.spec, executor)
    plan = plan_rungs(executor.setup.spec, costs)
    sentence = ""
    needed = executor.setup.steering.learns_from_drafts
    if (left_out := without_drafts(executor.setup.spec, plan, needed)) is not None:
        spec, sentence = left_out
        executor.leave_out_drafts(spec)
        costs = rung_costs(executor.setup.spec, executor)
        plan = RungPlan()
    setup = executor.setup
    spec = setup.spec
    need = footprint(setup)
    setup_cost = executor.price()[0]
    each = costs.rungs[0]
    kept = [costs.rungs[rung] * (plan.groups(rung, 1) or spec.group) for rung in range(1, len(costs.rungs))]
    ledger = Ledger(spec.limit - sum(kept, Cost()))
    ledger.settle(Cost(), costs.before)
    groups = _affordable_groups(setup, ledger, each)
    candidates = sum(groups)
    if candidates >= LOOKAHEAD:  # the search goes on as long as the budget does
        further = ledger.affordable(each)
        further -= further % spec.group
        ledger.settle(Cost(), each * further)
        candidates += further
    entered = [candidates, *_advancing(spec, plan, costs, groups, ledger.spent)]
    finals = sum((cost * n for cost, n in zip(costs.rungs[1:], entered[1:], strict=True)), Cost())
    ledger.settle(Cost(), finals)
    judging = None
    if setup.final_judge is not None:
        judging = price_of(spec, setup.final_judge, entered[-1])
        ledger.settle(Cost(), Cost(questions=judging.most))
    return Price(
        cost_per_candidate=each,
        baseline=costs.before - setup_cost,
        setup_cost=setup_cost,
        finals=finals,
        candidates=sum(entered),
        total=ledger.spent,
        memory=None if need is None else need.at(min(spec.batch, max(candidates, 1))),
        batch=spec.batch,
        queries=_queries(executor, entered),
        fits="" if candidates else settings_that_fit(setup),
        judging=judging,
        plan=plan,
        entered=tuple(entered),
        warning=sentence,
    )


def _advancing(spec: Spec, plan: RungPlan, costs: RungCosts, groups: Sequence[int], spent: Cost) -> list[int]:
    """How many candidates enter every rung above the first; of groups that differ in size, the largest."""
    out = []
    ledger = Ledger(spec.limit)
    ledger.settle(Cost(), spent)
    entered = sorted(groups, reverse=True)
    above = range(1, len(costs.rungs))
    for rung in above:
        most = len(entered)
        if rung < above[-1] or spec.advancing[-1] is not None or math.isfinite(spec.limit.seconds):
            most = plan.groups(rung, spec.group) or 1
        kept = sum((costs.rungs[later] * (plan.groups(later, 1) or spec.group) for later in above[rung:]), Cost())
        money = Ledger(ledger.left - kept)
        entered = entered[: min(most, len(entered))]
        while entered and not (costs.rungs[rung] * sum(entered)).fits(money.left):
            entered = entered[:-1]
        ledger.settle(Cost(), costs.rungs[rung] * sum(entered))
        out.append(sum(entered))
    return out


def _affordable_groups(setup: Setup, ledger: Ledger, each: Cost) -> list[int]:
    """The sizes of the groups that the search asks for until it or the budget ends; they are charged to `ledger`."""
    spec = setup.spec
    search = make_search(spec, setup.space)
    groups: list[int] = []
    while sum(groups) < LOOKAHEAD:
        most = max(ASKED_AT_ONCE, spec.group)
        room = ledger.affordable(each, cap=most)
        proposals = search.ask(asked_at_once(spec, room, most)) if room >= spec.group else []
        if not proposals:
            break
        groups += [len(proposals[i : i + spec.group]) for i in range(0, len(proposals), spec.group)]
        ledger.settle(Cost(), each * len(proposals))
        search.tell([Feedback(p, 0.0, {}, torch.zeros_like(p.x)) for p in proposals])
    return groups


def _queries(executor: Local, entered: Sequence[int]) -> QueryCost:
    """Of the candidates of every rung, of the preparation and of the baseline."""
    setup = executor.setup
    spec = setup.spec
    paid = [leaf for leaf in setup.reward.leaves() if isinstance(leaf, PaidReward)]
    if not any(leaf.questions()[1] or leaf.dollars(spec.prompt) for leaf in paid):
        return NO_QUERIES
    total = NO_QUERIES
    for rung, (effort, n) in enumerate(zip(spec.efforts, entered, strict=True)):
        found = dry_run(setup, steps=effort)
        total = total.plus(found.setup_queries) if rung == 0 else total
        total = total.plus(found.queries, n / spec.group)
    if spec.own_baseline:
        total = total.plus(dry_run(setup, baseline=True).queries)
    return total._replace(dollars=min(total.dollars, spec.limit.dollars))


def costs_of(spec: Spec) -> tuple[RungCosts, float]:
    """What a candidate costs at every rung, and the most dollars of one; quick, because no search is asked.

    Loads the model for its sizes, and runs no network. The budget of `spec` decides nothing.
    """
    models.check(spec)
    executor = Local(spec)
    make_search(executor.setup.spec, executor.space)  # raises on wrong settings
    return rung_costs(executor.setup.spec, executor), _queries(executor, [1] * len(spec.efforts)).dollars
