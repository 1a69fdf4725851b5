"""The part of the report that shows which pictures `keep` chose. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fairlead.app.page import picture
from fairlead.app.svg import element, title
from fairlead.app.words import command, number, shown
from fairlead.run.records import Candidate
from fairlead.run.view import View

THUMB = 320
"""Longest side of a picture."""


def read(folder: Path) -> dict[str, Any] | None:
    """What was kept, if anything was."""
    path = folder / "kept.json"
    return dict(json.loads(path.read_text())) if path.is_file() else None


def stale(view: View, found: dict[str, Any]) -> str:
    """Empty, or a sentence if the run has continued since."""
    now = len(view.candidates)
    if (then := found.get("of", now)) == now:
        return ""
    again = command("keep", shown(view.folder), str(found["k"]))
    return f"What is in kept/ was chosen when the run had {then} pictures, of now {now}. Choose again with: {again}"


def worth(found: dict[str, Any]) -> str:
    """What quality was: the reward, or what people said."""
    return str(found.get("worth", "reward"))


def mean_reward(point: dict[str, Any]) -> float:
    """Of the chosen pictures; NaN where it was not known."""
    return float("nan") if point["reward"] is None else float(point["reward"])


def section(view: View) -> dict[str, Any] | None:
    """What the report shows: the kept pictures, and what other weights of quality would have kept."""
    found = read(view.folder)
    if found is None:
        return None
    by_index = {c.index: c for c in view.candidates}
    points = [("the first", found["first"]), ("the best", found["best"])]
    points += [(f"weight {point['weight']:g}", point) for point in found["front"]]
    mine = f"weight {found['weight']:g}"
    k = found["k"]
    floor = found.get("floor")
    return {
        "small": f"{k} kept by a determinant of likeness ({found['likeness']}) and {worth(found)}"
        + ("" if floor is None else f", none below {number(floor)} while {k} are above")
        + f"; Vendi counts different pictures, 1 to {k}",
        "stale": stale(view, found),
        "cards": [_card(view, by_index[i]) for i in found["kept"] if i in by_index],
        "chart": _front(found),
        "head": (f"{k} of {found.get('of', len(view.candidates))}", f"mean {worth(found)}", "Vendi"),
        "rows": [(name, mean_reward(point), point["vendi"], name == mine) for name, point in points],
    }


def _card(view: View, candidate: Candidate) -> dict[str, Any]:
    return {
        "picture": picture(view.picture(candidate), THUMB),
        "alt": f"Kept: candidate {candidate.index}",
        "value": number(candidate.reward),
        "word": candidate.index,
    }


def _front(found: dict[str, Any]) -> Markup:
    """Mean reward against Vendi score, a dot a weight."""
    points = [
        (p["vendi"], mean_reward(p), p["weight"]) for p in [*found["front"], found["best"]] if p["reward"] is not None
    ]
    if not points:
        return Markup("")
    x0 = min(p[0] for p in points)
    x1 = max(p[0] for p in points)
    y0 = min(p[1] for p in points)
    y1 = max(p[1] for p in points)

    def at(x: float, y: float) -> tuple[float, float]:
        return 60 + 400 * (x - x0) / (x1 - x0 or 1), 230 - 190 * (y - y0) / (y1 - y0 or 1)

    corners = [at(x, y) for x, y, _ in sorted(points[:-1])]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    parts = [element("polyline", points=line, fill="none", stroke="var(--accent)", stroke_opacity=".5")]
    for x, y, weight in points:
        cx, cy = at(x, y)
        words = f"{'the best' if weight is None else f'weight {weight:g}'}: {number(y)}, {x:.2f}"
        fill = "currentColor" if weight is None else "var(--accent)"
        parts.append(element("circle", title(words), cx=cx, cy=cy, r=6 if weight == found["weight"] else 4, fill=fill))
    parts += [
        element("text", "Vendi score", x=260, y=272, text_anchor="middle"),
        element("text", f"{x0:.2f}", x=60, y=252),
        element("text", f"{x1:.2f}", x=460, y=252, text_anchor="end"),
        element("text", number(y1), x=4, y=40),
        element("text", number(y0), x=4, y=234),
        element("text", f"mean {worth(found)}", x=4, y=16),
    ]
    label = f"Mean {worth(found)} against Vendi score"
    frame = {"viewBox": "0 0 500 280", "role": "img", "aria_label": label, "font_size": 12, "fill": "currentColor"}
    return element("svg", *parts, **frame)
