"""Start, resume and replay a run. This file never calls a model; the executor does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.model import Model
from fairlead.core.reward import PaidReward, Reward
from fairlead.core.steering import Chain
from fairlead.core.trust import stored_run
from fairlead.run import ancestry, final_judge, fingerprint, inputs, machine, models
from fairlead.run.affordable import settings_that_fit
from fairlead.run.clock import Clock, Watch, silent
from fairlead.run.executor import Local
from fairlead.run.forming import Every, OnStep, Watching
from fairlead.run.funnel import PLAN, corrected, plan_text, read_plan, rung_summaries
from fairlead.run.live_objects import Siblings, check_present
from fairlead.run.question_store import Person
from fairlead.run.ranking import Ranking
from fairlead.run.records import BASELINE, Phase, Replay, RunStatus, StopReason, Task
from fairlead.run.replay import compared, with_states
from fairlead.run.requests import Stop, never
from fairlead.run.rung_plan import without_drafts
from fairlead.run.search_loop import SearchLoop
from fairlead.run.setup import make_search
from fairlead.run.spec import Spec
from fairlead.run.stop_rules import stop_text, until_text
from fairlead.run.store import Store, as_json, refuse_taken


class OpenRun(NamedTuple):
    """A run whose folder is locked for writing."""

    loop: SearchLoop | None
    """None where nothing is left to do."""
    store: Store
    executor: Local | None

    def search(self, stop: Stop) -> None:
        """Run it to its end, or until `stop` says so."""
        if self.loop is not None:
            self.loop.run(self.store, stop)


class Changes(NamedTuple):
    """What replaces the budget and the stop rules of a run that goes on; None leaves it, an empty text removes a
    rule.
    """

    budget: Mapping[str, float] | None = None
    until: str | None = None
    stop_rule: str | None = None


@machine.outside_inference_mode
def start(
    spec: Spec,
    out: Path,
    *,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: Siblings = None,
    on_progress: Watch = silent,
    on_step: OnStep | None = None,
    previews: Every = 0,
    stop: Stop = never,
    trust: bool = False,
    person: Person | None = None,
) -> Store:
    """Run `spec` and record it in the new folder `out`. Every check comes first: a run that fails one writes nothing.

    `reward`, `model` and `siblings` are Python objects that replace those which the Spec names.
    `on_progress` is called after every batch, `on_step` after every denoising step, with the pictures as they form
    every `previews` steps (`run/forming.py`). `person` answers the questions of the run while it waits; without one it
    stops at the first. `trust` is as in `resume`, for a reward that the run takes over from its parent.
    """
    watching = Watching.of(on_step, previews)
    with started(
        spec,
        out,
        reward=reward,
        model=model,
        siblings=siblings,
        on_progress=on_progress,
        person=person,
        watching=watching,
        trust=trust,
    ) as run:
        run.search(stop)
    return run.store


@contextmanager
def started(
    spec: Spec,
    out: Path,
    *,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: Siblings = None,
    on_progress: Watch = silent,
    person: Person | None = None,
    watching: Watching | None = None,
    trust: bool = False,
) -> Iterator[OpenRun]:
    """A new run that is locked and ready to go; see `start`."""
    out = Path(out)
    refuse_taken(out)
    origin = None if spec.parent is None else Path(spec.parent.folder)
    if spec.parent is not None:
        spec = replace(spec, parent=replace(spec.parent, folder=spec.parent.name))
    clock = Clock(spec, on_progress)
    models.check(spec)
    clock.say(Phase.LOADING)
    spec = models.with_dtype(spec)
    with nullcontext() if origin is None else stored_run(origin, trust):
        executor = Local(spec, reward=reward, model=model, siblings=siblings)
        beginning = None if origin is None else ancestry.beginning(executor, spec, origin, reward)
    spec = executor.setup.spec
    loop = SearchLoop(spec, executor, clock, person)
    left_out = without_drafts(spec, loop.plan, executor.setup.steering.learns_from_drafts)
    if left_out is not None:
        spec = left_out[0]
        clock = Clock(spec, on_progress)
        executor.leave_out_drafts(spec)
        loop = SearchLoop(spec, executor, clock, person)
    for leaf in executor.worker.reward.leaves():
        if isinstance(leaf, PaidReward):
            leaf.ready()
    if isinstance(executor.final_judge, PaidReward):
        executor.final_judge.ready()
    executor.check_budget()
    loop.check_affordable(lambda: settings_that_fit(executor.setup))
    make_search(spec, executor.space)  # raises on wrong settings, before anything is written
    versions = machine.versions() | fingerprint.of(spec)
    for sentence in executor.setup.model_warnings:
        warnings.warn(sentence, stacklevel=5)
    sentences = [*executor.setup.warnings, *executor.setup.model_warnings]
    sentences += [] if left_out is None else [left_out[1]]
    if sentences:
        versions["warnings"] = as_json(sentences)
    versions["units"] = as_json(executor.setup.reward.units())
    if loop.plan.rungs:
        versions[PLAN] = plan_text(loop.plan.rungs)
    store = Store.create(out, spec, versions, datetime.now(UTC).isoformat(timespec="seconds"))
    executor.watch(watching)
    clock.say(Phase.SEARCHING)
    with store.lock():
        if beginning is not None:
            ancestry.record(store, spec, beginning, executor)
        yield OpenRun(loop, store, executor)


@machine.outside_inference_mode
def resume(
    folder: Path,
    *,
    budget: Mapping[str, float] | None = None,
    until: str | None = None,
    stop_rule: str | None = None,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: Siblings = None,
    on_progress: Watch = silent,
    on_step: OnStep | None = None,
    previews: Every = 0,
    stop: Stop = never,
    person: Person | None = None,
    trust: bool = False,
) -> Store:
    """Continue a run after its last recorded candidate, with `budget` in place of the old one if it is given.

    A finished run without a new budget or stop rule is returned as it is. `until` and `stop_rule` replace the run's;
    an empty text removes one. A larger budget alone removes the rule that ended the run: it would end it again.

    `trust`: execute the reward file that the record names, and send a key to the server that it names.
    `on_step` and `previews` are as in `start`.
    """
    changes = Changes(budget, until, stop_rule)
    watching = Watching.of(on_step, previews)
    with reopened(
        folder,
        changes,
        reward=reward,
        model=model,
        siblings=siblings,
        on_progress=on_progress,
        person=person,
        trust=trust,
        watching=watching,
    ) as run:
        run.search(stop)
    return run.store


@contextmanager
def reopened(
    folder: Path,
    changes: Changes,
    *,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: Siblings = None,
    on_progress: Watch = silent,
    person: Person | None = None,
    trust: bool = False,
    watching: Watching | None = None,
    again: bool = False,
) -> Iterator[OpenRun]:
    """A recorded run, locked and ready to go on; see `resume`. `again`: also a finished one, which recalls all."""
    budget = changes.budget
    store = Store.open(folder)
    with store.lock():
        spec = store.spec
        changed = _changed(spec, store.stopped, changes)
        if changed == spec and store.status == RunStatus.FINISHED and budget is None and not again:
            final_judge.write_pictures(store)
            yield OpenRun(None, store, None)
            return
        inputs.restore(folder, spec.model)
        check_present(spec, reward, model, folder, "resume it with fairlead.resume(folder, {}=...)")
        fingerprint.check(spec, store.versions, "a resumed run would mix the pictures of two models")
        if budget is not None and not store.spent().fits(replace(changed.limit, seconds=math.inf)):
            text = ",".join(f"{k}={v:.15g}" for k, v in budget.items())
            raise FairleadError(
                f"The budget {text} is less than what the run in {folder} has already spent. Choose a larger one."
            )
        extended = budget is not None or changed != spec
        spec = changed
        clock = Clock(spec, on_progress)
        clock.say(Phase.LOADING)
        with stored_run(folder, trust):
            executor = _executor(store, spec, reward, model, siblings)
        versions = store.versions
        plan = read_plan(versions.get(PLAN))
        if extended and spec.rungs:
            plan = corrected(plan, rung_summaries(spec, store.candidates(), plan))
        loop = SearchLoop(spec, executor, clock, person, plan)  # raises on an unknown term
        if extended:
            executor.check_budget()
        # The status comes first: a finished run with the new budget would look as if it had spent it.
        store.set_status(RunStatus.RUNNING)
        if extended:
            store.extend(spec, versions | ({PLAN: plan_text(loop.plan.rungs)} if loop.plan.rungs else {}))
        executor.watch(watching)
        yield OpenRun(loop, store, executor)


def _executor(store: Store, spec: Spec, reward: Reward | None, model: Model | None, siblings: Siblings) -> Local:
    """What computes a recorded run, from where its search started."""
    executor = Local(spec, reward=reward, model=model, siblings=siblings)
    if (point := ancestry.recorded(store)) is not None:
        executor.start_at(point)
    return executor


def _changed(spec: Spec, stopped: str, changes: Changes) -> Spec:
    """The Spec of a run that goes on with another budget or other stop rules."""
    budget, until, stop_rule = changes
    if budget is not None:
        spec = replace(spec, budget={k: float(v) for k, v in budget.items()})
        ended_by = stopped.partition(": ")[0]
        until = "" if until is None and ended_by == StopReason.UNTIL else until
        stop_rule = "" if stop_rule is None and ended_by == StopReason.FLAT else stop_rule
    if until is not None:
        spec = replace(spec, until=until_text(until))
    if stop_rule is not None:
        spec = replace(spec, stop=stop_text(stop_rule))
    return spec


@machine.outside_inference_mode
def replay(
    folder: Path,
    index: int,
    *,
    alone: bool = False,
    reward: Reward | None = None,
    model: Model | None = None,
    siblings: Siblings = None,
    trust: bool = False,
    watching: Watching | None = None,
) -> Replay:
    """Render one recorded candidate again and compare it with the record, bit for bit; `trust` as in `resume`.

    The whole batch of the candidate is rendered, so its shape is that of the run, and the result is identical on the
    same machine with the same versions. With `alone=True` only the candidate is rendered. Matrix kernels may then
    round differently, and small differences are expected.

    `trust` is as in `resume`. `watching` is shown every step of the batch, for example to see one picture form.
    """
    store = Store.open(folder)
    spec = store.spec
    inputs.restore(folder, spec.model)
    check_present(spec, reward, model, folder, "replay it with that object as {}=")
    fingerprint.check(spec, store.versions, "a replay would draw another picture")
    companions = store.task_of(index)
    recorded = store.get(index)
    with stored_run(folder, trust):
        executor = _executor(store, spec, reward, model, siblings)
    plan = read_plan(store.versions.get(PLAN))

    def questions(indices: Sequence[int]) -> tuple[Task, Chain]:
        loop = SearchLoop(spec, executor, Clock(spec, silent), recorded=plan)
        found, steering = loop.questions(store, indices)
        if not set(indices) <= found.keys():
            raise StoreError(f"The settings in {folder} do not lead to batch {recorded.task}: restore the record.")
        task = loop.task([found[i] for i in indices], is_baseline=index == BASELINE)
        among = None if alone else store.companions_of(indices[0])
        return replace(task, companions=among), steering

    chosen = [index] if alone else companions
    task, steering = questions(chosen)
    task = with_states(task, store, questions, executor)
    executor.watch(watching)
    _, outcomes, _ = next(executor.map([task], steering))
    outcome = next(o for o in outcomes if o.index == index)
    outcome = Ranking(executor.reward, spec.prompt).recalled(outcome, recorded)
    return compared(store, recorded, outcome, len(chosen), alone)
