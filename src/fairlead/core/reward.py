"""Rewards: one abstract method and an algebra of + and *."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import RewardError


class Reward(ABC):
    """One file per reward: a name and `score`. Sums and products are rewards; a leaf used twice is scored once."""

    name: str = "reward"
    unit: ClassVar[str] = ""
    """What one point means, with its usual range."""
    licence: ClassVar[str] = ""
    """Terms of the weights or of the formula."""
    needs_prompt: ClassVar[bool] = True
    differentiable: bool = False

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B] float32, higher is better, NaN where undefined."""

    def leaves(self) -> list[Reward]:
        """The rewards that look at images, each once, in order of appearance."""
        return [self]

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Values [B] of the leaves by id -> total [B]."""
        return values[id(self)]

    def copy(self) -> Self:
        """The same formula over copies of its leaves that share their weights: metering it leaves this one as it is."""
        return copy.deepcopy(self, {id(leaf): copy.copy(leaf) for leaf in self.leaves()})

    def meter(self, meter: Meter) -> None:
        """From now on a leaf of this reward cannot see an image without being charged for it."""
        for leaf in self.leaves():
            score, charge = leaf.score, meter.charge

            def metered(
                images: Tensor, prompts: Sequence[str], score: object = score, charge: object = charge
            ) -> Tensor:
                charge(Cost(scores=len(images)))  # type: ignore[operator]
                return cast(Tensor, score(images, prompts))  # type: ignore[operator]

            leaf.score = metered  # type: ignore[method-assign]

    def labels(self) -> list[str]:
        """A name per leaf, numbered where two leaves share one."""
        seen: dict[str, int] = {}
        out = []
        for leaf in self.leaves():
            n = seen[leaf.name] = seen.get(leaf.name, 0) + 1
            out.append(leaf.name if n == 1 else f"{leaf.name}_{n}")
        return out

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, 3, H, W] in [0, 1] -> total [B] and every leaf's [B] by name."""
        leaves = self.leaves()
        values = {id(leaf): _checked(leaf, images, prompts) for leaf in leaves}
        terms = {label: values[id(leaf)] for label, leaf in zip(self.labels(), leaves, strict=True)}
        return self.combine(values), terms

    def __add__(self, other: Reward | float) -> Reward:
        return Sum((self, _lift(other)))

    def __radd__(self, other: float) -> Reward:
        return Sum((_lift(other), self))

    def __mul__(self, other: Reward | float) -> Reward:
        return Product((self, _lift(other)))

    def __rmul__(self, other: float) -> Reward:
        return Product((_lift(other), self))

    def __neg__(self) -> Reward:
        return Product((Constant(-1.0), self))

    def __sub__(self, other: Reward | float) -> Reward:
        return Sum((self, Product((Constant(-1.0), _lift(other)))))

    def __rsub__(self, other: float) -> Reward:
        return Sum((_lift(other), Product((Constant(-1.0), self))))


class Constant(Reward):
    """A number in a formula; sees no image."""

    def __init__(self, value: float) -> None:
        self.value = float(value)
        self.name = f"{value:g}"
        self.differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The number, [B]."""
        return torch.full((len(images),), self.value)

    def leaves(self) -> list[Reward]:
        """None."""
        return []

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """The number, scalar."""
        return torch.tensor(self.value)


class Sum(Reward):
    """a + b + ..."""

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        self.parts = parts
        self.name = " + ".join(p.name for p in parts)
        self.differentiable = all(p.differentiable for p in parts)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Total [B]."""
        return self(images, prompts)[0]

    def leaves(self) -> list[Reward]:
        """Leaves of all parts, each once."""
        return list({id(leaf): leaf for part in self.parts for leaf in part.leaves()}.values())

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Sum of the parts."""
        total = self.parts[0].combine(values)
        for part in self.parts[1:]:
            total = total + part.combine(values).to(total.device)
        return total


class Product(Sum):
    """a * b * ..."""

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        super().__init__(parts)
        self.name = " * ".join(f"({p.name})" if type(p) is Sum else p.name for p in parts)

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Product of the parts."""
        total = self.parts[0].combine(values)
        for part in self.parts[1:]:
            total = total * part.combine(values).to(total.device)
        return total


def _lift(value: Reward | float) -> Reward:
    return value if isinstance(value, Reward) else Constant(value)


def _checked(leaf: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    version = images._version
    value = leaf.score(images, prompts)
    if images._version != version:
        raise RewardError(f"Reward {leaf.name!r} wrote to its images: let it work on images.clone().")
    if not isinstance(value, Tensor) or value.shape != (len(images),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise RewardError(
            f"Reward {leaf.name!r} returned {got} for {len(images)} images: return a tensor of shape ({len(images)},), "
            "one number per image."
        )
    return value.float()


class Function(Reward):
    """Any function of images [B, 3, H, W] in [0, 1] and prompts that returns B numbers, as a reward."""

    def __init__(self, function: Callable[[Tensor, Sequence[str]], Any], differentiable: bool = False) -> None:
        if not callable(function):
            raise RewardError(
                f"Reward {function!r} is not callable: pass a name, a Reward, or a function of (images, prompts)."
            )
        self._function, self.differentiable = function, differentiable
        self.name = getattr(function, "__name__", type(function).__name__)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the function returns, as a tensor [B]."""
        value = self._function(images, prompts)
        return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
