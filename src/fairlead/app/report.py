"""One self-contained page per run: what it gained, how it got there, and how to repeat it. Imports no torch.

Every function here collects the values of one section; `templates/run.html` says how they look.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairlead.app import advice, choice, diverse_subset, funnel, held_out
from fairlead.app.chart import Chart, Line, axis_label, svg
from fairlead.app.page import page, picture
from fairlead.app.words import (
    budget_text,
    command,
    count,
    duration,
    number,
    part_text,
    reason,
    rung_words,
    shorter,
    shown,
)
from fairlead.core.cost import UNITS
from fairlead.run import rungs
from fairlead.run.records import Candidate, RunStatus, StopReason
from fairlead.run.spec import Spec, reward_text
from fairlead.run.store import write_atomically
from fairlead.run.view import Point, View

NAME = "report.html"
GALLERY, TABLE, DOTS = 64, 1000, 2000
"""Pictures shown, candidates listed, and candidates in a chart, at most."""
LARGE, THUMB = 1024, 320
"""Longest side of the winner and of a picture in the gallery; what is larger is inlined smaller."""


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run folder from its record alone, finished or not."""
    view = View.read(Path(folder))
    path = view.folder / NAME
    title = f"{view.spec.prompt} · fairlead"
    write_atomically(path, page("run.html", title, **_values(view)))
    return path


def _values(view: View) -> dict[str, Any]:
    """What the template shows."""
    spec = view.spec
    when = view.created[:16].replace("T", " ") + " UTC"
    limited = "seconds" in spec.limit.limits()
    return {
        "view": view,
        "facts": [spec.model.name, reward_text(spec.reward), spec.search.name, f"seed {spec.seed}", when],
        "shots": [_shot(view, "best"), _shot(view, "baseline")],
        "slides": view.best is not None and view.baseline is not None and not _is(view.best, view.baseline),
        "gain": _gain(view),
        "chosen": choice.sentence(view),
        "reward": reward_text(spec.reward),
        "unit": view.unit,
        "budget": [_budget_line(view, name, limit) for name, limit in spec.limit.limits().items()],
        "time": "" if limited else duration(view.spent.seconds),
        "state": state(view),
        "notes": notes(view),
        "no_number": _no_number(view),
        "charts": _charts(view),
        "funnel": funnel.section(view),
        "knockout": funnel.knockout(view),
        "kept": diverse_subset.section(view),
        "gallery": [_card(view, candidate, rank) for rank, candidate in enumerate(view.ranked[:GALLERY], 1)],
        "gallery_small": _gallery_words(len(view.ranked)),
        "watched": held_out.section(view),
        "terms": _terms(view),
        "table": _table(view),
        "cost": _cost(view),
        "settings": settings(spec),
        "versions": [(name, str(value)) for name, value in view.versions.items()],
        "commands": advice.commands(view),
        "meaning": advice.meaning(view),
        "next_steps": advice.next_steps(view),
        "starred": _starred(view),
    }


def state(view: View) -> str:
    """How the run stands, in words."""
    if view.status == RunStatus.RUNNING:
        return "not finished"
    return reason(view.stopped) or view.status


def _shot(view: View, which: str) -> dict[str, Any]:
    """The winner or the baseline as a large picture."""
    if which == "best":
        candidate = view.best
        shot = {"css": "win", "title": "Best found", "words": "no candidate has a reward yet"}
    else:
        candidate = view.baseline
        shot = {"css": "base", "title": "Baseline", "words": "not rendered yet"}
    if candidate is None:
        return {**shot, "picture": None}
    found = picture(view.named_picture(f"{which}.png", candidate), LARGE)
    return {**shot, "words": _origin(view, candidate, which), "picture": found, "reward": number(candidate.reward)}


def _origin(view: View, candidate: Candidate, which: str) -> str:
    if which == "baseline":
        return "same seed, no control" if view.own_baseline else "same seed, no search"
    if candidate.refines is None:
        return f"candidate {candidate.index}"
    return f"candidate {candidate.index}, draft {candidate.refines} in full"


def _gain(view: View) -> dict[str, str]:
    """The number in large letters, its colour and what it means."""
    gain = view.gain
    if math.isnan(gain):
        return {"css": "none", "value": "–", "words": "no comparison possible"}
    if gain == 0:
        return {"css": "none", "value": "none", "words": "no candidate beat the baseline"}
    if gain < 0:
        return {"css": "down", "value": number(gain, sign=True), "words": "every candidate is below the baseline"}
    pictures = [c for c in view.candidates if c.rung == len(view.spec.rungs)]
    beaten = sum(1 for c in pictures if view.baseline and c.reward > view.baseline.reward)
    words = f"{beaten} of {len(pictures)} {'finished pictures' if view.spec.rungs else 'candidates'} beat the baseline"
    css = "none" if view.warnings else ""  # no praise for a picture that may not be what was asked for
    return {"css": css, "value": number(gain, sign=True), "words": words}


def _budget_line(view: View, name: str, limit: float) -> tuple[str, str, str, float]:
    """Resource, spent, limit, share."""
    spent = getattr(view.spent, name)
    share = min(1.0, spent / limit) if limit else 0.0
    return ("NFE" if name == "nfe" else name), _amount(name, spent), _amount(name, limit), share


