"""The rungs of a run as a table: what was planned, how many entered, advanced and failed, what it cost. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.run import rungs
from fairlead.run.posterior import correlation_interval, measured_correlation, spread
from fairlead.run.records import Candidate
from fairlead.run.spec import Spec

PICTURE = "picture"
"""The name of the last rung: finished pictures."""
PLAN = "rungs"
"""Name of the plan among the versions of a record."""
ASSUMED, CALIBRATED = "assumed", "calibrated"
"""Where a correlation that was planned for comes from."""


@dataclass(frozen=True)
class PlannedRung:
    """What was decided about a rung when the run started, or when its budget was changed."""

    name: str
    price: float
    """Of one candidate, in finished pictures."""
    correlation: float
    """With the finished picture, inside a prompt."""
    source: str
    """`calibrated` or `assumed`."""
    candidates: int | None
    """None: as many as the clock allows."""
    prior: float | None = None
    """The correlation before the finals of an earlier budget corrected it; None where nothing did."""

    @property
    def uncorrected(self) -> float:
        """The correlation that was assumed or calibrated."""
        return self.correlation if self.prior is None else self.prior


@dataclass(frozen=True)
class RungSummary:
    """How a rung went: one column of the funnel. The last rung is the finished picture."""

    name: str
    """As a person writes it, such as `few(6)`; `picture` for the last."""
    planned: int | None
    """Candidates that the plan foresaw; None where it is not known, as under a budget of seconds."""
    entered: int
    """Candidates that were rendered at this rung."""
    advanced: int
    """Those of them that the next rung rendered too; 0 for the last."""
    failed: int
    """Those of them whose reward is NaN."""
    price_in_pictures: float
    """What one candidate cost, as a share of a finished picture; planned where none was rendered yet."""
    spent: Cost
    correlation: float | None
    """With the finished picture: planned, corrected by the finals so far. None for the last."""
    interval: tuple[float, float] | None
    """About 95 %, from the finals alone; None with fewer than four."""
    source: str = ASSUMED
    """Where the planned correlation comes from: `calibrated` or `assumed`."""


def plan_text(plan: Sequence[PlannedRung]) -> str:
    """The plan as it is recorded."""
    return json.dumps([asdict(rung) for rung in plan])


def read_plan(text: str | None) -> tuple[PlannedRung, ...]:
    """The plan of a record; empty where none was recorded."""
    try:
        return tuple(_planned(entry) for entry in json.loads(text or "[]"))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"The plan of the record cannot be read ({error!s:.80}): restore the record.") from None


def _planned(entry: Any) -> PlannedRung:
    rung = PlannedRung(**entry)
    numbers = [rung.price, rung.correlation, rung.uncorrected, rung.candidates or 0]
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError(f"{numbers} must be numbers")
    if not isinstance(rung.name, str) or rung.source not in (ASSUMED, CALIBRATED):
        raise ValueError(f"{rung.name!r} and {rung.source!r} must be a rung and its source")
    return rung


def corrected(plan: Sequence[PlannedRung], rungs: Sequence[RungSummary]) -> tuple[PlannedRung, ...]:
    """The plan with the correlations that the finals so far show: what a larger budget is planned with."""
    out = []
    for planned, row in zip(plan, rungs, strict=False):
        r = planned.correlation if row.correlation is None else row.correlation
        out.append(replace(planned, correlation=r, prior=planned.uncorrected))
    return tuple(out)


def rung_summaries(spec: Spec, candidates: Sequence[Candidate], plan: Sequence[PlannedRung]) -> list[RungSummary]:
    """A row for every rung, the finished picture last; empty for a run without drafts."""
    if not spec.rungs:
        return []
    names = [*(str(rungs.read(rung)) for rung in spec.rungs), PICTURE]
    groups: list[list[Candidate]] = [[] for _ in names]
    for candidate in candidates:
        groups[candidate.rung].append(candidate)
    finals = groups[-1]
    origin = {c.index: c for c in candidates}
    out = []
    for rung, (name, own) in enumerate(zip(names, groups, strict=True)):
        planned = plan[rung] if rung < len(plan) else None
        rewards = [c.reward for c in own if not math.isnan(c.reward)]
        pairs = [(draft.reward, final.reward) for final in finals if (draft := _below(final, rung, origin)) is not None]
        pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
        last = name == PICTURE
        prior = {} if planned is None else {"prior": planned.uncorrected}
        out.append(
            RungSummary(
                name=name,
                planned=None if planned is None else planned.candidates,
                entered=len(own),
                advanced=0 if last else len({c.refines for c in groups[rung + 1]}),
                failed=len(own) - len(rewards),
                price_in_pictures=1.0 if last else _price(own, finals, planned),
                spent=sum((c.cost for c in own), Cost()),
                correlation=None if last else measured_correlation(rewards, pairs, **prior),
                interval=None if last or spread(rewards) == 0 else correlation_interval(rewards, pairs),
                source=ASSUMED if planned is None else planned.source,
            )
        )
    return out


def _below(candidate: Candidate, rung: int, candidates: dict[int, Candidate]) -> Candidate | None:
    """The candidate of a lower rung that this one comes from."""
    found: Candidate | None = candidate
    while found is not None and found.rung > rung:
        found = None if found.refines is None else candidates.get(found.refines)
    return found


def _price(own: Sequence[Candidate], finals: Sequence[Candidate], planned: PlannedRung | None) -> float:
    if planned is not None:
        return planned.price
    if not own or not finals:
        return math.nan
    draft = sum(c.cost.forwards for c in own) / len(own)
    full = sum(c.cost.forwards for c in finals) / len(finals)
    return draft / full if full else math.nan
