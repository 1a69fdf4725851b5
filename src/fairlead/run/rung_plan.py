"""What to do with a run's budget: how many candidates enter every rung, or that drafts do not pay. Imports no torch
before it plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fairlead.core.cost import Cost, Ledger
from fairlead.core.errors import FairleadError
from fairlead.run import calibrations, rungs
from fairlead.run.funnel import ASSUMED, CALIBRATED, PICTURE, PlannedRung
from fairlead.run.posterior import PRIOR
from fairlead.run.spec import Spec

PLANNED_AT_MOST = 4096
"""Full pictures that the planner reckons with at most; a budget without a limit affords any number."""


MEASURE = {ASSUMED: "'fairlead calibrate' measures the correlation. ", CALIBRATED: ""}


@dataclass(frozen=True)
class RungCosts:
    """What one candidate costs, by dry run."""

    rungs: tuple[Cost, ...]
    """At every rung, the finished picture last; going on from a state where the run does."""
    whole: tuple[Cost, ...]
    """The same from the noise."""
    before: Cost
    """Preparation and a baseline of its own, spent before the first candidate."""

    @property
    def full(self) -> Cost:
        """A plain finished picture."""
        return self.whole[-1]


@dataclass(frozen=True)
class RungPlan:
    """The rungs of a run with how many candidates are to enter each, and what to expect of it."""

    rungs: tuple[PlannedRung, ...] = ()
    """The finished picture last."""
    pictures: int = 0
    """Finished pictures, in groups, that the whole budget affords; 0 where it limits none of what they use."""
    gain: float | None = None
    """Expected reward of the winner minus best_of's at equal cost, in standard deviations; None where not known."""

    def groups(self, rung: int, size: int) -> int | None:
        """How many groups are to enter a rung; None where only the clock tells."""
        wanted = self.rungs[rung].candidates
        return None if wanted is None else wanted // size


def timed(spec: Spec, plan: RungPlan, paces: Sequence[float]) -> list[int]:
    """How many groups are to enter each rung in the seconds of the budget, at `paces` seconds per candidate."""
    from fairlead.run import planner

    known = [(rung.correlation, rung.source) for rung in plan.rungs[:-1]]
    stages = []
    for index, (pace, wanted) in enumerate(zip(paces, [None, *spec.advancing], strict=True)):
        price = pace / paces[-1]
        stages.append(planner.Stage(price, price, _with_next(known, index), wanted))
    pictures = min(float(PLANNED_AT_MOST), spec.limit.seconds / (paces[-1] * spec.group))
    return planner.advancing(pictures, stages)


def plan_rungs(spec: Spec, costs: RungCosts, recorded: Sequence[PlannedRung] | None = None) -> RungPlan:
    """The plan of a run. `recorded` correlations win over those that `calibrate` stored on this machine."""
    if not spec.rungs:
        return RungPlan()
    from fairlead.run import planner

    known = _correlations(spec, recorded)
    stages = []
    prices = [_price(spec, cost, costs.full) for cost in costs.rungs]
    wholes = [_price(spec, cost, costs.full) for cost in costs.whole]
    _check_rising(spec, wholes)
    wanted = [None, *spec.advancing]
    for index, (price, whole) in enumerate(zip(prices, wholes, strict=True)):
        stages.append(planner.Stage(whole, price, _with_next(known, index), wanted[index]))
    ledger = Ledger(spec.limit)
    ledger.settle(Cost(), costs.before)
    limited = bool(_limited(spec, costs.full, costs.full))
    pictures = ledger.affordable(costs.full * spec.group, cap=PLANNED_AT_MOST) if limited else 0
    counts: list[int | None] = [None] * len(stages)
    gain = None
    if limited:
        _, *above = planner.advancing(pictures, stages)
        kept = sum((cost * (n * spec.group) for cost, n in zip(costs.rungs[1:], above, strict=True)), Cost())
        counts = [Ledger(ledger.left - kept).affordable(costs.rungs[0] * spec.group), *above]
        gain = max(_gain(pictures, price, r) for price, (r, _) in zip(prices[:-1], known, strict=True))
    elif all(price >= r for price, (r, _) in zip(prices[:-1], known, strict=True)):
        gain = 0.0
    names = [*(str(rungs.read(effort)) for effort in spec.rungs), PICTURE]
    priors = [rung.prior for rung in (recorded or ())[: len(spec.rungs)]]
    planned: list[PlannedRung] = []
    for name, price, (r, source), n in zip(names, prices, [*known, (1.0, known[-1][1])], counts, strict=True):
        prior = priors[len(planned)] if len(planned) < len(priors) else None
        planned.append(PlannedRung(name, price, r, source, None if n is None else n * spec.group, prior))
    return RungPlan(tuple(planned), pictures, gain)


