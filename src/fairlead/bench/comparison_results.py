"""The results of a comparison: every cell is read once, and methods are compared on the prompts that all have done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fairlead.bench import comparison, statistics
from fairlead.bench.plan import Cell, Plan
from fairlead.bench.statistics import Mean
from fairlead.core.cost import UNITS, Cost
from fairlead.run.judged import JUDGED
from fairlead.run.options import MODEL_OPTIONS
from fairlead.run.records import BASELINE_ROW, REWARD, RunStatus
from fairlead.run.store import DATABASE
from fairlead.run.view import Point, View

GRID = 48
"""Places at which curves are read."""


@dataclass(frozen=True)
class Done:
    """One cell that has an answer."""

    cell: Cell
    view: View
    points: tuple[Point, ...]
    wall: float | None
    peak_mb: float | None

    @property
    def key(self) -> tuple[str, int]:
        """What all methods share: prompt and seed."""
        return self.cell.prompt, self.cell.seed

    def final(self, metric: str) -> float:
        """Of the picture with the highest reward."""
        return _value(self.view.best, metric)

    def at(self, spent: float, axis: str, metric: str) -> float:
        """Of the best picture so far when `spent` had been spent; NaN before the first."""
        leader = None
        for point in self.points:
            if getattr(point.spent, axis) > spent * (1 + 1e-9):
                break
            leader = point.leader
        return _value(leader, metric)


def _value(candidate: Any, metric: str) -> float:
    if candidate is None:
        return math.nan
    return float(candidate.reward if metric == REWARD else candidate.terms.get(metric, math.nan))


@dataclass(frozen=True)
class Line:
    """What one method gives."""

    method: str
    values: dict[str, Mean]
    """By metric."""
    over: dict[str, Mean]
    """Paired difference to the reference, by metric."""
    wins: dict[str, Mean]
    """Share of prompts where it beats the reference, ties half, by metric."""
    diversity: dict[str, Mean]
    cost: Cost
    """Mean of a cell."""
    wall: float
    """Mean seconds of a cell from start to end, the search's own thinking included; NaN where runs were cut."""
    peak_mb: float
    """The most of any cell."""
    candidates: float
    cells: int


