"""`fairlead rank`: the pictures of a run in the order in which people prefer them. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.app.console import plain_table, print_json, print_table, say, stdout
from fairlead.app.options import AsJson
from fairlead.app.preferences import as_csv, as_jsonl, preference_rows, ranking_rows
from fairlead.app.words import number, shown
from fairlead.core.errors import FairleadError
from fairlead.run.judged import Agreement, Judged
from fairlead.run.store import write_atomically
from fairlead.run.view import View

FEW = 2
"""Judges that an agreement needs."""


def rank(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs whose pictures were judged.")],
    who: Annotated[
        str | None, typer.Option("--who", metavar="NAME", help="Only this person's judgements.  [default: everybody's]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the ranking to .csv.")] = None,
    preferences: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write prompt, chosen and rejected of every comparison to .jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Rank the pictures that people compared in 'fairlead studio', and export their preferences for training."""
    for path, suffix in ((out, ".csv"), (preferences, ".jsonl")):
        if path is not None and path.suffix != suffix:
            raise FairleadError(f"{path} ends in {path.suffix or 'nothing'}: must end in {suffix}.")
    found = [(View.read(run), Judged.of(run, who)) for run in runs]
    for view, judged in found:
        if not judged.judgements:
            raise FairleadError(f"Nobody has judged the pictures of {view.folder}. Judge them in 'fairlead studio'.")
    if out is not None:
        table = [{"run": v.folder.name, **row} for v, j in found for row in ranking_rows(v, j, out.parent)]
        write_atomically(out, as_csv(table).encode())
    if preferences is not None:
        rows = [row for v, j in found for row in preference_rows(v, j, preferences.parent)]
        write_atomically(preferences, as_jsonl(rows).encode())
        say(f"{shown(preferences)} has {len(rows)} preferences; ties and pairs that were both bad are left out.")
    if as_json:
        print_json({"runs": [_object(view, judged) for view, judged in found]})
        return 0
    for view, judged in found:
        _show(view, judged)
    return 0


def _object(view: View, judged: Judged) -> dict[str, Any]:
    return {
        "run": shown(view.folder),
        "judgements": len(judged.judgements),
        "judges": judged.judges,
        "alpha": judged.agreement.alpha,
        "shared_pairs": judged.agreement.pairs,
        "ranking": ranking_rows(view, judged, Path()),
    }


def _show(view: View, judged: Judged) -> None:
    table = plain_table(
        "place", "preferred to the average", "95 %", "places", "seen", "both bad", "reward", "candidate"
    )
    for row in ranking_rows(view, judged, Path()):
        places = f"{row['best_place']} to {row['worst_place']}"
        interval = f"{100 * row['chance_low']:.0f} to {100 * row['chance_high']:.0f} %"
        cells = [str(row["place"]), f"{100 * row['chance']:.0f} %", interval, places, str(row["seen"]), str(row["bad"])]
        table.add_row(*cells, number(row["reward"]), str(row["candidate"]))
    print_table(stdout(), table)
    names = ", ".join(f"{name or 'without a name'} {many}" for name, many in judged.judges.items())
    say(f"{shown(view.folder)}: {len(judged.judgements)} judgements ({names}). {agreement_words(judged)}")


def agreement_words(judged: Judged) -> str:
    """How far the judges agree, as a sentence; empty with one judge."""
    if len(judged.judges) < FEW:
        return ""
    found: Agreement = judged.agreement
    if found.alpha != found.alpha:
        return "Their agreement is not known yet: no pair was judged differently or by two of them."
    return (
        f"Krippendorff's alpha over {found.pairs} shared pairs is {found.alpha:.2f}; 1 is perfect agreement, 0 chance."
    )
