"""The held-out guard: what was optimised beside what was only watched. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairlead.app.page import change, text
from fairlead.app.words import number
from fairlead.run.spec import reward_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fairlead.app.view import View


@dataclass(frozen=True)
class Held:
    """One watched formula in a run."""

    name: str
    before: float
    """Of the baseline"""
    after: float
    """Of the picture with the highest reward"""
    agreement: float
    """Rank correlation with the reward over all candidates, -1 to 1; NaN where there is none"""
    fell: bool
    """True if the reward rose from baseline to best while this went down."""


def held(view: View) -> list[Held]:
    """Every watched formula of the run, in the order they were named."""
    out = []
    for tree in view.spec.watch:
        label = reward_text(tree)
        name = f"{label} (watched)" if f"{label} (watched)" in view.terms else label
        before = float(view.baseline.terms.get(name, math.nan)) if view.baseline else math.nan
        after = float(view.best.terms.get(name, math.nan)) if view.best else math.nan
        both = [(c.reward, c.terms.get(name, math.nan)) for c in view.candidates]
        out.append(Held(label, before, after, correlation(both), view.gain > 0 and after < before))
    return out


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation of the pairs without NaN; NaN for fewer than three or where one side is constant."""
    known = [(a, b) for a, b in pairs if a == a and b == b]
    if len(known) < 3:
        return math.nan
    first, second = (_ranks([p[i] for p in known]) for i in (0, 1))
    mean = (len(known) + 1) / 2
    spread = [sum((r - mean) ** 2 for r in ranks) for ranks in (first, second)]
    if min(spread) == 0:
        return math.nan
    return sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True)) / math.sqrt(spread[0] * spread[1])


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    out = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            out[i] = (start + end) / 2 + 1
        start = end + 1
    return out


def hacked(view: View) -> bool:
    """True if the reward rose and every watched formula fell: what was gained is likely not what was wanted."""
    every = held(view)
    return bool(every) and all(h.fell for h in every)


def warning(view: View) -> str | None:
    """The sentence about it, or None."""
    if not hacked(view):
        return None
    names = ", ".join(f"{h.name} ({number(h.after - h.before, sign=True)})" for h in held(view))
    return (
        f"Reward hacking is likely: the optimised reward rose by {number(view.gain)} while everything that was only watched "
        f"fell: {names}."
    )


def section(view: View) -> str:
    """Optimised beside watched, as a table; empty if nothing was watched."""
    every = held(view)
    if not every:
        return ""
    first, last = view.baseline, view.best
    before, after = (c.reward if c else math.nan for c in (first, last))
    head = (
        f'<tr class="total"><td>{text(reward_text(view.spec.reward))}</td><td>optimised</td><td>{number(before)}</td>'
        f"<td>{number(after)}</td>{change(after - before)}<td></td></tr>"
    )
    body = "".join(
        f"<tr><td>{text(h.name)}</td><td>watched{', <b>fell</b>' if h.fell else ''}</td><td>{number(h.before)}</td>"
        f"<td>{number(h.after)}</td>{change(h.after - h.before)}<td>{number(h.agreement, sign=True)}</td></tr>"
        for h in every
    )
    return (
        "<h2>Held out<small>watched rewards were never optimised: they tell whether the gain is real</small></h2>"
        '<div class="card scroll" id="heldout"><table><thead><tr><th>reward</th><th></th><th>baseline</th><th>best found</th>'
        f"<th>change</th><th>rank correlation with the reward</th></tr></thead><tbody>{head}{body}</tbody></table></div>"
    )
