"""Depth-first search over paths (Zhang et al. 2025, arXiv 2505.23614): a sample that scores badly goes back and tries
again.

It generalises search over paths, whose fixed rounds cost the same for easy and hard prompts: here a sample is noised
again only where its score asks for it.

From the paper, as summarised by others (its text was not available): score the clean prediction at some levels, noise
the sample again by a fixed amount, and retry while the score is not above a threshold and retries are left. Ours: a
retry starts from the best state so far; without a threshold the first score at that level is the threshold; the
defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import normals
from fairlead.core.model import renoise, stretch
from fairlead.core.steering import Steering, Step

CURVE = 100
"""Steps of the schedule that levels between the run's own are read from."""


@dataclass(frozen=True)
class DepthFirst(Steering):
    """Goes back and tries again where the score of the clean prediction is too low, each sample for itself.

    At the first level of the grid at or below each of `at` the prediction is scored. Retries that one level does
    not use are left for the next. The price is the most that can happen: steps + retries * (moves + 1) evaluations
    and len(at) + retries scores of one sample. What is not needed stays in the budget.

    Settings:
        at (numbers in (0, 1), default (0.5, 0.25)): flow times at which the prediction is scored.
        jump (number in (0, 1), default 0.25): how far a sample is noised again, in flow time.
        retries (whole number >= 0, default 4): retries over the whole trajectory; 0 switches the method off.
        threshold (number or None, default None): score that must be exceeded, on the scale of the reward; None is
            the first score at that level. Ours: None.
        moves (whole number >= 1 or None, default None): evaluations of the way back; None is the run's steps times
            `jump`.
    """

    at: tuple[float, ...] = (0.5, 0.25)
    jump: float = 0.25
    retries: int = 4
    threshold: float | None = None
    moves: int | None = None

    switched_off = {"retries": 0}
    adaptive = True
    """What it spends depends on scores; a dry run gives the most."""
    decides = "rows"

    def __post_init__(self) -> None:
        """Reject levels outside the trajectory and counts outside their range."""
        object.__setattr__(self, "at", tuple(self.at) if isinstance(self.at, list | tuple) else (self.at,))
        if not self.at:
            raise FairleadError("dfs.at is empty: must name at least one flow time in (0, 1).")
        for time in self.at:
            number_in_range("dfs.at", time, "(0, 1)")
        number_in_range("dfs.jump", self.jump, "(0, 1)")
        whole_number("dfs.retries", self.retries, least=0)
        number_in_range("dfs.threshold", self.threshold, optional=True)
        whole_number("dfs.moves", self.moves, least=1, optional=True)

    def __call__(self, step: Step) -> Step:
        """Retries at the first step whose level a check has been waiting for."""
        done: int = step.memory.setdefault("dfs_done", 0)
        due = sum(step.at.time <= t for t in self.at)
        if self.retries == 0 or due == done:
            return step
        step.memory["dfs_done"] = due
        return self._search(step.solved())

    def _search(self, step: Step) -> Step:
        """Step.x and step.x0 [B, C, h, w] of the best try of every sample."""
        assert step.x0 is not None
        left: Tensor = step.memory.setdefault("dfs_left", torch.full((len(step.x),), self.retries))
        x, x0 = step.x.clone(), step.x0.clone()
        value = self._score(step, x0, step.rows)
        goal = value if self.threshold is None else torch.full_like(value, self.threshold)
        # The way back, from `jump` above this level.
        curve = step.schedule(CURVE)
        high = min(step.at.time + self.jump, curve[0].time)
        grid = stretch(curve, high, step.at.time, self.moves or max(1, round(self.jump * step.steps)))
        step.memory.pop("previous", None)  # always, because a sample must not depend on what others find
        while len(rows := ((value <= goal) & (left > 0)).nonzero()[:, 0]):
            keys = tuple(step.keys[int(r)].fold("retry", int(left[r])) for r in rows)
            here = rows.to(x.device)
            # Noise the sample again, solve it back, and score its clean prediction.
            y = renoise(x[here], step.at, grid[0], normals(keys, *x.shape[1:]).to(x.device))
            y = step.solve(y, grid, rows)
            y0 = step.denoise(y, step.at, rows)
            new = self._score(step, y0, rows)
            # The better of the two is where the next retry starts.
            better = new > value[rows]
            chosen = rows[better].to(x.device)
            x[chosen], x0[chosen] = y[better.to(x.device)], y0[better.to(x.device)]
            value = value.index_put((rows[better],), new[better])
            left[rows] -= 1
        return replace(step, x=x, x0=x0)

    def _score(self, step: Step, x0: Tensor, rows: Tensor) -> Tensor:
        return step.score(x0, rows).cpu().nan_to_num(nan=-torch.inf)
