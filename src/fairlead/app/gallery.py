"""The page of a set of runs: every best picture, one table, and links to the reports. Imports no torch.

Pictures stay files beside the page, so that ten thousand prompts make a small page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.app.page import page
from fairlead.app.set_rows import rows_of
from fairlead.app.table import Table
from fairlead.app.words import command, number, reason, shorter, shown
from fairlead.run.set_file import SetFile
from fairlead.run.store import DATABASE, write_atomically

PAGE = "index.html"
TABLE = "table.csv"


def begun(folder: Path) -> list[Path]:
    """The folders of the runs of a set that have a record, in order."""
    places = [folder / entry.folder for entry in SetFile.read(folder).entries]
    return [place for place in places if (place / DATABASE).is_file()]


def write_gallery(folder: Path) -> Path:
    """Write `index.html` and `table.csv` beside the runs of a set."""
    rows = rows_of(begun(folder))
    write_atomically(folder / TABLE, Table(rows).to_csv().encode())
    several = len({row["seed"] for row in rows}) > 1
    of = len(SetFile.read(folder).entries)
    heading = f"{of} runs" if len(rows) == of else f"{len(rows)} of {of} runs"
    values = {
        "facts": [heading],
        "heading": f"{heading}: the best picture of each",
        "shots": [_shot(folder, row, several) for row in rows],
        "rows": [{**row, "stopped": reason(str(row["stopped"])) or row["stopped"]} for row in rows],
        "commands": [("continue, after Ctrl-C or with a larger --budget", command("resume", shown(folder)))],
    }
    write_atomically(folder / PAGE, page("gallery.html", f"{heading} · fairlead", **values))
    return folder / PAGE


def _shot(folder: Path, row: Mapping[str, Any], several: bool) -> dict[str, Any]:
    best = f"{row['run']}/best.png"
    report = f"{row['run']}/report.html"
    found = "no reward yet"
    if row["best"] is not None:
        found = f"{number(row['best'])} ({number(row['gain'], sign=True)})"
    return {
        "source": best if (folder / best).is_file() else "",
        "link": report if (folder / report).is_file() else best,
        "prompt": shorter(str(row["prompt"]), 120),
        "seed": row["seed"] if several else None,
        "reward": found,
    }
