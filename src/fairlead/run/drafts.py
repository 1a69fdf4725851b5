"""The ladder of drafts: which groups of a rung advance to the next, and the budget that is kept for that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, pairwise
from typing import NamedTuple

from fairlead.core.cost import Cost, Ledger
from fairlead.run import rungs
from fairlead.run.clock import Clock
from fairlead.run.posterior import forecast
from fairlead.run.records import Candidate, IndexedProposal, Outcome
from fairlead.run.rung_plan import RungCosts, RungPlan, timed
from fairlead.run.spec import Spec
from fairlead.run.states import States
from fairlead.run.store import Store

REMEMBERED = 256
"""Groups of the first rung that are remembered at least: a search that ends early leaves money to finish more."""


def path_to(every: Mapping[int, Candidate], index: int) -> list[Candidate]:
    """A candidate with those of the rungs below that it comes from, the lowest first."""
    at = every[index]
    path = [at]
    while at.refines is not None:
        at = every[at.refines]
        path.insert(0, at)
    return path


def add_refined(spec: Spec, paths: Iterable[Sequence[Candidate]], found: dict[int, IndexedProposal]) -> None:
    """Add the questions of every candidate on these paths, whose lowest ones are there."""
    for path in paths:
        for below, above in pairwise(path):
            effort = spec.efforts[above.rung]
            if above.steps != rungs.evaluations(effort, spec.steps):
                effort = rungs.from_noise(effort, spec.steps)
            if below.index in found:
                found[above.index] = found[below.index].again(above.index, effort)


class Prospects(NamedTuple):
    """What is finished, and what may be finished next."""

    best: float
    means: list[float]
    """Expected finals of the drafts that are left."""
    sd: float
    """The spread of a final around them."""


class Ladder:
    """The best groups of every rung so far. A run without drafts keeps nothing.

    What it decides is a function of the Spec, of the plan and of the record; under a budget of seconds, of the seconds
    in the record too.
    """

    def __init__(self, spec: Spec, plan: RungPlan, costs: RungCosts) -> None:
        self._spec = spec
        self._plan = plan
        self._costs = costs
        self._above = range(1, len(spec.efforts)) if spec.rungs else range(0)
        self.kept = sum((self._each(rung) * self._planned(rung) for rung in self._above), Cost())
        """Reserved for the higher rungs until they begin."""
        self._reached = 0
        """The rung that is being rendered."""
        self._top: list[tuple[float, list[IndexedProposal]]] = []
        """The best groups of the rung below the one to be rendered next, with their rewards."""
        self._booked: set[int] = set()
        self._ranked: set[int] = set()

    def _each(self, rung: int) -> Cost:
        """What a group costs at a rung."""
        return self._costs.rungs[rung] * self._spec.group

    def _planned(self, rung: int) -> int:
        """Groups to enter a rung; at least one where only the clock limits the run."""
        return self._plan.groups(rung, self._spec.group) or 1

    def keep(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        """Reserve the budget of the higher rungs, and charge what an earlier budget has paid of them.

        Where the planner sets the numbers, what an earlier budget has paid is not reserved a second time.
        """
        self.book(store, ledger, clock)
        last = store.extended_after
        earlier = [c.rung for c in store.candidates() if c.index <= last] if self._above else []
        for rung in self._above:
            if self._spec.advancing[rung - 1] is None:
                paid = min(earlier.count(rung) // self._spec.group, self._planned(rung))
                self.kept = self.kept - self._each(rung) * paid
        ledger.reserve(self.kept)

    @property
    def again(self) -> int:
        """Candidates that are planned above the first rung."""
        return sum(self._planned(rung) * self._spec.group for rung in self._above)

    @property
    def pictures(self) -> int:
        """Finished pictures that are planned: drafts are none."""
        return self._planned(self._above[-1]) * self._spec.group if self._above else 0

    def seconds(self, clock: Clock) -> float:
        """The time to keep for the rungs above the present one, as far as the pace is known."""
        counts = self._counts(clock)
        seconds = 0.0
        for rung in self._above[self._reached :]:
            pictures = counts[rung] * self._spec.group
            in_full_batches = -(-pictures // self._spec.batch) * self._spec.batch
            seconds += in_full_batches * self._pace(rung, clock)
        return seconds

    def _counts(self, clock: Clock) -> list[int]:
        """Groups to enter each rung, by the budget of counts and by that of seconds, whichever is less."""
        planned = [self._planned(rung) for rung in range(len(self._plan.rungs))]
        if not self._above or math.isinf(self._spec.limit.seconds):
            return planned
        paces = [self._pace(rung, clock) for rung in range(len(planned))]
        if not all(paces):
            return planned
        known = [self._plan.groups(rung, self._spec.group) for rung in range(len(planned))]
        by_time = timed(self._spec, self._plan, paces)
        return [own if n is None else min(n, own) for n, own in zip(known, by_time, strict=True)]

    def _pace(self, rung: int, clock: Clock) -> float:
        evaluations = rungs.evaluations(self._spec.efforts[rung], self._spec.steps)
        return clock.pace(evaluations, self._costs.rungs[rung].nfe)

    # the first rung, as the search asks for it

    def rank(self, asked: Sequence[IndexedProposal], answers: Sequence[Outcome | Candidate]) -> None:
        """Remember the groups with the best answered drafts: the earlier of equals, never a failed one."""
        if not self._above:
            return
        rewards = {o.index: o.reward for o in answers}
        new = [a for a in asked if a.index in rewards and a.group not in self._ranked]
        self._ranked |= {a.group for a in new}
        most = max(REMEMBERED, self._planned(1))
        self._top = _best_first([*self._top, *_valued(new, rewards)])[:most]

    def book(self, store: Store, ledger: Ledger, clock: Clock, every: bool = False) -> None:
        """Charge recorded candidates of higher rungs: those made before later drafts, under a smaller budget; with
        `every`, all.

        Those of the same budget are covered by the reserve, so that a resumed run asks what the uninterrupted one did.
        """
        if not self._above:
            return
        drafts = [c.index for c in store.candidates() if c.refines is None]
        last = max([*drafts, store.extended_after])
        for index in sorted(set(store.refinements().values()) - self._booked):
            if every or index <= last:
                candidate = store.get(index)
                ledger.settle(Cost(), candidate.cost)
                self._booked.add(index)
                clock.spent = ledger.spent
                clock.answered(candidate.cost, candidate.steps, 1)
                clock.seen([candidate], self._spec.controlled, candidate.rung)

    # the rungs above

    def climb(self, store: Store, ledger: Ledger, clock: Clock) -> Iterator[int]:
        """The higher rungs in order. The reserve of each is given back when it begins, and recorded work is charged."""
        if self._above:
            ledger.settle(self.kept, Cost())
            self.kept = Cost()
            self.book(store, ledger, clock, every=True)
        for rung in self._above:
            self._reached = rung
            yield rung
            done = store.refinements()
            rewards = {c.index: c.reward for c in store.candidates()}
            entered = []
            for _, group in self._top:
                if all(a.index in done for a in group):
                    entered += [a.again(done[a.index], self._spec.efforts[rung]) for a in group]
            entered = sorted(entered, key=lambda a: a.index)
            self._top = _best_first(_valued(entered, rewards))

    def next(
        self, store: Store, ledger: Ledger, clock: Clock, groups: Iterator[int], states: States
    ) -> list[IndexedProposal]:
        """The next batch of this rung: the best groups below that are not in it yet, as the budget affords; else none.

        The last rung goes on until the budget ends, unless somebody chose the number of finals.
        """
        rung = self._reached
        done = store.refinements()
        top = [group for _, group in self._top]
        if rung < self._above[-1] or self._spec.advancing[-1] is not None:
            top = top[: self._counts(clock)[rung]]
        missing = [group for group in top if any(a.index not in done for a in group)]
        opened = len(top) - len(missing)
        missing = missing[: max(1, self._spec.batch // self._spec.group)]
        missing = missing[: self._fitting(rung, opened, clock, ledger)]
        effort = self._spec.efforts[rung]
        index = count(store.last_index() + 1)
        out: list[IndexedProposal] = []
        money = ledger.left - self._kept_above(rung)
        for group, own in zip(missing, groups, strict=False):
            at = self._effort(effort, group, states)
            each = (self._costs.rungs[rung] if at == effort else self._costs.whole[rung]) * len(group)
            if not each.fits(money) or (out and out[0].proposal.steps != at):
                break
            money = money - each
            out += [replace(a.again(next(index), at), group=own) for a in group]
        return out

    def finals(self, store: Store) -> list[Candidate]:
        """The finished pictures."""
        return [c for c in store.candidates() if c.rung == len(self._spec.rungs)]

    def prospects(self, store: Store) -> Prospects | None:
        """What the drafts that are not finished yet promise, from those that are; None with fewer than four.

        The correlation is the regression's, shrunk to the planned one; a function of the record.
        """
        every = {c.index: c for c in store.candidates()}
        last = len(self._spec.rungs)
        finals = [c for c in self.finals(store) if not math.isnan(c.reward)]
        below = [c for c in every.values() if c.rung == last - 1 and not math.isnan(c.reward)]
        pairs = [(every[c.refines].reward, c.reward) for c in finals if c.refines is not None]
        drafts = [c.reward for c in below]
        done = {c.refines for c in every.values()}
        left = [value for value, group in self._top if any(a.index not in done for a in group)]
        found = forecast(drafts, pairs, left, self._plan.rungs[last - 1].uncorrected)
        return None if found is None else Prospects(max(f for _, f in pairs), *found)

    def _effort(self, effort: rungs.Effort, group: Sequence[IndexedProposal], states: States) -> rungs.Effort:
        """The rung's effort; from the noise where a state is gone, as after a run that was finished is extended."""
        if not rungs.starts_from_a_state(effort) or all(states.has(a.index) for a in group):
            return effort
        return rungs.from_noise(effort, self._spec.steps)

    def _kept_above(self, rung: int) -> Cost:
        """Still reserved for the rungs above this one: nothing is lent to it."""
        kept = Cost()
        for above in self._above[rung:]:
            kept = kept + self._each(above) * self._planned(above)
        return kept

    def _fitting(self, rung: int, opened: int, clock: Clock, ledger: Ledger) -> int:
        """Groups for which the time is left; the first group of a rung is always tried."""
        each = self._pace(rung, clock)
        groups = max(1, self._spec.batch // self._spec.group)
        if math.isinf(ledger.left.seconds) or each == 0:
            return groups
        left = ledger.left.seconds - self.seconds(clock)
        full = each * groups * self._spec.group
        alone = min(full, max(each, clock.alone(self._costs.rungs[rung].nfe)))
        fit = [n for n in range(1, groups + 1) if alone + (full - alone) * (n - 1) / max(1, groups - 1) <= left]
        return max(fit, default=0 if opened else 1)


def _valued(asked: Sequence[IndexedProposal], rewards: dict[int, float]) -> list[tuple[float, list[IndexedProposal]]]:
    """Whole groups with the best reward among their members; a group without any number is left out."""
    groups: dict[int, list[IndexedProposal]] = {}
    for a in asked:
        groups.setdefault(a.group, []).append(a)
    out = []
    for group in groups.values():
        numbers = [rewards[a.index] for a in group if not math.isnan(rewards[a.index])]
        if numbers and max(numbers) > -math.inf:
            out.append((max(numbers), group))
    return out


def _best_first(groups: list[tuple[float, list[IndexedProposal]]]) -> list[tuple[float, list[IndexedProposal]]]:
    return sorted(groups, key=lambda entry: -entry[0])
