"""The loop of a run: ask the search, recall or compute the answers, record them, tell the search."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import count

from fairlead.core.cost import BudgetExceeded, Cost, Ledger
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.people import Pending
from fairlead.core.search import Proposal
from fairlead.core.steering import Chain
from fairlead.run import final_judge, lineage, machine, png, prepared, rungs
from fairlead.run.bank_of_drafts import with_bank
from fairlead.run.batches import asked_at_once, batches
from fairlead.run.clock import Clock
from fairlead.run.drafts import Ladder, add_refined, path_to
from fairlead.run.executor import Executor, rung_costs
from fairlead.run.funnel import PlannedRung
from fairlead.run.judging import FinalJudging, reserved
from fairlead.run.preview_questions import PreviewQuestions
from fairlead.run.question_store import Person, QuestionStore
from fairlead.run.ranking import Ranking
from fairlead.run.records import BANK, BASELINE, Candidate, IndexedProposal, Outcome, Phase, RunStatus, StopReason, Task
from fairlead.run.requests import Answer, Request, Requests, Stop, Stopped, serve
from fairlead.run.rung_plan import plan_rungs
from fairlead.run.setup import ASKED_AT_ONCE, build_steering, make_search
from fairlead.run.spec import Spec
from fairlead.run.start import first_key
from fairlead.run.states import States
from fairlead.run.stop_rules import StopRules, recorded_terms
from fairlead.run.store import Store, write_atomically

Heard = Callable[[list[IndexedProposal]], bool]
"""Receives every round as it is asked; True ends the rounds before it is answered."""
FEW = 64
"""Answers of a round after each of which ranks are shown again; of more, once a round."""


class SearchLoop:
    """One run from its first question to its end. Its state depends on the Spec and on the record alone."""

    def __init__(
        self,
        spec: Spec,
        executor: Executor,
        clock: Clock,
        person: Person | None = None,
        recorded: Sequence[PlannedRung] | None = None,
    ) -> None:
        self._spec = spec
        self._executor = executor
        self._clock = clock
        self._person = person
        self._judge = executor.final_judge
        self._ledger = Ledger(spec.limit - reserved(spec, self._judge))
        self._rules = StopRules(spec.until, spec.stop, recorded_terms(spec.reward, spec.watch, executor.terms))
        self._ranking = Ranking(executor.reward, spec.prompt)
        costs = rung_costs(spec, executor)
        self._setup_cost = executor.price()[0]
        self._baseline_cost = costs.before - self._setup_cost
        self._cost_per_candidate = costs.rungs[0]
        self.plan = plan_rungs(spec, costs, recorded)
        self._ladder = Ladder(spec, self.plan, costs)
        self._rung = 0
        self._groups = count()
        self._writes = False
        """Off while a record is only read (replay)."""
        self._open: list[IndexedProposal] = []
        """The round that was asked last: the clock may end it before all of it is answered."""

    def check_affordable(self, fitting: Callable[[], str] = str) -> None:
        """Refuse a budget that does not cover the first group; say how much would, and which options would fit."""
        need = self._setup_cost + self._baseline_cost + self._cost_per_candidate * self._spec.group + self._ladder.kept
        if lacking := need.over(self._spec.limit):
            wanted = ", ".join(f"{name}={getattr(need, name):g}" for name in lacking)
            given = ", ".join(f"{k}={v:g}" for k, v in self._spec.budget.items())
            what = "one image" if self._spec.group == 1 else f"one group of {self._spec.group} images"
            what = f"{what} and rendering the best again" if self._spec.draft else what
            less = fitting() or ("a cheaper --steer" if self._spec.steering else "fewer --steps")
            raise FairleadError(f"The budget {given} does not cover {what}. Use at least {wanted}, or {less}.")
        self._clock.expected = self._expected(Ledger(self._spec.limit))
        if self._spec.stop == "flat" and self._clock.expected is None:
            raise FairleadError(
                "stop is 'flat', but the budget does not say how many pictures it affords. Choose the price of a "
                "picture, in units of the reward: flat(price=0.05)."
            )

    def _expected(self, ledger: Ledger) -> int | None:
        ledger.settle(Cost(), self._setup_cost + self._baseline_cost + self._ladder.kept)
        n = ledger.affordable(self._cost_per_candidate)
        return n - n % self._spec.group + self._ladder.again if n < 1 << 30 else None

    def run(self, store: Store, stop: Stop) -> None:
        """Run until the budget or the search ends, or until `stop` says so."""
        serve(self.requests(store), self._executor, stop)

    def requests(self, store: Store) -> Requests:
        """The same one batch after the other, for whoever answers them."""
        self._clock.expected = self._expected(Ledger(self._spec.limit))
        status = RunStatus.FINISHED
        reason = ""
        self._writes = True
        self._ledger.settle(Cost(), store.unanswered() + final_judge.spent(store))
        self._executor.ask_through(PreviewQuestions(store.folder, QuestionStore(store.folder, self._person).ask))
        try:
            status, reason = yield from self._searched(store)
            if status == RunStatus.FINISHED:
                self._choose(store)
        except Pending:
            status = RunStatus.STOPPED
            reason = StopReason.WAITING
        except BaseException:
            store.set_status(RunStatus.STOPPED, StopReason.ERROR)
            raise
        self._finish(store, status, reason)

    def _searched(self, store: Store) -> Generator[Request, Answer | None, tuple[RunStatus, str]]:
        """Prepare, render the baseline and search: how that ended, and why."""
        try:
            steering = self._prepared(store)
            for part in steering.parts:
                if part.beside is not None:
                    picture, reward = part.beside
                    data = {"run": self._spec.id(), "reward": reward, "spec": {"prompt": self._spec.prompt}}
                    image = png.encode(png.pixels(picture), data, self._spec.prompt)
                    write_atomically(store.folder / BANK, image)
            yield from self._answer_baseline(store, steering)
            yield from self._search(store, steering)
        except Stopped as stopped:
            return stopped.status, stopped.reason
        except BudgetExceeded as error:
            return RunStatus.FINISHED, StopReason.budget(error.names)
        raise AssertionError("a search ends by raising the reason")

    def _choose(self, store: Store) -> None:
        """Let the final judge choose among the best finished pictures, with what the search has left for it."""
        if self._judge is None:
            return
        self._clock.say(Phase.CHOOSING)
        self._ledger.budget = self._spec.limit
        pictures = final_judge.finished_pictures(self._spec, store.candidates())
        pictures = [c for c in pictures if self._rules.satisfied(c)] or pictures
        person = QuestionStore(store.folder, self._person)
        FinalJudging(self._spec, self._judge, self._ledger, store).choose(pictures, person.ask)
        self._clock.spent = self._ledger.spent

    def _search(self, store: Store, steering: Chain) -> Requests:
        """The rounds, then the higher rungs where there are drafts. Ends by raising the reason."""
        ladder = self._ladder
        ladder.keep(store, self._ledger, self._clock)
        end: Stopped | BudgetExceeded
        try:
            yield from self._rounds(store, steering, self._opened)
        except (Stopped, BudgetExceeded) as over:
            if not self._spec.rungs or (isinstance(over, Stopped) and over.status == RunStatus.STOPPED):
                raise
            end = over
        ladder.rank(self._open, store.candidates())  # a round that was cut
        states = States(store.folder)
        for rung in ladder.climb(store, self._ledger, self._clock):
            self._rung = rung
            if rung == len(self._spec.rungs):
                steering = with_bank(store, steering)
            try:
                while batch := ladder.next(store, self._ledger, self._clock, self._groups, states):
                    if rung == len(self._spec.rungs):
                        self._end_if_enough(store)
                    self._settle(store, (yield from self._answer(store, self._tasks(batch), steering)))
            except (Stopped, BudgetExceeded) as over:
                if isinstance(over, Stopped) and over.status == RunStatus.STOPPED:
                    raise
                end = over  # the clock ended this rung; those above have their own reserve
        raise end

    def _opened(self, asked: list[IndexedProposal]) -> bool:
        self._open = asked
        return False

    def _rounds(self, store: Store, steering: Chain, heard: Heard) -> Requests:
        """Ask the search, answer, and tell it the rewards, until the search or the budget ends."""
        search = make_search(self._spec, self._executor.space)
        size = self._spec.group
        made = set(store.refinements().values())
        index = (i for i in count() if i not in made)
        places = list[int]()
        while True:
            most = max(ASKED_AT_ONCE, size)
            n = asked_at_once(self._spec, self._ledger.affordable(self._cost_per_candidate, cap=most), most)
            if n == 0:
                names = (self._cost_per_candidate * size).over(self._ledger.left) or self._ledger.gone()
                raise Stopped(RunStatus.FINISHED, StopReason.budget(names))
            proposals = search.ask(n)
            if not proposals:
                raise Stopped(RunStatus.FINISHED, StopReason.SEARCH_FINISHED)
            if len(proposals) > n:
                name = self._spec.search.name
                raise RuntimeError(f"{name} asked {len(proposals)} questions where {n} were affordable")
            asked = []
            for first, own in zip(range(0, len(proposals), size), self._groups, strict=False):
                usual = self._spec.efforts[0]
                some = (p if p.steps or not usual else replace(p, steps=usual) for p in proposals[first : first + size])
                for p in some:
                    places.append(next(index))
                    asked.append(IndexedProposal(places[-1], p, own, origin=lineage.index_at(places, p.origin)))
            if heard(asked):
                return
            outcomes = yield from self._answer(store, self._tasks(asked), steering)
            outcomes = self._settle(store, outcomes)
            self._end_if_good(outcomes, finished=not self._spec.draft)
            self._ladder.rank(asked, outcomes)
            search.tell(self._ranking.feedback(proposals, outcomes))

    def _end_if_good(self, outcomes: Sequence[Outcome | Candidate], finished: bool) -> None:
        """End the run where a stop rule says so. What a person has not rated yet has no reward and decides nothing."""
        reason = self._rules.reached(outcomes if finished else [])
        if not reason and not self._spec.draft:
            reason = self._rules.flat(self._clock.expected)
        if reason:
            raise Stopped(RunStatus.FINISHED, reason)

    def _end_if_enough(self, store: Store) -> None:
        """End the run where the recorded finals satisfy it, or say that no further draft is worth finishing."""
        if self._spec.until or self._spec.stop:
            self._end_if_good(self._ladder.finals(store), finished=True)
        if self._spec.stop and (found := self._ladder.prospects(store)) is not None:
            reason = self._rules.enough_finals(found.best, found.means, found.sd, self._ladder.pictures)
            if reason:
                raise Stopped(RunStatus.FINISHED, reason)

    def _settle(self, store: Store, outcomes: list[Outcome]) -> list[Outcome]:
        """A round with the totals and terms that need the whole round."""
        desk = QuestionStore(store.folder, self._person)
        ask = desk.ask if self._writes else desk.peek
        wanted = bool(self._spec.until or self._spec.stop or self._spec.draft)
        return self._ranking.settle(outcomes, store if self._writes else None, ask, wanted)

    def _tasks(self, asked: Sequence[IndexedProposal]) -> list[Task]:
        return [self.task(batch) for batch in batches(self._spec, asked)]

    def task(self, asked: Sequence[IndexedProposal], *, is_baseline: bool = False) -> Task:
        """A batch with its price as grant."""
        each = self._baseline_cost if is_baseline else self._executor.price(steps=asked[0].proposal.steps)[1]
        grant = replace(each * len(asked), seconds=math.inf, dollars=math.inf)
        refines = tuple(a.refines for a in asked if a.refines is not None)
        return Task(
            tuple(a.index for a in asked),
            tuple(a.proposal for a in asked),
            tuple(a.group for a in asked),
            grant,
            is_baseline,
            refines,
            tuple(a.origin for a in asked),
        )

    def _answer(
        self, store: Store, tasks: Sequence[Task], steering: Chain
    ) -> Generator[Request, Answer | None, list[Outcome]]:
        """The outcomes in ask order: recalled where they are recorded, else computed and recorded."""
        answers: dict[int, Outcome] = {}
        for task in tasks:
            for piece in self._split(store, task):
                outcomes = store.recall(piece, pictures=self._ranking.shown)
                cost = Cost()
                if new := outcomes is None:
                    outcomes, cost, _ = yield from self._compute(store, piece, steering)
                else:
                    yield Request(piece, steering, recorded=True)
                    cost = sum((o.cost for o in outcomes), Cost())
                    self._ledger.settle(Cost(), cost)
                answers.update({o.index: o for o in outcomes})
                self._ranking.add(outcomes, new)
                self._clock.spent = self._ledger.spent
                evaluations = rungs.evaluations(piece.proposals[0].steps, self._spec.steps)
                self._clock.answered(cost, evaluations, len(piece.indices), piece.is_baseline)
                self._clock.seen(outcomes, self._spec.controlled, self._rung)
                if self._ranking.deferred and new and len(answers) < FEW:
                    self._clock.ranked(*self._ranking.leaders(BASELINE if self._spec.controlled else 0))
                self._clock.say(Phase.SEARCHING)
                if not piece.is_baseline:
                    self._end_if_good(outcomes, finished=self._rung == len(self._spec.rungs))
        return [answers[i] for task in tasks for i in task.indices]

    def _split(self, store: Store, task: Task) -> list[Task]:
        """A task; where its front was recorded under a smaller budget, its recorded and its missing part."""
        answered = store.answered_indices(task.indices)
        if len(answered) in (0, len(task.indices)):
            return [task]
        drafts = task.refines or (None,) * len(task.indices)
        columns = (task.indices, task.proposals, task.groups, drafts, task.origins)
        rows = [IndexedProposal(*row) for row in zip(*columns, strict=True)]
        return [
            self.task([r for r in rows if r.index in answered]),
            self.task([r for r in rows if r.index not in answered]),
        ]

    def _compute(self, store: Store, task: Task, steering: Chain) -> Generator[Request, Answer | None, Answer]:
        n = len(task.indices)
        evaluations = rungs.evaluations(task.proposals[0].steps, self._spec.steps)
        expected = n * self._clock.pace(evaluations, task.grant.nfe / n)
        left = self._ledger.left.seconds - self._ladder.seconds(self._clock)
        if left <= 0 or (expected > left and not task.refines):  # a batch of a higher rung was cut to the time left
            raise Stopped(RunStatus.FINISHED, StopReason.budget(["seconds"]))
        task = replace(task, grant=replace(task.grant, seconds=left, dollars=self._ledger.left.dollars))
        if rungs.starts_from_a_state(task.proposals[0].steps):
            states = States(store.folder)
            task = replace(task, states=tuple(states.get(index) for index in task.refines))
        with self._reserved(store, task.grant):
            answer = yield Request(task, steering)
            assert answer is not None
        outcomes, cost, companions = answer
        task = replace(task, companions=companions)
        States(store.folder).keep(outcomes)
        store.record(task, outcomes, cost)
        self._ledger.settle(task.grant, cost)
        self._clock.computed(outcomes, cost)
        return answer

    @contextlib.contextmanager
    def _reserved(self, store: Store, grant: Cost) -> Iterator[None]:
        """Reserve a grant for some work. If the work fails, its seconds and dollars are charged all the same."""
        self._ledger.reserve(grant)
        try:
            yield
        except BaseException as error:
            paid = getattr(error, "unanswered", None) or Cost()
            self._ledger.settle(grant, paid)
            if paid != Cost():
                store.record_cut(paid)
            raise

    def _prepared(self, store: Store) -> Chain:
        """The prepared steering; its cost is charged once per run."""
        bare = build_steering(self._spec)
        if not bare.parts:
            return bare
        if (kept := store.recall_prepared("steering")) is not None:
            self._ledger.settle(Cost(), kept[1])
            return prepared.restore(bare, kept[0], machine.device())
        grant = replace(self._setup_cost, seconds=self._ledger.left.seconds, dollars=self._ledger.left.dollars)
        with self._reserved(store, grant):
            ready, cost = self._executor.prepare(grant)
        store.record_prepared("steering", prepared.dump(ready, bare), cost)
        self._ledger.settle(grant, cost)
        return ready

    def _baseline(self) -> IndexedProposal:
        """The plain sample of the seed: candidate 0 of best_of, without controls."""
        key = first_key(self._spec)
        return IndexedProposal(BASELINE, Proposal(self._executor.space.draw(key), key), BASELINE)

    def questions(self, store: Store, wanted: Sequence[int]) -> tuple[dict[int, IndexedProposal], Chain]:
        """The questions at these indices, found by replaying the search against the record. Nothing is computed."""
        self._executor.ask_through(PreviewQuestions(store.folder, QuestionStore(store.folder).peek, writes=False))
        steering = self._prepared(store)
        found = {BASELINE: self._baseline()}
        every = {c.index: c for c in store.candidates()}
        paths = {index: path_to(every, index) for index in wanted if index in every}
        wanted = [paths[index][0].index if index in paths else index for index in wanted]
        if set(wanted) <= found.keys():
            return found, steering

        def heard(asked: list[IndexedProposal]) -> bool:
            found.update({a.index: a for a in asked})
            return set(wanted) <= found.keys()

        with contextlib.suppress(Stopped, Pending):
            serve(self._answer_baseline(store, steering), self._executor, lambda: True)
            serve(self._rounds(store, steering, heard), self._executor, lambda: True)
        add_refined(self._spec, paths.values(), found)
        if any(path[-1].rung == len(self._spec.rungs) for path in paths.values()):
            steering = with_bank(store, steering)
        return found, steering

    def _answer_baseline(self, store: Store, steering: Chain) -> Requests:
        """Render the plain sample, where it is not the first candidate."""
        if self._spec.own_baseline:
            task = self.task([self._baseline()], is_baseline=True)
            self._settle(store, (yield from self._answer(store, [task], steering)))

    def _finish(self, store: Store, status: RunStatus, reason: str) -> None:
        with contextlib.suppress(Pending):
            self._ranking.settle([], store, QuestionStore(store.folder).peek)
        final_judge.write_pictures(store)  # before the status: killed here, a resumed run writes them again
        store.set_status(status, reason)
        if status == RunStatus.FINISHED:
            States(store.folder).clear()
        self._clock.say(Phase.DONE)
        if status == RunStatus.FINISHED and not store.count():
            paid = store.baseline() or store.spent().dollars
            onward = f", then resume {store.folder}" if paid else ""
            raise FairleadError(f"The run ended before its first candidate ({reason}). Choose a larger budget{onward}.")
        if status == RunStatus.FINISHED and store.best() is None:
            raise RewardError(
                f"The reward of every candidate is NaN ({store.count()} of them). The report shows its terms."
            )
