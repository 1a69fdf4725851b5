"""GET /v1/runs/{id}/events: how a run grows, for programs that watch it. Imports no torch.

The id of an event is the run and a position of its record. Every event tells the latest state, so a slow listener
hears fewer events and misses nothing. `best` is a `progress` that found a better picture; `end` is the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.app.serve import images
from fairlead.app.serve.errors import unavailable, without_places
from fairlead.app.serve.record import standing
from fairlead.app.web.events import RunEvents, event
from fairlead.run.follow import Follower
from fairlead.run.store import DATABASE

END = "end"


class Listened(RunEvents):
    """The events of one run of a tenant; `is_active` says whether it is computed or waits for its turn."""

    def __init__(self, folder: Path, after: str, is_active: Callable[[], bool]) -> None:
        run, _, position = after.partition(".")
        known, _, ending = position.partition(".")
        super().__init__(folder, known if run == folder.name else "")
        self._is_active = is_active
        self._active = is_active()
        self._heard_end = run == folder.name and ending == END

    def is_over(self) -> bool:
        """True if the listener has heard the end, and nothing has happened since."""
        if not self._heard_end or self._active:
            return False
        if not (self.folder / DATABASE).is_file():
            return True
        with closing(Follower(self.folder)) as now:
            return replace(now.position(), mark=0) == self.at

    def news(self) -> Iterator[str]:
        """What happened. Whether the run goes on is asked first, so that nothing is recorded before the end is told."""
        self._active = self._is_active()
        yield from super().news()

    def recorded(self, follower: Follower) -> Iterator[str]:
        """One event for all that is new."""
        with follower.one_moment():  # or a count would be ahead of its position, and be told again
            end = follower.position()
            again = self.rewards_changed(follower)
            if end.task <= self.at.task and not again:
                return
            before = self.at.task
            self.at = replace(end, mark=0)
            best = follower.store.best()
            told = self._told(follower)
        is_better = best is not None and (again or best.task > before)
        yield event("best" if is_better else "progress", told, self._id())

    def beside(self) -> Iterator[str]:
        """The end, once nobody computes the run."""
        if self._active or self.ended:
            return
        self.ended = True
        if self.follower is None:
            yield event(END, {"run": self.folder.name, "status": "failed", "candidates": 0}, self._id(END))
            return
        store = self.follower.store
        status = "stopped" if store.status == "running" else store.status.value
        told = {**self._told(self.follower), "status": status, "stopped": without_places(store.stopped)}
        yield event(END, told, self._id(END))

    def gone(self, sentence: str) -> str:
        """An error as in any other stream of this server."""
        return event("error", {"error": unavailable("worker_down", without_places(sentence)).value})

    def _id(self, ending: str = "") -> str:
        return ".".join([self.folder.name, str(self.at), *([ending] if ending else [])])

    def _told(self, follower: Follower) -> dict[str, Any]:
        now = standing(follower.store)
        best = None if now.best is None else images.described(now.best)
        return {
            "run": self.folder.name,
            "candidates": now.count,
            "best": best,
            "cost": now.spent.as_dict(),
            "budget": now.limit.limits(),
        }
