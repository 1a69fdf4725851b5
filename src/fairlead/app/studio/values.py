"""One run as JSON: what the page shows, and what programs read. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairlead.app import advice, held_out, report
from fairlead.app.studio.library import method_words, parent_json, run_id
from fairlead.app.words import shown
from fairlead.app.workers.jobs import Job
from fairlead.run import marks
from fairlead.run.follow import Follower, candidate_json, is_held
from fairlead.run.records import BASELINE
from fairlead.run.spec import reward_text
from fairlead.run.store import DATABASE
from fairlead.run.view import View

Standing = Callable[[str, str, bool, Job | None], dict[str, Any]]
"""How a run stands: from the status and the end of its record, whether it is held, and its job."""


def whole(folder: Path, job: Job | None, standing: Standing) -> dict[str, Any]:
    """Everything about a run at one position of its record; about a job without a record, what was asked for."""
    start = {"id": run_id(folder.name), "name": folder.name, "folder": shown(folder)}
    if not (folder / DATABASE).is_file():
        options = {} if job is None else dict(job.options)
        empty: dict[str, Any] = {"candidates": [], "marks": {}, "position": "", "notes": [], "commands": []}
        return {**start, **empty, "prompt": options.get("prompt", ""), "state": standing("", "", False, job)}
    follower = Follower(folder)
    try:
        position = follower.position()  # before the rows: what comes later is sent again, and replaces itself
        view = View.read(folder)
        present = marks.present(follower.marks())
        people = follower.people()
    finally:
        follower.close()
    every = [*([view.baseline] if view.own_baseline and view.baseline else []), *view.candidates]
    return {
        **start,
        "prompt": view.spec.prompt,
        "model": view.spec.model.name,
        "reward": reward_text(view.spec.reward),
        "method": method_words(view.spec),
        "seed": view.spec.seed,
        "created": view.created,
        "position": str(position),
        "state": standing(view.status.value, view.stopped, is_held(folder), job),
        "spent": view.spent.as_dict(),
        "limit": view.spec.limit.limits(),
        "draft": view.spec.draft is not None,
        "winner": None if view.judging is None or view.best is None else view.best.index,
        "judging": {} if view.judging is None else view.judging.cost.as_dict(),
        "baseline": BASELINE if view.spec.controlled else 0,
        "watched": [reward_text(tree) for tree in view.spec.watch],
        "candidates": [candidate_json(c) for c in every],
        "people": people,
        "marks": {str(index): own for index, own in present.items()},
        "notes": report.notes(view),
        "held_out": held_out.warning(view) or "",
        "parent": parent_json(view.spec.parent),
        "settings": report.settings(view.spec),
        "versions": view.versions,
        "meaning": advice.meaning(view),
        "next_steps": advice.next_steps(view),
        "commands": advice.commands(view),
    }
