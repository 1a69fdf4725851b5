"""A run as the JSON object that `--json` prints. Imports no torch."""

from __future__ import annotations

from typing import Any

from fairlead.app.words import shown
from fairlead.run import held_out
from fairlead.run.records import Candidate
from fairlead.run.view import View


def run_object(view: View) -> dict[str, Any]:
    """Where the run is, what it found, what it cost and why it stopped."""
    out: dict[str, Any] = {
        "run": shown(view.folder),
        "baseline": None if view.baseline is None else _baseline(view, view.baseline),
        "best": None if view.best is None else _best(view, view.best),
    }
    if every := held_out.held(view):
        out["watched"] = {h.name: {"baseline": h.before, "best": h.after, "fell": h.fell} for h in every}
        out["hacking"] = held_out.hacked(view)
    if view.judging is not None:
        out["final_judge"] = {
            "entrants": [c.index for c in view.judging.entrants],
            "answered": view.judging.answered,
            "finished": view.judging.finished,
            "flat": view.judging.flat,
        }
    if view.marks:
        out["starred"] = [index for index, kinds in sorted(view.marks.items()) if "star" in kinds]
    out["cost"] = _cost(view)
    out["stopped"] = view.stopped or view.status
    return out


def _baseline(view: View, baseline: Candidate) -> dict[str, Any]:
    return {
        "reward": baseline.reward,
        "terms": dict(baseline.terms),
        "image": shown(view.named_picture("baseline.png", baseline)),
    }


def _best(view: View, best: Candidate) -> dict[str, Any]:
    out = {
        "candidate": best.index,
        "reward": best.reward,
        "terms": dict(best.terms),
        "image": shown(view.named_picture("best.png", best)),
    }
    if best.refines is not None:
        draft = next(c for c in view.candidates if c.index == best.refines)
        out["draft"] = {"candidate": draft.index, "reward": draft.reward}
    return out


def _cost(view: View) -> dict[str, float]:
    """Entries that every run has, and those few have where they are not zero."""
    cost = view.spent.as_dict()
    names = ["nfe", "forwards", *(["backwards"] if view.spent.backwards else []), "decodes", "scores", "seconds"]
    names += [name for name in ("dollars", "questions") if cost[name]]
    return {name: cost[name] for name in names}