@dataclass
class ComparisonResults:
    """A plan and what of it is done."""

    plan: Plan
    out: Path
    done: dict[tuple[str, str, int], Done] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Method -> why it takes no part: one of its runs was refused, or ended before its first picture."""
    total: int = 0
    running: int = 0
    """Unfinished runs that some process works on."""

    @property
    def wanted(self) -> int:
        """How many runs the plan asks for, without those of methods that take no part."""
        return self.total - len(self.refused) * len(self.plan.prompts) * len(self.plan.seeds)

    @property
    def complete(self) -> bool:
        """True if nothing is left to be run."""
        return len(self.done) >= self.wanted

    @staticmethod
    def read(plan: Plan, out: Path) -> ComparisonResults:
        """Everything in the folder that this plan asks for."""
        cells = plan.cells()
        found = ComparisonResults(plan, out, total=len(cells))
        errors: dict[str, list[str]] = {}
        for cell in cells:
            folder = out / cell.folder
            note = comparison.note(folder)
            if "error" in note:
                if note.get("budget", dict(cell.spec.budget)) != dict(cell.spec.budget):
                    continue  # a refusal of another budget
                errors.setdefault(cell.method, []).append(str(note["error"]))
            elif (folder / DATABASE).is_file():
                view = View.read(folder).with_judged()
                if view.status != RunStatus.FINISHED or dict(view.spec.budget) != dict(cell.spec.budget):
                    continue
                if view.best is None:
                    why = f"its {plan.resource} ended before the first picture. Use more, or a smaller batch."
                    errors.setdefault(cell.method, []).append(why)
                    continue
                where = (cell.method, cell.prompt, cell.seed)
                found.done[where] = Done(cell, view, tuple(view.trace()), note.get("wall"), note.get("peak_mb"))
        for method, sentences in errors.items():
            every = sum(c.method == method for c in cells)
            more = "" if len(sentences) == every else f"{len(sentences)} of {every} runs failed, the first: "
            found.refused[method] = more + sentences[0]
        found.done = {k: d for k, d in found.done.items() if k[0] not in found.refused}
        left = [c for c in cells if c.method not in found.refused and (c.method, c.prompt, c.seed) not in found.done]
        found.running = sum(comparison.is_claimed(out, cell) for cell in left)
        return found

    @cached_property
    def methods(self) -> list[str]:
        """Those with at least one answer, in the plan's order."""
        answered = {method for method, *_ in self.done}
        return [m for m in self.plan.methods if m in answered]

    @cached_property
    def metrics(self) -> list[str]:
        """The optimised reward, then what was watched, then what people said."""
        names = {name: None for d in self.done.values() for c in [d.view.best] if c for name in c.terms}
        watched = [name for tree in self.plan.watch for name in names if name in (tree, f"{tree} (watched)")]
        return [REWARD, *dict.fromkeys(watched), *([JUDGED] if JUDGED in names else [])]

    @cached_property
    def shared(self) -> list[tuple[str, int]]:
        """(prompt, seed) that every answering method has done, in the plan's order."""
        every = [(p, s) for p, _ in self.plan.prompts for s in self.plan.seeds]
        return [k for k in every if self.methods and all((m, *k) in self.done for m in self.methods)]

    @cached_property
    def prompts(self) -> list[str]:
        """Prompts that are shared."""
        return list(dict.fromkeys(p for p, _ in self.shared))

    def over_prompts(self, value: Callable[[str, int], float]) -> list[float]:
        """value(prompt, seed) averaged over the shared seeds of each shared prompt, [P]; NaN if one of them is."""
        return [self._over_seeds(p, value) for p in self.prompts]

    def _over_seeds(self, prompt: str, value: Callable[[str, int], float]) -> float:
        return _average(value(prompt, s) for p, s in self.shared if p == prompt)

    def final(self, method: str, metric: str) -> Callable[[str, int], float]:
        """What a method's winner has for a prompt and seed; `BASELINE_ROW` is the plain sample."""
        if method == BASELINE_ROW:
            return lambda p, s: self.plain(p, s, metric)
        return lambda p, s: self.done[method, p, s].final(metric)

    def plain(self, prompt: str, seed: int, metric: str) -> float:
        """The plain sample, from whichever method rendered it as its first candidate."""
        found = self.baseline(prompt, seed)
        return math.nan if found is None else _value(found.view.baseline, metric)

    def baseline(self, prompt: str, seed: int) -> Done | None:
        """A run that holds the plain sample of that prompt and seed, the reference's first."""
        order = [self.plan.reference, *self.plan.methods]
        other = {"model", "steps", "sampler", "settings", *MODEL_OPTIONS}
        runs = (self.done.get((m, prompt, seed)) for m in order if not other & self.plan.methods[m].keys())
        return next((d for d in runs if d is not None and d.view.baseline is not None), None)

    @cached_property
    def lines(self) -> list[Line]:
        """Every answering method, best mean reward first, the plain sample last if there is one."""
        out = sorted((self._line(m) for m in self.methods), key=lambda line: -_first(line.values[REWARD].value))
        plain = self._line(BASELINE_ROW) if self.shared else None
        return [*out, *([plain] if plain and plain.values[REWARD].n else [])]

    def _line(self, method: str) -> Line:
        reference = self.plan.reference
        rows = [self.done[method, *k] for k in self.shared] if method != BASELINE_ROW else []
        values = {}
        over = {}
        won = {}
        for metric in self.metrics:
            mine = self.final(method, metric)
            values[metric] = statistics.mean(self.over_prompts(mine))
            if reference in self.methods and method != reference:
                theirs = self.final(reference, metric)
                over[metric] = statistics.mean(self.over_prompts(_difference(mine, theirs)))
                won[metric] = statistics.mean(self.over_prompts(_win(mine, theirs)))
        n = max(1, len(rows))
        total = sum((d.view.spent for d in rows), Cost())
        walls = [d.wall for d in rows]
        return Line(
            method,
            values,
            over,
            won,
            self._diversity(method),
            total * (1 / n),
            _average(math.nan if w is None else w for w in walls),
            max((d.peak_mb or math.nan for d in rows), default=math.nan),
            sum(len(d.view.candidates) for d in rows) / n,
            len(rows),
        )

    def picture(self, method: str, prompt: str, seed: int) -> Path | None:
        """The winner's file; for `BASELINE_ROW` the plain sample's."""
        d = self.baseline(prompt, seed) if method == BASELINE_ROW else self.done.get((method, prompt, seed))
        if d is None:
            return None
        chosen = d.view.baseline if method == BASELINE_ROW else d.view.best
        return None if chosen is None else d.view.picture(chosen)

    def _diversity(self, method: str) -> dict[str, Mean]:
        """Of the pictures of one prompt over the seeds: the mean over prompts."""
        if not self.plan.diversity or len(self.plan.seeds) < 2:
            return {}
        from fairlead.bench import diversity

        sets: list[list[Path]] = []
        for prompt in self.prompts:
            files = [self.picture(method, p, s) for p, s in self.shared if p == prompt]
            sets.append([f for f in files if f is not None])
        return {name: statistics.mean(diversity.of(name, sets, self.prompts)) for name in self.plan.diversity}

    def grid(self, axis: str) -> list[float]:
        """Places on an axis, to the budget if it is the resource held equal, else to the most that was spent."""
        ends = [getattr(d.view.spent, axis) for d in self.done.values()]
        most = self.plan.limit if axis == self.plan.resource else max(ends, default=0.0)
        return [most * (i + 1) / GRID for i in range(GRID)] if most > 0 else []

    def curve(self, method: str, axis: str, metric: str) -> list[tuple[float, Mean]]:
        """Best so far against what was spent, where every shared run has a picture by then."""
        grid = self.grid(axis)
        if not self.shared or not grid:
            return []

        def at(x: float) -> Callable[[str, int], float]:
            return lambda prompt, seed: self.done[method, prompt, seed].at(x, axis, metric)

        columns = [self.over_prompts(at(x)) for x in grid]
        rows = [list(row) for row in zip(*columns, strict=True)]
        band = statistics.band(rows)
        return [(x, mean) for x, mean in zip(grid, band, strict=True) if not math.isnan(mean.value)]

    def table(self) -> list[dict[str, Any]]:
        """One flat record per finished cell."""
        return [self._record(d) for d in self.done.values()]

    def _record(self, d: Done) -> dict[str, Any]:
        return {
            "method": d.cell.method,
            "prompt": d.cell.prompt,
            "tag": d.cell.tag,
            "seed": d.cell.seed,
            **{m: d.final(m) for m in self.metrics},
            **{f"{m}, {BASELINE_ROW}": self.plain(*d.key, m) for m in self.metrics},
            "candidates": len(d.view.candidates),
            **d.view.spent.as_dict(),
            "wall": d.wall,
            "peak_mb": d.peak_mb,
            "stopped": d.view.stopped,
            "run_seed": d.cell.spec.seed,
            "folder": d.cell.folder,
        }

    def curves(self) -> list[dict[str, Any]]:
        """Every point of every curve against the resource held equal."""
        axis = self.plan.resource
        return [
            {"method": m, "metric": x, axis: at, **asdict(v)}
            for m in self.methods
            for x in self.metrics
            for at, v in self.curve(m, axis, x)
        ]

    def summary(self) -> list[dict[str, Any]]:
        """One flat record per method and metric."""
        out = []
        for line in self.lines:
            for metric in self.metrics:
                row: dict[str, Any] = {"method": line.method, "metric": metric, **asdict(line.values[metric])}
                for word, found in (("over", line.over), ("wins", line.wins)):
                    m = found.get(metric, Mean(math.nan))
                    row |= {f"{word}_{self.plan.reference}": m.value, f"{word}_low": m.low, f"{word}_high": m.high}
                row |= {k: v for k, v in line.cost.as_dict().items() if k in UNITS}
                row |= {"wall": line.wall, "peak_mb": line.peak_mb, "candidates": line.candidates, "cells": line.cells}
                row |= {f"diversity {k}": v.value for k, v in line.diversity.items()}
                out.append(row)
        return out


def _difference(a: Callable[[str, int], float], b: Callable[[str, int], float]) -> Callable[[str, int], float]:
    return lambda p, s: a(p, s) - b(p, s)


def _win(a: Callable[[str, int], float], b: Callable[[str, int], float]) -> Callable[[str, int], float]:
    return lambda p, s: statistics.wins(a(p, s), b(p, s))


def _average(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every) if every else math.nan


def _first(value: float) -> float:
    return value if value == value else -math.inf
