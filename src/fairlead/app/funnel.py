"""The parts of the report about rungs and the final judge: how many entered and survived, and who met whom.

Imports no torch.
"""

from __future__ import annotations

import math
from typing import Any

from fairlead.app import choice
from fairlead.app.page import picture
from fairlead.app.words import count, number, rung_words
from fairlead.run.records import Candidate
from fairlead.run.view import View

THUMB = 160
"""Longest side of a picture in a strip."""
STRIP = 6
"""Pictures of a rung that are shown, the best first."""
COLOURS = ("var(--rung-1)", "var(--rung-2)", "var(--rung-3)")
"""Of the lines of drafts in a chart, by rung; the finished pictures have the accent."""


def colour(rung: int) -> str:
    """The colour of a rung of drafts."""
    return COLOURS[min(rung, len(COLOURS) - 1)]


def section(view: View) -> dict[str, Any] | None:
    """The funnel: a column for every rung, then the winner at each of them; None for a run without drafts."""
    rungs = view.rungs
    if not rungs:
        return None
    most = max(rung.entered for rung in rungs) or 1
    lineage = _lineage(view)
    columns = []
    for at, rung in enumerate(rungs):
        last = at == len(rungs) - 1
        own = [c for c in view.candidates if c.rung == at]
        shown = sorted(own, key=lambda c: (math.isnan(c.reward), -c.reward if c.reward == c.reward else 0.0, c.index))
        columns.append(
            {
                "name": "finished pictures" if last else rung_words(rung.name),
                "colour": "var(--accent)" if last else colour(at),
                "entered": rung.entered,
                "planned": "" if rung.planned in (None, rung.entered) else f"of {rung.planned} planned",
                "advanced": "" if last else f"{rung.advanced} went on",
                "failed": f"{rung.failed} failed" if rung.failed else "",
                "share": max(0.04, rung.entered / most),
                "facts": _facts(view, at),
                "strip": [_small(view, c, c.index in lineage) for c in shown[:STRIP]],
                "more": len(shown) - STRIP if len(shown) > STRIP else 0,
            }
        )
    return {"columns": columns, "winner": _steps(view, lineage), "words": _words(view)}


def _facts(view: View, at: int) -> list[tuple[str, str]]:
    """Name and value: what one candidate and all of them cost, and how well the rung predicts the picture."""
    rung = view.rungs[at]
    facts = []
    if rung.correlation is not None:
        facts.append(("one costs", f"{rung.price_in_pictures:.2f} of a picture"))
    whole = sum(other.spent.nfe for other in view.rungs)
    share = f" ({rung.spent.nfe / whole:.0%})" if whole else ""
    facts.append(("all cost", f"{count(rung.spent.nfe)} NFE{share}"))
    if rung.correlation is not None:
        source = "" if rung.interval is not None else f", {rung.source}"
        facts.append(("predicts the picture", f"r = {rung.correlation:.2f}{source}"))
        if rung.interval is not None:
            low, high = rung.interval
            facts.append(("measured here", f"{low:.2f} to {high:.2f}"))
    elif (spread := view.spread) is not None:
        facts.append(("spread of rewards", f"± {number(spread)}"))
    return facts


def _lineage(view: View) -> dict[int, Candidate]:
    """The winner and the candidates it comes from, by index, the first draft first."""
    by_index = {c.index: c for c in view.candidates}
    found: dict[int, Candidate] = {}
    at = view.best
    while at is not None and at.index not in found:
        found = {at.index: at, **found}
        at = None if at.refines is None else by_index.get(at.refines)
    return found


def _steps(view: View, lineage: dict[int, Candidate]) -> list[dict[str, Any]]:
    """The winner at every rung; empty until something is finished."""
    if len(lineage) < 2:
        return []
    names = [*(rung_words(rung.name) for rung in view.rungs[:-1]), "finished"]
    steps = []
    for candidate in lineage.values():
        rank = _rank(view, candidate)
        steps.append(
            {
                "picture": picture(view.picture(candidate), 2 * THUMB),
                "alt": f"Candidate {candidate.index}, {names[candidate.rung]}: reward {number(candidate.reward)}",
                "value": number(candidate.reward),
                "name": names[candidate.rung],
                "rank": f"number {rank[0]} of {rank[1]}",
                "css": "win" if candidate.index == getattr(view.best, "index", None) else "",
            }
        )
    return steps


def _rank(view: View, candidate: Candidate) -> tuple[int, int]:
    """Its place among the candidates of its rung, and how many these are."""
    own = [c for c in view.candidates if c.rung == candidate.rung]
    better = sum(c.reward > candidate.reward for c in own)
    return better + 1, len(own)


def _words(view: View) -> str:
    """What the same cost would have bought without drafts."""
    prices = [(rung.entered, rung.price_in_pictures) for rung in view.rungs]
    known = [entered * price for entered, price in prices if not math.isnan(price)]
    whole = math.floor(sum(known) + 1e-9)
    drafts = sum(entered for entered, _ in prices[:-1])
    finished = prices[-1][0]
    pictures = "1 picture" if whole == 1 else f"{whole} pictures"
    return f"{drafts} drafts and {finished} finished. A plain best_of of equal cost would have been {pictures}."


def _small(view: View, candidate: Candidate, marked: bool) -> dict[str, Any]:
    return {
        "picture": picture(view.picture(candidate), THUMB),
        "alt": f"Candidate {candidate.index}: reward {number(candidate.reward)}",
        "value": number(candidate.reward),
        "css": "win" if marked else "",
    }


def knockout(view: View) -> dict[str, Any] | None:
    """Who met whom before the final judge, and who went on; None without one, or before it has begun."""
    judging = view.judging
    if judging is None or len(judging.entrants) < 2:
        return None
    entrants = judging.entrants
    rounds = []
    for number_of, pairs in enumerate(judging.standing.rounds, 1):
        met = []
        for pair in pairs:
            words = "not answered yet"
            if pair.won is not None:
                words = "a tie: the better reward stays" if pair.tied else ""
            sides = [(pair.kept, pair.won is True), (pair.other, pair.won is False)]
            met.append({"sides": [_small(view, entrants[i], wins) for i, wins in sides], "words": words})
        last = number_of == len(judging.standing.rounds) and len(pairs) == 1
        rounds.append({"name": "final" if last else f"round {number_of}", "pairs": met})
    return {"small": choice.sentence(view), "rounds": rounds}
