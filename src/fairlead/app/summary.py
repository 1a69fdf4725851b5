"""What a finished run says on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from fairlead.app import choice
from fairlead.app.console import cost_text, print_pairs
from fairlead.app.words import number, reason
from fairlead.run.spec import reward_text
from fairlead.run.view import View


def print_summary(console: Console, view: View, page: Path) -> None:
    """Reward before and after, what its number means, cost, why the run stopped, where the files are."""
    rows: list[tuple[str, str | Text | Path]] = [
        ("warning", Text(sentence, style="yellow")) for sentence in view.warnings
    ]
    if view.best and view.baseline:
        line = Text().append(number(view.baseline.reward), style="yellow").append(" → ")
        line.append(number(view.best.reward), style="bold cyan")
        style = "bold green" if view.gain > 0 and not view.warnings else "dim"
        line.append(f"   {number(view.gain, sign=True)}" if view.gain else "   no gain", style=style)
        line.append(f"   candidate {view.best.index} of {len(view.candidates)}", style="dim")
        rows.append((reward_text(view.spec.reward), line))
    else:
        rows.append((reward_text(view.spec.reward), f"no candidate has a reward yet, {len(view.candidates)} rendered"))
    rows.append(("", Text(f"{view.unit}", style="dim")))
    if said := choice.sentence(view):
        rows.append(("chosen by", said))
    if said := choice.flat(view):
        rows.append(("flat", said))
    rows.append(("cost", cost_text(view.spent, view.spec.limit)))
    rows.append(("stopped", reason(view.stopped) or view.status))
    if view.best:
        rows.append(("best", view.named_picture("best.png", view.best)))
    if view.baseline:
        rows.append(("baseline", view.named_picture("baseline.png", view.baseline)))
    if view.bank is not None:
        reward, picture = view.bank
        rows += [("best of the bank", number(reward)), ("", picture)]
    rows.append(("report", page))
    print_pairs(console, rows)
