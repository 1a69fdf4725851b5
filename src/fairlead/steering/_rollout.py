"""Where a noisy candidate would end: the estimates that demon judges by, from the full ODE to one evaluation.

The full ODE by Heun is the published one; the others are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from fairlead.core.model import Level, stretch
from fairlead.core.sde import LOW, arrive, at_ratios, karras, ratio
from fairlead.core.sibling import ModelRef
from fairlead.core.steering import Step

ESTIMATES = ("ode", "few", "clean", "sibling")
CURVE = 100
"""Steps of the schedule that levels between the run's own are read from."""


def inner(schedule: Callable[[int], Sequence[Level]]) -> Sequence[Level]:
    """Enough of a model's curve to know it by."""
    return schedule(CURVE)[20:90:20]


def scoring_moves(high: float, most: int) -> int:
    """Moves of the ODE from ratio `high` to the end: `most` + 1 from the noisiest, fewer from later."""
    way = [math.pow(s, 1 / 7) for s in (high, 14.6488, LOW)]
    return max(1, math.ceil(most * (way[0] - way[2]) / (way[1] - way[2]) - 1e-9) + 1)


def look_ahead(
    step: Step, x: Tensor, rows: Tensor, estimate: str, look: int | None, sibling: ModelRef | None
) -> Tensor:
    """Candidates x [R, C, h, w] at the end of the step -> the clean samples they are judged by, [R, C, h, w].

    `look` is how far: most Heun moves but one for `ode` (20), evaluations for `few` (4) and `sibling` (1).
    """
    to = step.to

    def denoise(y: Tensor, at: Level) -> Tensor:
        return step.denoise(y, at, rows)

    if estimate == "clean":
        return denoise(x, to)
    if estimate == "sibling":
        return step.by(sibling).peek(x, to, rows, look or 1)
    if estimate == "few":
        return arrive(denoise, x, stretch(step.schedule(CURVE), to.time, 0.0, look or 4), heun=False)
    if ratio(to) <= LOW * (1 + 1e-9):
        return x / to.alpha
    way = karras(ratio(to), LOW, scoring_moves(ratio(to), look or 20))
    return arrive(denoise, x, [to, *at_ratios(inner(step.schedule), way[1:])])
