"""Where a noisy candidate would end: the estimates that Demon scores, from the full ODE to one evaluation.

The full ODE by Heun is the published one (Yeh et al. 2025, arXiv 2410.05760); the others are ours.
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
SIGMA_MAX = 14.6488
"""The ratio at which the number of moves is counted from: that of Stable Diffusion."""


def curve_of(schedule: Callable[[int], Sequence[Level]]) -> Sequence[Level]:
    """Some inner levels of a model, which tell on which curve its levels lie."""
    return schedule(CURVE)[20:90:20]


def scoring_moves(sigma: float, m: int) -> int:
    """S(sigma): moves of the ODE from the ratio sigma to the end, m + 1 from the noisiest and fewer from later."""
    root, root_max, root_min = (math.pow(s, 1 / 7) for s in (sigma, SIGMA_MAX, LOW))
    share = m * (root - root_min) / (root_max - root_min)
    return max(1, math.ceil(share - 1e-9) + 1)


def look_ahead(
    step: Step, x: Tensor, rows: Tensor, estimate: str, look: int | None, sibling: ModelRef | None
) -> Tensor:
    """Candidates x [R, C, h, w] at the end of the step -> the clean samples that are scored, [R, C, h, w].

    `look` is how far to look: Heun moves less one for `ode` (20), evaluations for `few` (4) and `sibling` (1).
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
    sigmas = karras(ratio(to), LOW, scoring_moves(ratio(to), look or 20))
    return arrive(denoise, x, [to, *at_ratios(curve_of(step.schedule), sigmas[1:])])
