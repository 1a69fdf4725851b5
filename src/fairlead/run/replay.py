"""A recorded candidate beside the same one rendered again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from fairlead.core.steering import Chain
from fairlead.run import machine, png, rungs
from fairlead.run.executor import Executor
from fairlead.run.records import Candidate, Outcome, Replay, Task
from fairlead.run.store import Store

Questions = Callable[[Sequence[int]], tuple[Task, Chain]]
"""Indices of a recorded batch -> the batch as it was asked, with the steering."""


def with_states(task: Task, store: Store, questions: Questions, executor: Executor) -> Task:
    """The task with the states that it goes on from, captured again by rendering the batches that they came from."""
    if not rungs.starts_from_a_state(task.proposals[0].steps):
        return task
    found: dict[int, Tensor | None] = {}
    for index in task.refines:
        if index not in found:
            below, steering = questions(store.task_of(index))
            below = with_states(below, store, questions, executor)
            _, outcomes, _ = next(executor.map([below], steering))
            found |= {o.index: o.state for o in outcomes}
    states = [found[index] for index in task.refines]
    return replace(task, states=tuple(state for state in states if state is not None))


def compared(store: Store, recorded: Candidate, outcome: Outcome, companions: int, alone: bool) -> Replay:
    """Equal or not, bit for bit, and why not."""
    old, _ = png.read(store.image(Path(recorded.image).stem))
    new, _ = png.read(outcome.image)
    gap = int(np.abs(old.astype(int) - new.astype(int)).max()) if old.shape == new.shape else 255
    same = outcome.reward == recorded.reward or (
        outcome.reward != outcome.reward and recorded.reward != recorded.reward
    )
    here = machine.versions()
    why = "; ".join(f"{k} was {v} and is {here[k]}" for k, v in store.versions.items() if here.get(k, v) != v)
    if identical := gap == 0 and same:
        message = "Identical: same pixels, same reward."
    elif (parent := store.spec.parent) is not None and recorded.index == 0 and recorded.cost.nfe == 0:
        message = (
            f"Differs by at most {gap}/255 per pixel: it was taken over from candidate {parent.candidate} of "
            f"{parent.name}, which was drawn in another batch. Replay it there."
        )
    elif alone:
        message = (
            f"Rendered alone, it differs by at most {gap}/255 per pixel: "
            "kernels round differently for another batch size."
        )
    else:
        message = f"Differs by at most {gap}/255 per pixel" + (f": {why}." if why else "; versions are those recorded.")
    return Replay(recorded.index, recorded, outcome.reward, identical, gap, outcome.image, companions, message)
