"""Formulas of rewards beyond + and *: quotients, minima, normalisers, conditions, ranks, and rewards that only watch.

Every node combines the values of the same leaves, so a leaf is evaluated once per image whatever the formula does
with it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.pictures import as_float, without_infinity
from fairlead.core.reward import Reward, Scorer, as_reward, checked, details


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


def value(number: float) -> Reward:
    """A number as a reward."""
    return Constant(number)


class Quotient(Sum):
    """a / number, for example to bring a rating of 1 to 10 near one."""

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        super().__init__(parts)
        if len(parts) != 2 or not isinstance(parts[1], Constant) or parts[1].value == 0:
            raise FairleadError(f"{parts[-1].name!r} cannot divide a reward: divide by a number other than zero.")
        self.name = f"({parts[0].name}) / {parts[1].name}"

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """a / number, [B]."""
        top = self.parts[0].combine(values)
        return top / self.parts[1].combine(values).to(top.device)


class Minimum(Sum):
    """min(a, b, ...): a picture is as good as its worst part. The gradient goes to the smallest part alone."""

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        super().__init__(parts)
        self.name = f"min({', '.join(p.name for p in parts)})"
        self.unit = parts[0].unit if len({p.unit for p in parts}) == 1 else ""

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Elementwise minimum [B]; NaN where a part is NaN."""
        total = self.parts[0].combine(values)
        for part in self.parts[1:]:
            total = torch.minimum(total, part.combine(values).to(total.device))
        return total


class ZScore(Sum):
    """(a - mean) / std against recorded baseline statistics, so that terms of different units weigh alike."""

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        super().__init__(parts[:1])
        mean = parts[1]
        std = parts[2]
        assert isinstance(mean, Constant)
        assert isinstance(std, Constant)
        if not std.value > 0:
            raise FairleadError(f"zscore.std is {std.value:g}: must be > 0, the spread of the baseline's scores.")
        self.mean = mean.value
        self.std = std.value
        self.name = f"zscore({parts[0].name})"
        self.unit = "standard deviations above the baseline's mean"

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """Standard deviations above the baseline's mean, [B]."""
        return (self.parts[0].combine(values) - self.mean) / self.std


COMPARISONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Condition(Sum):
    """a > number and its kin: 1 where it holds, 0 where it does not or a is NaN. Not differentiable."""

    def __init__(self, parts: tuple[Reward, ...], comparison: str) -> None:
        super().__init__(parts[:1])
        if not isinstance(parts[1], Constant):
            raise FairleadError(f"{parts[0].name} is compared with {parts[1].name!r}: compare a reward with a number.")
        self._holds = COMPARISONS[comparison]
        self._bound = parts[1].value
        self.name = f"({parts[0].name} {comparison} {parts[1].name})"
        self.unit = "1 where it holds, else 0"
        self.differentiable = False

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """0 or 1, [B]."""
        return self._holds(self.parts[0].combine(values), self._bound).float()


class Veto(Sum):
    """a where the condition holds, elsewhere NaN (which never ranks first) or the number `otherwise`."""

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        super().__init__(parts[:2])
        otherwise = parts[2] if len(parts) > 2 else Constant(math.nan)
        assert isinstance(otherwise, Constant)
        self._otherwise = otherwise.value
        self.name = f"veto({', '.join(p.name for p in parts)})"
        self.differentiable = parts[0].differentiable
        self.unit = parts[0].unit

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """[B]"""
        value, holds = (part.combine(values) for part in self.parts)
        return torch.where(holds.to(value.device) > 0, value, torch.full_like(value, self._otherwise))


def ranks(values: Tensor) -> Tensor:
    """Values [n] without NaN -> rank [n] from 1 (the highest) to n; equals share the mean of their ranks."""
    ordered = values.double().sort().values
    below = torch.searchsorted(ordered, values.double(), right=False)
    up_to = torch.searchsorted(ordered, values.double(), right=True)
    return len(values) + 0.5 - (below + up_to).double() / 2


