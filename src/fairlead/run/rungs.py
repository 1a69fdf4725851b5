"""How a candidate is drafted: what is seen of it before it is worth a full picture. Imports no torch.

    few(6)                         six evaluations on the finished picture's own levels, dense at the start
    even(8)                        eight evaluations on the model's own schedule of eight steps
    by(pocket-turbo,4)             four steps of a sibling from the same noise
    by(pocket-turbo,4,after=3)     three of the picture's own steps, then the sibling's levels below

A person writes `6`, `pocket-turbo` or `pocket-turbo@3` for the first, third and fourth; `auto` chooses. Runs that
fairlead 0.1 recorded hold a whole number, which means `even`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fairlead.core.check import must_be, whole_number
from fairlead.core.errors import FairleadError

L = TypeVar("L")
Effort = int | str | None
"""None: a full picture; a text: a rung; a number: that many even steps."""
AUTO_SHARE = 0.3
"""Share of a picture's steps that `auto` drafts with where the model names nothing better."""


@dataclass(frozen=True)
class Few:
    """Some evaluations on the picture's own levels: what counts is that the first moves are short."""

    steps: int

    def levels(self, schedule: Callable[[int], Sequence[L]], full: int) -> Sequence[L]:
        """The picture's levels that are kept."""
        own = schedule(full)
        return [own[index] for index in kept_levels(full, self.steps)]

    def __str__(self) -> str:
        return f"few({self.steps})"


@dataclass(frozen=True)
class Even:
    """Fewer steps of the model's own schedule."""

    steps: int

    def levels(self, schedule: Callable[[int], Sequence[L]], full: int) -> Sequence[L]:
        """The model's schedule of so many steps."""
        return schedule(self.steps)

    def __str__(self) -> str:
        return f"even({self.steps})"


@dataclass(frozen=True)
class By:
    """A sibling, perhaps after the first of the picture's own steps."""

    model: str
    own: int
    """Steps of the sibling's own schedule, of which those below the handover are taken."""
    after: int = 0
    """The picture's own steps before the sibling takes over."""

    @property
    def steps(self) -> int:
        """The most evaluations that a draft takes."""
        return self.own + self.after

    def __str__(self) -> str:
        return f"by({self.model},{self.own}{f',after={self.after}' if self.after else ''})"


Rung = Few | Even | By


def kept_levels(full: int, steps: int) -> list[int]:
    """Which of the levels 0..full a draft of `steps` evaluations visits: i_j = round(full (j / steps)^p), i_1 = 1.

    p = ln full / ln steps; indices rise strictly and end at the last level.
    """
    whole_number("steps", steps, 1, full)
    if steps == 1:
        return [0, full]
    power = math.log(full) / math.log(steps)
    out = [0]
    for j in range(1, steps + 1):
        wanted = round(full * (j / steps) ** power)
        out.append(min(max(wanted, out[-1] + 1), full - (steps - j)))
    return out


def read(effort: int | str) -> Rung:
    """A rung from its text, or from the number that older records hold."""
    if isinstance(effort, int):
        return Even(effort)
    if found := re.fullmatch(r"(few|even)\(\s*(\d+)\s*\)", effort):
        return (Few if found[1] == "few" else Even)(int(found[2]))
    if found := re.fullmatch(r"by\(\s*([^,()]+?)\s*,\s*(\d+)\s*(?:,\s*after\s*=\s*(\d+)\s*)?\)", effort):
        return By(found[1], int(found[2]), int(found[3] or 0))
    raise FairleadError(must_be("draft", effort, "few(N), even(N), by(MODEL,N) or by(MODEL,N,after=K)"))


def model_in(written: int | str | None) -> str | None:
    """The sibling's name in `NAME` or `NAME@STEPS`, as a person writes it; None in all other forms."""
    if not isinstance(written, str) or written == "auto" or written.isdigit() or "(" in written:
        return None
    return written.partition("@")[0]


def normal(written: int | str | None, steps: int, suggested: str | None = None, own: int = 4) -> str | None:
    """What a person wrote -> the rung's text, checked against the picture's `steps`.

    `suggested` is what `auto` means for the run's model, `own` the number of steps that a named sibling was made for.
    """
    if written is None:
        return None
    if isinstance(written, bool) or not isinstance(written, int | str):
        raise FairleadError(must_be("draft", written, "a number, MODEL, MODEL@STEPS or auto"))
    if written == "auto":
        if steps < 4:
            return None
        written = suggested or max(1, round(AUTO_SHARE * steps))
    if isinstance(written, str) and written.isdigit():
        written = int(written)
    if isinstance(written, int):
        rung: Rung = Few(whole_number("draft", written, 1, steps - 1))
    elif "(" in written:
        rung = read(written)
    else:
        name, _, after = written.partition("@")
        if after and not after.isdigit():
            raise FairleadError(must_be("draft", written, "a number, MODEL, MODEL@STEPS or auto"))
        rung = By(name, own, int(after or 0))
    first = rung.after if isinstance(rung, By) else rung.steps
    if not (0 if isinstance(rung, By) else 1) <= first < steps:
        raise FairleadError(f"draft is {written!r} but steps is {steps}: a draft needs fewer steps than the picture.")
    return str(rung)


def evaluations(effort: Effort, full: int) -> int:
    """The most evaluations of a candidate at this effort."""
    return full if effort is None else read(effort).steps


def sibling(effort: Effort) -> str | None:
    """The model that drafts in place of the run's own."""
    rung = None if effort is None else read(effort)
    return rung.model if isinstance(rung, By) else None
