"""Line charts as inline SVG: no script, no font, colours from the page's variables. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from fairlead.app.svg import element, title
from fairlead.app.words import number

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 78, 18, 22, 46
FLOOR = HEIGHT - BOTTOM
"""Where the x axis is."""
DRAWN = 1e300
"""Values beyond it lie outside the drawing: the range of an axis must be a finite number."""
RESOLVED = 1e-12
"""An axis whose length is a smaller share of its ends has one tick: neighbours would be the same number."""


@dataclass(frozen=True)
class Line:
    """Best so far of one run: a staircase through `steps`, drawn on to `end`."""

    label: str
    steps: Sequence[tuple[float, float]]
    end: float
    colour: str = "var(--accent)"
    band: Sequence[tuple[float, float, float]] = ()
    """x, low, high of an interval around the line; with it no winner is marked, for the line is a mean."""


@dataclass(frozen=True)
class Chart:
    """Everything one chart shows."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    y_unit: str = ""
    """What a point on the y axis means; written beside `y_label`."""
    dots: Sequence[tuple[float, float, str]] = ()
    """x, y and what the pointer reads there."""
    faint: Sequence[tuple[float, float, str]] = ()
    """Dots in the colour of a line that is not the last: drafts."""
    failed: Sequence[tuple[float, str]] = ()
    baseline: float = math.nan
    limit: float = math.inf
    """Where the budget ends on the x axis."""
    labelled: bool = field(default=True)
    """One run: write baseline and best into the plot and shade what was gained, both for the last line."""


def axis_label(axis: str) -> str:
    """What is written below a chart of the best so far."""
    return "NFE (denoiser evaluations of all candidates)" if axis == "nfe" else "seconds of computing"


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers (1, 2, 2.5, 5 times a power of ten) between low and high."""
    span = high - low
    if not math.isfinite(span) or span <= RESOLVED * max(abs(low), abs(high), 1e-290):
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    decimals = 1 - math.floor(math.log10(step))
    return [round(i * step, decimals) for i in range(first, last + 1)]


def tick_text(value: float, all_ticks: Sequence[float]) -> str:
    """As many decimals as the distance of the ticks needs."""
    step = abs(all_ticks[1] - all_ticks[0]) if len(all_ticks) > 1 else abs(value) or 1.0
    if step >= 1e6 or step < 1e-5:
        largest = max(map(abs, all_ticks)) or step
        return f"{value:.{max(3, math.floor(math.log10(largest / step)) + 3)}g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step * 10**decimals, 9) % 1:
        decimals += 1
    return f"{value:,.{decimals}f}".replace("-", "−")


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [max(-DRAWN, min(DRAWN, v)) for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low = min(finite)
    high = max(finite)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - room, high + room


@dataclass(frozen=True)
class Plane:
    """Where values lie in the drawing: x from 0 to `right`, y from `low` to `high`."""

    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        """Pixels from the left edge."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value / self.right)

    def y(self, value: float) -> float:
        """Pixels from the top edge."""
        return TOP + (FLOOR - TOP) * ((self.high - value) / (self.high - self.low))


def svg(chart: Chart) -> Markup:
    """The chart as one `<svg>` element."""
    plane = _plane(chart)
    parts = [
        *_axes(chart, plane),
        *_limit(chart, plane),
        *(
            _gain(line, chart.baseline, plane)
            for line in chart.lines[-1:]
            if chart.labelled and math.isfinite(chart.baseline)
        ),
        *(_dot("dot draft", *dot, plane) for dot in chart.faint),
        *(_dot("dot", *dot, plane) for dot in chart.dots),
        *(_failed(x, words, plane) for x, words in chart.failed),
        *_baseline(chart, plane),
        *(_band(line, plane) for line in chart.lines),
        *(_staircase(line, plane) for line in chart.lines),
        *(_labels(chart, plane) if chart.labelled else ()),
    ]
    view = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", *parts, class_="chart", viewBox=view, role="img", aria_label=chart.title)


def _dot(css: str, x: float, y: float, words: str, plane: Plane) -> Markup:
    return element("circle", title(words), class_=css, cx=plane.x(x), cy=plane.y(y), r=2.6)


def _plane(chart: Chart) -> Plane:
    dots = [*chart.dots, *chart.faint]
    heights = [chart.baseline, *(y for _, y, _ in dots)]
    for line in chart.lines:
        heights += [y for _, y in line.steps]
        heights += [end for _, *ends in line.band for end in ends]
    low, high = _range(heights)
    most = max([0.0, *(x for x, *_ in dots), *(x for x, _ in chart.failed), *(line.end for line in chart.lines)])
    right = 1.0
    if most > 0:
        right = chart.limit if chart.limit <= most * 1.6 else most
    return Plane(max(right, most) * 1.02 or 1.0, low, high)


