"""Batches that several runs share: how they are put together, and how a part is rendered again at its place.

A row of a batch does not see the content of the others, but kernels round by the size of the batch and by the place in
it. So the record of each run says how many rows stood before its own and how many there were, and a replay fills these
places with copies of its own rows: the bits are the same, and no other run is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch

from fairlead.core.cost import Cost
from fairlead.core.model import Conditioning
from fairlead.run.records import Owner, Task

TIMED = ("seconds", "dollars")


def joined(rows: Sequence[Conditioning]) -> Conditioning:
    """The conditionings one below the other; all have the same shapes."""
    extra = {}
    for name in rows[0].extra:
        extra[name] = torch.cat([row.extra[name] for row in rows])
    prompts = tuple(prompt for row in rows for prompt in row.prompts)
    return Conditioning(torch.cat([row.tokens for row in rows]), prompts, extra)


def one_task(tasks: Sequence[Task], owners: Sequence[Owner]) -> Task:
    """The tasks of several runs, each with its owner, as one task. Groups of different runs stay different."""
    first = tasks[0]
    groups = [(who, group) for who, task in enumerate(tasks) for group in task.groups]
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return replace(
        first,
        indices=tuple(i for task in tasks for i in task.indices),
        proposals=tuple(p for task in tasks for p in task.proposals),
        groups=tuple(numbers[group] for group in groups),
        grant=sum((task.grant for task in tasks[1:]), first.grant),
        refines=(),
        states=tuple(state for task in tasks for state in task.states),
        owners=tuple(owner for task, owner in zip(tasks, owners, strict=True) for _ in task.indices),
    )


def padded(task: Task) -> Task:
    """The task at its place in a batch of the recorded size; copies of its own rows stand for its companions."""
    assert task.companions is not None
    own = len(task.indices)
    rows = [(i - task.companions.before) % own for i in range(task.companions.rows)]
    return replace(part_of(task, rows), companions=None)


def part_of(task: Task, rows: Sequence[int]) -> Task:
    """The task with these rows alone, and their share of the grant."""
    return replace(
        task,
        indices=tuple(task.indices[i] for i in rows),
        proposals=tuple(task.proposals[i] for i in rows),
        groups=tuple(task.groups[i] for i in rows),
        grant=task.grant * (len(rows) / len(task.indices)),
        states=tuple(task.states[i] for i in rows) if task.states else (),
        owners=tuple(task.owners[i] for i in rows) if task.owners else (),
    )


def share(cost: Cost, own: int, rows: int) -> Cost:
    """What `own` of `rows` equal rows cost. Counts of equal rows are whole, so they are rounded to what they are."""
    part = cost * (own / rows)
    counts = [f.name for f in fields(Cost) if f.name not in TIMED]
    return replace(part, **{name: round(getattr(part, name), 6) for name in counts})
