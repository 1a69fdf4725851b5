"""Depth-first search over paths (Zhang et al. 2025, arXiv 2505.23614): a sample that scores badly goes back and
retries.

Chosen among the follow-ups because it generalises search over paths, whose fixed rounds cost the same for easy and
hard prompts: here re-noising happens only where the score asks for it. From the paper, as summarised by others (its
text was not at hand): score the clean prediction at some levels, re-noise by a fixed amount and retry while the score
is not above a threshold and the budget of retries lasts. Ours: retries start from the best state seen; left out, the
threshold is the first score at that level, so that a retry is looked for until one is better; the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

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
        """Refuse levels outside the trajectory and counts that are none."""
        object.__setattr__(self, "at", tuple(self.at) if isinstance(self.at, list | tuple) else (self.at,))
        if not self.at or not all(isinstance(t, int | float) and 0 < t < 1 for t in self.at):
            raise FairleadError(f"dfs.at is {self.at!r}: give levels between 0 and 1.")
        if not 0 < self.jump < 1:
            raise FairleadError(f"dfs.jump is {self.jump!r}: give a number between 0 and 1.")
        if not isinstance(self.retries, int) or self.retries < 0:
            raise FairleadError(f"dfs.retries is {self.retries!r}: give a whole number, 0 for none.")
        if self.threshold is not None and not isinstance(self.threshold, int | float):
            raise FairleadError(f"dfs.threshold is {self.threshold!r}: give a number on the scale of the reward.")
        if self.moves is not None and (not isinstance(self.moves, int) or self.moves < 1):
            raise FairleadError(f"dfs.moves is {self.moves!r}: give a whole number of at least 1, or leave it out.")

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
        curve, x, x0 = step.schedule(CURVE), step.x.clone(), step.x0.clone()
        value = self._score(step, x0, step.rows)
        goal = value if self.threshold is None else torch.full_like(value, self.threshold)
        high = min(step.at.time + self.jump, curve[0].time)
        grid = stretch(curve, high, step.at.time, self.moves or max(1, round(self.jump * step.steps)))
        step.memory.pop("previous", None)  # whatever the scores say: a sample must not depend on what others find
        while len(rows := ((value <= goal) & (left > 0)).nonzero()[:, 0]):
            keys = tuple(step.keys[int(r)].fold("retry", int(left[r])) for r in rows)
            here = rows.to(x.device)
            y = renoise(x[here], step.at, grid[0], normals(keys, *x.shape[1:]).to(x.device))
            y = step.solve(y, grid, rows)
            y0 = step.denoise(y, step.at, rows)
            new = self._score(step, y0, rows)
            better = new > value[rows]
            chosen = rows[better].to(x.device)
            x[chosen], x0[chosen] = y[better.to(x.device)], y0[better.to(x.device)]
            value = value.index_put((rows[better],), new[better])
            left[rows] -= 1
        return replace(step, x=x, x0=x0)

    def _score(self, step: Step, x0: Tensor, rows: Tensor) -> Tensor:
        return step.score(x0, rows).cpu().nan_to_num(nan=-torch.inf)
