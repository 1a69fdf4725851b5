"""Which candidate a replay is for, and where its picture may be written. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from fairlead.app.words import command
from fairlead.core.errors import FairleadError
from fairlead.run.records import BASELINE
from fairlead.run.view import View


def index_of(run: Path, word: str) -> int:
    """A candidate's number from what was typed."""
    view = View.read(run)
    if word in ("best", "baseline"):
        found = view.best if word == "best" else view.baseline
        if found is None:
            raise FairleadError(f"{run} has no {word} yet. Continue it with '{command('resume', run)}'.")
        return found.index
    try:
        index = int(word)
    except ValueError:
        raise FairleadError(f"Candidate {word!r} must be a number from the report, 'best' or 'baseline'.") from None
    if index not in {c.index for c in view.candidates} | ({BASELINE} if view.own_baseline else set()):
        raise FairleadError(f"{run} has no candidate {index}: it has {len(view.candidates)}, numbered from 0.")
    return index


def refuse_existing_file(out: Path) -> None:
    """Refuse to overwrite a file."""
    if out.exists():
        raise FairleadError(f"{out} exists already. Choose another --out.")
