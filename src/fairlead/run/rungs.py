"""How a candidate is seen before it is worth a full picture, from the cheapest way to the dearest. Imports no torch.

    few(6)                         six evaluations on the finished picture's own levels, dense at the start
    even(8)                        eight evaluations on the model's own schedule of eight steps
    by(pocket-turbo,4)             four steps of a sibling from the same noise
    by(pocket-turbo,4,after=3)     three of the picture's own steps, then the sibling's levels below
    peek(8)                        the picture's own first eight steps; its clean prediction is judged, its state kept
    few(4):12 > peek(8)            twelve of the first rung enter the second; without a number the planner decides

A person writes `6`, `pocket-turbo` or `pocket-turbo@3` for the first, third and fourth; `auto` chooses. Runs that
fairlead 0.1 recorded hold a whole number, which means `even`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fairlead.core.check import must_be, whole_number
from fairlead.core.errors import FairleadError

L = TypeVar("L")
Effort = int | str | None
"""None: a full picture; a text: a rung; a number: that many even steps."""
AUTO_SHARE = 0.3
"""Share of a picture's steps that `auto` drafts with where the model names nothing better."""
USUAL_STEPS = 4
"""Steps of a sibling that names none."""
FORMS = "few(N), even(N), peek(N), by(MODEL,N) or by(MODEL,N,after=K)"


@dataclass(frozen=True)
class Few:
    """Some evaluations on the picture's own levels: what counts is that the first moves are short."""

    steps: int

    def levels(self, schedule: Callable[[int], Sequence[L]], full: int) -> Sequence[L]:
        """The picture's levels that are kept."""
        own = schedule(full)
        return [own[index] for index in kept_levels(len(own) - 1, min(self.steps, len(own) - 1))]

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


@dataclass(frozen=True)
class Peek:
    """The picture's own first steps, whose last clean prediction is judged. The state goes on to the next rung."""

    upto: int
    """The level that is reached; all levels of the picture: the picture itself."""
    start: int = 0
    """The level of the captured state that it goes on from; 0 is the noise."""

    @property
    def steps(self) -> int:
        """Evaluations, without those that the captured state has paid."""
        return self.upto - self.start

    def __str__(self) -> str:
        return f"peek({self.upto}{f',from={self.start}' if self.start else ''})"


Rung = Few | Even | By | Peek


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
    """One rung from its text, or from the number that older records hold."""
    if isinstance(effort, int):
        return Even(effort)
    if found := re.fullmatch(r"(few|even)\(\s*(\d+)\s*\)", effort):
        return (Few if found[1] == "few" else Even)(int(found[2]))
    if found := re.fullmatch(r"peek\(\s*(\d+)\s*(?:,\s*from\s*=\s*(\d+)\s*)?\)", effort):
        return Peek(int(found[1]), int(found[2] or 0))
    if found := re.fullmatch(r"by\(\s*([^,()]+?)\s*,\s*(\d+)\s*(?:,\s*after\s*=\s*(\d+)\s*)?\)", effort):
        return By(found[1], int(found[2]), int(found[3] or 0))
    raise FairleadError(must_be("draft", effort, FORMS))


# chains


def chain(draft: int | str | None) -> list[tuple[int | str, int | None]]:
    """The rungs of a stored draft, each with the number of groups that advance from it; None: the planner decides."""
    if draft is None:
        return []
    if isinstance(draft, int):
        return [(draft, None)]
    if not isinstance(draft, str):
        raise FairleadError(must_be("draft", draft, FORMS))
    out: list[tuple[int | str, int | None]] = []
    for piece in draft.split(">"):
        found = re.fullmatch(r"(.*?)(?::\s*(\d+))?", piece.strip(), re.DOTALL)
        if found is None or not found[1].strip():
            raise FairleadError(f"draft is {draft!r}: a rung is missing beside a '>'. Write it, or leave out the '>'.")
        out.append((found[1].strip(), None if found[2] is None else int(found[2])))
    return out


def advancing(draft: int | str | None, finals: int) -> list[int | None]:
    """How many groups advance from every rung, `finals` from the last; None: as many as the planner advises."""
    numbers = [number for _, number in chain(draft)]
    return [*numbers[:-1], finals or numbers[-1]] if numbers else []


