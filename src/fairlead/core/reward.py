"""Rewards: one abstract method and an algebra of + and *; `core.algebra` has the other operations."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import RewardError
from fairlead.core.people import Ask


class Reward(ABC):
    """One file per reward: a name and `score`. Sums and products are rewards; a leaf used twice is scored once."""

    name: str = "reward"
    unit: ClassVar[str] = ""
    """What one point means, with its usual range."""
    licence: ClassVar[str] = ""
    """Terms of the weights or of the formula."""
    source: ClassVar[str] = ""
    """Where the formula and the weights come from: paper, section, repository."""
    needs_prompt: ClassVar[bool] = True
    differentiable: bool = False
    relative: bool = False
    """True if the total compares the pictures of a set (ranks): a picture alone then has no total, only terms."""
    asks: ClassVar[bool] = False
    """True if people give the term: `score` is NaN, the driver calls `decide` on recorded pictures, and the worker
    `choose` on previews where a steering asks for rewards on the way."""
    orders: bool = False
    """True if pictures that compete inside a steering are ordered together by `rank` instead of scored one by one."""
    level: float | None = None
    """Share of noise sigma/(alpha + sigma) whose clean prediction `compare` reads beside the finished picture."""

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B] float32, higher is better, NaN where undefined.

        +inf counts as undefined too; -inf is a number, the worst there is.
        """

    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        """Only for a reward with a `level`: finished and early pictures, both [B, 3, H, W] in [0, 1] -> [B]."""
        raise NotImplementedError(f"{self.name} has no level, so it compares nothing")

    def decide(self, rounds: Sequence[Sequence[str]], prompt: str, ask: Ask) -> list[list[float]]:
        """Only for a reward that `asks`: names of the pictures of every round -> their terms, or `Pending` from `ask`."""
        raise NotImplementedError(f"{self.name} asks nobody")

    def choose(self, names: Sequence[str], prompt: str, ask: Ask) -> list[float]:
        """Only for a reward that `asks`: names of previews that compete inside a steering -> their terms, or `Enough`."""
        raise NotImplementedError(f"{self.name} asks nobody")

    def rank(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Only for a reward that `orders`: all pictures that compete, [K, 3, H, W] in [0, 1], and their prompts -> [K]."""
        raise NotImplementedError(f"{self.name} orders nothing")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the NaN of the last call are NaN, one text per image, empty where there is a number or no reason."""
        return ()

    @property
    def optimised(self) -> Reward:
        """What a search or a steering may see of this reward: all of it, unless some parts only watch."""
        return self

    def leaves(self) -> list[Reward]:
        """The rewards that look at images, each once, in order of appearance."""
        return [self]

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Values [B] of the leaves by id -> total [B]."""
        return values[id(self)]

    def from_terms(self, terms: Sequence[Mapping[str, float]]) -> Tensor:
        """Recorded terms of n pictures -> totals [n], without seeing them again."""
        rows = zip(self.labels(), self.leaves(), strict=True)
        values = {id(leaf): torch.tensor([t.get(label, float("nan")) for t in terms]) for label, leaf in rows}
        return without_infinity(self.combine(values)).expand(len(terms))

    def copy(self) -> Self:
        """The same formula over copies of its leaves that share their weights: metering it leaves this one as it is."""
        return copy.deepcopy(self, {id(leaf): copy.copy(leaf) for leaf in self.leaves()})

    def meter(self, meter: Meter) -> None:
        """From now on a leaf of this reward cannot see an image without being charged for it."""
        for leaf in self.leaves():
            for word in ("score", "compare", "rank"):
                setattr(leaf, word, _metered(getattr(leaf, word), meter.charge))
            leaf.metered(meter.charge)

    def questions(self, rivals: int = 1) -> tuple[float, float]:
        """Questions to a server for one picture that competes as one of `rivals`: expected, and at most if all are answered."""
        return 0.0, 0.0

    def dollars(self, prompt: str, rivals: int = 1) -> float:
        """The most that one picture may cost in US dollars, said before anything is asked."""
        return 0.0

    def metered(self, charge: Callable[[Cost], None]) -> None:
        """Called once on a leaf that is metered, for rewards with costs of their own (money)."""
        return None

    def ready(self) -> None:
        """Called on every leaf before a run begins, not before a price: raises where no picture could be scored."""
        return None

    def labels(self) -> list[str]:
        """A name per leaf, numbered where two leaves share one."""
        seen: dict[str, int] = {}
        out = []
        for leaf in self.leaves():
            n = seen[leaf.name] = seen.get(leaf.name, 0) + 1
            out.append(leaf.name if n == 1 else f"{leaf.name}_{n}")
        return out

    def __call__(
        self, images: Tensor, prompts: Sequence[str], early: Mapping[float, Tensor] | None = None, rivals: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, 3, H, W] in [0, 1] -> total [B] and every leaf's [B] by name.

        `early` holds decoded clean predictions [B, 3, H, W] by `level`; without it a reward that compares is NaN.
        `rivals` says that these are all pictures of a choice inside a steering, which some rewards order as a whole.
        """
        leaves = self.leaves()
        images = as_float(images)
        values = {id(leaf): checked(leaf, images, prompts, early, rivals) for leaf in leaves}
        terms = {label: values[id(leaf)] for label, leaf in zip(self.labels(), leaves, strict=True)}
        return without_infinity(self.combine(values)), terms

    def __add__(self, other: Reward | float) -> Reward:
        return Sum((self, _lift(other)))

    def __radd__(self, other: float) -> Reward:
        return Sum((_lift(other), self))

    def __mul__(self, other: Reward | float) -> Reward:
        return Product((self, _lift(other)))

    def __rmul__(self, other: float) -> Reward:
        return Product((_lift(other), self))

    def __truediv__(self, other: float) -> Reward:
        return _node("/", self, other)

    def __gt__(self, other: float) -> Reward:
        return _node(">", self, other)

    def __ge__(self, other: float) -> Reward:
        return _node(">=", self, other)

    def __lt__(self, other: float) -> Reward:
        return _node("<", self, other)

    def __le__(self, other: float) -> Reward:
        return _node("<=", self, other)

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
        self.relative = any(p.relative for p in parts)

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


def _node(op: str, *parts: Reward | float) -> Reward:
    """An operation of `core.algebra`, which builds on this module."""
    from fairlead.core.algebra import make

    return make(op, tuple(_lift(part) for part in parts))


def _lift(value: Reward | float) -> Reward:
    return value if isinstance(value, Reward) else Constant(value)


def _metered(method: Callable[..., Tensor], charge: Callable[[Cost], None]) -> Callable[..., Tensor]:
    def charged(images: Tensor, *rest: Any) -> Tensor:
        charge(Cost(scores=len(images)))
        return method(images, *rest)

    return charged


TOLERANCE = 1e-3
"""How far a pixel may leave [0, 1]: rounding, not another range."""


def as_float(images: Tensor) -> Tensor:
    """Half and double precision pictures as float32, once for all leaves; anything else as it is."""
    return images.float() if isinstance(images, Tensor) and images.is_floating_point() else images


def check_images(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse what no reward can read. The range is never guessed from the values: a dark picture in [-1, 1] looks fine."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        what = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise RewardError(
            f"Images are {what}, rewards read float [B, 3, H, W] in [0, 1]: repeat a grey channel three times, blend "
            "transparency over a background, divide 8-bit values by 255."
        )
    if len(prompts) != len(images):
        raise RewardError(f"There are {len(prompts)} prompts for {len(images)} images: give one per image.")
    if images.numel():
        low, high = (float(v) for v in images.detach().aminmax())
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise RewardError(
                f"Pixels run from {low:.3g} to {high:.3g}, rewards read [0, 1]: map a decoder's [-1, 1] by x/2 + 0.5, "
                "divide 8-bit values by 255."
            )


def without_infinity(values: Tensor) -> Tensor:
    """Values [B] with NaN for +inf: a number that nothing can beat is a division by zero or an overflow, not a merit."""
    return values.masked_fill(values == math.inf, math.nan)


def checked(
    leaf: Reward,
    images: Tensor,
    prompts: Sequence[str],
    early: Mapping[float, Tensor] | None = None,
    rivals: bool = False,
) -> Tensor:
    """One leaf on one batch -> [B] float32, whatever it returned; wrong images and wrong answers are refused."""
    check_images(images, prompts)
    if len(images) == 0:
        return torch.zeros(0, device=images.device)
    compares = leaf.level is not None and early is not None and leaf.level in early
    version = images._version
    if compares:
        value = leaf.compare(images, early[leaf.level], prompts)  # type: ignore[index]
    else:
        value = leaf.rank(images, prompts) if rivals and leaf.orders else leaf.score(images, prompts)
    if images._version != version:
        raise RewardError(f"Reward {leaf.name!r} wrote to its images: let it work on images.clone().")
    if not isinstance(value, Tensor) or value.shape != (len(images),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise RewardError(
            f"Reward {leaf.name!r} returned {got} for {len(images)} images: return a tensor of shape ({len(images)},), "
            "one number per image."
        )
    return without_infinity(value.float())


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
        try:
            return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise RewardError(
                f"Reward {self.name!r} returned {type(value).__name__} {str(value)[:40]!r}: return {len(images)} numbers, "
                "one per image, higher is better."
            ) from None
