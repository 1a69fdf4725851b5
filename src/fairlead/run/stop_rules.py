"""When a run ends before its budget: `--until CONDITION` and `--stop flat`. Imports no torch until a price is computed.

    clip_score >= 86                       the best finished picture has this in a recorded term
    reward > 0.9 and aesthetic >= 5        in the optimised reward, and in several terms at once
    flat                                   the next picture promises less than the last one of the budget would
    flat(price=0.05)                       the next picture promises less than 0.05 units of the reward

Drafts never satisfy a condition; only finished pictures do.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairlead.core.check import must_be
from fairlead.core.errors import FairleadError
from fairlead.run import posterior
from fairlead.run.formula import UNREADABLE, parse_reward, reward_text
from fairlead.run.records import REWARD, StopReason

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
SIGNS = {ast.GtE: ">=", ast.Gt: ">", ast.LtE: "<=", ast.Lt: "<"}
FLAT = re.compile(r"flat(?:\(\s*(?:price\s*=\s*([^()=,]+?)\s*)?\))?")
SEEN = 8
"""Pictures that must be known before the next one's gain is estimated."""


class Rated(Protocol):
    """A picture with its reward and terms."""

    @property
    def index(self) -> int:
        """Its place in the run."""
        ...

    @property
    def reward(self) -> float:
        """The optimised reward, NaN if it failed."""
        ...

    @property
    def terms(self) -> Mapping[str, float]:
        """What was recorded, by name."""
        ...


@dataclass(frozen=True)
class Condition:
    """`term sign bound`."""

    term: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.term} {self.sign} {_exact(self.bound)}"


def _exact(value: float) -> str:
    """The shortest text that is read back as the same number: 86, 0.05."""
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


# reading


def read_until(text: str) -> tuple[Condition, ...]:
    """The conditions of a text, all of which must hold; none of an empty one."""
    if not text:
        return ()
    try:
        node = ast.parse(text.strip(), mode="eval").body
        parts = node.values if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) else [node]
        return tuple(_condition(part) for part in parts)
    except UNREADABLE:
        example = "a condition like 'clip_score >= 86', or several joined with 'and'"
        raise FairleadError(must_be("until", text, example)) from None


def _condition(node: ast.expr) -> Condition:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise ValueError("no comparison")
    bound = float(ast.literal_eval(node.comparators[0]))
    if not math.isfinite(bound):
        raise ValueError("no finite number")
    name = node.left.id if isinstance(node.left, ast.Name) else reward_text(parse_reward(ast.unparse(node.left)))
    return Condition(name, SIGNS[type(node.ops[0])], bound)


def until_text(given: str | None) -> str:
    """What a person wrote, in the form that the record keeps."""
    if given is not None and not isinstance(given, str):
        raise FairleadError(must_be("until", given, "a condition like 'clip_score >= 86'"))
    return " and ".join(map(str, read_until(given or "")))


def read_price(text: str) -> float | None:
    """The price in `flat(price=P)`; None where the rule chooses it, or where there is no rule."""
    if not text:
        return None
    found = FLAT.fullmatch(text.strip())
    try:
        price = None if found is None or found[1] is None else float(found[1])
    except ValueError:
        found = price = None
    if found is None or (price is not None and not 0 < price < math.inf):
        raise FairleadError(must_be("stop", text, "flat, or flat(price=P) with a number P > 0"))
    return price


def stop_text(given: str | None) -> str:
    """What a person wrote, in the form that the record keeps."""
    if given is None or given == "":
        return ""
    if not isinstance(given, str):
        raise FairleadError(must_be("stop", given, "flat, or flat(price=P) with a number P > 0"))
    price = read_price(given)
    return "flat" if price is None else f"flat(price={_exact(price)})"


# deciding


