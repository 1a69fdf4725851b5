"""Good and different: the command `keep`, and the part of the report that shows what was kept. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.app.console import say
from fairlead.app.page import picture, text
from fairlead.app.words import command, number, shown
from fairlead.run.view import View

Keep = Annotated[
    int | None,
    typer.Option("--keep", metavar="K", min=1, help="Also choose K pictures that are good and different, into kept/."),
]
THUMB = 320


def keep(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    k: Annotated[int, typer.Argument(metavar="K", min=1, help="How many.")],
    weight: Annotated[
        float, typer.Option(metavar="W", help="Of the reward, in its deviations: 0 keeps the most different.")
    ] = 0.5,
    likeness: Annotated[
        str | None, typer.Option(metavar="NAME", help="clip, pixels, or an image encoder's folder or hub name.")
    ] = None,
) -> int:
    """Choose K pictures of a run that are good and different. Nothing is rendered."""
    from fairlead.app.report import write_report
    from fairlead.run.keeping import keep as choose

    chosen = choose(run, k, weight=weight, likeness=likeness)
    print(" ".join(map(str, chosen)))
    told(run)
    say(f"Pictures are in {run / 'kept'}, the front in {write_report(run)}.")
    return 0


def read(folder: Path) -> dict[str, Any] | None:
    """What was kept, if anything was."""
    path = folder / "kept.json"
    return dict(json.loads(path.read_text())) if path.is_file() else None


def told(folder: Path) -> None:
    """One line on stderr."""
    if (found := read(folder)) is not None:
        if old := stale(View.read(folder), found):
            say(old)
            return
        a, b = found["chosen"], found["best"]
        say(
            f"Kept {found['k']}: mean reward {number(_reward(a))} and Vendi {a['vendi']:.2f}; "
            f"the {found['k']} best have {number(_reward(b))} and {b['vendi']:.2f}."
        )


def stale(view: View, found: dict[str, Any]) -> str:
    """Empty, or the sentence that the run has gone on since."""
    now = len(view.candidates)
    if (then := found.get("of", now)) == now:
        return ""
    again = command("keep", shown(view.folder), str(found["k"]))
    return f"What is in kept/ was chosen when the run had {then} pictures, of now {now}. Choose again with: {again}"


def _reward(point: dict[str, Any]) -> float:
    return float("nan") if point["reward"] is None else float(point["reward"])


def section(view: View) -> str:
    """The kept pictures, and what other weights of quality would have kept."""
    found = read(view.folder)
    if found is None:
        return ""
    by_index = {c.index: c for c in view.candidates}
    cards = "".join(
        f'<figure class="card">{picture(view.picture(by_index[i]), THUMB).tag(f"Kept: candidate {i}")}'
        f"<figcaption><b>{number(by_index[i].reward)}</b><span>{i}</span></figcaption></figure>"
        for i in found["kept"]
        if i in by_index
    )
    named = [("the first", found["first"]), ("the best", found["best"])]
    named += [(f"weight {point['weight']:g}", point) for point in found["front"]]
    old = stale(view, found)
    aside = f'<p class="small">{text(old)}</p>' if old else ""
    mine = f"weight {found['weight']:g}"
    rows = "".join(
        f'<tr class="{"win" if name == mine else ""}"><td>{text(name)}</td>'
        f"<td>{number(_reward(point))}</td><td>{point['vendi']:.2f}</td></tr>"
        for name, point in named
    )
    return (
        f"<h2>Good and different<small>{found['k']} kept by a determinant of likeness ({text(found['likeness'])}) and reward; "
        f"Vendi counts different pictures, 1 to {found['k']}</small></h2>"
        f'{aside}<section class="gallery" id="kept">{cards}</section>'
        f'<div class="two"><figure class="card">{_front(found)}</figure><div class="card scroll" id="front"><table><thead><tr>'
        f"<th>{found['k']} of {found.get('of', len(view.candidates))}</th><th>mean reward</th><th>Vendi</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _front(found: dict[str, Any]) -> str:
    """Mean reward against Vendi score, a dot a weight."""
    points = [
        (p["vendi"], _reward(p), p["weight"]) for p in [*found["front"], found["best"]] if p["reward"] is not None
    ]
    if not points:
        return ""
    (x0, x1), (y0, y1) = ((min(p[i] for p in points), max(p[i] for p in points)) for i in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        return 60 + 400 * (x - x0) / (x1 - x0 or 1), 230 - 190 * (y - y0) / (y1 - y0 or 1)

    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(x, y) for x, y, _ in sorted(points[:-1])))
    dots = "".join(
        f'<circle cx="{at(x, y)[0]:.1f}" cy="{at(x, y)[1]:.1f}" r="{6 if w == found["weight"] else 4}" '
        f'fill="{"var(--accent)" if w is not None else "currentColor"}"><title>'
        f"{'the best' if w is None else f'weight {w:g}'}: {number(y)}, {x:.2f}</title></circle>"
        for x, y, w in points
    )
    return (
        '<svg viewBox="0 0 500 280" role="img" aria-label="Mean reward against Vendi score" font-size="12" fill="currentColor">'
        f'<polyline points="{line}" fill="none" stroke="var(--accent)" stroke-opacity=".5"/>{dots}'
        f'<text x="260" y="272" text-anchor="middle">Vendi score</text><text x="60" y="252">{x0:.2f}</text>'
        f'<text x="460" y="252" text-anchor="end">{x1:.2f}</text><text x="4" y="40">{number(y1)}</text>'
        f'<text x="4" y="234">{number(y0)}</text><text x="4" y="16">mean reward</text></svg>'
    )
