"""Totals of a reward that compares candidates: decided here, where all of them are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fairlead.run.records import Outcome
from fairlead.run.store import Store

if TYPE_CHECKING:
    from fairlead.core.reward import Reward


class Ranking:
    """Every answer so far, in ask order. Terms are facts and stay; totals move as the set grows.

    A search is told totals over what was answered up to then (later ones do not correct earlier ones), the same ones
    again on resume; the record is written over with totals among all, so that its last state is the final ranking.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward, self._terms = reward, dict[int, Mapping[str, float]]()

    @property
    def relative(self) -> bool:
        """False if every total stands on its own, and nothing here does anything."""
        return self._reward.relative

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Remember what was answered."""
        if self.relative:
            self._terms.update({o.index: o.terms for o in outcomes})

    def totals(self) -> dict[int, float]:
        """Index -> total among everything answered so far, the baseline included."""
        if not self._terms:
            return {}
        values = self._reward.from_terms(list(self._terms.values()))
        return dict(zip(self._terms, values.tolist(), strict=True))

    def settle(self, outcomes: Sequence[Outcome], store: Store | None) -> list[Outcome]:
        """The outcomes with their totals; written into the record if one is given."""
        if not self.relative:
            return list(outcomes)
        totals = self.totals()
        if store is not None:
            store.set_rewards(totals)
        return [replace(o, reward=totals[o.index]) for o in outcomes]
