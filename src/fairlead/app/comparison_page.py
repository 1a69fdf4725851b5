"""The page of a comparison: who gains what at one budget, and the pictures side by side. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.app import intervals
from fairlead.app.chart import Chart, svg
from fairlead.app.chart import Line as Curve
from fairlead.app.page import is_ours, page, picture
from fairlead.app.words import command, count, duration, number, shorter, shown
from fairlead.core.cost import UNITS
from fairlead.core.errors import StoreError
from fairlead.run.records import BASELINE_ROW, REWARD
from fairlead.run.store import write_atomically

if TYPE_CHECKING:
    from fairlead.bench.comparison_results import ComparisonResults, Line
    from fairlead.bench.statistics import Mean

NAME = "comparison.html"
ROWS = 24
"""Prompts with pictures at most."""
THUMB = 256
COLOURS = (
    "#7d8893",
    "#0b8ea3",
    "#d9772b",
    "#7a5cc4",
    "#3c9a5f",
    "#cc4466",
    "#9a7b1f",
    "#4a78d0",
    "#b0559b",
    "#4f9e91",
    "#a05a3c",
    "#6b8e23",
    "#8c7ae6",
    "#c23616",
    "#2f8fdd",
    "#b8860b",
)
"""The reference has the first."""


def write_comparison_page(results: ComparisonResults, source: str, out: Path | None = None) -> Path:
    """Write the page into the comparison's folder, however far it is. `source` is the plan as it was typed."""
    path = out or results.out / NAME
    if path.exists() and not is_ours(path):
        raise StoreError(f"{path} exists and is not a fairlead page: move it away.")
    title = f"{results.plan.name}: {len(results.plan.methods)} methods · fairlead"
    write_atomically(path, page("comparison.html", title, **_values(results, source)))
    return path


def _values(s: ComparisonResults, source: str) -> dict[str, Any]:
    """What the template shows. Without one prompt that every method has finished there are no `lines`."""
    plan = s.plan
    values: dict[str, Any] = {
        "facts": [
            str(plan.common.get("model", "pocket")),
            f"{len(plan.methods)} methods",
            f"{len(plan.prompts)} prompts",
            f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}",
            f"{count(plan.limit)} {plan.resource} each",
        ],
        "heading": f"{len(s.methods)} methods at {count(plan.limit)} {unit(plan.resource)}",
        "progress": _progress(s),
        "about": plan.about,
        "refused": s.refused,
        "commands": _commands(s, source),
        "lines": s.lines if s.shared else [],
    }
    if not s.shared:
        return values
    return values | {
        "colour": lambda method: _colour(s, method),
        "interval": interval,
        "prompts": s.prompts,
        "reference": plan.reference,
        "sentences": sentences(s),
        "forests": _forests(s),
        "curves": _curves(s),
        "league": _league(s),
        "pictures": _pictures(s),
        "cost": _costs(s),
        "methods": _methods(s),
        "settings": _settings(s),
    }


def _progress(s: ComparisonResults) -> dict[str, Any] | None:
    """How many runs are done, while some are not."""
    if s.complete:
        return None
    return {"words": unfinished(s), "share": len(s.done) / max(1, s.wanted)}


def unfinished(s: ComparisonResults) -> str:
    """The sentence that stands before results which may still change."""
    running = f" and {s.running} still running" if s.running else ""
    return (
        f"Not final: {len(s.done)} of {s.wanted} runs are done{running}. Numbers are over the {len(s.prompts)} "
        f"prompt{'' if len(s.prompts) == 1 else 's'} that every method has finished."
    )


def unit(resource: str) -> str:
    """`denoiser evaluations (NFE)`."""
    return UNITS[resource] + (" (NFE)" if resource == "nfe" else "")


def label(s: ComparisonResults, metric: str) -> str:
    """A metric as people call it."""
    return s.plan.reward if metric == REWARD else metric


def point(s: ComparisonResults, metric: str) -> str:
    """What a point of a metric means; empty if no run has recorded it."""
    units = next(iter(s.done.values())).view.units if s.done else {}
    return units.get("" if metric == REWARD else metric, "")


def _colour(s: ComparisonResults, method: str) -> str:
    if method == BASELINE_ROW:
        return "var(--faint)"
    names = [s.plan.reference, *(m for m in s.plan.methods if m != s.plan.reference)]
    return COLOURS[names.index(method) % len(COLOURS)]


def interval(m: Mean, sign: bool = False) -> str:
    """`0.31 to 0.44`, empty where there is none."""
    return "" if math.isnan(m.low) else f"{number(m.low, sign)} to {number(m.high, sign)}"


