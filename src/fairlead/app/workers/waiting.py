"""Runs that wait for a person: the worker waits with its model loaded, and a run that was left is resumed.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from fairlead.app.workers.jobs import Jobs
from fairlead.core.errors import StoreError
from fairlead.core.people import Pending, Question
from fairlead.run.follow import is_held
from fairlead.run.question_store import Person, QuestionStore
from fairlead.run.records import RunStatus, StopReason
from fairlead.run.store import Store

PATIENCE = 600.0
"""Seconds that the worker waits for an answer. Afterwards the run is left, and resumed by the answer."""
TICK = 0.05


def person(folder: Path, leave: Callable[[], bool], meanwhile: Callable[[Question], None]) -> Person:
    """Somebody at the page: waits until the question is answered, until `leave` says so, or for so long.

    `meanwhile` is called again and again.
    """
    store = QuestionStore(folder)

    def ask(question: Question) -> str:
        until = time.monotonic() + PATIENCE
        while not leave() and time.monotonic() < until:
            if (answer := store.answer_to(question)) is not None:
                return answer
            meanwhile(question)
            time.sleep(TICK)
        raise Pending(question)

    return ask


def resume_if_answered(jobs: Jobs, folder: Path) -> bool:
    """Queue a run that waited, once all its questions are answered and no process has it."""
    if is_held(folder) or QuestionStore(folder).pending():
        return False
    store = Store.open(folder, verify=False)
    waited = store.status == RunStatus.STOPPED and store.stopped == StopReason.WAITING
    store.close()
    if not waited:
        return False
    with contextlib.suppress(StoreError):  # it is queued already
        jobs.resume(folder.name, None)
        return True
    return False
