"""Laws of executors, stores and whole runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from fairlead.core.cost import INFINITE, Cost
from fairlead.core.errors import StoreError
from fairlead.core.key import Key
from fairlead.core.reward import Reward
from fairlead.core.search import Proposal
from fairlead.run import engine
from fairlead.run.executor import Executor, Local
from fairlead.run.records import BASELINE, Outcome, Task
from fairlead.run.spec import Spec, make_spec
from fairlead.run.store import Store
from fairlead.testing._check import equal, law, raises


def small_spec(**words: object) -> Spec:
    """A run on the mixture that takes milliseconds."""
    given = {"model": "mixture", "reward": "brightness", "steps": 4, "batch": 3, "budget": {"nfe": 40.0}, **words}
    return make_spec("a photo of a dog", **given)  # type: ignore[arg-type]


def some_tasks(executor: Executor, spec: Spec, sizes: Sequence[int] = (3, 3, 1)) -> list[Task]:
    """Tasks of plain draws, as the engine makes them."""
    out = []
    first = 0
    for size in sizes:
        own = [Key.root(spec.seed).fold("task", first + i) for i in range(size)]
        proposals = tuple(Proposal(executor.space.draw(key), key) for key in own)
        indices = tuple(range(first, first + size))
        groups = tuple(i // spec.group for i in indices)
        out.append(Task(indices, proposals, groups, INFINITE))
        first += size
    return out


def _same_outcome(a: Outcome, b: Outcome, what: str) -> None:
    law(a.index == b.index, f"{what}: candidate {a.index} instead of {b.index}.")
    same = a.reward == b.reward or (math.isnan(a.reward) and math.isnan(b.reward))
    law(same, f"{what}: candidate {a.index} has reward {a.reward!r}, expected {b.reward!r}.")
    law(
        a.terms == b.terms or math.isnan(b.reward),
        f"{what}: candidate {a.index} has terms {a.terms}, expected {b.terms}.",
    )
    law(a.image == b.image, f"{what}: candidate {a.index} has another picture.")
    law((a.gradient is None) == (b.gradient is None), f"{what}: the gradient of candidate {a.index} is lost.")
    if a.gradient is not None and b.gradient is not None:
        equal(a.gradient, b.gradient, f"{what}: candidate {a.index} has another gradient")


def executor_laws(make: Callable[[Spec], Executor], spec: Spec | None = None) -> None:
    """Checks: every task once, whole, in any order; the answers and costs of `Local`, bit for bit; its price is the
    bill.
    """
    spec = small_spec() if spec is None else spec
    mine = make(spec)
    local = Local(spec)
    law(mine.space.dim == local.space.dim, f"The space has {mine.space.dim} dimensions, Local's has {local.space.dim}.")
    once, unit = mine.price()
    law(
        (once, unit) == local.price(),
        f"A candidate is priced {unit.as_dict()}, Local says {local.price()[1].as_dict()}.",
    )
    ready, prepared = mine.prepare(INFINITE)
    law(
        replace(prepared, seconds=0.0) == once,
        f"Preparation cost {prepared.as_dict()}, the price was {once.as_dict()}.",
    )
    expected_ready, _ = local.prepare(INFINITE)
    tasks = some_tasks(mine, spec)
    expected = {t.indices: (o, c) for t, o, c in local.map(tasks, expected_ready)}
    seen = []
    for task, outcomes, cost in mine.map(tasks, ready):
        seen.append(task.indices)
        law([o.index for o in outcomes] == list(task.indices), "Outcomes are not those of the task, in its order.")
        for a, b in zip(outcomes, expected[task.indices][0], strict=True):
            _same_outcome(a, b, "The executor and Local differ")
        bill = unit * len(task.indices)
        law(
            replace(cost, seconds=0.0).fits(bill) and bill.fits(replace(cost, seconds=0.0)),
            f"{len(task.indices)} candidates cost {cost.as_dict()}, the price was {bill.as_dict()}.",
        )
        law(cost.seconds > 0, "No time was booked.")
    law(sorted(seen) == sorted(t.indices for t in tasks), "Not every task was answered exactly once.")


def store_laws(create: Callable[[Path, Spec], Store], reopen: Callable[[Path], Store], folder: Path) -> None:
    """`create(folder, spec)` and `reopen(folder)`. Checks: what is recorded is recalled bit for bit, also after
    reopening; another question is refused; NaN never ranks and the earliest of equals wins; costs add up; nothing is
    half recorded.
    """
    spec = small_spec()
    store = create(folder, spec)
    tasks = some_tasks(Local(spec), spec, (3, 2))
    rewards = [[0.5, math.nan, 0.75], [0.75, -math.inf]]
    gradient = Key.root(2).normal(8)
    each = Cost(nfe=4, forwards=4, decodes=1, scores=1, seconds=0.1)

    def outcome(index: int, value: float) -> Outcome:
        slope = gradient if index == 2 else None
        return Outcome(index, value, {"a": value}, each * (1 / 3), b"picture %d" % index, slope)

    told = []
    for task, own in zip(tasks, rewards, strict=True):
        told.append([outcome(i, r) for i, r in zip(task.indices, own, strict=True)])
    law(store.recall(tasks[0]) is None, "An empty store recalls something.")
    for task, outcomes in zip(tasks, told, strict=True):
        store.record(task, outcomes, each * len(outcomes))
    for look in (store, reopen(folder)):
        for task, outcomes in zip(tasks, told, strict=True):
            back = look.recall(task)
            if back is None:
                raise AssertionError("What was recorded is not recalled.")
            for a, b in zip(back, outcomes, strict=True):
                _same_outcome(a, b, "The record changed")
        spent = look.spent()
        law(abs(spent.nfe - 20) < 1e-9 and abs(spent.seconds - 0.5) < 1e-9, f"The costs add up to {spent.as_dict()}.")
        best = look.best()
        law(best is not None and best.index == 2, f"The best of {rewards} is {best}: expected candidate 2.")
        law(look.answered_indices((0, 4, 9, BASELINE)) == {0, 4}, "known() does not list what has an answer.")
        law(look.spec == spec, "The settings did not survive the record.")
    half = replace(tasks[1], indices=(4, 5))
    law(store.recall(half) is None, "A task with an unanswered part was recalled.")
    first = tasks[0].proposals[0]
    for name, other in (
        ("point", replace(first, x=first.x + 1)),
        ("key", replace(first, key=first.key.fold("other"))),
        ("number of steps", replace(first, steps=9)),
    ):
        changed = replace(tasks[0], proposals=(other, *tasks[0].proposals[1:]))
        raises(StoreError, partial(store.recall, changed), f"Another {name} at a recorded index was answered.")
    try:
        store.record(half, [replace(o, index=i) for o, i in zip(told[1], (5, 4), strict=True)], Cost(nfe=8))
    except Exception:
        law(store.answered_indices((5,)) == set(), "A task that could not be recorded whole was recorded in part.")
        law(abs(store.spent().nfe - 20) < 1e-9, "A task that could not be recorded was paid for.")
    else:
        raise AssertionError("A candidate was recorded twice.")


def answers(store: Store) -> list[tuple[int, str, bytes]]:
    """Index, exact reward and PNG of everything recorded."""
    every = [*filter(None, [store.baseline()]), *store.candidates()]
    return [(c.index, repr(c.reward), (store.folder / c.image).read_bytes()) for c in every]


def after(n: int) -> Callable[[], bool]:
    """For `stop=`: interrupts a run before batch n, counted from 0; the baseline is a batch."""
    asked = count()
    return lambda: next(asked) >= n


def resume_laws(spec: Spec, folder: Path, *, reward: Reward | None = None) -> None:
    """Interrupted after any number of batches and resumed, a run is the uninterrupted one, bit for bit."""
    whole = engine.start(spec, folder / "whole", reward=reward)
    expected = answers(whole)
    law(len(expected) > 1, "The budget affords one candidate only: nothing to interrupt.")
    batches = len({c.task for c in whole.candidates()}) + int(spec.controlled)
    for k in range(batches):
        part = folder / f"after_{k}"
        stopped = engine.start(spec, part, reward=reward, stop=after(k))
        law(stopped.status == "stopped", f"Interrupted after {k} batches, the run says {stopped.status!r}.")
        law(len(answers(stopped)) < len(expected), "The interruption came too late to mean anything.")
        recorded = answers(stopped)
        stopped.close()
        again = engine.resume(part, reward=reward)
        got = answers(again)
        law(got[: len(recorded)] == recorded or recorded == [], "Resuming changed what was recorded.")
        law([g[:2] for g in got] == [e[:2] for e in expected], f"Resumed after {k} batches, rewards differ.")
        law(got == expected, f"Resumed after {k} batches, pictures differ.")
        a = replace(again.spent(), seconds=0.0)
        b = replace(whole.spent(), seconds=0.0)
        law(a.fits(b) and b.fits(a), f"Resumed after {k} batches, {a.as_dict()} is booked instead of {b.as_dict()}.")
        law(
            again.status == whole.status and again.stopped == whole.stopped, "Resumed, the run ends for another reason."
        )
        again.close()
    whole.close()
