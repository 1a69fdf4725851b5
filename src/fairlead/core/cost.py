"""What a run costs, who may spend it, and where it is counted."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from fairlead.core.errors import FairleadError, unknown

UNITS = {
    "nfe": "denoiser evaluations",
    "forwards": "network rows",
    "backwards": "rows differentiated",
    "decodes": "images decoded",
    "scores": "images scored",
    "seconds": "seconds",
    "dollars": "US dollars",
    "questions": "questions to the final judge",
}
"""What each entry of a cost counts."""


@dataclass(frozen=True)
class Cost:
    """What was spent. A budget is a Cost too, with infinity where there is no limit."""

    nfe: float = 0
    """Denoiser evaluations of one sample; guidance counts once."""
    forwards: float = 0
    """Rows that went through the network; classifier-free guidance counts twice."""
    backwards: float = 0
    """Rows differentiated."""
    decodes: float = 0
    """Latents turned into images."""
    scores: float = 0
    """Images seen by leaf rewards."""
    seconds: float = 0.0
    """Wall-clock seconds of the worker, synchronised with the device once per batch."""
    dollars: float = 0.0
    """US dollars paid to servers that judge pictures. Like seconds they are not known before they are spent."""
    questions: float = 0
    """Pairs of finished pictures shown to the final judge of a run."""

    def _zip(self, other: Cost) -> Iterator[tuple[float, float]]:
        return ((getattr(self, f.name), getattr(other, f.name)) for f in fields(Cost))

    def __add__(self, other: Cost) -> Cost:
        return Cost(  # spelled out: a resumed run adds the costs of all its candidates
            self.nfe + other.nfe,
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.decodes + other.decodes,
            self.scores + other.scores,
            self.seconds + other.seconds,
            self.dollars + other.dollars,
            self.questions + other.questions,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(a - b for a, b in self._zip(other)))

    def __mul__(self, k: float) -> Cost:
        return Cost(*(getattr(self, f.name) * k for f in fields(Cost)))

    def fits(self, limit: Cost) -> bool:
        """True if no entry exceeds its limit (up to rounding of shared costs)."""
        return all(a <= b + 1e-6 for a, b in self._zip(limit))

    def over(self, limit: Cost) -> list[str]:
        """Names of the entries that exceed `limit`."""
        return [f.name for f, (a, b) in zip(fields(Cost), self._zip(limit), strict=True) if a > b + 1e-6]

    def limits(self) -> dict[str, float]:
        """The finite entries of a budget."""
        return {k: v for k, v in vars(self).items() if math.isfinite(v)}

    def as_dict(self) -> dict[str, float]:
        """Plain numbers; whole ones as int so that they read as counts."""
        return {
            k: int(v) if k not in ("seconds", "dollars") and float(v).is_integer() else v for k, v in vars(self).items()
        }

    @staticmethod
    def budget(limits: Mapping[str, float]) -> Cost:
        """A budget from its finite entries. Unknown names and numbers that are not positive are refused."""
        known = {f.name for f in fields(Cost)}
        for name, value in limits.items():
            if name not in known:
                raise unknown("budget entry", name, known)
            if not value > 0:
                raise FairleadError(f"Budget {name} is {value:g}: must be > 0.")
        return Cost(**{name: float(limits.get(name, math.inf)) for name in known})


INFINITE = Cost(*[math.inf] * len(fields(Cost)))


class BudgetExceeded(Exception):
    """Raised before the work, with what was wanted and what was left."""

    def __init__(self, wanted: Cost, left: Cost) -> None:
        names = wanted.over(left) or ["seconds"]
        said = ", ".join(f"{getattr(wanted, n):g} {n} wanted, {max(0.0, getattr(left, n)):g} left" for n in names)
        super().__init__(f"The grant does not cover this call: {said}.")
        self.wanted, self.left, self.names = wanted, left, names
        self.unanswered: Cost | None = None
        """As in `FairleadError`."""


class Unmetered(Exception):
    """A network, decoder or reward of a run was called outside any grant."""


class Meter:
    """One per worker. Hooks on the network, on decode and on every leaf reward charge it before they work."""

    def __init__(self) -> None:
        self._spent = Cost()
        self._limit: Cost | None = None
        self._before = Cost()
        self._since = 0.0
        self._is_apart = False
        self.apart_spent = Cost()
        """What was charged inside `apart`, with its seconds; part of no grant."""

    @property
    def spent(self) -> Cost:
        """Everything charged so far, with the seconds of closed grants."""
        return self._spent

    def paid_since(self, before: Cost) -> Cost:
        """Seconds and dollars alone: spent whether or not the work gave an answer."""
        spent = self._spent - before
        return Cost(seconds=spent.seconds, dollars=spent.dollars)

    @contextmanager
    def grant(self, limit: Cost) -> Iterator[None]:
        """The only state in which `charge` succeeds. Does not nest: a task has one grant."""
        if self._limit is not None:
            raise RuntimeError("grants do not nest: a task has one grant, opened by the worker")
        self._limit, self._before, self._since = limit, self._spent, time.perf_counter()
        try:
            yield
        finally:
            self._spent = self._spent + Cost(seconds=time.perf_counter() - self._since)
            self._limit = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While a person thinks, no seconds are spent."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - since

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Work for somebody who watches: counted in `apart_spent`, and no grant pays for it or for its seconds."""
        since = time.perf_counter()
        self._is_apart = True
        try:
            with self.paused():
                yield
        finally:
            self._is_apart = False
            self.apart_spent = self.apart_spent + Cost(seconds=time.perf_counter() - since)

    def charge(self, cost: Cost) -> None:
        """Raises `Unmetered` outside a grant and `BudgetExceeded` when the grant does not cover `cost`."""
        if self._is_apart:
            self.apart_spent = self.apart_spent + cost
            return
        limit = self._granted(cost)
        left = limit - (self._spent - self._before) - Cost(seconds=time.perf_counter() - self._since)
        if not cost.fits(left):
            raise BudgetExceeded(cost, left)
        self._spent = self._spent + cost

    def settle(self, cost: Cost) -> None:
        """Book what was spent already, whatever it is; then raise as `charge` does if the grant did not cover it."""
        limit = self._granted(cost)
        self._spent = self._spent + cost
        left = limit - (self._spent - self._before) - Cost(seconds=time.perf_counter() - self._since)
        if left.dollars < -1e-9:
            raise BudgetExceeded(Cost(dollars=cost.dollars), replace(left, dollars=left.dollars + cost.dollars))

    def _granted(self, cost: Cost) -> Cost:
        if self._limit is None:
            wanted = ", ".join(f"{v:g} {k}" for k, v in cost.as_dict().items() if v)
            raise Unmetered(f"{wanted} outside a grant: work of a run goes through the worker, which opens one.")
        return self._limit


