"""Watched rewards and what people said as a held-out check: did they fall while the reward rose? Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.run.judged import JUDGED
from fairlead.run.spec import reward_text
from fairlead.run.view import View


@dataclass(frozen=True)
class HeldOut:
    """One watched reward of a run: recorded for every picture and never optimised."""

    name: str
    before: float
    """Of the baseline"""
    after: float
    """Of the picture with the highest reward"""
    agreement: float
    """Rank correlation with the reward over all candidates, -1 to 1; NaN where there is none"""
    fell: bool
    """True if the reward rose from baseline to best while this went down; of people, if that is certain."""
    what: str = "watched"
    """or `judged`, where people compared the pictures"""


def held(view: View) -> list[HeldOut]:
    """Every watched formula of the run, in the order they were named, and people last."""
    out = []
    for tree in view.spec.watch:
        label = reward_text(tree)
        name = f"{label} (watched)" if f"{label} (watched)" in view.terms else label
        before = float(view.baseline.terms.get(name, math.nan)) if view.baseline else math.nan
        after = float(view.best.terms.get(name, math.nan)) if view.best else math.nan
        both = [(c.reward, c.terms.get(name, math.nan)) for c in view.candidates]
        out.append(HeldOut(label, before, after, correlation(both), view.gain > 0 and after < before))
    return [*out, *_people(view)]


def _people(view: View) -> list[HeldOut]:
    """What people said, if they judged the baseline or the best picture."""
    before = view.judged.get(view.baseline.index) if view.baseline else None
    after = view.judged.get(view.best.index) if view.best else None
    if before is None and after is None:
        return []
    both = [(c.reward, view.judged[c.index].strength) for c in view.candidates if c.index in view.judged]
    fell = before is not None and after is not None and view.gain > 0 and after.high < before.low
    old, new = (math.nan if place is None else place.strength for place in (before, after))
    return [HeldOut(JUDGED, old, new, correlation(both), fell, "judged")]


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation of the pairs without NaN; NaN for fewer than three or where one side is constant."""
    known = [(a, b) for a, b in pairs if not math.isnan(a) and not math.isnan(b)]
    if len(known) < 3:
        return math.nan
    first = _ranks([a for a, _ in known])
    second = _ranks([b for _, b in known])
    mean = (len(known) + 1) / 2
    spread = (_spread(first, mean), _spread(second, mean))
    if min(spread) == 0:
        return math.nan
    return sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True)) / math.sqrt(spread[0] * spread[1])


def _spread(ranks: Sequence[float], mean: float) -> float:
    return sum((r - mean) ** 2 for r in ranks)


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
