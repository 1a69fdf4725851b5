"""Differences with their intervals as inline SVG, one row for each method. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fairlead.app.chart import tick_text, ticks
from fairlead.app.svg import element, title
from fairlead.app.words import number

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 560, 25, 140, 136, 10, 40


@dataclass(frozen=True)
class Row:
    """One difference."""

    label: str
    value: float
    low: float
    high: float
    note: str
    """Written at the right end."""
    colour: str


def svg(name: str, x_label: str, rows: Sequence[Row]) -> Markup:
    """The chart as one `<svg>` element; rows from top to bottom."""
    low, high = _range(rows)
    width = WIDTH - LEFT - RIGHT
    floor = TOP + ROW * len(rows)
    height = floor + BOTTOM

    def px(x: float) -> float:
        return LEFT + width * (x - low) / (high - low)

    marks = ticks(low, high, 4)
    parts = [element("line", class_="grid", x1=px(t), x2=px(t), y1=TOP, y2=floor) for t in marks]
    parts += [element("text", tick_text(t, marks), x=px(t), y=floor + 16, text_anchor="middle") for t in marks]
    parts.append(element("line", class_="zero", x1=px(0), x2=px(0), y1=TOP - 4, y2=floor + 4))
    centre = round(LEFT + width / 2)
    parts.append(element("text", x_label, class_="label", x=centre, y=height - 7, text_anchor="middle"))
    for i, row in enumerate(rows):
        parts += _row(row, TOP + ROW * (i + 0.5), px)
    return element("svg", *parts, class_="chart", viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=name)


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """From the lowest to the highest value with zero inside, and some room."""
    ends = [0.0]
    for row in rows:
        ends += [v for v in (row.value, row.low, row.high) if math.isfinite(v)]
    room = (max(ends) - min(ends)) * 0.06 or 1.0
    return min(ends) - room, max(ends) + room


def _row(row: Row, y: float, px: Callable[[float], float]) -> Iterator[Markup]:
    yield element("text", row.label, class_="name", x=LEFT - 12, y=y + 4, text_anchor="end")
    if not math.isfinite(row.value):
        return
    words = f"{row.label}: {number(row.value, sign=True)}"
    if math.isfinite(row.low):
        words += f" ({number(row.low, sign=True)} to {number(row.high, sign=True)})"
        yield element(
            "line", class_="whisker", style=f"stroke:{row.colour}", x1=px(row.low), x2=px(row.high), y1=y, y2=y
        )
    yield element("circle", title(words), class_="mark", style=f"fill:{row.colour}", cx=px(row.value), cy=y, r=5)
    yield element("text", row.note, x=WIDTH - RIGHT + 12, y=y + 4)
