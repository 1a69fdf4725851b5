"""What drafts of a model are worth: the command `calibrate`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from fairlead.app.console import plain_table, print_json, quiet, say, stdout
from fairlead.app.options import AsJson, with_run_options
from fairlead.app.words import count
from fairlead.core.errors import FairleadError
from fairlead.run.options import RunOptions


@with_run_options(("model", "reward", "sampler", "steps", "batch", "seed"), {"sampler": "euler"})
def calibrate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What the pictures should show.")],
    drafts: Annotated[str, typer.Option(metavar="N,N", help="Numbers of steps to try as drafts.")] = "2,5,10",
    candidates: Annotated[int, typer.Option(metavar="N", help="Candidates per prompt.")] = 32,
    *,
    options: RunOptions,
    as_json: AsJson = False,
) -> int:
    """How much of a search's gain survives when candidates are judged by drafts (see --draft of run)."""
    from fairlead.run import models
    from fairlead.run.calibrate import calibrate as measure

    try:
        tried = [int(word) for word in drafts.split(",")]
    except ValueError:
        raise FairleadError(f"Drafts {drafts!r} are not numbers: write for example 2,5,10.") from None
    spec = models.spec_of(replace(options, prompt=prompts[0]))
    with quiet(as_json):
        found = measure(spec, prompts, tried, candidates)
    if as_json:
        print_json({"prompts": len(prompts), "candidates": candidates, "drafts": [asdict(row) for row in found]})
        return 0
    table = plain_table("steps", "NFE", "rank correlation", "gain kept", "95 % interval")
    for row in found:
        cells = [f"{row.correlation:.2f}", f"{row.kept:.0%}", f"{row.low:.0%} to {row.high:.0%}"]
        table.add_row(str(row.steps), count(row.nfe), *cells)
    stdout().print(table)
    say(f"{candidates} candidates of {len(prompts)} prompts; gain kept: of what the best gains at {spec.steps} steps.")
    return 0
