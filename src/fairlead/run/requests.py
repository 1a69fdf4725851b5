"""What a run asks of its executor while it searches, and who answers: one run alone, or many that share batches."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

from fairlead.core.cost import Cost
from fairlead.core.steering import Chain
from fairlead.run.executor import Executor
from fairlead.run.records import Companions, Outcome, RunStatus, StopReason, Task

Stop = Callable[[], bool]
"""True once somebody wants the run to stop after the present batch."""


def never() -> bool:
    """Nobody stops it."""
    return False


class Answer(NamedTuple):
    """What came back for a batch."""

    outcomes: list[Outcome]
    cost: Cost
    companions: Companions | None = None
    """Where it stood in a batch that several runs shared."""


@dataclass(frozen=True)
class Request:
    """A batch whose answers a run needs now. One that the record holds is announced too: it has its place in time."""

    task: Task
    steering: Chain
    recorded: bool = False


Requests = Generator[Request, Answer | None, None]
"""A run, one request after the other. It receives the answer of each, or None for one that was recorded."""


class Stopped(Exception):
    """The run ends here."""

    def __init__(self, status: RunStatus, reason: str) -> None:
        self.status = status
        self.reason = reason


def interrupted() -> Stopped:
    """What is raised inside a run that somebody stops."""
    return Stopped(RunStatus.STOPPED, StopReason.INTERRUPTED)


def after(requests: Requests, answer: Answer | BaseException | None) -> Request | None:
    """Send an answer, or raise an error where the run waits for it: the next request, or None at the end."""
    try:
        if isinstance(answer, BaseException):
            return requests.throw(answer)
        return requests.send(answer)
    except StopIteration:
        return None


def serve(requests: Requests, executor: Executor, stop: Stop) -> None:
    """Answer the requests of one run by its own executor, until it ends."""
    request = after(requests, None)
    while request is not None:
        request = after(requests, answered(request, executor, stop))


def answered(request: Request, executor: Executor, stop: Stop) -> Answer | BaseException | None:
    """The answer to one request: None where it is recorded, the error where the work failed."""
    if request.recorded:
        return None
    if stop():
        return interrupted()
    try:
        _, outcomes, cost = next(iter(executor.map([request.task], request.steering)))
    except BaseException as error:
        return error
    return Answer(outcomes, cost)
