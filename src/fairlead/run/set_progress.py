"""How a set of runs stands: the sum of its runs, as one progress. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fairlead.core.cost import Cost
from fairlead.run.clock import Watch
from fairlead.run.records import Phase, Progress


class SetProgress:
    """Adds up what the runs of a set report."""

    def __init__(self, runs: int, watch: Watch) -> None:
        self._left = runs
        self._watch = watch
        self._since = time.perf_counter()
        self._now: dict[str, Progress] = {}
        self._ended: list[str] = []
        self._done = 0
        self._spent = Cost()

    def skipped(self, runs: int) -> None:
        """So many were done before."""
        self._left -= runs

    def of(self, name: str) -> Callable[[Progress], None]:
        """The watch of one run."""

        def watch(now: Progress) -> None:
            self._now[name] = now
            self._watch(self._sum(now))
            if now.phase == Phase.DONE:
                del self._now[name]
                self._ended.append(name)
                self._done += now.done
                self._spent = self._spent + now.spent

        return watch

    def _sum(self, last: Progress) -> Progress:
        """The sum, with the newest report standing for runs that have not begun."""
        every = list(self._now.values())
        done = self._done + sum(now.done for now in every)
        over = last.phase == Phase.DONE and len(self._ended) + 1 == self._left
        phase = Phase.SEARCHING if last.phase == Phase.DONE and not over else last.phase
        if phase == Phase.LOADING and len(every) + len(self._ended) > 1:
            phase = Phase.SEARCHING
        seconds = time.perf_counter() - self._since
        limits = {name: value * self._left for name, value in last.limit.limits().items()}
        return Progress(
            phase,
            done,
            None if last.expected is None else last.expected * self._left,
            sum((now.spent for now in every), self._spent),
            replace(last.limit, **limits),
            None,
            None,
            None,
            seconds,
            done / seconds if done else 0.0,
        )
