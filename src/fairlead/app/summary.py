"""What a finished run says on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from fairlead.app import choice
from fairlead.app.console import cost_text, pairs
from fairlead.app.words import number, reason, shown
from fairlead.run.spec import reward_text
from fairlead.run.view import View


def summary(view: View, page: Path) -> Table:
    """Reward before and after, cost, why it stopped, where the files are."""
    rows: list[tuple[str, str | Text]] = [("warning", Text(sentence, style="yellow")) for sentence in view.warnings]
    if view.best and view.baseline:
        line = Text().append(number(view.baseline.reward), style="yellow").append(" → ")
        line.append(number(view.best.reward), style="bold cyan")
        style = "bold green" if view.gain > 0 and not view.warnings else "dim"
        line.append(f"   {number(view.gain, sign=True)}" if view.gain else "   no gain", style=style)
        line.append(f"   candidate {view.best.index} of {len(view.candidates)}", style="dim")
        rows.append((reward_text(view.spec.reward), line))
    else:
        rows.append((reward_text(view.spec.reward), f"no candidate has a reward yet, {len(view.candidates)} rendered"))
    if said := choice.sentence(view):
        rows.append(("chosen by", said))
    if said := choice.flat(view):
        rows.append(("flat", said))
    rows.append(("cost", cost_text(view.spent, view.spec.limit)))
    rows.append(("stopped", reason(view.stopped) or view.status))
    if view.best:
        rows.append(("best", shown(view.named_picture("best.png", view.best))))
    if view.baseline:
        rows.append(("baseline", shown(view.named_picture("baseline.png", view.baseline))))
    if view.bank is not None:
        reward, picture = view.bank
        rows.append(("best of the bank", Text().append(number(reward)).append("   ").append(shown(picture))))
    rows.append(("report", shown(page)))
    return pairs(rows)
