"""How much a request may spend: from its quality, or as it says, within the server's limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.app.serve.allowed import not_allowed
from fairlead.app.serve.asked import QUALITIES, Asked
from fairlead.app.serve.errors import Refused, invalid
from fairlead.core.errors import FairleadError
from fairlead.run.spec import parse_budget

LIMITS = {"nfe": 20_000.0, "seconds": 600.0, "dollars": 0.0}
SEVERAL = 4
"""Candidates per picture that is delivered, at least."""


@dataclass(frozen=True)
class Costs:
    """What the pictures of a request cost, from a dry run."""

    each: float
    """Denoiser evaluations of a picture."""
    before: float
    """Those before the first picture."""
    dollars: float | None
    """The most that a picture may cost at a server; None if nobody knows."""
    warnings: tuple[str, ...] = ()

    @staticmethod
    def read(answer: Mapping[str, Any]) -> Costs:
        """From the answer of the worker."""
        return Costs(answer["each"], answer["before"], answer["dollars"], tuple(answer["warnings"]))

    def nfe(self, pictures: int) -> float:
        """Denoiser evaluations of so many pictures."""
        return self.before + self.each * pictures

    def pictures(self, nfe: float) -> int:
        """How many pictures so many evaluations make."""
        return int((nfe - self.before) / self.each + 1e-9) if self.each > 0 else 1 << 20


def parse_limits(text: str) -> dict[str, float]:
    """`--max nfe=20000,seconds=600,dollars=0` -> limits; what is left out keeps its default."""
    found = dict(LIMITS)
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = item.partition("=")
        if name not in LIMITS:
            raise FairleadError(f"--max {item!r} is unknown. Its entries are {', '.join(LIMITS)}.")
        found[name] = 0.0 if name == "dollars" and value.strip() in ("0", "0.0") else parse_budget(item)[name]
    return found


def budget_of(asked: Asked, costs: Costs, most: Mapping[str, float]) -> dict[str, float]:
    """The budget of the run; refused where it cannot deliver the pictures or passes the server's limits."""
    if costs.dollars != 0 and most["dollars"] == 0:
        raise not_allowed(
            "fairlead.reward", f"{asked.reward!r:.60} asks a paid server, and this server spends nothing."
        )
    if asked.budget is None:
        wanted = max(QUALITIES[asked.quality], SEVERAL * asked.n)
        pictures = min(wanted, costs.pictures(most["nfe"]))
        found = {"nfe": costs.nfe(max(pictures, 1))}
    else:
        found = dict(asked.budget)
        for name, limit in most.items():
            if found.get(name, 0.0) > limit:
                message = f"budget.{name} is {found[name]:g}: this server allows at most {limit:g}."
                raise invalid("fairlead.budget", message)
        found.setdefault("nfe", most["nfe"])
    needed = costs.nfe(asked.n)
    if costs.pictures(min(found["nfe"], most["nfe"])) < asked.n:
        raise _too_small(asked.n, found["nfe"], needed, most["nfe"])
    if costs.dollars != 0:
        found["dollars"] = min(found.get("dollars", math.inf), most["dollars"])
    return found


def _too_small(n: int, nfe: float, needed: float, most: float) -> Refused:
    able = f"Set budget to nfe={needed:g} or more." if needed <= most else f"This server allows at most nfe={most:g}."
    message = f"nfe={nfe:g} does not afford {n} pictures, which take nfe={needed:g}. {able}"
    return Refused(400, "budget_too_small", message, "fairlead.budget")
