"""The progress of a run while it runs. Imports no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairlead.core.cost import Cost
from fairlead.run.records import BASELINE, Candidate, Outcome, Phase, Progress
from fairlead.run.spec import Spec, reward_text

Watch = Callable[[Progress], None]
"""Called with what a run has reached."""


def silent(progress: Progress) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Pace:
    """What candidates of one kind have taken so far."""

    seconds: float = 0.0
    nfe: float = 0.0
    candidates: int = 0

    @property
    def each(self) -> float:
        """Seconds per candidate."""
        return self.seconds / self.candidates


class Clock:
    """Turns the events of a run into `Progress`."""

    def __init__(self, spec: Spec, watch: Watch) -> None:
        self._spec = spec
        self._watch = watch
        self._since = time.perf_counter()
        self.expected: int | None = None
        self.baseline: float | None = None
        self.best: tuple[float, int] | None = None
        self.done, self._computed, self._computing, self._rung = 0, 0, 0.0, 0
        self._names = [reward_text(tree) for tree in spec.watch]
        self._terms: dict[int, list[float]] = {}
        self._plain = BASELINE if spec.controlled else 0
        self._paces: dict[int, Pace] = {}
        """By the evaluations of a candidate."""
        self._baseline_pace: Pace | None = None
        self.spent = Cost()

    def computed(self, outcomes: Sequence[Outcome], cost: Cost) -> None:
        """A batch was rendered by this process."""
        self._computed += len(outcomes)
        self._computing += cost.seconds

    def answered(self, cost: Cost, evaluations: int, candidates: int, is_baseline: bool = False) -> None:
        """A batch has its answers, rendered or recalled. Recalled ones count, so that a resumed run stops at the same
        place.
        """
        if is_baseline:
            self._baseline_pace = Pace(cost.seconds, cost.nfe, 1)
        else:
            earlier = self._paces.get(evaluations, Pace())
            self._paces[evaluations] = Pace(
                earlier.seconds + cost.seconds, earlier.nfe + cost.nfe, earlier.candidates + candidates
            )

    def seen(self, outcomes: Sequence[Outcome | Candidate], controlled: bool, rung: int = 0) -> None:
        """Outcomes of a rung arrived. Rewards of different rungs are not compared."""
        if rung > self._rung:
            self.best = None
            self._rung = rung
        for o in outcomes:
            if self._names:
                self._terms[o.index] = [o.terms.get(f"{n} (watched)", o.terms.get(n, math.nan)) for n in self._names]
            if o.index == BASELINE or (o.index == 0 and not controlled):
                self.baseline = o.reward
            if o.index != BASELINE:
                self.done += 1
                counts = o.reward == o.reward and rung >= self._rung
                if counts and (self.best is None or o.reward > self.best[0]):
                    self.best = (o.reward, o.index)

    def ranked(self, baseline: float | None, best: tuple[float, int] | None) -> None:
        """All totals were computed again."""
        self.baseline = baseline
        self.best = best

    def per_image(self) -> float:
        """Seconds of this process per image so far, 0 before the first."""
        return self._computing / self._computed if self._computed else 0.0

    def pace(self, evaluations: int, nfe: float) -> float:
        """Seconds per candidate of so many evaluations, steering included `nfe`; 0 before the first of any kind.

        Measured, or in proportion to those that were: to the fastest, because single pictures and decoding are slow.
        """
        if evaluations in self._paces:
            return self._paces[evaluations].each
        known = [*self._paces.values(), *([self._baseline_pace] if self._baseline_pace else [])]
        return min((pace.seconds / pace.nfe * nfe for pace in known if pace.nfe), default=0.0)

    def alone(self, nfe: float) -> float:
        """Seconds of one picture in a batch of its own, in proportion to the baseline; 0 where there is none."""
        single = self._baseline_pace
        return single.seconds / single.nfe * nfe if single is not None and single.nfe else 0.0

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
