"""When a picture of the pocket world is right: written rules over what the judge found.

:func:`correct` decides, :func:`share` says how much of what was asked is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import world
from world import Request, Thing

THRESHOLD = 0.3
"""Objects with a higher score count, as in GenEval."""


class Found(Protocol):
    """One detected object."""

    @property
    def name(self) -> str:
        """Class name."""

    @property
    def colour(self) -> str | None:
        """One of the ten colours, or none of them."""

    @property
    def score(self) -> float:
        """Confidence, 0..1."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """``(x0, y0, x1, y1)`` in pixels."""

    @property
    def size(self) -> str | None:
        """``small``, ``big`` or the usual."""


def _fits(one: Found, thing: Thing) -> bool:
    """Whether colour and size are as named."""
    coloured = thing.colour is None or one.colour == thing.colour
    return coloured and (thing.size is None or one.size == thing.size)


def _taken(request: Request, found: Sequence[Found]) -> list[list[Found]]:
    """For each thing the objects of its class that count for it, at most its number, the most confident first.

    Where two things have the same class ("a red dog and a blue dog"), each takes first what has its colour and size.
    """
    rest = sorted(found, key=lambda one: -one.score)
    names = [thing.name for thing in request.things]
    groups: list[list[Found]] = []
    for thing in request.things:
        mine = [one for one in rest if one.name == thing.name]
        if names.count(thing.name) > 1:
            mine.sort(key=lambda one: not _fits(one, thing))
        mine = mine[: thing.count]
        rest = [one for one in rest if not any(one is other for other in mine)]
        groups.append(mine)
    return groups


def _whole(one: Found) -> tuple[int, int, int, int]:
    """The box in whole pixels."""
    x0, y0, x1, y1 = (round(value) for value in one.box)
    return x0, y0, x1, y1


def _lies(relation: str, a: Found, b: Found) -> bool:
    return world.lies(relation, _whole(a), _whole(b))


def _conditions(
    request: Request, found: Sequence[Found], counting: Sequence[Found], background: str | None
) -> tuple[list[list[Found]], list[bool]]:
    """The objects taken for each thing, and every condition that holds or not."""
    groups = _taken(request, found)
    holds: list[bool] = []
    for thing, mine in zip(request.things, groups, strict=True):
        if thing.colour is not None:
            holds.append(bool(mine) and all(one.colour == thing.colour for one in mine))
        if thing.size is not None:
            holds.append(bool(mine) and all(one.size == thing.size for one in mine))
    if request.relation is not None:
        first, second = groups[:2]
        pairs = [(a, b) for a in first for b in second]
        holds.append(bool(pairs) and all(_lies(request.relation, a, b) for a, b in pairs))
    if request.background is not None:
        holds.append(background == request.background)
    taken = [one for mine in groups for one in mine]
    holds.append(all(any(one is other for other in taken) for one in counting))
    return groups, holds


def correct(request: Request, found: Sequence[Found], background: str | None) -> bool:
    """Whether a picture shows what ``request`` asks for and nothing else.

    ``found`` are the objects that the judge found, ``background`` the named colour behind them or ``None``.  Objects
    with a score of at most `THRESHOLD` are passed over.  All of these must hold:

    1. Number: of each class exactly as many objects as asked for.
    2. Colour and size: all objects of a class have the colour and the size that are named; unnamed ones are free.
    3. Relation: every object of the first thing lies so from every object of the second, by GenEval's rule (the offset
       of the centres, less a tenth of the summed sides, is more than half of the distance in that direction).
    4. Background: it has the named colour; an unnamed one is free.
    5. Nothing else is there.
    """
    counting = [one for one in found if one.score > THRESHOLD]
    groups, holds = _conditions(request, counting, counting, background)
    complete = all(len(mine) == thing.count for mine, thing in zip(groups, request.things, strict=True))
    return complete and all(holds)


def share(request: Request, found: Sequence[Found], background: str | None) -> float:
    """Mean over the conditions of a request, 0 to 1; the same conditions as those of `correct`.

    Every object asked for enters by the score of the one found for it, also below `THRESHOLD`, and by 0 if there is
    none.  Each named colour, size, relation and background and "nothing else is there" enter as 0 or 1.
    """
    counting = [one for one in found if one.score > THRESHOLD]
    groups, holds = _conditions(request, found, counting, background)
    scores: list[float] = []
    for mine, thing in zip(groups, request.things, strict=True):
        scores += [one.score for one in mine] + [0.0] * (thing.count - len(mine))
    values = scores + [float(value) for value in holds]
    return sum(values) / len(values)