def _axes(chart: Chart, plane: Plane) -> Iterator[Markup]:
    y_ticks = ticks(plane.low, plane.high, 5)
    for value in y_ticks:
        y = plane.y(value)
        yield element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
        yield element("text", tick_text(value, y_ticks), x=LEFT - 8, y=y + 3.5, text_anchor="end")
    x_ticks = ticks(0.0, plane.right, 6)
    for value in x_ticks:
        x = plane.x(value)
        yield element("line", class_="tick", x1=x, x2=x, y1=FLOOR, y2=FLOOR + 4)
        yield element("text", tick_text(value, x_ticks), x=x, y=FLOOR + 17, text_anchor="middle")
    yield element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=FLOOR, y2=FLOOR)
    centre = round(LEFT + (WIDTH - LEFT - RIGHT) / 2)
    yield element("text", chart.x_label, class_="label", x=centre, y=HEIGHT - 8, text_anchor="middle")
    middle = round(TOP + (FLOOR - TOP) / 2)
    for x, css, words in ((11, "label", chart.y_label), (26, "unit", chart.y_unit)):
        turned = f"translate({x} {middle}) rotate(-90)"
        yield element("text", words, class_=css, transform=turned, text_anchor="middle")


def _limit(chart: Chart, plane: Plane) -> Iterator[Markup]:
    """Where the budget ends."""
    if chart.limit <= plane.right:
        x = plane.x(chart.limit)
        yield element("line", class_="limit", x1=x, x2=x, y1=TOP, y2=FLOOR)
        yield element("text", "budget", class_="note", x=x - 5, y=FLOOR - 7, text_anchor="end")


def _failed(x: float, words: str, plane: Plane) -> Markup:
    return element("path", title(words), class_="fail", d=f"M{plane.x(x) - 3:.1f} {FLOOR - 8}l6 6m0 -6l-6 6")


def _baseline(chart: Chart, plane: Plane) -> Iterator[Markup]:
    if math.isfinite(chart.baseline):
        y = plane.y(chart.baseline)
        yield element("line", class_="base", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)


def _path(line: Line, plane: Plane) -> str:
    (x, y), *rest = line.steps
    path = f"M{plane.x(x):.1f} {plane.y(y):.1f}"
    for x, y in rest:
        path += f"H{plane.x(x):.1f}V{plane.y(y):.1f}"
    return f"{path}H{plane.x(max(line.end, line.steps[-1][0])):.1f}"


def _staircase(line: Line, plane: Plane) -> Markup:
    if not line.steps:
        return Markup("")
    own = {"data_line": line.label, "style": f"stroke:{line.colour}"}
    path = element("path", title(line.label), class_="best", **own, d=_path(line, plane))
    if line.band:
        return path
    x, y = line.steps[-1]
    return path + element("circle", class_="winner", **own, cx=plane.x(x), cy=plane.y(y), r=5)


def _band(line: Line, plane: Plane) -> Markup:
    known = [(x, low, high) for x, low, high in line.band if math.isfinite(low) and math.isfinite(high)]
    if len(known) < 2:
        return Markup("")
    there = "L".join(f"{plane.x(x):.1f} {plane.y(high):.1f}" for x, _, high in known)
    back = "L".join(f"{plane.x(x):.1f} {plane.y(low):.1f}" for x, low, _ in reversed(known))
    return element("path", class_="band", data_line=line.label, style=f"fill:{line.colour}", d=f"M{there}L{back}Z")


def _gain(line: Line, baseline: float, plane: Plane) -> Markup:
    """The area between the baseline and what was found."""
    if not line.steps or line.steps[-1][1] <= baseline:
        return Markup("")
    start = plane.x(line.steps[0][0])
    return element("path", class_="gain", d=f"{_path(line, plane)}V{plane.y(baseline):.1f}H{start:.1f}Z")


def _labels(chart: Chart, plane: Plane) -> Iterator[Markup]:
    """The baseline's label below its line and the best's above: they do not cross unless the best is the lower one."""
    edge = WIDTH - RIGHT - 4
    best = chart.lines[-1].steps[-1] if chart.lines and chart.lines[-1].steps else None
    if math.isfinite(chart.baseline):
        down = 14 if best is None or best[1] >= chart.baseline else -6
        y = plane.y(chart.baseline) + down
        yield element(
            "text", f"baseline {number(chart.baseline)}", class_="note base-note", x=edge, y=y, text_anchor="end"
        )
    if best:
        # left of the winner when it came late, right of it when it came early
        late = plane.x(best[0]) > LEFT + (WIDTH - LEFT - RIGHT) * 0.6
        x = plane.x(best[0]) - (9 if late else 0)
        y = plane.y(best[1]) + (16 if best[1] < chart.baseline else -9)
        anchor = "end" if late else "start"
        yield element("text", f"best {number(best[1])}", class_="note best-note", x=x, y=y, text_anchor=anchor)
