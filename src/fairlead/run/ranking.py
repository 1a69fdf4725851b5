"""Totals that need more than one picture: of rewards that compare candidates, and of rewards that a person gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fairlead.core.people import Ask
from fairlead.core.reward import HumanReward, Reward
from fairlead.run.records import Candidate, Outcome
from fairlead.run.store import Store, picture_name


class Ranking:
    """Every answer so far, in ask order. Terms do not change; totals change as the set grows.

    A search receives totals over what was answered up to then, and the same ones again on resume; later totals do not
    correct earlier ones. The record is updated with totals over all candidates, so that it ends with the final ranking.
    Terms that a person gives are filled in when they have answered; until then `Pending` ends the run.
    """

    def __init__(self, reward: Reward, prompt: str) -> None:
        self._reward = reward
        self._prompt = prompt
        self._terms = dict[int, Mapping[str, float]]()
        labelled = zip(reward.labels(), reward.leaves(), strict=True)
        self._people = [(label, leaf) for label, leaf in labelled if isinstance(leaf, HumanReward)]
        self._rounds: list[list[tuple[int, str]]] = [[]]

    @property
    def deferred(self) -> bool:
        """False if every total is known when its picture is scored: then nothing is done here."""
        return self._reward.relative or bool(self._people)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Remember these answers."""
        if self.deferred:
            self._terms.update({o.index: dict(o.terms) for o in outcomes})
            self._rounds[-1] += [(o.index, picture_name(o.image)) for o in outcomes]

    def recalled(self, outcome: Outcome, recorded: Candidate) -> Outcome:
        """A candidate rendered again, with the recorded total if its own terms are the recorded ones."""
        given = {label for label, _ in self._people}
        same = all(recorded.terms.get(k) == v or v != v for k, v in outcome.terms.items() if k not in given)
        return replace(outcome, reward=recorded.reward) if self.deferred and same else outcome

    def totals(self) -> dict[int, float]:
        """Index -> total among everything answered so far, the baseline included."""
        if not self._terms:
            return {}
        values = self._reward.from_terms(list(self._terms.values()))
        return dict(zip(self._terms, values.tolist(), strict=True))

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
        totals = self.totals()
        if store is not None:
            store.set_rewards(totals, self._terms if self._people else {})
        return [replace(o, reward=totals[o.index], terms=self._terms[o.index]) for o in outcomes]


def _names(outcomes: Sequence[tuple[int, str]]) -> list[str]:
    """Of (index, picture name), the names."""
    return [name for _, name in outcomes]
