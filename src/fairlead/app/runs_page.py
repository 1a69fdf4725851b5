"""One page for several runs: the winners side by side and best so far over each other. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.app.chart import Chart, Line, axis_label, svg
from fairlead.app.page import is_ours, page, picture
from fairlead.app.report import LARGE, staircase, state, write_report
from fairlead.app.words import command, number, part_text, shorter, shown
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run.spec import reward_text
from fairlead.run.store import write_atomically
from fairlead.run.view import View

COLOURS = ("#0b8ea3", "#d9772b", "#7a5cc4", "#3c9a5f", "#cc4466", "#9a7b1f", "#4a78d0", "#7d8893")
"""One per run, then again from the start; readable on light and dark."""


def write_report_of(runs: Sequence[Path], out: Path | None = None) -> Path:
    """The report of one run in its folder, or one page that compares several."""
    if len(runs) > 1:
        return write_runs_page(runs, out or Path("comparison.html"))
    if not runs:
        raise FairleadError("There is no run to report. Name the folder of one run, or of several to compare.")
    if out is not None:
        raise FairleadError(f"--out {out} is for a page of several runs. The report of one run is in its folder.")
    return write_report(runs[0])


def write_runs_page(folders: Sequence[Path], out: Path) -> Path:
    """Write the page to `out`. Replaces an older page of ours and nothing else."""
    if out.is_dir() or (out.exists() and not is_ours(out)):
        raise StoreError(f"{out} exists and is not a fairlead page. Choose another --out.")
    views = [View.read(folder) for folder in folders]
    write_atomically(out, page("runs.html", f"{len(views)} runs · fairlead", **_values(views)))
    return out


def names(views: Sequence[View]) -> list[str]:
    """What tells the runs apart: the settings in which they differ, else the folder's name."""
    told = [
        {
            "prompt": view.spec.prompt,
            "model": part_text(view.spec.model),
            "reward": reward_text(view.spec.reward),
            "search": part_text(view.spec.search),
            "steering": " ".join(map(part_text, view.spec.steering)) or "no steering",
            "interventions": " ".join(map(part_text, view.spec.interventions)) or "no intervention",
            "space": part_text(view.spec.space),
            "sampler": view.spec.sampler,
            "steps": f"{view.spec.steps} steps",
            "seed": f"seed {view.spec.seed}",
        }
        for view in views
    ]
    differing = [key for key in told[0] if any(each[key] != told[0][key] for each in told)]
    labels = [_joined(each, differing) for each in told]
    if differing and len(set(labels)) == len(labels):
        return labels
    return [view.folder.resolve().name for view in views]


def _joined(settings: Mapping[str, str], keys: Sequence[str]) -> str:
    return " · ".join(settings[key] for key in keys)


def _values(views: Sequence[View]) -> dict[str, Any]:
    """What the template shows."""
    labels = names(views)
    prompts = list(dict.fromkeys(view.spec.prompt for view in views))
    rewards = list(dict.fromkeys(reward_text(view.spec.reward) for view in views))
    return {
        "views": views,
        "heading": prompts[0] if len(prompts) == 1 else f"{len(views)} runs, {len(prompts)} prompts",
        "winners": list(map(_winner, views, labels)),
        "groups": [_group(views, labels, reward) for reward in rewards],
        "rows": [(view, label, state(view)) for view, label in zip(views, labels, strict=True)],
        "commands": [("write this page again", command("report", *(shown(view.folder) for view in views)))],
    }


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _winner(view: View, label: str) -> dict[str, Any]:
    if view.best is None:
        return {"label": label, "picture": None}
    return {
        "label": label,
        "picture": picture(view.named_picture("best.png", view.best), LARGE),
        "reward": number(view.best.reward),
        "gain": number(view.gain, sign=True),
    }


def _group(views: Sequence[View], labels: Sequence[str], reward: str) -> dict[str, Any]:
    """The runs with one reward, drawn together."""
    chosen = [(i, view) for i, view in enumerate(views) if reward_text(view.spec.reward) == reward]
    key = [{"name": labels[i], "colour": _colour(i), "highlights": False} for i, _ in chosen]
    if not math.isnan(_baseline(chosen)):
        key.append({"name": "baseline of all", "colour": None, "highlights": False})
    charts = [("against NFE", _chart(chosen, labels, "nfe")), ("against seconds", _chart(chosen, labels, "seconds"))]
    return {"reward": reward, "charts": charts, "key": key}


def _baseline(chosen: Sequence[tuple[int, View]]) -> float:
    """The baseline's reward if all runs have the same, else NaN."""
    found = {view.baseline.reward if view.baseline else math.nan for _, view in chosen}
    return found.pop() if len(found) == 1 else math.nan


def _chart(chosen: Sequence[tuple[int, View]], labels: Sequence[str], axis: str) -> str:
    lines = []
    for i, view in chosen:
        lines.append(Line(labels[i], staircase(view.trace(), axis), getattr(view.spent, axis), _colour(i)))
    chart = Chart(
        title=f"Best reward so far against {axis}, {len(chosen)} runs",
        x_label=axis_label(axis),
        y_label=shorter(reward_text(chosen[0][1].spec.reward)),
        y_unit=shorter(chosen[0][1].unit),
        lines=lines,
        baseline=_baseline(chosen),
        labelled=False,
    )
    return svg(chart)
