"""Totals that need more than one picture: of rewards that compare candidates, and of rewards that a person gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from fairlead.core.people import Ask
from fairlead.core.reward import HumanReward, Reward
from fairlead.core.search import Feedback, Proposal
from fairlead.run.records import BASELINE, Candidate, Outcome
from fairlead.run.rows import picture_name
from fairlead.run.store import Store

MANY, GROWTH = 2000, 1.1
"""From so many answers on, the record's totals are written again when there are so many times as many."""


class _Table:
    """The terms of every answer as columns that grow: 4 bytes a number, and no object for each answer."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.indices: list[int] = []
        self.row_of: dict[int, int] = {}
        self._labels = list(labels)
        self._numbers = torch.empty(len(self._labels), 64)

    def put(self, index: int, terms: Mapping[str, float]) -> None:
        """Add or replace the terms of an answer."""
        row = self.row_of.setdefault(index, len(self.indices))
        if row == len(self.indices):
            self.indices.append(index)
            if row == self._numbers.shape[1]:
                self._numbers = torch.cat([self._numbers, torch.empty_like(self._numbers)], dim=1)
        self._numbers[:, row] = torch.tensor([terms.get(label, math.nan) for label in self._labels])

    def columns(self) -> dict[str, Tensor]:
        """Label -> its terms, in the order in which the answers came."""
        n = len(self.indices)
        return {label: self._numbers[i, :n] for i, label in enumerate(self._labels)}


class Ranking:
    """Every answer so far, in ask order. Terms do not change; totals change as the set grows.

    A search receives totals over what was answered up to then, and the same ones again on resume. Before every `tell`,
    the totals of the answers that it still holds are corrected. The record is updated with totals over all candidates,
    so that it ends with the final ranking.
    Terms that a person gives are filled in when they have answered; until then `Pending` ends the run.
    """

    def __init__(self, reward: Reward, prompt: str) -> None:
        self._reward = reward
        self._prompt = prompt
        self._table = _Table(reward.labels())
        self._terms = dict[int, Mapping[str, float]]()
        """Only where a person gives some of them."""
        labelled = zip(reward.labels(), reward.leaves(), strict=True)
        self._people = [(label, leaf) for label, leaf in labelled if isinstance(leaf, HumanReward)]
        self._rounds: list[list[tuple[int, str]]] = [[]]
        """What a person compares: index and picture name, round by round."""
        self._held = WeakValueDictionary[int, Feedback]()
        """What a search was told and has not forgotten."""
        self._written = 0
        """Totals in the record: of thousands, it is written over only when the set has grown, and at the end."""
        self._new = False
        """True if answers were added since that the record did not have."""

    @property
    def deferred(self) -> bool:
        """False if every total is known when its picture is scored: then nothing is done here."""
        return self._reward.relative or bool(self._people)

    def add(self, outcomes: Sequence[Outcome], new: bool = True) -> None:
        """Remember these answers; `new` unless the record has them."""
        if not self.deferred:
            return
        self._new |= new
        for o in outcomes:
            self._table.put(o.index, o.terms)
        if self._people:
            self._terms.update({o.index: dict(o.terms) for o in outcomes})
            self._rounds[-1] += [(o.index, picture_name(o.image)) for o in outcomes]

    def recalled(self, outcome: Outcome, recorded: Candidate) -> Outcome:
        """A candidate rendered again, with the recorded total if its own terms are the recorded ones."""
        given = {label for label, _ in self._people}
        same = all(recorded.terms.get(k) == v or v != v for k, v in outcome.terms.items() if k not in given)
        return replace(outcome, reward=recorded.reward) if self.deferred and same else outcome

    def leaders(self, plain: int) -> tuple[float | None, tuple[float, int] | None]:
        """The total of candidate `plain`, and the best other total that is a number with its index."""
        totals = self._totals()
        indices = self._table.indices
        own = self._table.row_of.get(plain)
        known = [i for i in torch.nonzero(~totals.isnan()).flatten().tolist() if indices[i] != BASELINE]
        best = None
        if known:
            top = totals[known].max()
            best = (float(top), min(indices[i] for i in known if totals[i] == top))
        return (None if own is None else float(totals[own])), best

    def _totals(self) -> Tensor:
        """Totals among everything answered so far, the baseline included, in the order of the table."""
        n = len(self._table.indices)
        return self._reward.from_columns(self._table.columns(), n) if n else torch.zeros(0)

    def settle(self, outcomes: Sequence[Outcome], store: Store | None, ask: Ask) -> list[Outcome]:
        """The round is over: the outcomes with their totals; written into the record if one is given."""
        if not self.deferred:
            return list(outcomes)
        if self._rounds[-1]:
            self._rounds.append([])
        names = [_names(own) for own in self._rounds]
        for label, leaf in self._people:
            for own, scores in zip(self._rounds, leaf.decide(names, self._prompt, ask), strict=True):
                for (index, _), score in zip(own, scores, strict=True):
                    self._terms[index] = {**self._terms[index], label: score}
                    self._table.put(index, self._terms[index])
        totals = self._totals()
        row_of = self._table.row_of
        for index, feedback in self._held.items():
            feedback.reward = float(totals[row_of[index]])
        size = len(totals)
        due = self._new and (size < MANY or size >= GROWTH * self._written)
        if store is not None and (not outcomes or self._people or due):
            store.set_rewards(dict(zip(self._table.indices, totals.tolist(), strict=True)), self._terms)
            self._written = size
            self._new = False
        return [
            replace(o, reward=float(totals[row_of[o.index]]), terms=self._terms.get(o.index, o.terms)) for o in outcomes
        ]

    def feedback(self, proposals: Sequence[Proposal], outcomes: Sequence[Outcome]) -> list[Feedback]:
        """What the search is told: its questions with their answers, which stay up to date."""
        told = [Feedback(p, o.reward, o.terms, o.gradient) for p, o in zip(proposals, outcomes, strict=True)]
        if self.deferred:
            self._held.update({o.index: f for o, f in zip(outcomes, told, strict=True)})
        return told


def _names(outcomes: Sequence[tuple[int, str]]) -> list[str]:
    """Of (index, picture name), the names."""
    return [name for _, name in outcomes]
