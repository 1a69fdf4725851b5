"""The command `calibrate-repulsion`: how strong repulsion should be for a model, written beside it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from fairlead.app.console import plain_table, print_json, quiet, say, stdout
from fairlead.app.options import AsJson, with_run_options
from fairlead.core.errors import FairleadError
from fairlead.run.options import RunOptions


@with_run_options(("model", "reward", "sampler", "steps", "seed"))
def calibrate_repulsion(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What the pictures should show.")],
    strengths: Annotated[str, typer.Option(metavar="Q,Q", help="Strengths to try.")] = "0.02,0.05,0.1,0.2,0.3,0.5",
    group: Annotated[int, typer.Option(metavar="N", help="Pictures of a prompt.")] = 8,
    loss: Annotated[float, typer.Option(metavar="SHARE", help="Of the reward that may be lost.")] = 0.01,
    likeness: Annotated[str, typer.Option(metavar="NAME", help="Features diversity is counted in.")] = "pixels",
    keep: Annotated[bool, typer.Option("--write", help="Write the choice beside the model, for later runs.")] = False,
    *,
    options: RunOptions,
    as_json: AsJson = False,
) -> int:
    """How strong repulsion may be for a model before the reward falls, and write it down as the model's default."""
    from fairlead.run import models
    from fairlead.run.calibrate_repulsion import calibrate, chosen, write

    try:
        tried = [float(word) for word in strengths.split(",")]
    except ValueError:
        raise FairleadError(f"Strengths {strengths!r} are not numbers: write for example 0.05,0.1,0.2.") from None
    spec = models.spec_of(replace(options, prompt=prompts[0], group=group, batch=group))
    with quiet(as_json):
        found = calibrate(models.with_dtype(spec), prompts, tried, likeness=likeness)
    best = chosen(found, loss)
    if keep:
        say(f"Written to {write(options.model, best, found)}.")
    if as_json:
        print_json({"strengths": [asdict(row) for row in found], "chosen": best.strength})
        return 0
    table = plain_table("strength", "Vendi", "mean reward")
    for row in found:
        table.add_row(f"{row.strength:g}{' *' if row is best else ''}", f"{row.vendi:.3f}", f"{row.reward:.4g}")
    stdout().print(table)
    say(f"* the most diverse with at most {loss:.1%} of the reward lost, {len(prompts)} prompts of {group} pictures.")
    return 0
