"""Trust-region noise search without a surrogate (TRS, Schweiger et al. 2026, arXiv 2603.14504).

Written from the published algorithm as documented by its authors' README and an independent port. Inferred or ours:
the count of warm-up draws as a setting (the paper: a fifth of the evaluations), independent uniform offsets instead
of a scrambled Sobol sequence (the same for the one or two points a region gets per round), a shared rollout key, and
`renorm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.check import number_in_range, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Feedback, Generations, Proposal, Space, best_first


@dataclass
class _Region:
    length: float
    wins: int = 0
    losses: int = 0


class TrustRegion(Generations):
    """Samples boxes around the best points so far; a box grows after successes and shrinks after failures.

    First come `warmup` draws from the prior, then rounds of `batch` points shared by the boxes. A point moves a
    random subset of the coordinates (each with one probability, drawn from [0.1, 0.9] per point) by a uniform
    offset in a cube of side `length`. After every round the boxes are put on the best points of the whole history.
    Accepted moves let the norm grow by 1 + p length^2 / 12. Without a fixed map from noise to picture the search is
    no better than random search.

    Settings:
        warmup (whole number >= 1, default 20): draws from the prior before the first box. Published: a fifth of the
            evaluations.
        batch (whole number >= 1, default 20): points in a round, over all boxes.
        regions (whole number >= 1, default 15): boxes; at most `batch` of them are used.
        length (number in [shortest, longest], default 0.8): first side of a box, in standard deviations of the
            noise.
        shortest (number > 0, default 0.05): smallest side of a box; a box that shrinks below it starts again at
            `length`.
        longest (number >= length, default 2.4): largest side of a box.
        factor (number > 1, default 1.5): a side is multiplied or divided by this.
        patience (whole number >= 1, default 3): successes or failures in a row after which a side changes.
        renorm (true or false, default False): a point keeps the norm of the centre of its box. Ours.
    """

    def __init__(
        self,
        space: Space,
        key: Key,
        warmup: int = 20,
        batch: int = 20,
        regions: int = 15,
        length: float = 0.8,
        shortest: float = 0.05,
        longest: float = 2.4,
        factor: float = 1.5,
        patience: int = 3,
        renorm: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("warmup", warmup), ("batch", batch), ("regions", regions), ("patience", patience)):
            whole_number(f"trust_region.{name}", value, least=1)
        if not 0 < shortest <= length <= longest:
            raise FairleadError(
                f"trust_region.shortest is {shortest!r}, length is {length!r} and longest is {longest!r}: "
                "must be 0 < shortest <= length <= longest."
            )
        self._factor: float = number_in_range("trust_region.factor", factor, "(1, inf]")
        self._space, self._key = space, key
        self._rollout = key.fold("candidate", 0)
        self._warmup, self._batch = warmup, batch
        self._start, self._range = length, (shortest, longest)
        self._patience = patience
        self._renorm = renorm
        self._regions = [_Region(length) for _ in range(min(regions, batch))]
        self._best: list[Feedback] = []
        self._round = 0

    def _share(self, j: int) -> int:
        return self._batch // len(self._regions) + (j < self._batch % len(self._regions))

    def _centre(self, j: int) -> Feedback:
        return self._best[j % len(self._best)]

    def propose(self) -> list[Proposal]:
        """Draws from the prior first, then every region's share of the batch in order of regions."""
        if not self._best:
            points = [self._space.draw(self._key.fold("candidate", i)) for i in range(self._warmup)]
        else:
            points = [
                self._inside(j, self._key.fold("round", self._round, j, i))
                for j in range(len(self._regions))
                for i in range(self._share(j))
            ]
        return [Proposal(x, self._rollout) for x in points]

    def _inside(self, j: int, key: Key) -> Tensor:
        centre = self._centre(j).proposal.x.double()
        # A random share of the coordinates moves, at least one.
        p = 0.1 + 0.8 * float(key.fold("p").uniform(1))
        mask = key.fold("mask").uniform(len(centre)) < p
        mask[int(float(key.fold("one").uniform(1)) * len(centre))] |= not bool(mask.any())
        # The moved coordinates are uniform in a box around the centre.
        y = centre + mask * self._regions[j].length * (key.fold("offset").uniform(len(centre)) - 0.5)
        if self._renorm:
            y = y * (centre.norm() / y.norm().clamp_min(torch.finfo(torch.float64).tiny))
        return y.float()

    def learn(self, generation: Sequence[Feedback]) -> None:
        """Resize every region by its own success, then put all of them on the best of everything."""
        if self._best:
            rest = list(generation)
            for j, region in enumerate(self._regions):
                own, rest = rest[: self._share(j)], rest[self._share(j) :]
                self._resize(region, max(f.value for f in own) > self._centre(j).value)
            self._round += 1
        self._best = best_first([*self._best, *generation])[: len(self._regions)]

    def _resize(self, region: _Region, success: bool) -> None:
        shortest, longest = self._range
        region.wins, region.losses = (region.wins + 1, 0) if success else (0, region.losses + 1)
        # Grow after `patience` successes in a row, shrink after as many failures, start again below `shortest`.
        if region.wins == self._patience:
            region.length, region.wins = min(region.length * self._factor, longest), 0
        elif region.losses == self._patience:
            tight = region.length <= shortest
            region.length = self._start if tight else max(region.length / self._factor, shortest)
            region.losses = 0
