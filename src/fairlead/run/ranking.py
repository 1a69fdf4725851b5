"""Totals that need more than one picture: of rewards that compare candidates, and of rewards that a person gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
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
        self._numbers = np.empty((len(self._labels), 64), np.float32)

    def put(self, index: int, terms: Mapping[str, float]) -> None:
        """Add or replace the terms of an answer."""
        row = self.row_of.setdefault(index, len(self.indices))
        if row == len(self.indices):
            self.indices.append(index)
            if row == self._numbers.shape[1]:
                self._numbers = np.concatenate([self._numbers, np.empty_like(self._numbers)], axis=1)
        self._numbers[:, row] = [terms.get(label, math.nan) for label in self._labels]

    def columns(self, n: int) -> dict[str, Tensor]:
        """Label -> its terms of the first n answers, in the order in which they came."""
        return {label: torch.from_numpy(self._numbers[i, :n]) for i, label in enumerate(self._labels)}


class _RankedFeedback(Feedback):
    """A feedback whose reward is looked up in the ranking whenever it is read."""

    def __init__(self, proposal: Proposal, outcome: Outcome, total: Callable[[int], float]) -> None:
        self.proposal = proposal
        self.terms = outcome.terms
        self.gradient = outcome.gradient
        self._index = outcome.index
        self._total = total

    @property
    def reward(self) -> float:  # type: ignore[override]
        """The total among everything that was answered before the last `tell`."""
        return self._total(self._index)


class Ranking:
    """Every answer so far, in ask order. Terms do not change; totals change as the set grows.

    A search receives totals over what was answered up to then, and the same ones again on resume. A total is computed
    when it is read: a search that remembers earlier answers sees the present ones after every `tell`, and one that
    reads none costs nothing. The record is updated with totals over all candidates, so that it ends with the final
    ranking.
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
        self._settled = 0
        """How many answers there were when the last round ended: those that count for what a search is told."""
        self._told: list[float] | None = None
        """The totals of these, once one of them was read."""
        self._written = 0
        """Totals in the record: of thousands, it is written over only when the set has grown, and at the end."""
        self._new = False
        """True if answers were added since that the record did not have."""

    @property
    def deferred(self) -> bool:
        """False if every total is known when its picture is scored: then nothing is done here."""
        return self._reward.relative or bool(self._people)

    @property
    def shown(self) -> bool:
        """True if a person compares the pictures, which must then be at hand."""
        return bool(self._people)

    def add(self, outcomes: Sequence[Outcome], new: bool = True) -> None:
        """Remember these answers; `new` unless the record has them."""
        if not self.deferred:
            return
        self._new |= new
        self._written += 0 if new else len(outcomes)
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
        totals = self._totals(len(self._table.indices))
        indices = self._table.indices
        own = self._table.row_of.get(plain)
        known = [i for i in torch.nonzero(~totals.isnan()).flatten().tolist() if indices[i] != BASELINE]
        best = None
        if known:
            top = totals[known].max()
            best = (float(top), min(indices[i] for i in known if totals[i] == top))
        return (None if own is None else float(totals[own])), best

    def _totals(self, n: int) -> Tensor:
        """Totals among the first n answers, the baseline included, in the order of the table."""
        return self._reward.from_columns(self._table.columns(n), n) if n else torch.zeros(0)

    def _total(self, index: int) -> float:
        """The total of a candidate when the last round ended; computed for all of them when one is read."""
        if self._told is None:
            self._told = self._totals(self._settled).tolist()
        return self._told[self._table.row_of[index]]

    def settle(self, outcomes: Sequence[Outcome], store: Store | None, ask: Ask, totals: bool = True) -> list[Outcome]:
        """The round is over: written into the record if one is given. The outcomes with their totals, if wanted."""
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
        size = self._settled = len(self._table.indices)
        self._told = None
        due = self._new and (size < MANY or size >= GROWTH * self._written)
        if store is not None and (not outcomes or self._people or due):
            self._told = self._totals(size).tolist()
            store.set_rewards(dict(zip(self._table.indices, self._told, strict=True)), self._terms)
            self._written = size
            self._new = False
        given = list(outcomes)
        if self._people:
            given = [replace(o, terms=self._terms[o.index]) for o in outcomes]
        return [replace(o, reward=self._total(o.index)) for o in given] if totals else given

    def feedback(self, proposals: Sequence[Proposal], outcomes: Sequence[Outcome]) -> list[Feedback]:
        """What the search is told: its questions with their answers, which stay up to date."""
        pairs = zip(proposals, outcomes, strict=True)
        if self.deferred:
            return [_RankedFeedback(p, o, self._total) for p, o in pairs]
        return [Feedback(p, o.reward, o.terms, o.gradient) for p, o in pairs]


def _names(outcomes: Sequence[tuple[int, str]]) -> list[str]:
    """Of (index, picture name), the names."""
    return [name for _, name in outcomes]
