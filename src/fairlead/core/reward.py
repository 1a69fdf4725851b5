"""Rewards: a base class with one abstract method, and mixins for rewards that need more than finished pictures.

`core.algebra` holds the formulas that + and * and the other operators make.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.declared import check_declarations, public_names
from fairlead.core.errors import RewardError
from fairlead.core.people import Ask
from fairlead.core.pictures import as_float, check_images, without_infinity

Scorer = Callable[..., Any]
"""A function of pictures, with or without prompts, that `core.function.Function` can call."""


class Reward(ABC):
    """A number per picture, higher is better. A subclass needs a name and `score`.

    Sums and products of rewards are rewards; a leaf that occurs twice in a formula is scored once.
    """

    name: str = "reward"
    unit: str = ""
    """What one point means, with its range: the words beside the number on axes and tables. A reward whose settings
    change its scale sets it again in `__init__`.
    """
    licence: ClassVar[str] = ""
    """Terms of the weights or of the formula."""
    source: ClassVar[str] = ""
    """Where the formula and the weights come from: paper, section, repository."""
    needs_prompt: ClassVar[bool] = True
    """False if the score does not depend on the prompt."""
    differentiable: bool = False
    """True if a gradient flows from the score to the picture."""
    relative: bool = False
    """True if the total compares the pictures of a set (ranks): a picture alone then has no total, only terms."""

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B] float32, higher is better, NaN where undefined.

        +inf counts as undefined too; -inf is a number, the worst there is.
        """

    @property
    def optimised(self) -> Reward:
        """What a search or a steering may see of this reward: all of it, unless some parts are only watched."""
        return self

    def leaves(self) -> list[Reward]:
        """The rewards of the formula that look at images, each once, in order of appearance."""
        return [self]

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Values [B] of the leaves by id -> total [B]."""
        return values[id(self)]

    def labels(self) -> list[str]:
        """A name per leaf, numbered where two leaves have the same name."""
        times: dict[str, int] = {}
        out = []
        for leaf in self.leaves():
            n = times[leaf.name] = times.get(leaf.name, 0) + 1
            out.append(leaf.name if n == 1 else f"{leaf.name}_{n}")
        return out

    def units(self) -> dict[str, str]:
        """What a point of the total means, under the key "", and of every recorded term, under its label."""
        leaves = {label: leaf.unit for label, leaf in zip(self.labels(), self.leaves(), strict=True)}
        return {"": self.unit, **leaves}

    def from_terms(self, terms: Sequence[Mapping[str, float]]) -> Tensor:
        """Recorded terms of n pictures -> totals [n], without looking at the pictures again."""

        def column(label: str) -> Tensor:
            return torch.tensor([t.get(label, math.nan) for t in terms])

        return self.from_columns({label: column(label) for label in self.labels()}, len(terms))

    def from_columns(self, columns: Mapping[str, Tensor], n: int) -> Tensor:
        """The same from every label's terms [n]."""
        values = {id(leaf): columns[label] for label, leaf in zip(self.labels(), self.leaves(), strict=True)}
        return without_infinity(self.combine(values)).expand(n)

    def copy(self) -> Self:
        """The same formula with copies of its leaves that share their weights. Metering the copy leaves this one
        alone.
        """
        return copy.deepcopy(self, {id(leaf): copy.copy(leaf) for leaf in self.leaves()})

    def meter(self, meter: Meter) -> None:
        """From now on every picture that a leaf of this reward looks at is charged, before it looks."""
        for leaf in self.leaves():
            for method in _scoring_methods(leaf):
                setattr(leaf, method, _metered(getattr(leaf, method), meter.charge))
            if isinstance(leaf, FinalJudge):
                setattr(leaf, "prefer", _questioned(leaf.prefer, meter.charge))  # noqa: B010
            if isinstance(leaf, PaidReward):
                leaf.charge_to(meter.settle)

    def __call__(
        self, images: Tensor, prompts: Sequence[str], early: Mapping[float, Tensor] | None = None, rivals: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, 3, H, W] in [0, 1] -> total [B] and every leaf's [B] by name.

        Args:
            images: finished pictures.
            prompts: one per picture.
            early: decoded clean predictions [B, 3, H, W] by `level`; without it an `EarlyReward` is NaN.
            rivals: True if these are all pictures of one choice inside a steering; a `PairwiseReward` then ranks them.

        """
        leaves = self.leaves()
        images = as_float(images)
        values = {id(leaf): checked(leaf, images, prompts, early, rivals) for leaf in leaves}
        terms = {label: values[id(leaf)] for label, leaf in zip(self.labels(), leaves, strict=True)}
        return without_infinity(self.combine(values)), terms | details(terms, leaves, len(images))

    def __init_subclass__(cls, **words: Any) -> None:
        """Reject a misspelt flag or method, and flags that are mixins."""
        super().__init_subclass__(**words)
        bases = [base.__name__ for base in cls.__mro__]
        for name, mixin in MIXIN_OF.items():
            if name in vars(cls) and mixin not in bases:
                raise RewardError(f"{cls.__name__}.{name} has no effect in a plain Reward: extend {mixin} instead.")
        known = [name for base in cls.__mro__[1:] if issubclass(base, Reward) for name in public_names(base)]
        check_declarations(cls, list(dict.fromkeys(known)), {}, as_settings=known, own_names=True)

    def __add__(self, other: Operand) -> Reward:
        return _node("+", self, other)

    def __radd__(self, other: Scorer | float) -> Reward:
        return _node("+", other, self)

    def __mul__(self, other: Operand) -> Reward:
        return _node("*", self, other)

    def __rmul__(self, other: Scorer | float) -> Reward:
        return _node("*", other, self)

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
        return _node("*", -1.0, self)

    def __sub__(self, other: Operand) -> Reward:
        return _node("+", self, _node("*", -1.0, other))

    def __rsub__(self, other: Scorer | float) -> Reward:
        return _node("+", other, _node("*", -1.0, self))


Operand = Reward | Scorer | float
"""What may stand in a formula beside a reward."""

MIXIN_OF = {
    "level": "EarlyReward",
    "compare": "EarlyReward",
    "orders": "PairwiseReward",
    "rank": "PairwiseReward",
    "asks": "HumanReward",
    "decide": "HumanReward",
    "choose": "HumanReward",
    "looks": "FinalJudge",
    "repeats": "FinalJudge",
    "prefer": "FinalJudge",
    "dollars_per_look": "FinalJudge",
    "reasons": "PaidReward",
    "questions": "PaidReward",
    "dollars": "PaidReward",
    "charge_to": "PaidReward",
    "ready": "PaidReward",
    "details": "DetailedReward",
}
"""What only a mixin gives a meaning to."""


class EarlyReward(Reward):
    """A reward that compares the finished picture with its own early prediction."""

    level: float | None = None
    """Share of noise sigma/(alpha + sigma) whose clean prediction is read; None if none is read."""

    @abstractmethod
    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        """Finished and early pictures, both [B, 3, H, W] in [0, 1] -> [B]."""


class PairwiseReward(Reward):
    """A reward that ranks pictures which compete inside a steering together, instead of scoring one by one."""

    @abstractmethod
    def rank(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """All pictures that compete, [K, 3, H, W] in [0, 1], and their prompts -> [K]."""


class DetailedReward(Reward):
    """A reward that can tell which terms its number is made of. They are recorded, and no formula reads them."""

    @property
    def details(self) -> Mapping[str, Tensor]:
        """The terms [B] of the last call of `score`, by name."""
        return {}


class HumanReward(Reward):
    """A reward given by people: `score` is NaN, and questions are asked about recorded pictures."""

    @abstractmethod
    def decide(self, rounds: Sequence[Sequence[str]], prompt: str, ask: Ask) -> list[list[float]]:
        """Names of the pictures of every round -> their terms; `ask` raises `Pending` where an answer is missing."""

    @abstractmethod
    def choose(self, names: Sequence[str], prompt: str, ask: Ask) -> list[float]:
        """Names of the previews that compete inside a steering -> their terms; `ask` may raise `Enough`."""


class FinalJudge(Reward):
    """A reward that can also choose among the finished pictures of a run, by comparing them two at a time.

    A person (`HumanReward`) is asked through the run's record; any other judge has the method `prefer`.
    """

    looks: int = 2
    """Looks at a pair unless the user chooses: 1, 2 with the sides swapped, or 3."""
    repeats: bool = True
    """True if the same question gets the same answer again, so that a third look at a pair tells nothing."""

    def prefer(self, first: Tensor, second: Tensor, prompt: str) -> list[tuple[float, str]]:
        """Pairs of finished pictures [N, 3, H, W] in [0, 1] -> for each 1 if the first is better, 0 if the second is,
        1/2 for a tie, or NaN with the reason if the answer cannot be read. Every pair is asked once.
        """
        raise NotImplementedError(f"{self.name} is asked through the record of a run.")

    def dollars_per_look(self, prompt: str) -> float:
        """The most that one look at a pair may cost in US dollars."""
        return 0.0


class PaidReward(Reward):
    """A reward that asks a server: it may cost money and may fail to answer. Override what applies."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the NaN of the last call are NaN: one text per picture, empty where there is a number or no reason."""
        return ()

    def questions(self, rivals: int = 1) -> tuple[float, float]:
        """Questions per picture that competes as one of `rivals`: expected, and at most if all are answered."""
        return 0.0, 0.0

    def dollars(self, prompt: str, rivals: int = 1) -> float:
        """The most that one picture may cost in US dollars."""
        return 0.0

    def charge_to(self, charge: Callable[[Cost], None]) -> None:
        """Called once when the reward is metered: from now on call `charge` with dollars as they are spent.

        `charge` books them always, and raises `BudgetExceeded` afterwards if they were too many.
        """
        return None

    def ready(self) -> None:
        """Called before a run begins, not before a price: raises where no picture could be scored."""
        return None


