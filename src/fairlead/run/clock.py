"""The progress of a run while it runs. Imports no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from fairlead.core.cost import Cost
from fairlead.run.records import BASELINE, Candidate, Outcome, Phase, Progress
from fairlead.run.spec import Spec, reward_text

Watch = Callable[[Progress], None]


class Clock:
    """Turns the events of a run into `Progress`."""

    def __init__(self, spec: Spec, watch: Watch) -> None:
        self._spec = spec
        self._watch = watch
        self._since = time.perf_counter()
        self.expected: int | None = None
        self.baseline: float | None = None
        self.best: tuple[float, int] | None = None
        self.done, self._computed, self._computing, self._refining = 0, 0, 0.0, False
        self._names = [reward_text(tree) for tree in spec.watch]
        self._terms: dict[int, list[float]] = {}
        self._plain = BASELINE if spec.controlled else 0
        self._answered = Cost()
        self.spent = Cost()

    def computed(self, outcomes: Sequence[Outcome], cost: Cost) -> None:
        """A batch was rendered by this process."""
        self._computed += len(outcomes)
        self._computing += cost.seconds

    def answered(self, cost: Cost) -> None:
        """A batch has its answers, rendered or recalled."""
        self._answered = self._answered + cost

    def seen(self, outcomes: Sequence[Outcome | Candidate], controlled: bool, refined: bool = False) -> None:
        """Outcomes arrived. `refined`: full renderings, whose rewards are not compared with those of drafts."""
        if refined and not self._refining:
            self.best, self._refining = None, True
        for o in outcomes:
            if self._names:
                self._terms[o.index] = [o.terms.get(f"{n} (watched)", o.terms.get(n, math.nan)) for n in self._names]
            if o.index == BASELINE or (o.index == 0 and not controlled):
                self.baseline = o.reward
            if o.index != BASELINE:
                self.done += 1
                counts = o.reward == o.reward and (refined or not self._refining)
                if counts and (self.best is None or o.reward > self.best[0]):
                    self.best = (o.reward, o.index)

    def ranked(self, baseline: float | None, best: tuple[float, int] | None) -> None:
        """All totals were computed again."""
        self.baseline = baseline
        self.best = best

    def per_image(self) -> float:
        """Seconds of this process per image so far, 0 before the first."""
        return self._computing / self._computed if self._computed else 0.0

    def per_nfe(self) -> float:
        """Seconds per evaluation so far. Recalled ones count, so that a resumed run stops at the same place."""
        return self._answered.seconds / self._answered.nfe if self._answered.nfe else 0.0

    def say(self, phase: Phase) -> None:
        """Report the progress."""
        best, index = self.best or (None, None)
        rate = 1 / self.per_image() if self.per_image() else 0.0
        self._watch(
            Progress(
                phase,
                self.done,
                self.expected,
                self.spent,
                self._spec.limit,
                self.baseline,
                best,
                index,
                time.perf_counter() - self._since,
                rate,
                self._watched(index),
            )
        )

    def _watched(self, best: int | None) -> dict[str, tuple[float, float]]:
        """What was only watched, of the baseline and of the best."""
        if best not in self._terms or self._plain not in self._terms:
            return {}
        return dict(zip(self._names, zip(self._terms[self._plain], self._terms[best], strict=True), strict=True))
