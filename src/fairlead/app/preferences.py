"""The ranking by people as CSV, and their preferences as trainers read them. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairlead.run.judged import Judged
from fairlead.run.judged_across import JudgedAcross
from fairlead.run.view import View


def ranking_rows(view: View, judged: Judged, beside: Path) -> list[dict[str, Any]]:
    """One flat record per judged picture, the best first. Files are named as seen from the folder `beside`."""
    by_index = {c.index: c for c in [*([view.baseline] if view.baseline else []), *view.candidates]}
    found = []
    for n, place in enumerate(judged.ranking, 1):
        c = by_index[place.candidate]
        file = _relative(view.picture(c), beside)
        found.append({"place": n, **place.as_dict(), "reward": c.reward, "file": file, "prompt": view.spec.prompt})
    return found


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """The records with a line of names; what is not a number is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else ["place"], lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    return text.getvalue()


def preference_rows(view: View, judged: Judged, beside: Path) -> list[dict[str, Any]]:
    """One record per decided comparison, with the `prompt`, `chosen` and `rejected` of datasets for DPO."""
    by_index = {c.index: c for c in [*([view.baseline] if view.baseline else []), *view.candidates]}
    return [
        {
            "prompt": view.spec.prompt,
            "chosen": _relative(view.picture(by_index[p.chosen]), beside),
            "rejected": _relative(view.picture(by_index[p.rejected]), beside),
            "judge": p.judgement.who,
            "at": p.judgement.at,
            "run": view.folder.name,
            "chosen_candidate": p.chosen,
            "rejected_candidate": p.rejected,
        }
        for p in judged.preferences
    ]


def ranking_across(runs: JudgedAcross, beside: Path, who: str | None = None) -> list[dict[str, Any]]:
    """One flat record per judged picture of several runs, the best first."""
    found = []
    for n, place in enumerate(runs.judged(who).ranking, 1):
        picture = runs.pictures[place.candidate]
        view = runs.views[picture.run]
        c = next(c for c in view.finished if c.index == picture.candidate)
        named = {"run": picture.run, "candidate": picture.candidate}
        file = _relative(view.picture(c), beside)
        found.append({"place": n, **place.as_dict(), **named, "reward": c.reward, "file": file, "prompt": runs.prompt})
    return found


def preferences_across(runs: JudgedAcross, beside: Path, who: str | None = None) -> list[dict[str, Any]]:
    """One record per decided pair of pictures of different runs; the fields are those of a run's own preferences."""
    found = []
    for p in runs.judged(who).preferences:
        row: dict[str, Any] = {"prompt": runs.prompt}
        for word, number in (("chosen", p.chosen), ("rejected", p.rejected)):
            picture = runs.pictures[number]
            view = runs.views[picture.run]
            c = next(c for c in view.finished if c.index == picture.candidate)
            row[word] = _relative(view.picture(c), beside)
            row |= {f"{word}_run": picture.run, f"{word}_candidate": picture.candidate}
        found.append({**row, "judge": p.judgement.who, "at": p.judgement.at})
    return found


def as_jsonl(rows: Sequence[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _relative(path: Path, beside: Path) -> str:
    """The path from a folder, with slashes."""
    return Path(os.path.relpath(path.resolve(), beside.resolve())).as_posix()