def early_level(leaf: Reward) -> float | None:
    """The share of noise at which a leaf reads an early prediction; None if it reads none."""
    return leaf.level if isinstance(leaf, EarlyReward) else None


def reasons(leaf: Reward) -> tuple[str, ...]:
    """Why the NaN of a leaf's last call are NaN, as in `PaidReward.reasons`; empty for other rewards."""
    return leaf.reasons if isinstance(leaf, PaidReward) else ()


def details(labels: Iterable[str], leaves: Sequence[Reward], count: int) -> dict[str, Tensor]:
    """What leaves tell beside their number, for `count` pictures: columns [B] under "label.term"."""
    found = {}
    for label, leaf in zip(labels, leaves, strict=True):
        if isinstance(leaf, DetailedReward):
            found.update({f"{label}.{term}": v for term, v in leaf.details.items() if len(v) == count})
    return found


def _node(op: str, *parts: Operand) -> Reward:
    """A formula of `core.algebra`, which builds on this module and is therefore imported late."""
    from fairlead.core.algebra import make, value

    return make(op, tuple(value(part) if isinstance(part, int | float) else as_reward(part) for part in parts))


def as_reward(thing: Reward | Scorer) -> Reward:
    """A reward as it is, a function as a `core.function.Function`; anything else is refused."""
    from fairlead.core.function import Function

    return thing if isinstance(thing, Reward) else Function(thing)


