"""What happens to a run, as server-sent events whose ids are positions of its record. Imports no torch.

A stream is a function of the record: after any interruption, of the page or of the server, the page names the last
position that it knows and receives the rest, in order and once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.app.studio.standing import standing
from fairlead.app.workers.jobs import Job
from fairlead.core.errors import FairleadError
from fairlead.run.follow import Follower, Position, candidate_json, is_held, line
from fairlead.run.store import DATABASE

TICK = 0.1
BEAT = 15.0
"""Seconds of silence after which a comment shows that the connection lives."""
NOBODY = {"questions": 0, "asked": 0, "judgements": 0}
START = "retry: 2000\n\n: ok\n\n"


def event(kind: str, data: object, id: object = None) -> str:
    """One event as text; without an id it does not move the page's position."""
    head = "" if id is None else f"id: {id}\n"
    return f"{head}event: {kind}\ndata: {line(data)}\n\n"


class RunEvents:
    """The events of one run for one listener."""

    def __init__(
        self, folder: Path, after: str, job: Callable[[], Job | None], progress: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._folder = folder
        self._at = Position.parse(after)
        self._job = job
        self._progress = progress
        self._follower: Follower | None = None
        self._said: dict[str, Any] = {"people": NOBODY}
        self._existed = False
        self.ended = False

    def close(self) -> None:
        """Close the record."""
        if self._follower is not None:
            self._follower.close()

    def news(self) -> Iterator[str]:
        """What happened since the last call."""
        if self._follower is None and (self._folder / DATABASE).is_file():
            self._follower = Follower(self._folder)
            self._existed = True
        if self._follower is not None:
            if self._follower.is_gone():
                self.ended = True
                yield event("gone", {"sentence": f"The folder {self._folder.name} was moved or deleted."})
                return
            if self._follower.changed():
                yield from self._recorded(self._follower)
                yield from self._once("people", self._follower.people())
        yield from self._state()
        now = self._progress()
        if now.get("folder") == self._folder.name:
            yield from self._once("progress", now)

    def _recorded(self, follower: Follower) -> Iterator[str]:
        """Rewards that changed, new candidates, new marks: each moves the position."""
        end = follower.position()
        if self._at.task >= 0 and not follower.same_rewards(self._at):
            known = [c for c in follower.candidates(-1) if c.task <= self._at.task]
            self._at = replace(self._at, rewards=follower.digest(self._at.task))
            yield event("candidates", {"candidates": [candidate_json(c) for c in known]}, self._at)
        new = [c for c in follower.candidates(self._at.task) if c.task <= end.task]
        if end.task > self._at.task:
            self._at = replace(end, mark=self._at.mark)
            spent = follower.store.spent().as_dict()
            yield event("candidates", {"candidates": [candidate_json(c) for c in new], "spent": spent}, self._at)
        if end.mark > self._at.mark:
            marks = [mark.as_dict() for mark in follower.marks(self._at.mark)]
            self._at = replace(self._at, mark=end.mark)
            yield event("marks", {"marks": marks}, self._at)

    def _state(self) -> Iterator[str]:
        job = self._job()
        if self._follower is None:
            if job is None and self._existed:
                self.ended = True
            yield from self._once("state", {"state": standing("", "", False, job)})
            return
        store = self._follower.store
        now = standing(store.status.value, store.stopped, is_held(self._folder), job)
        yield from self._once("state", {"state": now, "limit": store.spec.limit.limits()})

    def _once(self, kind: str, value: Any) -> Iterator[str]:
        if self._said.get(kind) != value:
            self._said[kind] = value
            yield event(kind, value)


async def stream(source: RunEvents, closing: Callable[[], bool]) -> AsyncIterator[str]:
    """The events of a run until the listener leaves or the server closes."""
    yield START
    heard = time.monotonic()
    try:
        while not (closing() or source.ended):
            for text in source.news():
                yield text
                heard = time.monotonic()
            if time.monotonic() - heard > BEAT:
                yield ": beat\n\n"
                heard = time.monotonic()
            await asyncio.sleep(TICK)
    except FairleadError as error:
        yield event("gone", {"sentence": str(error)})
    finally:
        source.close()


async def list_stream(stamp: Callable[[], object], closing: Callable[[], bool]) -> AsyncIterator[str]:
    """An event whenever the list of runs has changed; the page then reads the list."""
    yield START
    seen: object = None
    heard = time.monotonic()
    while not closing():
        now = await asyncio.to_thread(stamp)
        if now != seen:
            seen = now
            yield event("runs", {})
            heard = time.monotonic()
        elif time.monotonic() - heard > BEAT:
            yield ": beat\n\n"
            heard = time.monotonic()
        await asyncio.sleep(0.5)
