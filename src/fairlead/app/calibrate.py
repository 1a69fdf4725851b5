"""What drafts of a model are worth: the command `calibrate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from fairlead.app.console import plain_table, print_json, quiet, say, stdout
from fairlead.app.options import AsJson, with_run_options
from fairlead.app.words import count
from fairlead.core.errors import FairleadError
from fairlead.run.options import RunOptions

if TYPE_CHECKING:
    from pathlib import Path

    from fairlead.run.calibrate import Draft
    from fairlead.run.spec import Spec

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
    with quiet(as_json):
        found, kept = measured(options, prompts, drafts or ["4", "6"], candidates)
    if as_json:
        rows = [asdict(row) for row in found]
        print_json({"prompts": len(prompts), "candidates": candidates, "drafts": rows, "stored_in": str(kept)})
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
        "of so many pictures, and the gain over best_of to expect, in standard deviations of the reward. Stored in "
        f"{kept}: runs with this model, reward and draft are planned with it."
    )
    return 0


def measured(
    options: RunOptions, prompts: Sequence[str], drafts: Sequence[str], candidates: int
) -> tuple[list[Draft], Path]:
    """What each draft is worth, and the file in which it is stored for the planner."""
    from fairlead.run import models
    from fairlead.run.calibrate import calibrate as measure

    words = [replace(options, prompt=prompts[0], draft=word) for word in drafts]
    tried = [str(draft) for word in words if (draft := models.spec_of(word).draft) is not None]
    spec = models.spec_of(replace(options, prompt=prompts[0]))
    if chains := [text for text in tried if ">" in text]:
        raise FairleadError(f"draft is {chains[0]!r}: calibrate measures single drafts, so repeat --draft for each.")
    found = measure(spec, list(prompts), tried, candidates)
    return found, _keep(spec, found, len(prompts), candidates)


def _keep(spec: Spec, found: list[Draft], prompts: int, candidates: int) -> Path:
    """Store what was measured, for the planner."""
    from fairlead.run import calibrations, planner

    measured = {}
    for row in found:
        if row.rung is not None and not math.isnan(row.correlation):
            r = planner.correlation_of_ranks(row.correlation)
            measured[row.rung] = calibrations.Known(r, row.price, prompts, candidates)
    return calibrations.keep(spec, measured)


def _heading(pictures: int) -> str:
    return f"for {pictures} pictures"


def _advice(row: Draft, pictures: int) -> str:
    """What the planner makes of a draft: how many drafts, how many finals, and the gain over best_of."""
    if row.rung is None or math.isnan(row.correlation):
        return "–"
    from fairlead.run import planner

    found = planner.plan(pictures, row.price, max(0.0, planner.correlation_of_ranks(row.correlation)))
    return f"{found.drafts}, {found.finals}: {found.gain:+.2f}" if found.pays else "best_of"