def efforts(draft: int | str | None, steps: int, exact: bool = False) -> list[Effort]:
    """How a candidate is rendered at every rung and at last, in order.

    What comes after a peek goes on from its state, unless `exact`: then it starts from the noise again.
    """
    out: list[Effort] = []
    reached: int | None = None
    for name, _ in chain(draft):
        rung = read(name)
        peek = rung if isinstance(rung, Peek) else None
        out.append(name if peek is None or reached is None else str(Peek(peek.upto, reached)))
        reached = None if peek is None or exact else peek.upto
    return [*out, None if reached is None else str(Peek(steps, reached))]


def from_noise(effort: Effort, full: int) -> Effort:
    """The same effort without a captured state to go on from."""
    rung = None if effort is None else read(effort)
    if not isinstance(rung, Peek) or not rung.start:
        return effort
    return None if rung.upto == full else str(Peek(rung.upto))


# what a person writes


DRAFT_SEARCH = "draft"
"""As a search, short for best_of with the draft that suits the model."""


def written(draft: int | str | None, chain: str | None, search: object, finals: int | None = None) -> int | str | None:
    """The chain of rungs as a person wrote it, by one of the three options that name it."""
    if draft is not None and chain is not None:
        raise FairleadError(f"draft is {draft!r} and rungs is {chain!r}: write the whole chain once.")
    chosen = chain if draft is None else draft
    chosen = "auto" if chosen is None and search == DRAFT_SEARCH else chosen
    if finals is not None and chosen is None:
        raise FairleadError(f"finals is {finals} but draft is not set: there are no drafts to render again.")
    return chosen


def models_in(written: int | str | None) -> list[str]:
    """The siblings named as `NAME` or `NAME@STEPS`, as a person writes them."""
    out = []
    for effort, _ in chain(written):
        if isinstance(effort, str) and effort != "auto" and not effort.isdigit() and "(" not in effort:
            out.append(effort.partition("@")[0])
    return out


def normal(
    written: int | str | None,
    steps: int,
    suggested: str | None = None,
    own: Mapping[str, int] | None = None,
) -> str | None:
    """What a person wrote -> the text of the chain, checked against the picture's `steps`.

    `suggested` is what `auto` means for the run's model, `own` the numbers of steps that siblings were made for.
    """
    if written is None:
        return None
    if isinstance(written, bool) or not isinstance(written, int | str):
        raise FairleadError(must_be("draft", written, "a number, MODEL, MODEL@STEPS, auto or a chain of them with >"))
    out = []
    for effort, advancing in chain(written):
        text = _normal(effort, steps, suggested, own or {})
        if text is None:
            continue
        if advancing is not None:
            whole_number(f"the number that advances from {text}", advancing, 1)
        out.append(text if advancing is None else f"{text}:{advancing}")
    return " > ".join(out) or None


def _normal(written: int | str, steps: int, suggested: str | None, own: Mapping[str, int]) -> str | None:
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
        if not name or (after and not after.isdigit()):
            raise FairleadError(must_be("draft", written, "a number, MODEL, MODEL@STEPS or auto"))
        rung = By(name, own.get(name, USUAL_STEPS), int(after or 0))
    _check(rung, written, steps)
    return str(rung)


def _check(rung: Rung, written: int | str, steps: int) -> None:
    if isinstance(rung, Peek) and rung.start:
        raise FairleadError(f"draft is {written!r}: leave out 'from', which fairlead sets when a rung goes on.")
    first = rung.after if isinstance(rung, By) else rung.steps
    if not (0 if isinstance(rung, By) else 1) <= first < steps:
        raise FairleadError(
            f"draft is {written!r} but steps is {steps}: a draft needs at least one step, and fewer steps than the "
            "picture."
        )


def check_stored(draft: str) -> None:
    """Raise where a stored text is no chain of rungs."""
    for effort, _ in chain(draft):
        read(effort)


# what others ask


def evaluations(effort: Effort, full: int) -> int:
    """The most evaluations of a candidate at this effort."""
    return full if effort is None else read(effort).steps


def siblings(draft: int | str | None) -> list[str]:
    """The models that draft in place of the run's own."""
    found = [read(effort) for effort, _ in chain(draft)]
    return [rung.model for rung in found if isinstance(rung, By)]


def peeks(draft: int | str | None) -> bool:
    """True if a rung judges an early prediction."""
    return any(isinstance(read(effort), Peek) for effort, _ in chain(draft))


def starts_from_a_state(effort: Effort) -> bool:
    """True if a candidate at this effort goes on from a captured state."""
    rung = None if effort is None else read(effort)
    return isinstance(rung, Peek) and rung.start > 0


def keeps_a_state(effort: Effort) -> bool:
    """True if a candidate at this effort leaves a state to go on from."""
    return effort is not None and isinstance(read(effort), Peek)