def without_drafts(spec: Spec, plan: RungPlan, needed: bool = False) -> tuple[Spec, str] | None:
    """Where drafts do not pay: the run that finishes every picture, and the sentence that says so.

    A number of finals that somebody chose is kept to, and drafts that a steering needs as its bank stay.
    """
    if needed:
        return None
    if plan.gain is None or plan.gain > 0 or any(number is not None for number in spec.advancing):
        return None
    rung = plan.rungs[0]
    budget = f"this budget of {plan.pictures} pictures" if plan.pictures else "any budget"
    sentence = (
        f"Drafts by {rung.name} cost {rung.price:.2f} of a picture and their correlation with it is "
        f"{rung.correlation:.2f} ({rung.source}): too dear for {budget}, so every picture is finished. "
        f"{MEASURE[rung.source]}Use --finals to draft all the same."
    )
    return replace(spec, draft=None, finals=1, exact=False), sentence


def _gain(pictures: int, price: float, r: float) -> float:
    from fairlead.run import planner

    return planner.plan(pictures, price, r).gain


def _correlations(spec: Spec, recorded: Sequence[PlannedRung] | None) -> list[tuple[float, str]]:
    """r with the finished picture and its source, per rung."""
    if recorded is not None:
        found = [(rung.correlation, rung.source) for rung in recorded[: len(spec.rungs)]]
        return found + [(PRIOR, ASSUMED)] * (len(spec.rungs) - len(found))
    out = []
    for known in calibrations.look_up(spec, spec.rungs):
        out.append((PRIOR, ASSUMED) if known is None else (min(0.99, max(0.0, known.correlation)), CALIBRATED))
    return out


def _with_next(known: Sequence[tuple[float, str]], index: int) -> float:
    """r with the next rung: with the picture it is measured; between two rungs it follows if both are, r_j / r_j+1."""
    if index >= len(known):
        return 1.0
    own, source = known[index]
    if index + 1 == len(known):
        return own
    above, its = known[index + 1]
    return own / above if source == its == CALIBRATED and own < above else PRIOR


def _limited(spec: Spec, cost: Cost, full: Cost) -> list[tuple[float, float]]:
    """The costs of a candidate and of a full picture in every entry that the budget limits and a picture uses."""
    mine = cost.as_dict()
    its = full.as_dict()
    return [(mine[name], its[name]) for name in spec.budget if its.get(name, 0) > 0]


def _price(spec: Spec, cost: Cost, full: Cost) -> float:
    """Of one candidate in finished pictures: the largest share among limited entries, of network rows without any."""
    shares = [mine / whole for mine, whole in _limited(spec, cost, full)]
    if shares:
        return max(shares)
    return cost.forwards / full.forwards if full.forwards else cost.nfe / full.nfe


def _check_rising(spec: Spec, prices: Sequence[float]) -> None:
    for (lower, upper), (low, high) in zip(pairwise(spec.rungs), pairwise(prices), strict=False):
        if not low < high:
            raise FairleadError(
                f"A candidate at {upper} costs {high:.2f} pictures and one at {lower} {low:.2f}: rungs must rise in "
                "price. Change their order, or leave one out."
            )
