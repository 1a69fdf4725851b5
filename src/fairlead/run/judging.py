"""Asks the final judge of a run: a knockout among its best finished pictures, within what is left of the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.cost import BudgetExceeded, Cost, Ledger, Meter
from fairlead.core.errors import RewardError
from fairlead.core.people import Ask, Question
from fairlead.core.reward import FinalJudge, HumanReward
from fairlead.run import final_judge, png
from fairlead.run.final_judge import question_of
from fairlead.run.knockout import Look, affordable_entrants, expected_looks, most_looks
from fairlead.run.records import Candidate, StopReason
from fairlead.run.spec import Spec
from fairlead.run.store import Store

ATTEMPTS = 2
"""Times that a question is asked whose answer cannot be read."""
MOST_DOLLARS = 0.5
"""Of a budget in dollars, the most that is kept for the final judge; a reward may cost dollars too."""
SHARE = 0.1
"""Of a budget in seconds, what is kept for the final judge. How fast it answers is not known before."""


def looks_of(spec: Spec, judge: FinalJudge) -> int:
    """Looks at a pair: those of the run, else the judge's own."""
    return spec.looks or judge.looks


def reserved(spec: Spec, judge: FinalJudge | None) -> Cost:
    """What the search leaves of the budget: the most that the questions may cost, up to half of the dollars.

    A person's time is not counted.
    """
    if judge is None:
        return Cost()
    dollars = 0.0
    if math.isfinite(spec.limit.dollars):
        most = most_looks(spec.entrants, looks_of(spec, judge))
        wanted = ATTEMPTS * most * judge.dollars_per_look(spec.prompt)
        dollars = min(wanted, MOST_DOLLARS * spec.limit.dollars)
    seconds = 0.0
    if math.isfinite(spec.limit.seconds) and not isinstance(judge, HumanReward):
        seconds = SHARE * spec.limit.seconds
    return Cost(dollars=dollars, seconds=seconds)


@dataclass(frozen=True)
class JudgingPrice:
    """What a final judge will be asked at most."""

    entrants: int
    looks: int
    expected: float
    """Questions."""
    most: int
    """Questions if every answer can be read."""
    dollars: float
    """At most, with unreadable answers asked again."""


def price_of(spec: Spec, judge: FinalJudge, pictures: int) -> JudgingPrice:
    """The price of choosing among `pictures` finished ones."""
    looks = looks_of(spec, judge)
    entrants = affordable_entrants(min(spec.entrants, max(1, pictures)), looks, spec.limit.questions)
    most = most_looks(entrants, looks)
    dollars = ATTEMPTS * most * judge.dollars_per_look(spec.prompt)
    return JudgingPrice(entrants, looks, expected_looks(entrants, looks), most, min(dollars, spec.limit.dollars))


class FinalJudging:
    """The choice at the end of one run."""

    def __init__(self, spec: Spec, judge: FinalJudge, ledger: Ledger, store: Store) -> None:
        self._spec = spec
        self._store = store
        self._named = None if spec.final_judge == store.spec.final_judge else spec.final_judge
        """The judge where the run's settings do not name it."""
        self._why = ""
        self._judge = judge
        self._ledger = ledger
        self._meter = Meter()
        self._metered = judge.copy()
        self._metered.meter(self._meter)

    def choose(self, pictures: Sequence[Candidate], ask: Ask) -> None:
        """Ask and record until the winner is known or the budget ends. `Pending` if a person is to answer later.

        `pictures` are the finished ones, the best first.
        """
        spec = self._spec
        store = self._store
        looks = looks_of(spec, self._judge)
        spent = final_judge.spent(store)
        entrants = pictures[: self._affordable(min(spec.entrants, len(pictures)), looks, spent)]
        if not entrants:
            return
        attempts: dict[Look, int] = {}
        while True:
            now, answered = final_judge.state(store.folder, spec, entrants, looks)
            uncounted = Cost(questions=max(0, answered - spent.questions))  # answered just before a process was killed
            self._ledger.settle(Cost(), uncounted)
            spent = spent + uncounted
            final_judge.record(store, entrants, looks, spent, judge=self._named)
            if not now.open:
                return
            todo = now.open[: int(min(len(now.open), self._ledger.left.questions + 1e-9))]
            if not todo or self._ledger.left.seconds <= 0:
                names = ["seconds"] if todo else ["questions"]
                final_judge.record(store, entrants, looks, spent, ended=StopReason.budget(names), judge=self._named)
                return
            if isinstance(self._judge, HumanReward):
                ask(question_of(spec, todo[0], entrants))  # written down by whoever asks, counted above
                continue
            before = self._meter.spent
            answers: dict[Question, float] = {}
            ended = ""
            try:
                answers = self._ask_the_judge(todo, entrants, attempts)
            except BudgetExceeded as error:
                ended = StopReason.budget(error.names)
            finally:
                cost = self._meter.spent - before
                self._ledger.settle(Cost(), cost)
                spent = spent + cost
                final_judge.record(store, entrants, looks, spent, answers, ended, self._named)
            if ended:
                return
            self._refuse_unreadable(attempts, entrants)

    def _affordable(self, wanted: int, looks: int, spent: Cost) -> int:
        """Entrants whose questions are covered at worst. Earlier answers of this run count as paid."""
        left = self._ledger.left + spent
        many = affordable_entrants(wanted, looks, left.questions)
        if each := ATTEMPTS * self._judge.dollars_per_look(self._spec.prompt):
            many = min(many, affordable_entrants(wanted, looks, left.dollars / each))
        return many

    def _ask_the_judge(
        self, looks: Sequence[Look], entrants: Sequence[Candidate], attempts: dict[Look, int]
    ) -> dict[Question, float]:
        first = torch.stack([self._image(entrants[look.first]) for look in looks])
        second = torch.stack([self._image(entrants[look.second]) for look in looks])
        with self._meter.grant(self._ledger.left):
            found = self._metered.prefer(first, second, self._spec.prompt)
        answers = {}
        for look, (value, why) in zip(looks, found, strict=True):
            if math.isnan(value):
                attempts[look] = attempts.get(look, 0) + 1
                self._why = why
            else:
                answers[question_of(self._spec, look, entrants)] = value
        return answers

    def _image(self, candidate: Candidate) -> Tensor:
        pixels, _ = png.read(self._store.image(final_judge.name_of(candidate)))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255

    def _refuse_unreadable(self, attempts: dict[Look, int], entrants: Sequence[Candidate]) -> None:
        """A judge that cannot be read has no say and its silence is no tie: the run stops and can be resumed."""
        for look, many in attempts.items():
            if many >= ATTEMPTS:
                pair = " and ".join(str(i) for i in sorted((entrants[look.first].index, entrants[look.second].index)))
                raise RewardError(
                    f"{self._judge.name} gave no readable answer about candidates {pair} in {ATTEMPTS} attempts "
                    f"({self._why}). Check the server, then resume the run. Earlier answers are kept."
                )