def _amount(name: str, value: float) -> str:
    return duration(value) if name == "seconds" else count(value)


def notes(view: View) -> list[str]:
    """What the reader should know before trusting the numbers."""
    found = list(view.warnings)
    if said := choice.flat(view):
        found.append(said)
    if hacking := held_out.warning(view):
        found.append(hacking)
    if view.status == RunStatus.RUNNING:
        found.append(
            "This run has not finished: it is still going, or it was cut off. The command to continue it is below."
        )
    elif view.stopped == StopReason.WAITING:
        found.append(f"This run waits for your answer: {command('answer', shown(view.folder))}")
    elif view.status == RunStatus.STOPPED:
        found.append("This run was stopped before its budget was spent. The command to continue it is below.")
    if view.failed and view.stopped != StopReason.WAITING:
        many = len(view.failed)
        found.append(f"{many} candidate{'s' if many > 1 else ''} got no number from the reward and cannot win.")
    return found


def _charts(view: View) -> dict[str, Any] | None:
    trace = view.trace()
    if not any(math.isfinite(point.best) for point in trace):
        return None
    limit = view.spec.limit
    lines = _lines(view, trace, "nfe")
    key = [{"name": line.label, "colour": line.colour, "highlights": True} for line in lines]
    return {
        "key": key if len(lines) > 1 else (),
        "nfe": _chart(view, trace, "nfe", limit.nfe),
        "seconds": _chart(view, trace, "seconds", limit.seconds),
    }


def _lines(view: View, trace: list[Point], axis: str) -> list[Line]:
    """The best reward so far; every rung has a line of its own, because rewards of different rungs do not compare."""
    names = [rung_words(str(rungs.read(rung))) for rung in view.spec.rungs]
    lines = []
    for at in range(len(names) + 1):
        own = [point for point in trace if point.candidate.rung == at]
        if not own:
            continue
        end = float(getattr(own[-1].spent, axis))
        if at == len(names):
            label = "best finished so far" if names else "best so far"
            lines.append(Line(label, staircase(own, axis), max(end, float(getattr(view.spent, axis)))))
        else:
            lines.append(Line(f"best draft so far: {names[at]}", staircase(own, axis), end, funnel.colour(at)))
    return lines