def next_gain(rewards: Sequence[float]) -> float:
    """What one more independent picture is expected to add to the best of these n.

    The largest of n + 1 independent draws exceeds the largest of n by 1/(n+1) of the gap at the top, on average and
    whatever their distribution. The gap is estimated from the best sqrt(n): their mean distance from the next one. That
    is exact for exponential tails and too large for lighter ones. Where rewards tie at a ceiling, the gap is zero.
    """
    ordered = sorted(rewards, reverse=True)
    n = len(ordered)
    k = max(2, math.ceil(math.sqrt(n)))
    return (sum(ordered[:k]) / k - ordered[k]) / (n + 1)


def usual_price(rewards: Sequence[float], pictures: int) -> float:
    """What the last of `pictures` adds on average where rewards are normal with the spread of these."""
    return posterior.spread(rewards) * _last_gain(pictures)


def _last_gain(pictures: int) -> float:
    """e(n) - e(n-1), in standard deviations."""
    from fairlead.run.planner import expected_best

    return expected_best(pictures) - expected_best(pictures - 1)


class StopRules:
    """The rules of one run. They depend on what was recorded alone, so a resumed run ends where the whole one does."""

    def __init__(self, until: str, stop: str, terms: Mapping[str, str | None]) -> None:
        """`terms`: how a condition may name what is recorded -> the recorded term, None for the optimised reward."""
        self._conditions = read_until(until)
        self._until = until
        self._flat = bool(stop)
        self._price = read_price(stop)
        self._terms = terms
        self._best: Rated | None = None
        self._rewards: dict[int, float] = {}
        for condition in self._conditions:
            if condition.term not in terms:
                known = ", ".join(dict.fromkeys(terms))
                raise FairleadError(
                    f"until names {condition.term!r}, which this run does not record. It records {known}. Use one of "
                    f"them, or add --watch {condition.term!r}."
                )

    def satisfied(self, picture: Rated) -> bool:
        """Whether a finished picture satisfies every condition."""
        for condition in self._conditions:
            term = self._terms[condition.term]
            value = picture.reward if term is None else picture.terms.get(term, math.nan)
            if not OPERATORS[condition.sign](value, condition.bound):
                return False
        return True

    def reached(self, finished: Sequence[Rated]) -> str:
        """Why the run ends after these finished pictures; empty if it goes on."""
        for picture in finished:
            if math.isnan(picture.reward):
                continue
            self._rewards[picture.index] = picture.reward
            if self._best is None or picture.reward > self._best.reward:
                self._best = picture
        if self._conditions and self._best is not None and self.satisfied(self._best):
            return StopReason.until(self._until)
        return ""

    def flat(self, pictures: int | None) -> str:
        """Why no further independent picture is worth its price; empty if it is. `pictures`: the budget's."""
        rewards = list(self._rewards.values())
        if not self._flat or len(rewards) < SEEN:
            return ""
        gain = next_gain(rewards)
        price = self._price
        if price is None:
            price = usual_price(rewards, max(pictures or 0, len(rewards), 2))
        return StopReason.flat(gain, price) if gain <= price else ""

    def enough_finals(self, best: float, means: Sequence[float], sd: float, pictures: int | None) -> str:
        """Why no further draft is worth finishing, by the reservation rule of Weitzman (1979); empty if one is.

        `means` are the expected finals of the drafts that are left, `sd` the spread of a final around them.
        """
        if not self._flat or not means or not sd > 0 or math.isnan(best):
            return ""
        price = self._price
        if price is None:
            price = sd * _last_gain(max(pictures or 2, 2))
        if not posterior.stop(best, means, sd, price):
            return ""
        return StopReason.flat(sd * posterior.expected_excess((best - max(means)) / sd), price)


def recorded_terms(reward: Any, watched: Sequence[Any], labels: Sequence[str]) -> dict[str, str | None]:
    """How a condition may name what a run records: `reward` and the reward's formula are the total, then every term.

    `reward` and `watched` are trees as in a Spec.

    A watched formula that is also a term of the reward is recorded with a note, and is named without it.
    """
    names: dict[str, str | None] = {REWARD: None}
    names |= {label: label for label in labels}
    texts = [reward_text(tree) for tree in watched]
    names |= {text: f"{text} (watched)" for text in texts if f"{text} (watched)" in labels}
    names.setdefault(reward_text(reward), None)
    return names
