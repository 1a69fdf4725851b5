"""Drafts: which of them are rendered again with all steps, and the budget that is reserved for that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from fairlead.core.cost import Cost, Ledger
from fairlead.run import planner
from fairlead.run.clock import Clock
from fairlead.run.records import Candidate, IndexedProposal, Outcome
from fairlead.run.spec import Spec
from fairlead.run.store import Store

PLANNED_AT_MOST = 4096
"""Full pictures that the planner reckons with at most; a budget without a limit affords any number."""


FINALS_OF_A_CLOCK = 4
"""Finals at most under a budget of seconds, which does not say how many pictures it affords."""


def finals(store: Store) -> dict[int, int]:
    """Draft -> its full rendering, by index."""
    return store.refinements()


def number_of_finals(spec: Spec, before: Cost, draft: Cost, full: Cost) -> int:
    """Groups of drafts that are finished: the Spec's number, or what the planner advises for the budget.

    `before` is spent before the first draft; `draft` and `full` are the costs of one candidate. The price of a draft is
    the largest share of a full picture's cost among the entries that the budget limits.
    """
    if not spec.draft:
        return 0
    if spec.finals:
        return spec.finals
    ledger = Ledger(spec.limit)
    ledger.settle(Cost(), before)
    pictures = ledger.affordable(full * spec.group, cap=PLANNED_AT_MOST)
    shares = [draft_units / units for draft_units, units in _limited(spec, draft, full)]
    if not shares:
        return FINALS_OF_A_CLOCK
    if pictures < 2:
        return 1
    advised = planner.plan(pictures, min(1.0, max(shares))).finals
    return min(advised, FINALS_OF_A_CLOCK) if math.isfinite(spec.limit.seconds) else advised


def _limited(spec: Spec, draft: Cost, full: Cost) -> list[tuple[float, float]]:
    """The costs of a draft and of a full picture in every entry that the budget limits and a picture uses."""
    pairs = [(draft.as_dict()[name], full.as_dict()[name]) for name in spec.budget if name in full.as_dict()]
    return [(part, whole) for part, whole in pairs if whole > 0]


class Drafts:
    """The best groups of drafts so far. A run without drafts reserves nothing."""

    def __init__(self, spec: Spec, full: Cost, finals: int) -> None:
        self._spec = spec
        self._group = full * spec.group
        self._finals = finals
        self.kept = self._group * finals
        """Reserved for the full renderings until they are made."""
        self._top: list[tuple[float, list[IndexedProposal]]] = []
        self._booked: set[int] = set()
        self._ranked: set[int] = set()

    def seconds(self, pace: float) -> float:
        """The time to reserve, at `pace` seconds per evaluation, as if every batch were full."""
        pictures = self._spec.group * self._finals
        if pictures == 0:
            return 0.0
        return pace * self.kept.nfe * -(-pictures // self._spec.batch) * self._spec.batch / pictures

    def rank(self, asked: Sequence[IndexedProposal], answers: Sequence[Outcome | Candidate]) -> None:
        """Keep the groups with the best answered drafts: the earlier of equals, never a failed one."""
        if not self._spec.draft:
            return
        rewards = {o.index: o.reward for o in answers}
        groups: dict[int, list[IndexedProposal]] = {}
        value: dict[int, float] = {}
        for a in asked:
            if a.index in rewards and a.group not in self._ranked:
                groups.setdefault(a.group, []).append(a)
                reward = rewards[a.index]
                value[a.group] = max(value.get(a.group, -math.inf), reward if reward == reward else -math.inf)
        self._ranked |= groups.keys()
        new = [(value[g], groups[g]) for g in groups if value[g] > -math.inf]
        self._top = sorted([*self._top, *new], key=lambda entry: -entry[0])[: self._finals]

    def book(self, store: Store, ledger: Ledger, clock: Clock, every: bool = False) -> None:
        """Charge recorded full renderings: those made before later drafts, under a smaller budget; with `every`, all.

        Those of the same budget are covered by the reserve, so that a resumed run asks what the uninterrupted one did.
        """
        if not self._spec.draft:
            return
        drafts = [c.index for c in store.candidates() if c.refines is None]
        last = max([*drafts, store.extended_after])
        for final in sorted(set(finals(store).values()) - self._booked):
            if every or final <= last:
                candidate = store.get(final)
                ledger.settle(Cost(), candidate.cost)
                self._booked.add(final)
                clock.spent = ledger.spent
                clock.seen([candidate], self._spec.controlled, refined=True)

    def release(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        """The search is over: the reserve may be spent, and what is recorded has been."""
        ledger.settle(self.kept, Cost())
        self.kept = Cost()
        self.book(store, ledger, clock, every=True)

    def again(self, store: Store, ledger: Ledger, groups: Iterator[int]) -> list[IndexedProposal]:
        """The best drafts that are not rendered fully yet, each with its whole group, as many as the budget affords."""
        done = finals(store)
        missing = [group for _, group in self._top if any(a.index not in done for a in group)]
        missing = missing[: ledger.affordable(self._group)]
        index = count(max((c.index for c in store.candidates()), default=-1) + 1)
        return [
            replace(a.again(next(index)), group=own) for group, own in zip(missing, groups, strict=False) for a in group
        ]
