"""Watched rewards as the user sees them: a warning in the terminal, a table in the report. Imports no torch."""

from __future__ import annotations

import math
from typing import Any

from fairlead.app.words import number
from fairlead.run.held_out import hacked, held
from fairlead.run.view import View


def warning(view: View) -> str | None:
    """The sentence about it, or None."""
    if not hacked(view):
        return None
    names = ", ".join(f"{h.name} ({number(h.after - h.before, sign=True)})" for h in held(view))
    return (
        f"Reward hacking is likely: the optimised reward rose by {number(view.gain)} while everything that was only "
        f"watched fell: {names}."
    )


def section(view: View) -> dict[str, Any] | None:
    """What the report shows: the optimised reward beside those that were only watched; None if nothing was watched."""
    rewards = held(view)
    if not rewards:
        return None
    return {
        "before": view.baseline.reward if view.baseline else math.nan,
        "after": view.best.reward if view.best else math.nan,
        "rewards": rewards,
    }
