"""Which partial pictures a stream shows: the best so far, at even shares of the budget, never a worse one."""

from __future__ import annotations

from collections.abc import Mapping

from fairlead.app.serve.record import Standing
from fairlead.run.records import Candidate


class Partials:
    """The partial pictures of one stream."""

    def __init__(self, most: int, budget: Mapping[str, float]) -> None:
        self._most = most
        self._budget = budget
        self._last: Candidate | None = None
        self.shown = 0

    def next(self, now: Standing | None) -> Candidate | None:
        """The best so far, if it is to be shown now."""
        best = None if now is None else now.best
        if now is None or best is None or self.shown >= self._most:
            return None
        if self._last is not None:
            is_better = best.rung >= self._last.rung and best.reward > self._last.reward
            if not is_better or now.share(self._budget) < self.shown / (self._most + 1):
                return None
        self._last = best
        self.shown += 1
        return best