class Ledger:
    """One per run, in the driver. A grant is reserved before dispatch and settled at what the meter saw."""

    def __init__(self, budget: Cost) -> None:
        self.budget, self.spent, self._reserved = budget, Cost(), Cost()

    @property
    def left(self) -> Cost:
        """What may still be reserved."""
        return self.budget - self.spent - self._reserved

    def affordable(self, unit: Cost, cap: int = 1 << 30) -> int:
        """How many times `unit` fits into what is left, at most `cap`."""
        left = self.left
        if left.seconds <= 0 or left.dollars <= 0:
            return 0
        room = [
            getattr(left, f.name) / getattr(unit, f.name)
            for f in fields(Cost)
            if f.name != "seconds" and getattr(unit, f.name) > 0 and math.isfinite(getattr(left, f.name))
        ]
        return max(0, min([cap, *(int(r + 1e-9) for r in room)]))

    def gone(self) -> list[str]:
        """What is used up of the entries that nobody reserves."""
        return ["dollars"] if self.left.dollars <= 0 < self.left.seconds else ["seconds"]

    def reserve(self, grant: Cost) -> None:
        """Set `grant` aside, or raise `BudgetExceeded`. Not seconds and dollars: workers spend them side by side."""
        if not grant.fits(self.left):
            raise BudgetExceeded(grant, self.left)
        self._reserved = self._reserved + replace(grant, seconds=0.0, dollars=0.0)

    def settle(self, grant: Cost, actual: Cost) -> None:
        """Give the reservation back and book what was really spent."""
        self._reserved, self.spent = self._reserved - replace(grant, seconds=0.0, dollars=0.0), self.spent + actual
