"""Watched rewards as the user sees them: a warning in the terminal, a table in the report. Imports no torch."""

from __future__ import annotations

import math

from fairlead.app.page import change, text
from fairlead.app.words import number
from fairlead.run.held_out import hacked, held
from fairlead.run.spec import reward_text
from fairlead.run.view import View


def warning(view: View) -> str | None:
    """The sentence about it, or None."""
    if not hacked(view):
        return None
    names = ", ".join(f"{h.name} ({number(h.after - h.before, sign=True)})" for h in held(view))
    return (
        f"Reward hacking is likely: the optimised reward rose by {number(view.gain)} while everything that was only watched "
        f"fell: {names}."
    )


def section(view: View) -> str:
    """Optimised beside watched, as a table; empty if nothing was watched."""
    every = held(view)
    if not every:
        return ""
    first, last = view.baseline, view.best
    before, after = (c.reward if c else math.nan for c in (first, last))
    head = (
        f'<tr class="total"><td>{text(reward_text(view.spec.reward))}</td><td>optimised</td><td>{number(before)}</td>'
        f"<td>{number(after)}</td>{change(after - before)}<td></td></tr>"
    )
    body = "".join(
        f"<tr><td>{text(h.name)}</td><td>watched{', <b>fell</b>' if h.fell else ''}</td><td>{number(h.before)}</td>"
        f"<td>{number(h.after)}</td>{change(h.after - h.before)}<td>{number(h.agreement, sign=True)}</td></tr>"
        for h in every
    )
    return (
        "<h2>Held out<small>watched rewards were never optimised: they tell whether the gain is real</small></h2>"
        '<div class="card scroll" id="heldout"><table><thead><tr><th>reward</th><th></th><th>baseline</th><th>best found</th>'
        f"<th>change</th><th>rank correlation with the reward</th></tr></thead><tbody>{head}{body}</tbody></table></div>"
    )
