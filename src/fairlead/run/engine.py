"""The driver: ask, recall or dispatch, record, tell. Owns the ledger; never sees a model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from fairlead.core.cost import BudgetExceeded, Cost, Ledger
from fairlead.core.errors import FairleadError, RewardError, StoreError
from fairlead.core.key import Key
from fairlead.core.model import Model
from fairlead.core.people import Pending
from fairlead.core.reward import PaidReward, Reward
from fairlead.core.search import Feedback, Proposal, Search
from fairlead.core.steering import Chain
from fairlead.run import live, machine, models, prepared, registry
from fairlead.run.asking import Asking
from fairlead.run.clock import Clock, Watch
from fairlead.run.comparing import compared
from fairlead.run.desk import Desk, Person
from fairlead.run.drafts import Drafts, finals
from fairlead.run.executor import Executor, Local
from fairlead.run.ranking import Ranking
from fairlead.run.records import BASELINE, Asked, Outcome, Progress, Replay, Task
from fairlead.run.spec import Spec
from fairlead.run.store import Store, as_json, write_atomically

ASK = 256
"""Candidates asked for at once at most, so that memory does not grow with the budget."""

WAITING = "waiting for an answer"
"""Why a run stops when a person is its judge and has not spoken yet."""

Stop = Callable[[], bool]


def _silent(progress: Progress) -> None:
    pass


def _never() -> bool:
    return False


def search_class(spec: Spec) -> Any:
    """The registered search of a run."""
    return registry.resolve("searches", spec.search.name)


def make_search(spec: Spec, executor: Executor) -> Search:
    """The run's search from its seed."""
    search: Search = registry.build("searches", spec.search, executor.space, Key.root(spec.seed).fold("search"))
    return search


def _local(spec: Spec, reward: Reward | None, model: Model | None, siblings: live.Siblings) -> Local:
    wants = bool(search_class(spec).wants_gradient)
    return Local(spec, reward=reward, model=model, siblings=siblings, want_gradient=wants)


