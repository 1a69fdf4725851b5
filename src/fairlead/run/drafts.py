"""Drafts: which of them are rendered again with all steps, and the budget that is reserved for that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from fairlead.core.cost import Cost, Ledger
from fairlead.run.clock import Clock
from fairlead.run.records import Candidate, IndexedProposal, Outcome
from fairlead.run.spec import Spec
from fairlead.run.store import Store


def finals(store: Store) -> dict[int, int]:
    """Draft -> its full rendering, by index."""
    return {c.refines: c.index for c in store.candidates() if c.refines is not None}


class Drafts:
    """The best groups of drafts so far. A run without drafts reserves nothing."""

    def __init__(self, spec: Spec, full: Cost) -> None:
        self._spec = spec
        self._group = full * spec.group
        self.kept = self._group * spec.finals if spec.draft else Cost()
        """Reserved for the full renderings until they are made."""
        self._top: list[tuple[float, list[IndexedProposal]]] = []
        self._booked: set[int] = set()
        self._ranked: set[int] = set()

    def seconds(self, pace: float) -> float:
        """The time to reserve, at `pace` seconds per evaluation, as if every batch were full."""
        pictures = self._spec.group * self._spec.finals
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
        self._top = sorted([*self._top, *new], key=lambda entry: -entry[0])[: self._spec.finals]

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
