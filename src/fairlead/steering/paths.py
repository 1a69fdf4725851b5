"""Search over paths (Ma et al. 2025, arXiv 2501.09732, section 3): re-noise almost finished samples and choose.

The paper: solve N samples down to sigma, then repeat: noise each one M ways up by delta_f, solve back by delta_b, score
the clean predictions, keep the best N of all. Defaults are those of its appendix. Ours: levels are flow times, so that
on FLUX they are the shifted sigmas the network sees and on other families levels of equal signal-to-noise ratio; the
number of evaluations of a backward move follows the model's own schedule; M is a setting, not derived from a budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.check import one_of, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import normals
from fairlead.core.model import level_at, moves, renoise, stretch
from fairlead.core.steering import Steering, Step

CURVE = 100
"""Steps of the schedule that levels between the run's own are read from."""


def levels(sigma: float, delta_f: float, delta_b: float, highest: float = 1.0) -> list[float]:
    """Where the rounds go, up and down in turn, ending at 0: 0.89, 0.08, 0.86, 0.05, 0.83, 0.02, 0.8, 0 by default.

    Rounded to 12 digits, so that no residue of a difference makes another round; `highest` caps the way up.
    """
    out, low = [], sigma
    while low > 0:
        up = min(round(low + delta_f, 12), highest)
        low = max(0.0, round(low + delta_f - delta_b, 12))
        out += [up, low if low > 1e-6 else 0.0]
        low = out[-1]
    return out


@dataclass(frozen=True)
class Paths(Steering):
    """Noises every sample of a group again in several ways per round; the best of all survive.

    N is the run's --group. Per group it costs N n0 + R N M L + (R - 1) N M evaluations (n0 steps down to sigma, R
    rounds, M children, L moves) and R N M scores. Predictions are scored, except in the last round, which ends at
    0. Children are made one of each sample at a time, which needs no more memory than sampling. Moves are of first
    order whatever the sampler is.

    Settings:
        sigma (number in (0, 1 - delta_f), default 0.11): flow time at which the rounds begin. Ma et al. 2025.
        delta_f (number in (0, delta_b), default 0.78): how far a sample is noised again, in flow time. Ma et al.
            2025.
        delta_b (number > delta_f, default 0.81): how far it is solved back, in flow time. Ma et al. 2025.
        children (whole number >= 0, default 4): ways in which each sample is continued, M; 0 switches the method
            off. A setting of ours; the paper derives it from a budget.
        moves (whole number >= 1 or None, default None): evaluations of one way down; None is the share of the run's
            steps that lie in its interval.
        keep (group or parent, default 'group'): `group` keeps the best of the whole group, `parent` the best child
            of each sample.
    """

    sigma: float = 0.11
    delta_f: float = 0.78
    delta_b: float = 0.81
    children: int = 4
    moves: int | None = None
    keep: str = "group"

    switched_off = {"children": 0}
    compares = True
    """Asks for the rewards of exactly those children that compete, so a reward that ranks pictures may be used."""
    decides = "rows"

    def __post_init__(self) -> None:
        """Reject levels with which the rounds would not end, or would keep nothing of the sample."""
        if not 0 < self.delta_f < self.delta_b:
            raise FairleadError(
                f"paths.delta_f is {self.delta_f!r} and paths.delta_b is {self.delta_b!r}: must be 0 "
                "< delta_f < delta_b, "
                "or no round comes closer to the end."
            )
        if not (self.sigma > 0 and self.sigma + self.delta_f < 1):
            raise FairleadError(
                f"paths.sigma is {self.sigma!r} and paths.delta_f is {self.delta_f!r}: must be sigma > 0 and "
                "sigma + delta_f < 1, or nothing of the sample is left."
            )
        whole_number("paths.children", self.children, least=0)
        whole_number("paths.moves", self.moves, least=1, optional=True)
        one_of("paths.keep", self.keep, ("group", "parent"))

    @property
    def couples(self) -> bool:
        """Samples of a group compete."""
        return self.children > 0 and self.keep == "group"

    def __call__(self, step: Step) -> Step:
        """The grid down to sigma, the rounds at the step that crosses it, nothing afterwards."""
        if self.children == 0 or step.to.time > self.sigma:
            return step
        if step.at.time <= self.sigma:
            raise FairleadError(
                f"paths.sigma is {self.sigma:g}, but the noisiest level of this model is "
                f"{step.at.time:g}: use a lower sigma."
            )
        start = level_at(step.schedule(CURVE), self.sigma)
        return replace(step, to=start, last=True).then(lambda x: self._rounds(step, x))

    def _rounds(self, step: Step, x: Tensor) -> Tensor:
        curve, rows = step.schedule(CURVE), step.rows
        low = self.sigma
        route = levels(self.sigma, self.delta_f, self.delta_b, highest=curve[0].time)
        for r, (high, end) in enumerate(zip(route[::2], route[1::2], strict=True)):
            # One round: delta_f up by noise, delta_b down by the solver.
            grid = stretch(curve, high, end, self.moves or moves(step.schedule(step.steps), high, end))
            children, values = [], []
            for m in range(self.children):
                # Noise every sample again, and solve it back.
                noise = normals(tuple(k.fold("paths", r, m) for k in step.keys), *x.shape[1:]).to(x.device)
                y = step.solve(renoise(x, level_at(curve, low), grid[0], noise), grid, rows)
                children.append(y)
                values.append(y if end == 0 else step.denoise(y, grid[-1], rows))
            # The best of all children of a set survive.
            x = self._choose(step, torch.stack(children, 1), torch.stack(values, 1))
            low = end
        return x

    def _choose(self, step: Step, children: Tensor, x0: Tensor) -> Tensor:
        """children, x0 [B, M, C, h, w] -> the survivors [B, C, h, w]: a group keeps as many as it has."""
        out, parents = children[:, 0].clone(), step.rows.clone()
        sets = step.groups if self.keep == "group" else step.rows
        for g in sorted(set(sets.tolist())):
            own = (sets == g).nonzero()[:, 0]
            rows, here = own.repeat_interleave(self.children), own.to(x0.device)
            value = step.score(x0[here].flatten(0, 1), rows).nan_to_num(nan=-torch.inf)
            best = value.sort(descending=True, stable=True).indices[: len(own)].to(x0.device)
            out[here] = children[here].flatten(0, 1)[best]
            parents[own] = rows[best.to(rows.device)]
        if "conditioning" in step.memory:
            step.memory["conditioning"] = step.conditioning.take(parents)
        return out
