"""The command `judge`: a judge chooses among the finished pictures of a run that has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairlead.app import choice
from fairlead.app.answering import terminal
from fairlead.app.console import print_json, quiet, say
from fairlead.app.options import AsJson
from fairlead.app.report import write_report
from fairlead.app.run_object import run_object
from fairlead.app.words import command, shown
from fairlead.core.people import Pending
from fairlead.run.spec import parse_budget
from fairlead.run.view import View


def judge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that has ended.")],
    by: Annotated[
        str, typer.Option("--judge", metavar="JUDGE", help="pairwise_judge(...) with its settings, or human.")
    ],
    entrants: Annotated[int, typer.Option(metavar="N", help="How many of the best pictures are compared.")] = 8,
    looks: Annotated[
        int | None, typer.Option(metavar="N", help="Looks at a pair: 1, 2 or 3.  [default: 2, or 1 for a person]")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="LIMITS", help="For this judging, such as questions=10,dollars=0.5.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare the best finished pictures of a run, two at a time, and record the winner. Nothing is rendered."""
    from fairlead.run.judge_afterwards import judge_afterwards
    from fairlead.run.part_settings import named_part

    limits = None if budget is None else parse_budget(budget)
    part = named_part(by, "rewards")
    try:
        with quiet(as_json):
            judge_afterwards(run, part, entrants=entrants, looks=looks or 0, budget=limits, person=terminal(run))
    except Pending:
        say(f"The answers so far are kept. Continue with: {command('judge', shown(run), '--judge', by)}")
    page = write_report(run)
    view = View.read(run)
    if as_json:
        print_json(run_object(view))
        return 0
    print(f"{choice.sentence(view)}.")
    say(f"The report is {shown(page)}.")
    return 0
