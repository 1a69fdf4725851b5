"""Small items that only the tests register: each exercises one promise of the protocols."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fairlead.core.key import Key, normals
from fairlead.core.search import Feedback, Proposal, Space
from fairlead.core.steering import Scene, Steering, Step


@dataclass(frozen=True)
class Toward(Steering):
    """Guides every clean prediction towards a bank rendered once per prompt; spends nothing per step."""

    scale: float = 0.3
    bank: Tensor | None = None

    def prepare(self, scene: Scene) -> Toward:
        keys = tuple(scene.key.fold("bank", i) for i in range(3))
        z = scene.render(keys, 2)
        best = z[int(scene.score(z).argmax())]
        return replace(self, bank=best)

    def __call__(self, step: Step) -> Step:
        if self.scale == 0:
            return step
        assert self.bank is not None
        return step.guide(lambda x, at, rows: self.scale * self.bank.expand_as(x))


@dataclass(frozen=True)
class Tries(Steering):
    """Takes the best of k noises at every step by the reward of a short look ahead; k = 1 is the identity."""

    k: int = 3
    ahead: int = 2

    def __call__(self, step: Step) -> Step:
        if self.k == 1 or step.to.sigma == 0 or not step.sampler.stochastic:
            return step.guide(lambda x, at, rows: 0.01 * torch.ones_like(x)) if self.k > 1 else step
        step = step.solved()
        b, shape = len(step.x), step.x.shape[1:]
        rows = step.rows.repeat_interleave(self.k)
        noise = torch.stack([key.fold(j).normal(*shape) for key in step.keys for j in range(self.k)])
        moved = step.advance(noise, rows)
        value = step.score(step.peek(moved, step.to, rows, self.ahead), rows).view(b, self.k)
        return step.with_noise(noise.view(b, self.k, *shape)[torch.arange(b), value.argmax(1)])


@dataclass(frozen=True)
class Spends(Steering):
    """k more evaluations a step, thrown away."""

    k: int = 2

    def __call__(self, step: Step) -> Step:
        for _ in range(self.k):
            step.denoise(step.x, step.at, step.rows)
        return step


@dataclass(frozen=True)
class Pull(Steering):
    """After every step, samples move towards the mean of their group: couples."""

    strength: float = 0.2

    couples = True

    def __call__(self, step: Step) -> Step:
        if self.strength == 0:
            return step

        def after(x: Tensor) -> Tensor:
            mean = torch.stack([x[step.groups == g].mean(0) for g in step.groups])
            return x + self.strength * (mean - x)

        return step.then(after)


@dataclass(frozen=True)
class Measured(Steering):
    """Keeps a number where only tensors are kept."""

    level: float = 0.0

    def prepare(self, scene: Scene) -> Measured:
        return replace(self, level=3.0)

    def __call__(self, step: Step) -> Step:
        return step


class Climb:
    """Steps up the gradient from one draw, two points at a time."""

    wants_gradient = True

    def __init__(self, space: Space, key: Key, rate: float = 0.5) -> None:
        self._rate, self._key, self._asked = rate, key, 0
        self._x = normals((key.fold("a"), key.fold("b")), space.dim)

    def ask(self, n: int) -> list[Proposal]:
        if n < 2:
            return []
        self._asked += 1
        return [Proposal(x.clone(), self._key.fold("go", self._asked, i)) for i, x in enumerate(self._x)]

    def tell(self, feedback: list[Feedback]) -> None:
        steps = [torch.zeros_like(f.proposal.x) if f.gradient is None else f.gradient for f in feedback]
        self._x = self._x + self._rate * torch.stack(steps).nan_to_num()


class Walk:
    """Moves from the best point so far by a random step: zero-order search in its smallest form."""

    wants_gradient = False

    def __init__(self, space: Space, key: Key, size: float = 0.5, width: int = 4) -> None:
        self._size, self._width, self._key, self._round = size, width, key, 0
        self._best = (float("-inf"), space.draw(key.fold("first")))

    def ask(self, n: int) -> list[Proposal]:
        if n < self._width:
            return []
        self._round += 1
        keys = [self._key.fold(self._round, i) for i in range(self._width)]
        return [Proposal(self._best[1] + self._size * k.normal(len(self._best[1])), k) for k in keys]

    def tell(self, feedback: list[Feedback]) -> None:
        for f in feedback:
            if f.reward > self._best[0]:
                self._best = (f.reward, f.proposal.x)


class Efforts:
    """Asks for cheap and expensive renderings in turn."""

    wants_gradient = False

    def __init__(self, space: Space, key: Key, cheap: int = 2, dear: int = 7) -> None:
        self._space, self._key, self._steps, self._n = space, key, (cheap, dear), 0

    def ask(self, n: int) -> list[Proposal]:
        out = []
        for _ in range(min(n, 4)):
            key = self._key.fold(self._n)
            out.append(Proposal(self._space.draw(key), key, self._steps[self._n // 2 % 2]))
            self._n += 1
        return out

    def tell(self, feedback: list[Feedback]) -> None:
        pass


class OtherPoints(Walk):
    """Walk with another first point: the same name after an edit."""

    def __init__(self, space: Space, key: Key, size: float = 0.5, width: int = 4) -> None:
        super().__init__(space, key.fold("edited"), size, width)


@cache
def pocket_ready() -> bool:
    """True once the embedded model is in the package."""
    if importlib.util.find_spec("fairlead.pocket.load") is None:
        return False
    from fairlead.pocket import load

    needed = (load.folder() / "model_index.json", load.clip_folder(), load.aesthetic_head(), load.detector_folder())
    return all(Path(path).exists() for path in needed)
