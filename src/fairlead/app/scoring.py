"""`fairlead score`: scores and ranks existing pictures, or the candidates of a run by another reward."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fairlead.app.console import plain_table, print_json, print_table, quiet, say, stdout
from fairlead.app.options import AsJson, with_run_options
from fairlead.app.words import number
from fairlead.core.check import whole_number
from fairlead.core.errors import FairleadError
from fairlead.run.held_out import correlation
from fairlead.run.judged import JUDGED
from fairlead.run.options import RunOptions
from fairlead.run.spec import parse_reward, reward_text
from fairlead.run.store import write_atomically

SHOWN = 40


@with_run_options(("reward",))
def score(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURES...", help="Files, folders, or the folders of runs.")
    ],
    *,
    options: RunOptions,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="One prompt for all of them.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts: one a line in order, or .csv, .json, .jsonl with file and prompt."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the table to .csv, .json or .parquet.")
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add mean and spread to this file, for zscore(..., stats='FILE')."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures scored at once.")] = 16,
    as_json: AsJson = False,
) -> int:
    """Score and rank pictures; prompts come from metadata, a file or --prompt. Exit code 1 if one has no score."""
    tree = parse_reward(options.reward)
    whole_number("--batch", batch, 1)
    if prompt is not None and prompts is not None:
        raise FairleadError(f"--prompt {prompt!r} and --prompts {prompts} exclude each other. Pass one of them.")
    if out is not None and out.suffix not in (".csv", ".json", ".parquet"):
        raise FairleadError(f"{out} ends in {out.suffix or 'nothing'}: write .csv, .json or .parquet.")
    from fairlead.run import scoring

    found = scoring.collect(pictures, prompt, prompts)
    with quiet(as_json):
        from fairlead.run.rewards import build_reward, reward_leaf

        scores = scoring.score(found, build_reward(tree, reward_leaf), batch=batch)
    table = scoring.rows(scores)
    if out is not None:
        scoring.write(table, out)
    if stats is not None:
        _add_statistics(stats, reward_text(tree), scoring.statistics(scores))
    ordered = sorted(table, key=lambda r: (r["rank"] is None, r["rank"] or 0))
    if as_json:
        print_json({"reward": reward_text(tree), "pictures": ordered})
    else:
        _show(ordered, reward_text(tree))
    judged = [(row["reward"], row[JUDGED]) for row in table if not math.isnan(row.get(JUDGED, math.nan))]
    if judged:
        said = number(correlation(judged), sign=True)
        say(f"Rank correlation with what people said about {len(judged)} of these pictures: {said}.")
    failed = [row for row in table if row["rank"] is None]
    if failed:
        why = f"{failed[0]['file']}: {failed[0]['reason'] or 'no number'}"
        say(f"{len(failed)} of {len(table)} pictures have no score; the first is {why}.")
    return 1 if failed else 0


def _show(ordered: list[dict[str, object]], formula: str) -> None:
    terms = [k for k in ordered[0] if k not in ("file", "rank", "reward", "prompt", "reason")]
    terms = [term for term in terms if term != formula] if {formula} >= {*terms} - {JUDGED} else terms
    reasons = any(row["reason"] for row in ordered)
    view = plain_table("rank", formula, *terms, *(["note"] if reasons else []), "file", whole=("file",))
    for row in ordered[:SHOWN]:
        numbers = [number(float(str(row[k]))) for k in ("reward", *terms)]
        note = [Text(str(row["reason"]), style="yellow")] if reasons else []
        view.add_row(str(row["rank"] or "–"), *numbers, *note, Text(str(row["file"])))
    if len(ordered) > SHOWN:
        view.caption = Text(f"and {len(ordered) - SHOWN} more; --out FILE writes all")
        view.caption_justify = "left"
    print_table(stdout(), view)


def _add_statistics(path: Path, formula: str, found: dict[str, float]) -> None:
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise FairleadError(f"{path} is not a file of statistics ({error}). Choose another --stats file.") from error
    write_atomically(path, (json.dumps({**known, formula: found}, indent=1) + "\n").encode())