class RankMean(Sum):
    """The verifier ensemble: unweighted mean of ranks (Ma et al. 2025, arXiv 2501.09732), as the share of others
    beaten.

    A number for a set, not for a picture: 1 is best under every part, 0 worst under every part, ties count half, and a
    lone picture has 0.5. With n pictures and mean rank r (1 is best) it is (n - r)/(n - 1), so the order is the
    paper's. Pictures with NaN in any part stay NaN and are left out of the ranking.

    In a run the set is every picture answered so far, the baseline included; raw terms are stored, a search is told the
    share at the time of telling, and the record is re-ranked as the set grows, so its last state compares all with all.
    """

    def __init__(self, parts: tuple[Reward, ...]) -> None:
        super().__init__(parts)
        self.name = f"rank_mean({', '.join(p.name for p in parts)})"
        self.differentiable, self.relative = False, True
        self.unit = "share of the other candidates beaten, 0 to 1"

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """[B] in [0, 1], relative to this batch."""
        columns = [part.combine(values).detach() for part in self.parts]
        table = torch.stack([c.to(columns[0].device) for c in columns])
        out = table.new_full(table.shape[1:], math.nan)
        known = ~table.isnan().any(0)
        n = int(known.sum())
        if n:
            mean = torch.stack([ranks(row[known]) for row in table]).mean(0)
            out[known] = ((n - mean) / (n - 1) if n > 1 else torch.full_like(mean, 0.5)).to(out.dtype)
        return out


class Watched(Sum):
    """A reward to optimise, beside others that are only looked at: the held-out guard against reward hacking."""

    def __init__(self, target: Reward, watched: Mapping[str, Reward]) -> None:
        super().__init__((target, *watched.values()))
        self.target = target
        self.watched = dict(watched)
        self.name = target.name
        self.unit = target.unit
        self.differentiable = target.differentiable
        self.relative = target.relative

    @property
    def optimised(self) -> Reward:
        """The reward without its watchers."""
        return self.target

    def labels(self) -> list[str]:
        """The target's, then one per watched formula."""
        return self.target.labels() + list(self.watched)

    def units(self) -> dict[str, str]:
        """The target's, then one per watched formula."""
        return self.target.units() | {label: reward.unit for label, reward in self.watched.items()}

    def combine(self, values: dict[int, Tensor]) -> Tensor:
        """The target's value: watchers cannot move it."""
        return self.target.combine(values)

    def __call__(
        self, images: Tensor, prompts: Sequence[str], early: Mapping[float, Tensor] | None = None, rivals: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The target's total and terms, and a term per watched formula; only the target's leaves keep a graph."""
        own = self.target.leaves()
        images = as_float(images)
        known = {id(leaf) for leaf in own}
        values = {id(leaf): checked(leaf, images, prompts, early, rivals) for leaf in own}
        with torch.no_grad():
            plain = images.detach()
            others = [leaf for leaf in self.leaves() if id(leaf) not in known]
            values.update({id(leaf): checked(leaf, plain, prompts, early) for leaf in others})
            terms = {k: values[id(leaf)] for k, leaf in zip(self.target.labels(), own, strict=True)}
            more = details(terms, own, len(images))
            for label, reward in self.watched.items():
                terms[label] = reward.combine(values)
        return without_infinity(self.combine(values)), terms | more


def minimum(*parts: Reward | Scorer) -> Reward:
    """A picture is as good as its worst part."""
    return Minimum(tuple(map(as_reward, parts)))


def rank_mean(*parts: Reward | Scorer) -> Reward:
    """Mean rank under several rewards, among the candidates of a run or the pictures of a call."""
    return RankMean(tuple(map(as_reward, parts)))


def zscore(part: Reward | Scorer, mean: float, std: float) -> Reward:
    """(part - mean) / std of a recorded baseline."""
    return ZScore((as_reward(part), Constant(mean), Constant(std)))


def veto(part: Reward | Scorer, condition: Reward, otherwise: float = math.nan) -> Reward:
    """The part where the condition holds, for example `veto(aesthetic, clip_score > 25)`; else a number, or none."""
    return Veto((as_reward(part), as_reward(condition), Constant(otherwise)))


def make(op: str, parts: tuple[Reward, ...]) -> Reward:
    """The node of a formula by its sign or name."""
    if op in COMPARISONS:
        return Condition(parts, op)
    nodes: dict[str, Callable[[tuple[Reward, ...]], Reward]] = {
        "+": Sum,
        "*": Product,
        "/": Quotient,
        "min": Minimum,
        "zscore": ZScore,
        "veto": Veto,
        "rank_mean": RankMean,
    }
    return nodes[op](parts)