def sentences(s: ComparisonResults) -> list[str]:
    """What the numbers say, no more."""
    out = []
    reference = s.plan.reference
    for metric in s.metrics:
        compared = [x for x in s.lines if metric in x.over and x.method != BASELINE_ROW]
        if not compared:
            continue
        first = max(compared, key=lambda x: _finite(x.over[metric].value))
        d = first.over[metric]
        w = first.wins[metric]
        told = f"By {label(s, metric)}{', which is optimised' if metric == REWARD else ', which no method sees'}: "
        if d.value > 0:
            told += f"{first.method} stands highest over {reference}, {number(d.value, sign=True)}"
            told += f" (95 %: {interval(d, True)})" if interval(d) else ""
            told += f", better on {w.value:.0%} of {w.n} prompts" + ("." if d.sure else "; no difference is shown.")
        else:
            told += f"no method stands above {reference}."
        names: dict[int, list[str]] = {}
        for x in compared:
            names.setdefault(x.over[metric].sure, []).append(x.method)
        if more := [m for m in names.get(1, []) if m != first.method]:
            told += f" Above {reference} too: {', '.join(more)}."
        if alike := [m for m in names.get(0, []) if m != first.method or d.value <= 0]:
            told += f" No difference to {reference} is shown for {', '.join(alike)}."
        if behind := names.get(-1):
            told += f" Below {reference}: {', '.join(behind)}."
        out.append(told)
    for method, why in s.refused.items():
        out.append(f"{method} took no part: {why}")
    return out


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _forests(s: ComparisonResults) -> list[dict[str, Any]]:
    """One figure a metric: how far every method stands from the reference."""
    figures = []
    for metric in s.metrics:
        rows = [_difference(s, x, metric) for x in s.lines if metric in x.over]
        if not rows:
            continue
        name = label(s, metric)
        title = f"{name} over {s.plan.reference}, paired over {len(s.prompts)} prompts"
        chart = intervals.svg(title, f"difference to {s.plan.reference}, 95 % interval over prompts", rows)
        more = ", optimised" if metric == REWARD else ", not optimised"
        more += f"; {point(s, metric)}" if point(s, metric) else ""
        figures.append({"title": name, "more": more, "chart": chart})
    return figures


def _difference(s: ComparisonResults, line: Line, metric: str) -> intervals.Row:
    over = line.over[metric]
    note = f"{number(over.value, sign=True)}  wins {line.wins[metric].value:.0%}"
    return intervals.Row(line.method, over.value, over.low, over.high, note, _colour(s, line.method))


def _curves(s: ComparisonResults) -> list[dict[str, Any]]:
    """Every metric against the resource that is held equal, and the reward against another one."""
    resource = s.plan.resource
    other = next(axis for axis in ("seconds", "nfe") if axis != resource)
    wanted = [(resource, metric) for metric in s.metrics] + [(other, REWARD)]
    curves = [_curve(s, axis, metric) for axis, metric in wanted]
    return [curve for curve in curves if curve]


def _curve(s: ComparisonResults, axis: str, metric: str) -> dict[str, Any] | None:
    lines = []
    for method in (x.method for x in s.lines if x.method != BASELINE_ROW):
        if points := s.curve(method, axis, metric):
            end = min(points[-1][0], s.plan.limit) if axis == s.plan.resource else points[-1][0]
            steps = [(at, mean.value) for at, mean in points]
            lines.append(Curve(method, steps, end, _colour(s, method), _band(points)))
    if not lines:
        return None
    key = [{"name": line.label, "colour": line.colour, "highlights": True} for line in lines]
    baseline = s.lines[-1].values[metric].value if s.lines[-1].method == BASELINE_ROW else math.nan
    if not math.isnan(baseline):
        key.append({"name": BASELINE_ROW, "colour": None, "highlights": False})
    name = label(s, metric)
    title = f"{name} of the best so far against {axis}"
    words = shorter(point(s, metric))
    chart = Chart(title, unit(axis), shorter(name), lines, y_unit=words, baseline=baseline, labelled=False)
    leader = " of the leader by reward" if metric != REWARD else ""
    return {"title": name, "more": f"{leader}, against {unit(axis)}", "chart": svg(chart), "key": key}


def _band(points: Sequence[tuple[float, Mean]]) -> list[tuple[float, float, float]]:
    """The interval of every step from its start to the start of the next."""
    band = []
    for (start, mean), (end, _) in zip(points, [*points[1:], points[-1]], strict=True):
        band += [(start, mean.low, mean.high), (end, mean.low, mean.high)]
    return band


def _league(s: ComparisonResults) -> dict[str, Any]:
    """Means of every metric; `cells` are pairs of a mean and whether it is the best of its column."""
    kinds = list(dict.fromkeys(kind for x in s.lines for kind in x.diversity))
    head: list[tuple[str, str]] = [("method", "")]
    head += [(label(s, metric), "optimised" if metric == REWARD else "not optimised") for metric in s.metrics]
    head += [(kind, "diversity over seeds") for kind in kinds]
    columns = [_column(s, metric) for metric in s.metrics] + [_column(s, kind) for kind in kinds]
    best = [_best(column) for column in columns]
    rows = []
    for at, line in enumerate(s.lines):
        means = [column[at] for column in columns]
        cells = [(mean, mean is not None and mean.value == top) for mean, top in zip(means, best, strict=True)]
        rows.append({"method": line.method, "is_baseline": line.method == BASELINE_ROW, "cells": cells})
    return {"head": head, "rows": rows}


