"""What the page hears: the events of a run, and a sign whenever the list of runs has changed. Imports no torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.app.studio.standing import standing
from fairlead.app.web.events import BEAT, START, RunEvents, event
from fairlead.app.workers.jobs import Job
from fairlead.run.follow import Follower, candidate_json, is_held

NOBODY = {"questions": 0, "asked": 0, "judgements": 0}


class PageEvents(RunEvents):
    """Candidates, marks, people, how the run stands, and the progress of its batch."""

    def __init__(
        self,
        folder: Path,
        after: str,
        job: Callable[[], Job | None],
        progress: Callable[[], Mapping[str, Any]],
        stands: Callable[[str, str, bool, Job | None], dict[str, Any]] = standing,
    ) -> None:
        super().__init__(folder, after)
        self._job = job
        self._progress = progress
        self._stands = stands
        self.knows("people", NOBODY)

    def recorded(self, follower: Follower) -> Iterator[str]:
        """Rewards that changed, new candidates, new marks, and what people did."""
        end = follower.position()
        if self.rewards_changed(follower):
            known = [c for c in follower.candidates(-1) if c.task <= self.at.task]
            yield event("candidates", {"candidates": [candidate_json(c) for c in known]}, self.at)
        new = [c for c in follower.candidates(self.at.task) if c.task <= end.task]
        if end.task > self.at.task:
            self.at = replace(end, mark=self.at.mark)
            spent = follower.store.spent().as_dict()
            yield event("candidates", {"candidates": [candidate_json(c) for c in new], "spent": spent}, self.at)
        if end.mark > self.at.mark:
            marks = [mark.as_dict() for mark in follower.marks(self.at.mark)]
            self.at = replace(self.at, mark=end.mark)
            yield event("marks", {"marks": marks}, self.at)
        yield from self.once("people", follower.people())

    def beside(self) -> Iterator[str]:
        """How the run stands, and the progress of its batch."""
        yield from self._state()
        now = self._progress()
        if now.get("folder") == self.folder.name:
            yield from self.once("progress", now)

    def _state(self) -> Iterator[str]:
        job = self._job()
        if self.follower is None:
            if job is None and self.existed:
                self.ended = True
            yield from self.once("state", {"state": self._stands("", "", False, job)})
            return
        store = self.follower.store
        now = self._stands(store.status.value, store.stopped, is_held(self.folder), job)
        yield from self.once("state", {"state": now, "limit": store.spec.limit.limits()})

    def gone(self, sentence: str) -> str:
        """The page shows the sentence."""
        return event("gone", {"sentence": sentence})


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
