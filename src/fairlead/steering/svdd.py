"""Value-based decoding (SVDD, Li et al. 2024, arXiv 2408.08252) and blockwise best-of (CoDe, Singh et al. 2025,
2502.00968).

Every `block` steps each sample is continued in `children` ways with fresh noise; the one whose clean prediction scores
best goes on. block=1 is SVDD with the posterior mean as its value; block=the number of steps would be best-of. The
prediction that a child was judged by is the one its next step needs, and is not bought again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import normals
from fairlead.core.model import Level
from fairlead.core.steering import Steering, Step

LEAST = -1e30
"""What a child without a score counts: less than any other."""


@dataclass(frozen=True)
class ValueDecoding(Steering):
    """Continues every sample in several ways over a block of steps and keeps the best one.

    Needs a sampler with noise. Costs children * steps evaluations of one sample, less what the last step does not
    need, and ceil(steps / block) * children decodes and scores. Blocks walk the model's own levels.

    Settings:
        children (whole number >= 1, default 4): ways in which a sample is continued; 1 switches the method off.
        block (whole number >= 1, default 1): steps between choices; 1 is SVDD, larger values are CoDe.
        temperature (number >= 0, default 0.0): 0 keeps the best child; above 0 a child is drawn by the softmax of
            score / temperature.
    """

    children: int = 4
    block: int = 1
    temperature: float = 0.0

    switched_off = {"children": 1}
    stochastic = True
    decides = "state"

    def __post_init__(self) -> None:
        """Reject settings outside their range."""
        whole_number("svdd.children", self.children, least=1)
        whole_number("svdd.block", self.block, least=1)
        number_in_range("svdd.temperature", self.temperature, "[0, inf)")

    def __call__(self, step: Step) -> Step:
        """One step along the chosen continuation, which is looked for where a block begins."""
        if self.children == 1:
            return step
        plan: list[tuple[Tensor, Tensor | None]] = step.memory.setdefault("svdd", [])
        known: Tensor | None = step.memory.get("svdd_x0")
        if known is not None:
            step = replace(step, x0=known)
        if not plan:
            step = step.solved()
            levels = self._levels(step)
            if len(levels) == 2 and levels[1].sigma == 0:
                return step  # no noise is left to choose from
            plan.extend(self._best(step, levels))
        after, step.memory["svdd_x0"] = plan.pop(0)
        return step.then(lambda x: after)

    def _levels(self, step: Step) -> list[Level]:
        """From here to the end of the block."""
        if self.block == 1:
            return [step.at, step.to]
        levels = list(step.schedule(step.steps))[step.index : step.index + self.block + 1]
        if levels[:2] != [step.at, step.to]:
            raise FairleadError(
                "svdd.block is above 1, but another steering changes the levels: use block=1, or only one of the two."
            )
        return levels

    def _best(self, step: Step, levels: list[Level]) -> list[tuple[Tensor, Tensor | None]]:
        """States [B, C, h, w] after every move of the best child, with their predictions where they are known."""
        b, m = len(step.x), self.children
        rows = step.rows.repeat_interleave(m)
        on = rows.to(step.x.device)
        assert step.x0 is not None
        x, x0 = step.x[on], step.x0[on]
        way: list[tuple[Tensor, Tensor | None]] = []
        for j, (at, to) in enumerate(pairwise(levels)):
            # Every child takes the step with noise of its own.
            keys = tuple(key.fold("svdd", j, i) for key in step.keys for i in range(m))
            noise = normals(keys, *x.shape[1:]).to(x.device)
            x = step.sampler(lambda y, level: step.denoise(y, level, rows), x, x0, at, to, noise, None)
            x0 = step.denoise(x, to, rows) if to.sigma > 0 else x
            way.append((x, x0 if to.sigma > 0 else None))
        # The value of a child is the reward of its clean prediction; a missing one never wins.
        value = step.score(x0, rows).cpu().double().view(b, m)
        value = torch.where(value.isfinite(), value, LEAST)
        # Temperature 0 takes the best child; otherwise one is drawn with weights exp(value / temperature).
        best = (self._drawn(step, value) if self.temperature else value.argmax(1)) + m * torch.arange(b)
        chosen = best.to(x.device)
        return [(y[chosen], None if y0 is None else y0[chosen]) for y, y0 in way]

    def _drawn(self, step: Step, value: Tensor) -> Tensor:
        weights = torch.softmax((value - value.max(1, keepdim=True).values) / self.temperature, 1)
        u = torch.stack([key.fold("svdd").uniform(1) for key in step.keys])
        return torch.searchsorted(weights.cumsum(1), u).clamp(max=self.children - 1)[:, 0]
