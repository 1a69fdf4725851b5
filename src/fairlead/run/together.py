"""Several runs at once, whose batches are filled from all of them: what each asks, in a fixed order, and the answers.

Which pieces share a batch follows from the settings of the runs and their answers alone, never from the clock. A piece
that is recorded already keeps its place without being computed. So a set of runs that was killed and resumed forms the
same batches, and every picture has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.core.reward import HumanReward
from fairlead.run import rungs
from fairlead.run.executor import Local
from fairlead.run.records import Companions, Owner, Task
from fairlead.run.requests import Answer, Request, Requests, Stop, after, answered, interrupted, never
from fairlead.run.setup import Setup
from fairlead.run.shared_batches import one_task, share
from fairlead.run.worker import Worker


@dataclass
class Member:
    """One of the runs."""

    name: str
    """Its folder."""
    executor: Local
    requests: Requests

    @property
    def setup(self) -> Setup:
        """What it runs with."""
        return self.executor.setup

    @cached_property
    def kind(self) -> tuple[Any, ...] | None:
        """Runs of one kind may share batches; None for a run that shares with none.

        What controls the sampling is made for one prompt or for one group, a gradient needs a graph of its own, and
        where seconds or dollars are limited a batch may be cut for one run alone.
        """
        setup = self.setup
        limits = setup.spec.limit
        asks = any(isinstance(leaf, HumanReward) for leaf in setup.reward.leaves())
        controlled = bool(setup.steering.parts) or bool(setup.interventions) or setup.wants_gradient
        if asks or controlled or math.isfinite(limits.seconds) or math.isfinite(limits.dollars):
            return None
        told = {"tokens": setup.conditioning.tokens, **setup.conditioning.extra}
        shapes = tuple(sorted((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in told.items()))
        return (setup.spec.alike, shapes, id(setup.model), *(id(type(leaf)) for leaf in setup.reward.leaves()))

    def place(self, request: Request) -> tuple[Any, ...] | None:
        """What its request must have in common with another to stand in one batch; None if it stands alone."""
        effort = request.task.proposals[0].steps
        rung = None if effort is None else rungs.read(effort)
        if self.kind is None or isinstance(rung, rungs.By):
            return None
        return (*self.kind, effort, request.task.is_baseline)


def serve(members: Sequence[Member], stop: Stop, apart: bool = False) -> dict[str, FairleadError]:
    """Run all to their ends. Returns the errors of runs that ended with one of their own, by name.

    `apart`: no batch is shared, so that every run is equal to the same run alone, bit for bit. An error of the shared
    work itself ends all and is raised.
    """
    waiting: dict[int, Request] = {}
    errors: dict[str, FairleadError] = {}
    workers: dict[tuple[Any, ...], Worker] = {}

    def tell(who: int, answer: Answer | BaseException | None) -> None:
        waiting.pop(who, None)
        try:
            request = after(members[who].requests, answer)
        except FairleadError as error:
            if error is answer:
                raise
            errors[members[who].name] = error
        else:
            if request is not None:
                waiting[who] = request

    try:
        for who in range(len(members)):
            tell(who, None)
        while waiting:
            batch = _next_batch(members, waiting, apart)
            fresh = [who for who in batch if not waiting[who].recorded]
            if fresh and stop():
                for who in list(waiting):
                    tell(who, interrupted())
                continue
            answers = _answers(members, waiting, batch, fresh, workers)
            for who in batch:
                tell(who, answers.get(who))
    finally:
        for who in waiting:
            members[who].requests.close()
    return errors


def _next_batch(members: Sequence[Member], waiting: Mapping[int, Request], apart: bool) -> list[int]:
    """Who shares the next batch: the first that waits, and those after it that fit."""
    first = min(waiting)
    place = None if apart else members[first].place(waiting[first])
    batch = [first]
    if place is None:
        return batch
    rows = len(waiting[first].task.indices)
    most = members[first].setup.spec.batch
    for who in sorted(waiting):
        more = len(waiting[who].task.indices)
        if who != first and rows + more <= most and members[who].place(waiting[who]) == place:
            batch.append(who)
            rows += more
    return batch


def _answers(
    members: Sequence[Member],
    waiting: Mapping[int, Request],
    batch: Sequence[int],
    fresh: Sequence[int],
    workers: dict[tuple[Any, ...], Worker],
) -> dict[int, Answer | BaseException | None]:
    """The answers of a batch for those of its members that lack one."""
    if not fresh:
        return {}
    if len(batch) == 1:
        (who,) = batch
        return {who: answered(waiting[who], members[who].executor, never)}
    tasks = [waiting[who].task for who in batch]
    places = _places([members[who].name for who in batch], tasks)
    if len(fresh) < len(batch):  # the set was killed while this batch was recorded
        return {who: _alone(members[who], waiting[who], places[batch.index(who)]) for who in fresh}
    owners = [Owner(members[who].setup.spec, members[who].setup.conditioning) for who in batch]
    kind = members[batch[0]].kind
    assert kind is not None
    if kind not in workers:
        workers[kind] = Worker(members[batch[0]].setup)
    try:
        outcomes, cost = workers[kind].evaluate(one_task(tasks, owners), waiting[fresh[0]].steering)
    except BaseException as error:
        return dict.fromkeys(fresh, error)
    found: dict[int, Answer | BaseException | None] = {}
    for who, place, task in zip(batch, places, tasks, strict=True):
        if who in fresh:
            own = outcomes[place.before : place.before + len(task.indices)]
            found[who] = Answer(own, share(cost, len(own), place.rows), place)
    return found


def _alone(member: Member, request: Request, companions: Companions) -> Answer | BaseException | None:
    """The answer to one request at its place in a batch whose other rows need none."""
    answer = answered(replace(request, task=replace(request.task, companions=companions)), member.executor, never)
    return answer._replace(companions=companions) if isinstance(answer, Answer) else answer


def _places(names: Sequence[str], tasks: Sequence[Task]) -> list[Companions]:
    """Where every task stands in the batch of all."""
    runs = tuple((name, task.indices) for name, task in zip(names, tasks, strict=True))
    *befores, rows = accumulate((len(task.indices) for task in tasks), initial=0)
    return [Companions(before, rows, runs) for before in befores]