def _scoring_methods(leaf: Reward) -> list[str]:
    """The methods of a leaf that look at pictures."""
    methods = ["score"]
    if isinstance(leaf, EarlyReward):
        methods.append("compare")
    if isinstance(leaf, PairwiseReward):
        methods.append("rank")
    return methods


def _metered(method: Callable[..., Tensor], charge: Callable[[Cost], None]) -> Callable[..., Tensor]:
    def charged(images: Tensor, *rest: Any) -> Tensor:
        charge(Cost(scores=len(images)))
        return method(images, *rest)

    return charged


def _questioned(
    prefer: Callable[[Tensor, Tensor, str], list[tuple[float, str]]], charge: Callable[[Cost], None]
) -> Callable[[Tensor, Tensor, str], list[tuple[float, str]]]:
    def charged(first: Tensor, second: Tensor, prompt: str) -> list[tuple[float, str]]:
        charge(Cost(questions=len(first)))
        return prefer(first, second, prompt)

    return charged


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
    level = early_level(leaf)
    version = images._version
    if isinstance(leaf, EarlyReward) and early is not None and level is not None and level in early:
        value = leaf.compare(images, early[level], prompts)
    elif isinstance(leaf, PairwiseReward) and rivals:
        value = leaf.rank(images, prompts)
    else:
        value = leaf.score(images, prompts)
    if images._version != version:
        raise RewardError(f"Reward {leaf.name!r} wrote to its images: let it work on images.clone().")
    if not isinstance(value, Tensor) or value.shape != (len(images),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise RewardError(
            f"Reward {leaf.name!r} returned {got} for {len(images)} images: return a tensor of shape ({len(images)},), "
            "one number per image."
        )
    return without_infinity(value.float())