def _column(s: ComparisonResults, name: str) -> list[Mean | None]:
    """One metric, or one kind of diversity, of every line."""
    if name in s.metrics:
        return [line.values[name] for line in s.lines]
    return [line.diversity.get(name) for line in s.lines]


def _best(column: list[Mean | None]) -> float:
    """The largest mean of a column; NaN where there is none."""
    return max((_finite(mean.value) for mean in column if mean), default=math.nan)


def _pictures(s: ComparisonResults) -> dict[str, Any]:
    """Every method's winner, prompt by prompt."""
    methods = [x.method for x in s.lines if x.method != BASELINE_ROW]
    if s.lines[-1].method == BASELINE_ROW:
        methods = [BASELINE_ROW, *methods]
    first_seeds = {prompt: seed for prompt, seed in reversed(s.shared)}
    judge = s.metrics[1] if len(s.metrics) > 1 else None
    rows = []
    for prompt in s.prompts[:ROWS]:
        seed = first_seeds[prompt]
        rewards = {method: s.final(method, REWARD)(prompt, seed) for method in methods}
        top = max(map(_finite, rewards.values()))
        shots = [_shot(s, method, prompt, seed, reward, top, judge) for method, reward in rewards.items()]
        rows.append({"prompt": prompt, "seed": seed if len(s.plan.seeds) > 1 else None, "shots": shots})
    values = f"left {s.plan.reward}" + (f", right {judge}" if judge else "")
    left = f"; the first {ROWS} of {len(s.prompts)} prompts" if len(s.prompts) > ROWS else ""
    small = f"same prompt, same seed, every method's winner; {values}{left}; click to enlarge"
    return {"head": ["prompt", *methods], "rows": rows, "small": small}


def _shot(
    s: ComparisonResults, method: str, prompt: str, seed: int, reward: float, top: float, judge: str | None
) -> dict[str, Any] | None:
    path = s.picture(method, prompt, seed)
    if path is None:
        return None
    return {
        "picture": picture(path, THUMB),
        "alt": f"{method}: {prompt}, {label(s, REWARD)} {number(reward)}",
        "wins": reward == top,
        "reward": number(reward),
        "judge": number(s.final(method, judge)(prompt, seed)) if judge else "",
    }


def _costs(s: ComparisonResults) -> dict[str, Any]:
    lines = [x for x in s.lines if x.method != BASELINE_ROW]
    names = [n for n in UNITS if n == s.plan.resource or any(getattr(x.cost, n) for x in lines)]
    head: list[tuple[str, str]] = [("method", ""), ("pictures", "")]
    head += [("NFE" if n == "nfe" else UNITS[n], "held equal" if n == s.plan.resource else "") for n in names]
    head += [("start to end", "with the search's own thinking and loading of rewards"), ("peak MB", "")]
    rows = []
    for line in lines:
        cells = [count(line.candidates)]
        for name in names:
            value = getattr(line.cost, name)
            cells.append(duration(value) if name == "seconds" else count(value))
        cells += [duration(line.wall), "–" if math.isnan(line.peak_mb) else count(round(line.peak_mb))]
        rows.append({"method": line.method, "cells": cells})
    return {"head": head, "rows": rows}


def _methods(s: ComparisonResults) -> list[tuple[str, str]]:
    from fairlead.bench import plan

    rows = []
    for method, words in s.plan.methods.items():
        why = f" — took no part: {s.refused[method]}" if method in s.refused else ""
        rows.append((method, plan.part(words) + why))
    return rows


def _settings(s: ComparisonResults) -> list[tuple[str, Any]]:
    first = next(iter(s.done.values()))
    spec = first.view.spec
    p = s.plan
    equal = f"{p.resource} = {count(p.limit)} per prompt and seed; preparation is inside, the plain sample is nobody's"
    return [
        ("held equal", equal),
        ("reward", p.reward),
        ("watched", ", ".join(p.watch) or "none"),
        ("reference", p.reference),
        ("prompts", f"{len(p.prompts)}, sha256 {p.digest}"),
        ("seeds", ", ".join(map(str, p.seeds))),
        ("model", f"{spec.model.name}, {spec.sampler}, {spec.steps} steps, batch {spec.batch}"),
        *((f"model {name}", value) for name, value in spec.model.settings.items()),
        *first.view.versions.items(),
    ]


def _commands(s: ComparisonResults, source: str) -> list[tuple[str, str]]:
    words = ("compare", source, "--out", shown(s.out))
    twice = f"{s.plan.resource}={2 * s.plan.limit:.15g}"
    lines = [
        ("continue, or write this page again", command(*words)),
        ("go on with twice the budget", command(*words, "--budget", twice)),
    ]
    if s.done:
        one = next(iter(s.done.values()))
        what = f"the whole search of one picture: {one.cell.method}"
        lines.append((what, command("report", shown(s.out / one.cell.folder))))
    return lines