def start(
    spec: Spec,
    out: Path,
    *,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: live.Siblings = None,
    on_progress: Watch = _silent,
    stop: Stop = _never,
) -> Store:
    """Run `spec` into the new directory `out`. Nothing is written before the run is known to be possible.

    `reward`, `model` and `siblings` are live objects in place of what the Spec names.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(
            f"{out} exists already: give another --out, or continue the run in it with 'fairlead resume {out}'."
        )
    clock = Clock(spec, on_progress)
    models.check(spec)
    clock.say("loading model")
    spec = models.with_dtype(spec)
    executor = _local(spec, reward, model, siblings)
    spec = executor.worker.spec
    for leaf in executor.worker.reward.leaves():
        if isinstance(leaf, PaidReward):
            leaf.ready()
    drive = _Drive(spec, executor, clock)
    drive.check_affordable()
    make_search(spec, executor)  # wrong settings are refused before anything is written
    versions = machine.versions()
    if warned := models.warnings(spec):
        versions["warnings"] = as_json(warned)
    store = Store.create(out, spec, versions, datetime.now(UTC).isoformat(timespec="seconds"))
    with store.lock():
        drive.run(store, stop)
    return store


def resume(
    folder: Path,
    *,
    budget: Mapping[str, float] | None = None,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: live.Siblings = None,
    on_progress: Watch = _silent,
    stop: Stop = _never,
    person: Person | None = None,
) -> Store:
    """Continue a run where its record ends, with a larger budget if one is given. A finished run costs nothing."""
    store = Store.open(folder)
    with store.lock():
        spec = store.spec
        if budget is None and store.status == "finished":
            return store
        live.needs(spec, reward, model, folder, "resume it with fairlead.resume(folder, {}=...)")
        if budget is not None:
            spec = replace(spec, budget={k: float(v) for k, v in budget.items()})
            if not store.spent().fits(replace(spec.limit, seconds=math.inf)):
                asked = ",".join(f"{k}={v:.15g}" for k, v in budget.items())
                raise FairleadError(f"Budget {asked} is below what {folder} has spent: give a larger one.")
            store.extend(spec)
        clock = Clock(spec, on_progress)
        clock.say("loading model")
        executor = _local(spec, reward, model, siblings)
        store.set_status("running")
        _Drive(spec, executor, clock, person).run(store, stop)
    return store


def replay(
    folder: Path,
    index: int,
    *,
    alone: bool = False,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: live.Siblings = None,
) -> Replay:
    """Render one recorded candidate again, with its companions or alone, and compare bit for bit.

    Alone, matrix kernels may round differently, so small differences are expected; with its companions the batch has
    the shape it had and the result is identical on the same machine and versions.
    """
    store = Store.open(folder)
    spec = store.spec
    live.needs(spec, reward, model, folder, "replay it with that object as {}=")
    companions = store.task_of(index)
    recorded = store.get(index)
    executor = _local(spec, reward, model, siblings)
    drive = _Drive(spec, executor, Clock(spec, _silent))
    asked, steering = drive.questions(store, companions)
    chosen = [index] if alone else companions
    task = drive.task([asked[i] for i in chosen], plain=index == BASELINE)
    _, outcomes, _ = next(executor.map([task], steering))
    outcome = next(o for o in outcomes if o.index == index)
    outcome = Ranking(executor.reward, spec.prompt).recalled(outcome, recorded)
    return compared(store, recorded, outcome, len(chosen), alone)


class _Stopped(Exception):
    def __init__(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason


class _Drive:
    """One run being driven. State is a function of the Spec and of what was recorded."""

    def __init__(self, spec: Spec, executor: Executor, clock: Clock, person: Person | None = None) -> None:
        self._person = person
        self._spec, self._executor, self._clock = spec, executor, clock
        self._ledger, self._ranking = Ledger(spec.limit), Ranking(executor.reward, spec.prompt)
        self.once, self._unit = executor.price(steps=spec.draft)
        self._drafts, self._groups = Drafts(spec, executor.price()[1]), count()
        self._plain = executor.price(plain=True)[1] if spec.own_baseline else Cost()
        self._writes, self._open = False, list[Asked]()

    def check_affordable(self) -> None:
        """Refuse a budget that does not cover the first group, saying what it would take."""
        need = self.once + self._plain + self._unit * self._spec.group + self._drafts.kept
        if lacking := need.over(self._spec.limit):
            wanted = ", ".join(f"{name}={getattr(need, name):g}" for name in lacking)
            given = ", ".join(f"{k}={v:g}" for k, v in self._spec.budget.items())
            what = "one image" if self._spec.group == 1 else f"one group of {self._spec.group} images"
            what = f"{what} and rendering the best again" if self._spec.draft else what
            less = "a cheaper --steer" if self._spec.steering else "fewer --steps"
            raise FairleadError(f"The budget {given} does not cover {what}: give at least {wanted}, or {less}.")
        self._clock.expected = self._expected(Ledger(self._spec.limit))

    def _expected(self, ledger: Ledger) -> int | None:
        ledger.settle(Cost(), self.once + self._plain + self._drafts.kept)
        n, again = ledger.affordable(self._unit), self._spec.group * self._spec.finals if self._spec.draft else 0
        return n - n % self._spec.group + again if n < 1 << 30 else None

    def run(self, store: Store, stop: Stop) -> None:
        """To the end of the budget, of the search, or of the caller's patience."""
        self._clock.expected = self._expected(Ledger(self._spec.limit))
        status, reason, self._writes = "finished", "", True
        self._ledger.settle(Cost(), store.unanswered())
        self._executor.people(Asking(store.folder, Desk(store.folder, self._person).ask))
        try:
            steering = self._prepared(store)
            if self._spec.own_baseline:
                self._settle(store, self._answer(store, [self.task([self._baseline()], plain=True)], steering, stop))
            self._search(store, steering, stop)
        except _Stopped as stopped:
            status, reason = stopped.status, stopped.reason
        except Pending:
            status, reason = "stopped", WAITING
        except BudgetExceeded as error:
            reason = f"budget: {', '.join(error.names)}"
        except BaseException:
            store.set_status("stopped", "error")
            raise
        self._finish(store, status, reason)

    def _search(self, store: Store, steering: Chain, stop: Stop) -> None:
        """The rounds, then the best drafts again where there are drafts. Ends by raising why."""
        drafts = self._drafts
        drafts.book(store, self._ledger, self._clock)
        self._ledger.reserve(drafts.kept)
        try:
            for asked in self._rounds(store, steering, stop):
                self._open = asked
        except (_Stopped, BudgetExceeded) as end:
            if self._spec.draft and not (isinstance(end, _Stopped) and end.status == "stopped"):
                drafts.rank(self._open, store.candidates())  # a round that was cut
                drafts.release(store, self._ledger, self._clock)
                again = drafts.again(store, self._ledger, self._groups)
                self._settle(store, self._answer(store, self._tasks(again), steering, stop))
            raise

    def _rounds(self, store: Store, steering: Chain, stop: Stop) -> Iterator[list[Asked]]:
        """Ask, hand out what was asked, answer, tell; until the search or the budget ends."""
        search, size = make_search(self._spec, self._executor), self._spec.group
        made = set(finals(store).values())
        index = (i for i in count() if i not in made)
        while True:
            n = self._ledger.affordable(self._unit, cap=max(ASK, size))
            n -= n % size
            if n == 0:
                names = (self._unit * size).over(self._ledger.left) or self._ledger.gone()
                raise _Stopped("finished", f"budget: {', '.join(names)}")
            proposals = search.ask(n)
            if not proposals:
                raise _Stopped("finished", "search finished")
            if len(proposals) > n:
                raise RuntimeError(
                    f"{self._spec.search.name} asked {len(proposals)} questions where {n} were affordable"
                )
            asked = []
            for first, own in zip(range(0, len(proposals), size), self._groups, strict=False):
                some = (replace(p, steps=p.steps or self._spec.draft) for p in proposals[first : first + size])
                asked += [Asked(next(index), p, own) for p in some]
            yield asked
            outcomes = self._answer(store, self._tasks(asked), steering, stop)
            outcomes = self._settle(store, outcomes)
            self._drafts.rank(asked, outcomes)
            search.tell([Feedback(p, o.reward, o.terms, o.gradient) for p, o in zip(proposals, outcomes, strict=True)])

    def _settle(self, store: Store, outcomes: list[Outcome]) -> list[Outcome]:
        """A round with the totals and terms that are decided here."""
        desk = Desk(store.folder, self._person)
        return self._ranking.settle(outcomes, store if self._writes else None, desk.ask if self._writes else desk.peek)

    def _tasks(self, asked: Sequence[Asked]) -> list[Task]:
        """Batches in ask order; a batch has one effort and never cuts a group."""
        out: list[list[Asked]] = []
        for a in asked:
            last = out[-1][-1] if out else None
            other = last is not None and last.proposal.steps != a.proposal.steps
            if last is not None and last.group == a.group:
                if other:
                    both = f"{last.proposal.steps or self._spec.steps} and {a.proposal.steps or self._spec.steps}"
                    raise RuntimeError(
                        f"{self._spec.search.name} asked for {both} steps in one group: it has one effort"
                    )
            elif last is None or other or len(out[-1]) >= self._spec.batch:
                out.append([])
            out[-1].append(a)
        return [self.task(batch) for batch in out]

    def task(self, asked: Sequence[Asked], *, plain: bool = False) -> Task:
        """A batch with the grant its price gives it."""
        each = self._plain if plain else self._executor.price(steps=asked[0].proposal.steps)[1]
        grant = replace(each * len(asked), seconds=math.inf, dollars=math.inf)
        refines = tuple(a.refines for a in asked if a.refines is not None)
        return Task(
            tuple(a.index for a in asked),
            tuple(a.proposal for a in asked),
            tuple(a.group for a in asked),
            grant,
            plain,
            refines,
        )

    def _answer(self, store: Store, tasks: Sequence[Task], steering: Chain, stop: Stop) -> list[Outcome]:
        """Recalled where recorded, computed and recorded where not; in ask order."""
        answers: dict[int, Outcome] = {}
        for task in tasks:
            for piece in self._split(store, task):
                outcomes = store.recall(piece)
                cost = Cost()
                if outcomes is None:
                    outcomes, cost = self._compute(store, piece, steering, stop)
                else:
                    for o in outcomes:
                        cost = cost + o.cost
                    self._ledger.settle(Cost(), cost)
                answers.update({o.index: o for o in outcomes})
                self._ranking.add(outcomes)
                self._clock.spent = self._ledger.spent
                self._clock.answered(cost)
                self._clock.seen(outcomes, self._spec.controlled, refined=bool(piece.refines))
                if self._ranking.late:
                    self._clock.ranked(self._ranking.totals(), self._spec.controlled)
                self._clock.say("searching")
        return [answers[i] for task in tasks for i in task.indices]

    def _split(self, store: Store, task: Task) -> list[Task]:
        """A task whose front was recorded under a smaller budget, as its recorded and its missing part."""
        known = store.known(task.indices)
        if len(known) in (0, len(task.indices)):
            return [task]
        drafts = task.refines or (None,) * len(task.indices)
        rows = [Asked(*row) for row in zip(task.indices, task.proposals, task.groups, drafts, strict=True)]
        return [self.task([r for r in rows if r.index in known]), self.task([r for r in rows if r.index not in known])]

    def _compute(self, store: Store, task: Task, steering: Chain, stop: Stop) -> tuple[list[Outcome], Cost]:
        if stop():
            raise _Stopped("stopped", "interrupted")
        pace = self._clock.per_nfe()
        left = self._ledger.left.seconds - self._drafts.seconds(pace)
        if left <= 0 or (pace * task.grant.nfe > left and not task.refines):  # nothing else is left to do for these
            raise _Stopped("finished", "budget: seconds")
        task = replace(task, grant=replace(task.grant, seconds=left, dollars=self._ledger.left.dollars))
        with self._reserved(store, task.grant):
            _, outcomes, cost = next(iter(self._executor.map([task], steering)))
        store.record(task, outcomes, cost)
        self._ledger.settle(task.grant, cost)
        self._clock.computed(outcomes, cost)
        return outcomes, cost

    @contextlib.contextmanager
    def _reserved(self, store: Store, grant: Cost) -> Iterator[None]:
        """Set aside for work; if it fails, what it spent and cannot be given back is booked."""
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
        """The prepared steering, bought once per run."""
        bare = Chain(tuple(registry.build("steerings", part) for part in self._spec.steering))
        if not bare.parts:
            return bare
        if (kept := store.recall_prepared("steering")) is not None:
            self._ledger.settle(Cost(), kept[1])
            return prepared.restore(bare, kept[0], machine.device())
        grant = replace(self.once, seconds=self._ledger.left.seconds, dollars=self._ledger.left.dollars)
        with self._reserved(store, grant):
            ready, cost = self._executor.prepare(grant)
        store.record_prepared("steering", prepared.dump(ready, bare), cost)
        self._ledger.settle(grant, cost)
        return ready

    def _baseline(self) -> Asked:
        """The plain sample of the seed: candidate 0 of best_of, without controls."""
        key = Key.root(self._spec.seed).fold("search").fold("candidate", 0)
        return Asked(BASELINE, Proposal(self._executor.space.draw(key), key), BASELINE)

    def questions(self, store: Store, wanted: Sequence[int]) -> tuple[dict[int, Asked], Chain]:
        """What was asked at those indices, by replaying the search against the record; computes nothing."""
        self._executor.people(Asking(store.folder, Desk(store.folder).peek, writes=False))
        steering = self._prepared(store)
        found = {BASELINE: self._baseline()}
        drafts = {final: draft for draft, final in finals(store).items() if final in wanted}
        wanted = [drafts.get(i, i) for i in wanted]
        if set(wanted) <= found.keys():
            return found, steering
        try:
            if self._spec.own_baseline:
                self._settle(
                    store, self._answer(store, [self.task([found[BASELINE]], plain=True)], steering, lambda: True)
                )
            for asked in self._rounds(store, steering, lambda: True):
                found.update({a.index: a for a in asked})
                if set(wanted) <= found.keys():
                    break
        except (_Stopped, Pending):
            pass
        found.update({final: found[draft].again(final) for final, draft in drafts.items()})
        return found, steering

    def _finish(self, store: Store, status: str, reason: str) -> None:
        with contextlib.suppress(Pending):
            self._ranking.settle([], store, Desk(store.folder).peek)
        store.set_status(status, reason)
        for name, candidate in (("best", store.best()), ("baseline", store.baseline())):
            if candidate is not None:
                write_atomically(store.folder / f"{name}.png", (store.folder / candidate.image).read_bytes())
        self._clock.say("done")
        if status == "finished" and store.candidates() and store.best() is None:
            raise RewardError(
                f"Every one of the {len(store.candidates())} candidates got NaN from the reward: see its terms in the report."
            )
