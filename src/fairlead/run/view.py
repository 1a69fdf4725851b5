"""One run, read once: what report, summary, notebook and JSON all show. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.run import marks
from fairlead.run.final_judge import Judging, finished_pictures, read_judging
from fairlead.run.funnel import PLAN, PlannedRung, RungSummary, read_plan, rung_summaries
from fairlead.run.judged import JUDGED, Judged, Place
from fairlead.run.posterior import spread
from fairlead.run.records import BANK, BASELINE, Candidate, RunStatus
from fairlead.run.spec import Spec
from fairlead.run.store import Store


@dataclass(frozen=True)
class Point:
    """The state of a run after one more candidate."""

    candidate: Candidate
    spent: Cost
    """Everything spent up to and including this candidate. Seconds and dollars are those at the end of its batch,
    because they are not known earlier.
    """
    best: float
    """Best reward so far, NaN while every candidate has failed."""
    leader: Candidate | None = None
    """Whose it is."""


def _warnings(text: str) -> tuple[str, ...]:
    """The sentences of a record, or the text itself where it is no list."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text
    return tuple(str(w) for w in found) if isinstance(found, list) else (str(found),)


def _units(text: str) -> dict[str, str]:
    """The units of a record; none of an older one, or of one that is damaged."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = {}
    return {name: str(unit) for name, unit in found.items()} if isinstance(found, dict) else {}


@dataclass(frozen=True)
class View:
    """A run folder as plain values; the database is closed again."""

    folder: Path
    spec: Spec
    versions: dict[str, str]
    warnings: tuple[str, ...]
    units: Mapping[str, str]
    """What a point of every term means, and of the whole reward under the key ""."""
    created: str
    status: RunStatus
    stopped: str
    candidates: tuple[Candidate, ...]
    baseline: Candidate | None
    best: Candidate | None
    spent: Cost
    judging: Judging | None
    """How the final judge chose, where a run has one and has come so far."""
    own_baseline: bool
    """True if the baseline is a sample of its own and not candidate 0."""
    plan: tuple[PlannedRung, ...] = ()
    """What was decided about the rungs; empty in records that hold no plan."""
    marks: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Stars, rejects and notes that hold now: candidate -> kind -> value."""

    @staticmethod
    def read(folder: Path) -> View:
        """Everything the record holds."""
        store = Store.open(Path(folder))
        try:
            versions = store.versions
            warnings = _warnings(versions.pop("warnings", "[]"))
            units = _units(versions.pop("units", "{}"))
            plan = read_plan(versions.pop(PLAN, None))
            baseline = store.baseline()
            judging = read_judging(store)
            return View(
                folder=Path(folder),
                spec=store.spec,
                versions=versions,
                warnings=warnings,
                units=units,
                created=store.created,
                status=store.status,
                stopped=store.stopped,
                candidates=tuple(store.candidates()),
                baseline=baseline,
                best=store.best() if judging is None else judging.winner,
                judging=judging,
                spent=store.spent(),
                own_baseline=baseline is not None and baseline.index == BASELINE,
                plan=plan,
                marks=marks.held(store),
            )
        finally:
            store.close()

    @property
    def gain(self) -> float:
        """Best minus baseline; NaN where one of them is missing or failed."""
        return self.best.reward - self.baseline.reward if self.best and self.baseline else float("nan")

    @property
    def unit(self) -> str:
        """What a point of the reward means, as the reward declares it; else only which way is better."""
        return self.units.get("") or "higher is better"

    @property
    def rungs(self) -> list[RungSummary]:
        """How the rungs of the run went, the finished picture last; empty for a run without drafts."""
        return rung_summaries(self.spec, self.candidates, self.plan)

    @property
    def finished(self) -> list[Candidate]:
        """The finished pictures with a reward, the best first."""
        return finished_pictures(self.spec, self.candidates)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the rewards of the finished pictures; None with fewer than two."""
        rewards = [c.reward for c in self.finished if math.isfinite(c.reward)]
        return spread(rewards) if len(rewards) > 1 else None

    @property
    def failed(self) -> tuple[Candidate, ...]:
        """Candidates without a number."""
        return tuple(c for c in self.candidates if c.reward != c.reward)

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The highest rung first, then by reward, the earliest of equals first, the failed last."""
        return tuple(
            sorted(
                self.candidates,
                key=lambda c: (
                    -c.rung,
                    c.reward != c.reward,
                    -c.reward if c.reward == c.reward else 0.0,
                    c.index,
                ),
            )
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the reward terms in order of appearance."""
        every = [*([self.baseline] if self.baseline else []), *self.candidates]
        return tuple(dict.fromkeys(name for c in every for name in c.terms))

    @property
    def once(self) -> Cost:
        """What was spent before the first candidate: preparation, and a baseline of its own."""
        total = Cost()
        for candidate in self.candidates:
            total = total + candidate.cost
        if self.judging is not None:
            total = total + self.judging.cost
        return self.spent - total

    @cached_property
    def judged(self) -> Mapping[int, Place]:
        """What people said about each picture that they judged, by its candidate."""
        return {place.candidate: place for place in Judged.of(self.folder).ranking}

    def with_judged(self) -> View:
        """The same with a further term, what people said, for each picture that they judged."""
        if not self.judged:
            return self

        def extended(c: Candidate | None) -> Candidate | None:
            if c is None or c.index not in self.judged:
                return c
            return replace(c, terms={**c.terms, JUDGED: self.judged[c.index].strength})

        candidates = tuple(found for c in self.candidates if (found := extended(c)) is not None)
        return replace(self, candidates=candidates, baseline=extended(self.baseline), best=extended(self.best))

    def trace(self) -> list[Point]:
        """Best so far against what had been spent, in the order of rendering."""
        order = sorted(self.candidates, key=lambda c: (c.task, c.index))
        ends: dict[int, Cost] = {}
        total = self.once
        for candidate in order:
            total = total + candidate.cost
            ends[candidate.task] = total
        spent = self.once
        best = float("nan")
        leader = None
        out = list[Point]()
        rung = 0
        for candidate in order:
            spent = spent + candidate.cost
            end = ends[candidate.task]
            if candidate.rung > rung:  # rewards of different rungs do not compare
                best = float("nan")
                leader = None
                rung = candidate.rung
            counts = candidate.reward == candidate.reward and candidate.rung == rung
            if counts and not candidate.reward <= best:
                best = candidate.reward
                leader = candidate
            out.append(Point(candidate, replace(spent, seconds=end.seconds, dollars=end.dollars), best, leader))
        return out

    def picture(self, candidate: Candidate) -> Path:
        """The candidate's PNG."""
        return self.folder / candidate.image

    @property
    def bank(self) -> tuple[float, Path] | None:
        """Reward and picture of the best of a bank that a steering drew, where it was asked for."""
        path = self.folder / BANK
        if not path.is_file():
            return None
        from fairlead.run import png

        try:
            return float(png.read(path.read_bytes())[1]["reward"]), path
        except (*png.UNREADABLE, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise StoreError(f"{path} cannot be read ({error!s:.80}): restore it, or move it away.") from error

    def named_picture(self, name: str, candidate: Candidate) -> Path:
        """`best.png` or `baseline.png` where it was written, else the picture in the record."""
        path = self.folder / name
        return path if path.is_file() else self.picture(candidate)


def rows(view: View) -> Sequence[dict[str, Any]]:
    """One flat record per candidate, for a table."""
    return [_row(view, c) for c in view.candidates]


def _row(view: View, c: Candidate) -> dict[str, Any]:
    return {
        "candidate": c.index,
        "reward": c.reward,
        **{term: c.terms.get(term, float("nan")) for term in view.terms if term not in ("candidate", "reward")},
        "nfe": c.cost.nfe,
        "seconds": c.cost.seconds,
        "steps": c.steps,
        **({"rung": c.rung, "refines": c.refines} if view.spec.draft else {}),
        "batch": c.task,
        "image": c.image,
        "key": c.key,
    }