def _chart(view: View, trace: list[Point], axis: str, limit: float) -> str:
    dots: dict[bool, list[tuple[float, float, str]]] = {True: [], False: []}
    failed = []
    every = -(-len(trace) // DOTS)
    for point in trace[::every]:
        candidate = point.candidate
        at = getattr(point.spent, axis)
        if math.isfinite(candidate.reward):
            is_draft = candidate.rung < len(view.spec.rungs)
            what = "draft" if is_draft else "candidate"
            dots[is_draft].append((at, candidate.reward, f"{what} {candidate.index}: {number(candidate.reward)}"))
        elif math.isnan(candidate.reward):
            failed.append((at, f"candidate {candidate.index} {_no_number(view)}"))
    chart = Chart(
        title=f"Best reward so far against {axis}",
        x_label=axis_label(axis) + (f"; one candidate of {every} is shown" if every > 1 else ""),
        y_label=shorter(reward_text(view.spec.reward)),
        y_unit=shorter(view.unit),
        lines=_lines(view, trace, axis),
        dots=dots[False],
        faint=dots[True],
        failed=failed,
        baseline=view.baseline.reward if view.baseline else math.nan,
        limit=limit,
    )
    return svg(chart)


def staircase(trace: list[Point], axis: str) -> list[tuple[float, float]]:
    """Only the points where the best so far improved; of several at one time the last."""
    steps: dict[float, float] = {}
    for point in trace:
        if math.isfinite(point.best) and (not steps or point.best > max(steps.values())):
            steps[getattr(point.spent, axis)] = point.best
    return list(steps.items())


def _gallery_words(many: int) -> str:
    left = "all of them"
    if many > GALLERY:
        left = f"the best {GALLERY} of {many}; the others are in the table below and in images/"
    return f"{left}; click to enlarge, arrow keys to walk"


def _no_number(view: View) -> str:
    """Why a candidate has no reward: nobody has answered yet, or the reward failed."""
    return "unanswered" if view.stopped == StopReason.WAITING else "failed"


def _is(candidate: Candidate, other: Candidate | None) -> bool:
    return other is not None and candidate.index == other.index


def _card(view: View, candidate: Candidate, rank: int) -> dict[str, Any]:
    failed = math.isnan(candidate.reward)
    wins = _is(candidate, view.best)
    is_baseline = _is(candidate, view.baseline)
    css = []
    tags = []
    if wins:
        css.append("win")
        tags.append(("best", ""))
    if is_baseline:
        tags.append(("baseline", "base"))
        if not wins:
            css.append("base")
    if failed and view.stopped != StopReason.WAITING:  # what waits for an answer is there to be looked at
        css.append("failed")
    words = "no reward" if failed else f"reward {number(candidate.reward)}, rank {rank} of {len(view.candidates)}"
    return {
        "picture": picture(view.picture(candidate), THUMB),
        "alt": f"Candidate {candidate.index}: {words}",
        "value": _no_number(view) if failed else number(candidate.reward),
        "word": candidate.index,
        "css": " ".join(css),
        "tags": tags,
        "rank": rank,
        "index": candidate.index,
        "marks": view.marks.get(candidate.index, {}),
    }


def _starred(view: View) -> list[dict[str, Any]]:
    """The candidates with a star or a note, the best first."""
    own = {i: kinds for i, kinds in view.marks.items() if {"star", "note"} & set(kinds)}
    return [_card(view, candidate, rank) for rank, candidate in enumerate(view.ranked, 1) if candidate.index in own]


def _terms(view: View) -> list[dict[str, Any]]:
    whole = reward_text(view.spec.reward)
    names = [name for name in view.terms if not (len(view.terms) == 1 and name == whole)]
    return [*(_term(view, name, name) for name in names), _term(view, None, f"reward = {whole}")]


def _value(candidate: Candidate | None, name: str | None) -> float:
    if candidate is None:
        return math.nan
    return candidate.reward if name is None else float(candidate.terms.get(name, math.nan))


def _term(view: View, name: str | None, label: str) -> dict[str, Any]:
    """A row: one leaf of the formula, or the whole reward where `name` is None."""
    every = [v for v in (_value(c, name) for c in view.candidates) if math.isfinite(v)] or [math.nan]
    return {
        "label": label,
        "unit": view.units.get(name or "", ""),
        "total": name is None,
        "before": _value(view.baseline, name),
        "after": _value(view.best, name),
        "mean": sum(every) / len(every),
        "low": min(every),
        "high": max(every),
    }


def _table(view: View) -> dict[str, Any]:
    """Every candidate with every term."""
    names = view.terms
    rows = []
    for candidate in view.ranked[:TABLE]:
        draft = None
        if view.spec.draft:
            draft = "–" if candidate.refines is None else candidate.refines
        rows.append(
            {
                "wins": _is(candidate, view.best),
                "index": candidate.index,
                "reward": _no_number(view) if math.isnan(candidate.reward) else number(candidate.reward),
                "terms": [_value(candidate, name) for name in names],
                "nfe": candidate.cost.nfe,
                "seconds": candidate.cost.seconds,
                "steps": candidate.steps,
                "draft": draft,
                "batch": candidate.task,
                "image": Path(candidate.image).name[:12],
            }
        )
    drafts = ["draft"] if view.spec.draft else []
    return {
        "more": f" (the best {TABLE} of {len(view.candidates)})" if len(view.candidates) > TABLE else "",
        "head": ["candidate", "reward", *names, "NFE", "seconds", "steps", *drafts, "batch", "images/"],
        "rows": rows,
    }


def _cost(view: View) -> dict[str, Any]:
    setup = asdict(view.once)
    has_setup = any(value > 1e-6 for name, value in setup.items() if name != "seconds")
    limits = view.spec.limit.limits()
    rows = [
        _cost_row(view, name, value, limits.get(name, math.inf), setup[name] if has_setup else None)
        for name, value in asdict(view.spent).items()
        if value or name in limits
    ]
    head = ["resource", "spent", "budget", "", *(["once"] if has_setup else []), "per candidate"]
    return {"head": head, "rows": rows, "has_setup": has_setup}


def _cost_row(view: View, name: str, value: float, limit: float, setup: float | None) -> dict[str, Any]:
    many = len(view.candidates)
    each = (value - getattr(view.once, name)) / many if many else math.nan
    finite = math.isfinite(limit)
    return {
        "name": name,
        "unit": UNITS[name],
        "spent": _amount(name, value),
        "limit": _amount(name, limit) if finite else "no limit",
        "share": min(1.0, value / limit) if finite else None,
        "setup": None if setup is None else _amount(name, max(0.0, setup)),
        "each": f"{each:.3f} s" if name == "seconds" and many else count(each),
    }


def settings(spec: Spec) -> list[tuple[str, str]]:
    """The run's settings as names and words."""
    none = "none"
    return [
        ("model", part_text(spec.model)),
        ("reward", reward_text(spec.reward)),
        *([("watched", ", ".join(map(reward_text, spec.watch)))] if spec.watch else []),
        ("space", part_text(spec.space)),
        ("search", part_text(spec.search)),
        ("steering", ", ".join(map(part_text, spec.steering)) or none),
        ("interventions", ", ".join(map(part_text, spec.interventions)) or none),
        ("sampler", f"{spec.sampler}, {spec.steps} steps"),
        ("group, batch", f"{spec.group}, {spec.batch}"),
        ("seed", str(spec.seed)),
        *([("start", spec.parent.words())] if spec.parent is not None else []),
        *[("drafts", rung_words(str(rungs.read(rung)))) for rung in spec.rungs],
        *([("final judge", part_text(spec.final_judge))] if spec.final_judge is not None else []),
        *([("until", spec.until)] if spec.until else []),
        *([("stop", spec.stop)] if spec.stop else []),
        ("budget", budget_text(spec.budget)),
    ]
