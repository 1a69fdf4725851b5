"""What drafts of a model are worth: the command `calibrate`."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from fairlead.app.console import plain_table, print_json, quiet, say, stdout
from fairlead.app.options import AsJson, with_run_options
from fairlead.app.words import count
from fairlead.run.options import RunOptions

if TYPE_CHECKING:
    from fairlead.run.calibrate import Draft

PICTURES = (16, 64)
"""Budgets for which the planner's advice is shown, in full pictures."""


@with_run_options(("model", "reward", "sampler", "steps", "batch", "seed"), {"sampler": "euler"})
def calibrate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What the pictures should show.")],
    drafts: Annotated[
        list[str] | None,
        typer.Option(
            "--draft",
            metavar="DRAFT",
            help="A draft to try, as --draft of run; repeat for several.  [default: 4 and 6]",
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(metavar="N", help="Candidates per prompt.")] = 32,
    *,
    options: RunOptions,
    as_json: AsJson = False,
) -> int:
    """How well drafts predict their finished pictures, what they cost, and what the planner makes of that."""
    from fairlead.run import models
    from fairlead.run.calibrate import calibrate as measure

    words = [replace(options, prompt=prompts[0], draft=word) for word in drafts or ["4", "6"]]
    tried = [str(draft) for word in words if (draft := models.spec_of(word).draft) is not None]
    spec = models.spec_of(replace(options, prompt=prompts[0]))
    with quiet(as_json):
        found = measure(spec, prompts, tried, candidates)
    if as_json:
        print_json({"prompts": len(prompts), "candidates": candidates, "drafts": [asdict(row) for row in found]})
        return 0
    table = plain_table(
        "draft", "NFE", "price", "rank correlation", "gain kept", "95 % interval", *map(_heading, PICTURES)
    )
    for row in found:
        cells = [f"{row.price:.2f}", f"{row.correlation:.2f}", f"{row.kept:.0%}", f"{row.low:.0%} to {row.high:.0%}"]
        table.add_row(row.rung or "picture", count(row.nfe), *cells, *(_advice(row, n) for n in PICTURES))
    stdout().print(table)
    say(
        f"{candidates} candidates of {len(prompts)} prompts. Price: network rows as a share of a picture's. Gain kept: "
        "by the best draft alone, of what the best picture gains. Last columns: drafts and finals to make at the cost "
        "of so many pictures, and the gain over best_of to expect, in standard deviations of the reward."
    )
    return 0


def _heading(pictures: int) -> str:
    return f"for {pictures} pictures"


def _advice(row: Draft, pictures: int) -> str:
    """What the planner makes of a draft: how many drafts, how many finals, and the gain over best_of."""
    if row.rung is None or math.isnan(row.correlation):
        return "–"
    from fairlead.run import planner

    found = planner.plan(pictures, row.price, max(0.0, planner.correlation_of_ranks(row.correlation)))
    return f"{found.drafts}, {found.finals}: {found.gain:+.2f}" if found.pays else "best_of"
