"""`fairlead run --prompts FILE` and `--seeds`: many runs in one folder, with one page and one table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.app.console import plain_table, print_json, print_pairs, print_table, say, stderr, stdout
from fairlead.app.gallery import begun, write_gallery
from fairlead.app.keep import say_what_was_kept
from fairlead.app.loggers import followed
from fairlead.app.report import write_report
from fairlead.app.run_object import run_object
from fairlead.app.running import INTERRUPTED, computing, refuse_existing
from fairlead.app.set_rows import rows_of
from fairlead.app.words import command, duration, number, shorter, shown
from fairlead.core.errors import FairleadError
from fairlead.run import config, prompt_rows
from fairlead.run.folders import new_folder
from fairlead.run.options import RunOptions
from fairlead.run.records import RunStatus
from fairlead.run.set_file import SetFile
from fairlead.run.view import View

Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="FILE", help="Many prompts: .txt with one per line, .csv or .jsonl with options per row."
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="LIST", help="Run every prompt with each of these seeds: 0-7 or 1,5."),
]
SHOWN = 20
"""Rows of the table in the terminal; the file has all."""


def run_set_command(
    options: RunOptions,
    prompts: Path | None,
    seeds: str | None,
    keep: int | None,
    log: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> int:
    """Search for a better picture of every prompt and seed, in one new folder."""
    from fairlead.run import models, several
    from fairlead.run.run_set import run_set

    if prompts is None:
        rows = prompt_rows.of([options.prompt])
    elif options.prompt:
        raise FairleadError(f"The prompt {options.prompt!r:.60} and --prompts {prompts} exclude each other. Use one.")
    else:
        rows, sentences = prompt_rows.read(prompts)
        for sentence in sentences:
            say(sentence)
    specs = several.specs_of(prompt_rows.expanded(options, rows, seeds), models.spec_of)
    name = options.prompt if prompts is None else prompts.stem
    folder = out if out is not None else new_folder(name, datetime.now(UTC), config.runs_folder())
    refuse_existing(folder)
    for sentence in dict.fromkeys(sentence for spec in specs for sentence in models.warnings(spec)):
        say(f"warning: {sentence}")
    places = several.listed(folder, specs, options.exact)
    if len(set(places)) < len(places):
        say(f"{len(places) - len(set(places))} runs were asked for twice and are done once.")
    with computing(as_json) as (watch, stop), followed(log=log) as events:
        try:
            run_set(
                folder,
                on_progress=watch,
                on_run=events.progressed,
                stop=stop,
                on_finished=lambda place: _ended(place, keep),
            )
        finally:
            page = write_gallery(folder)
    return _finish(folder, page, as_json)


def resume_set(folder: Path, changes: Any, log: Sequence[str], trust: bool, as_json: bool) -> int:
    """Go on with all runs of a set."""
    from fairlead.run.run_set import run_set

    with computing(as_json) as (watch, stop), followed(log=log) as events:
        try:
            run_set(
                folder,
                changes=changes,
                on_progress=watch,
                on_run=events.progressed,
                stop=stop,
                trust=trust,
                on_finished=_reported,
            )
        finally:
            page = write_gallery(folder)
    return _finish(folder, page, as_json)


def _reported(folder: Path) -> None:
    write_report(folder)


def _ended(folder: Path, keep: int | None) -> None:
    if keep is not None and View.read(folder).candidates:
        from fairlead.run.diverse_subset import keep as choose

        choose(folder, keep)
        say_what_was_kept(folder)
    write_report(folder)


def _finish(folder: Path, page: Path, as_json: bool) -> int:
    places = begun(folder)
    rows = rows_of(places)
    many = len(SetFile.read(folder).entries)
    done = sum(View.read(place).status == RunStatus.FINISHED for place in places)
    console = stderr() if as_json else stdout()
    table = plain_table("prompt", "seed", "baseline", "best", "gain")
    for row in rows[:SHOWN]:
        numbers = (number(row["baseline"]), number(row["best"]), number(row["gain"], sign=True))
        table.add_row(shorter(row["prompt"]), str(row["seed"]), *numbers)
    print_table(console, table)
    if len(rows) > SHOWN:
        say(f"{len(rows) - SHOWN} more rows are in {shown(folder / 'table.csv')}.")
    seconds = sum(row["seconds"] for row in rows)
    print_pairs(console, [("runs", f"{done} of {many}"), ("time", duration(seconds)), ("page", page)])
    if as_json:
        print_json({"set": shown(folder), "page": shown(page), "runs": [run_object(View.read(p)) for p in places]})
    if done < many:
        say(f"Stopped early. Continue with: {command('resume', shown(folder))}")
        return INTERRUPTED
    return 0
