"""What the rows say: intervals, the algorithm x verifier table, curves, and the paper's findings in them."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments import common
from fairlead.core.key import Key

Row = dict[str, Any]
Cell = tuple[str, str, float, str]
"""method, verifier, budget, metric"""
ORACLE = "oracle"
"""The judge as a metric, and as the verifier that only random search has."""
ORDER = ("random", "zero_order", "evolution", "trust_region", "bayes_opt", "paths", "dfs", "first_order", "steps")
COLOURS = ("#333", "#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#17a589", "#a04000", "#999")


class Found:
    """Values by cell, prompt and seed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.values: dict[Cell, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for row in rows:
            for metric, value in row["metrics"].items():
                if value == value:
                    where = row["method"], row["verifier"], row["budget"], metric
                    self.values[where][row["prompt"]][row["seed"]] = value
        self.budgets = sorted({where[2] for where in self.values})
        self.methods = [m for m in ORDER if any(where[0] == m for where in self.values)]

    def at(self, *where: Any) -> tuple[float, float, float] | None:
        """Mean and interval of a cell."""
        cell = self.values.get(where)  # type: ignore[call-overload]
        if not cell:
            return None
        return common.bootstrap_seeds(
            [list(seeds.values()) for seeds in cell.values()], Key.root(0).fold(*map(str, where))
        )

    def gap(self, a: Cell, b: Cell) -> tuple[float, float, float] | None:
        """Mean of a minus b over the prompts and seeds both have, with its interval."""
        first = self.values.get(a, {})
        second = self.values.get(b, {})
        both = [[v - second[p][s] for s, v in seeds.items() if s in second.get(p, {})] for p, seeds in first.items()]
        both = [v for v in both if v]
        return common.bootstrap_seeds(both, Key.root(0).fold("gap", *map(str, (*a, *b)))) if both else None


def text(value: tuple[float, float, float] | None, sign: bool = False) -> str:
    """0.31 (0.25 to 0.37)"""
    if value is None:
        return ""
    plus = "+" if sign else ""
    return f"{value[0]:{plus}.4g} ({value[1]:{plus}.4g} to {value[2]:{plus}.4g})"


def findings(found: Found, verifiers: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The paper's findings, each with the numbers here and whether they show it; intervals decide."""
    last = found.budgets[-1]
    first = found.budgets[0]
    single = [v for v in verifiers if v in metrics]
    others = [v for v in verifiers if v not in metrics]
    top = {
        v: {x: found.gap(("random", v, last, x), ("random", v, first, x)) for x in metrics}
        for v in (*verifiers, ORACLE)
    }
    prompts = {p for cell in found.values.values() for p in cell}
    out = [f"_{len(prompts)} prompts are too few to decide anything._", ""] if len(prompts) < 10 else []
    out += [*_steps_stop(found, single, metrics), ""]
    fell = [f"{x} when {v} chose ({text(top[v][x], True)})" for v in single for x in metrics if _below(top[v][x])]
    out += [
        "**Optimising one verifier costs the others (verifier hacking).** "
        + (
            f"Reappears: fell against the plain sample: {'; '.join(fell)}."
            if fell
            else "Does not reappear: with random search no metric that was held out fell significantly."
        ),
        "",
    ]
    for v in others:
        rose = [x for x in metrics if _above(top[v][x])]
        down = [x for x in metrics if _below(top[v][x])]
        word = "Reappears" if len(rose) == len(metrics) else "Does not reappear" if down else "In part"
        gains = ", ".join(f"{x} {text(top[v][x], True)}" for x in metrics)
        out += [f"**The rank ensemble is the robust choice ({v}).** {word}: {gains}.", ""]
    means = {v: top[v].get(ORACLE) for v in (*verifiers, ORACLE)}
    told = ", ".join(f"{v} {text(g, True)}" for v, g in means.items() if g)
    out += [
        f"**Which verifier serves the oracle best** (its gain under random search, its own as the ceiling): {told}.",
        "",
    ]
    rivals = [m for m in found.methods if m not in ("random", "steps")]
    won = []
    lost = []
    lines = []
    for m in rivals:
        for v in single:
            g = found.gap((m, v, last, v), ("random", v, last, v))
            if g:
                (won if _above(g) else lost if _below(g) else []).append(f"{m} on {v}")
                lines.append(f"{m} on {v} {text(g, True)}")
    local = [w for w in won if w.startswith(("zero_order", "paths"))]
    word = "Does not reappear" if local else "Reappears"
    out += [
        f"**Random search is as good as the local searches on what they optimise.** {word}: "
        f"better than random: {', '.join(won) or 'none'}; worse: {', '.join(lost) or 'none'}. "
        f"Differences at {last:g} NFE: {'; '.join(lines)}.",
        "",
    ]
    return out


def _steps_stop(found: Found, single: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Gains over the second half of the doublings, search against steps."""
    last = found.budgets[-1]
    half = found.budgets[len(found.budgets) // 2]
    yes = []
    no = []
    lines = []
    for v in single:
        search = found.gap(("random", v, last, v), ("random", v, half, v))
        steps = found.gap(("steps", v, last, v), ("steps", v, half, v))
        if search and steps:
            (yes if _above(search) and search[1] > steps[0] and not steps[1] > search[0] else no).append(v)
            lines.append(f"{v}: search {text(search, True)}, steps {text(steps, True)}")
    word = "Reappears" if yes and not no else "Does not reappear" if no and not yes else f"In part ({', '.join(yes)})"
    if not lines:
        return ["**Search keeps helping when steps stop.** Not measured: the control was not run."]
    return [f"**Search keeps helping when steps stop.** {word}. From {half:g} to {last:g} NFE: {'; '.join(lines)}."]


def _above(g: tuple[float, float, float] | None) -> bool:
    return g is not None and g[1] > 0


def _below(g: tuple[float, float, float] | None) -> bool:
    return g is not None and g[2] < 0


def markdown(found: Found, verifiers: Sequence[str], metrics: Sequence[str], setting: str) -> str:
    """Setting, findings, the algorithm x verifier table at the largest budget, every curve as a table."""
    budgets = found.budgets
    methods = found.methods
    prompts = {p for cell in found.values.values() for p in cell}
    seeds = {s for cell in found.values.values() for own in cell.values() for s in own}

    def cell(*where: Any) -> str:
        return text(found.at(*where))

    lines = [
        "# Scaling of noise search",
        "",
        f"{setting} {len(prompts)} prompts, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}; means with 95 % "
        "bootstrap "
        "intervals over prompts and seeds, differences over pairs.",
        "",
        "## Findings",
        "",
        *findings(found, verifiers, metrics),
        f"## At {budgets[-1]:g} NFE",
        "",
        f"| verifier + search | {' | '.join(metrics)} |",
        "|---" * (1 + len(metrics)) + "|",
    ]
    plain = [cell("random", verifiers[0], budgets[0], m) for m in metrics]
    lines.append(f"| none ({budgets[0]:g} NFE) | {' | '.join(plain)} |")
    for v in (*verifiers, ORACLE):
        own = [m for m in methods if any(where[:3] == (m, v, budgets[-1]) for where in found.values)]
        lines += [f"| {v} + {m} | {' | '.join(cell(m, v, budgets[-1], x) for x in metrics)} |" for m in own]
    for v in verifiers:
        for x in metrics:
            lines += ["", f"## {x} of what {v} chose", "", f"| search | {' | '.join(f'{b:g}' for b in budgets)} |"]
            lines.append("|---" * (1 + len(budgets)) + "|")
            lines += [f"| {m} | {' | '.join(cell(m, v, b, x) for b in budgets)} |" for m in methods]
    return "\n".join([*lines, ""])


Curve = tuple[str, list[tuple[float, float, float, float]]]
"""label, and x, mean, low, high of every point"""


def panel(title: str, y_label: str, curves: Sequence[Curve], left: float) -> list[str]:
    """One plot 420 wide: means with intervals over doublings of the budget."""
    xs = sorted({x for _, points in curves for x, *_ in points})
    ys = [v for _, points in curves for _, _, low, high in points for v in (low, high)]
    bottom = min(ys)
    top = max(ys)
    room = (top - bottom) * 0.06 or 1.0
    bottom = bottom - room
    top = top + room
    wide, high = 340.0, 220.0

    def px(x: float) -> float:
        span = math.log2(xs[-1] / xs[0]) or 1.0
        return left + 62 + wide * math.log2(x / xs[0]) / span

    def py(y: float) -> float:
        return 34 + high * (top - y) / (top - bottom)

    out = [f'<text x="{left + 62}" y="20" font-weight="bold">{escape(title)}</text>']
    for x in xs:
        out.append(f'<text x="{px(x):.0f}" y="{34 + high + 16:.0f}" text-anchor="middle">{x:g}</text>')
    for i in range(5):
        y = bottom + (top - bottom) * (i + 0.5) / 5
        out.append(
            f'<path d="M{left + 62} {py(y):.1f}h{wide}" stroke="#ddd"/>'
            f'<text x="{left + 56}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>'
        )
    out.append(f'<text x="{left + 62 + wide / 2:.0f}" y="{34 + high + 34:.0f}" text-anchor="middle">NFE</text>')
    place = f"translate({left + 12} {34 + high / 2:.0f}) rotate(-90)"
    out.append(f'<text transform="{place}" text-anchor="middle">{escape(y_label)}</text>')
    for label, points in curves:
        colour = COLOURS[ORDER.index(label) % len(COLOURS)]
        line = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y, _, _ in points)
        out.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for x, y, low, up in points:
            out.append(
                f'<path d="M{px(x):.1f} {py(low):.1f}V{py(up):.1f}" stroke="{colour}" stroke-opacity="0.45"/>'
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.4" fill="{colour}"/>'
            )
    return out


def curves(found: Found, verifier: str, metrics: Sequence[str]) -> str:
    """One picture per verifier: a panel per metric, every search in it."""
    out = list[str]()
    labels = dict[str, None]()
    for i, metric in enumerate(metrics):
        drawn: list[Curve] = []
        for m in found.methods:
            points = [(b, *v) for b in found.budgets if (v := found.at(m, verifier, b, metric))]
            if points:
                drawn.append((m, points))
        if drawn:
            labels |= dict.fromkeys(m for m, _ in drawn)
            out += panel(f"{verifier} chose", metric, drawn, 420.0 * i)
    legend = "".join(
        f'<text x="{62 + 120 * i}" y="322" fill="{COLOURS[ORDER.index(m) % len(COLOURS)]}">&#9644; {m}</text>'
        for i, m in enumerate(labels)
    )
    width = 420 * len(metrics)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 334" width="{width}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/>{"".join(out)}{legend}</svg>\n'
    )


def write(folder: Path, rows: Sequence[Row], verifiers: Sequence[str], metrics: Sequence[str], setting: str) -> None:
    """tables.md, summary.csv and one SVG per verifier."""
    if not rows:
        raise SystemExit(f"{folder} has no rows yet")
    found = Found(rows)
    (folder / "tables.md").write_text(markdown(found, verifiers, metrics, setting))
    with (folder / "summary.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["method", "verifier", "budget", "metric", "mean", "low", "high", "prompts"])
        for where in sorted(found.values):
            value = found.at(*where)
            assert value is not None
            out.writerow([*where, *(f"{v:.6g}" for v in value), len(found.values[where])])
    for verifier in verifiers:
        (folder / f"{verifier}.svg").write_text(curves(found, verifier, metrics))
