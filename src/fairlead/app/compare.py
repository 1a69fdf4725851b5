"""`fairlead compare`: methods x prompts x seeds at one budget, and who is better."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fairlead.app.comparison_page import NAME, interval, label, sentences, unfinished, write_comparison_page
from fairlead.app.console import plain_table, print_json, print_table, say, stderr, stdout
from fairlead.app.options import AsJson
from fairlead.app.progress import Interrupt
from fairlead.app.words import command, count, duration, number, shown
from fairlead.core.errors import FairleadError
from fairlead.run.records import BASELINE_ROW

if TYPE_CHECKING:
    from fairlead.bench.comparison_results import ComparisonResults
    from fairlead.bench.plan import Cell, Plan

EVERY = 10.0
"""Seconds between two pages while it runs, or ten times what one takes to write, whichever is more."""
INTERRUPTED = 130


def compare(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A TOML file, or a ready-made plan: quick, full.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Its folder.  [default: comparisons/PLAN]")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes side by side on this machine.")] = 1,
    budget: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Another budget, like nfe=640: one resource.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="Only it and the reference.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first prompts.")] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first seeds.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Only write the page and tables of what is there.")] = False,
    as_json: AsJson = False,
) -> int:
    """Run every method on the same prompts and seeds at one budget. The same command continues an interrupted run."""
    from fairlead.bench import plan as plans

    chosen = plans.read(plan).only(methods or (), prompts, seeds, budget)
    folder = out or Path("comparisons") / chosen.name
    reporter = Reporter(chosen, folder, plan)
    if not report:
        from fairlead.bench import comparison as driver

        quiet = contextlib.redirect_stdout(sys.stderr)
        with quiet, Interrupt(announce=not stderr().is_terminal) as stop:
            driver.run(chosen, folder, workers=workers, watch=reporter.seen, stop=stop)
            stopped = stop()
    standing = reporter.write()
    if as_json:
        print_json(
            {
                "plan": chosen.name,
                "folder": shown(folder),
                "page": shown(folder / NAME),
                "methods": standing.summary(),
                "refused": standing.refused,
                "done": len(standing.done),
                "cells": standing.total,
                "running": standing.running,
                "final": standing.complete,
            }
        )
    else:
        _show(standing, reporter.files)
    if not report and stopped:
        say(f"Stopped early. Continue with: {command('compare', plan, '--out', shown(folder))}")
        return INTERRUPTED
    return 0 if standing.done else 1


class Reporter:
    """Says which cells end, and updates the page now and then."""

    def __init__(self, plan: Plan, folder: Path, source: str) -> None:
        self._plan = plan
        self._folder = folder
        self._source = source
        self._since = self._written = time.monotonic()
        self._took = 0.0
        self._seen = 0
        self.files = list[str]()
        self._reported: set[tuple[str, str]] = set()

    def seen(self, cell: Cell, status: str) -> None:
        """One cell ended."""
        self._seen += 1
        word = "" if status == "done" else f": {status}"
        if word and (cell.method, status) in self._reported:
            word = ": refused as before"
        self._reported.add((cell.method, status))
        elapsed = duration(time.monotonic() - self._since)
        say(f"{self._seen} new, {elapsed}: {cell.method}, {cell.prompt!r}, seed {cell.seed}{word}")
        if time.monotonic() - self._written > max(EVERY, 10 * self._took):
            began = time.monotonic()
            write_comparison_page(self._standing(), self._source)
            self._written = time.monotonic()
            self._took = self._written - began

    def _standing(self) -> ComparisonResults:
        from fairlead.bench.comparison_results import ComparisonResults

        return ComparisonResults.read(self._plan, self._folder)

    def write(self) -> ComparisonResults:
        """Page and tables."""
        from fairlead.run import scoring

        standing = self._standing()
        if not standing.done and not standing.refused:
            raise FairleadError(f"{self._folder} has no finished run of this plan. Run it without --report.")
        self.files = [shown(write_comparison_page(standing, self._source))]
        tables: dict[str, list[dict[str, Any]]] = {
            "cells": standing.table(),
            "methods": standing.summary(),
            "curves": standing.curves(),
        }
        for name, rows in tables.items():
            for kind in (".csv", ".parquet"):
                if rows and (kind == ".csv" or _has_pyarrow()):
                    scoring.write(rows, self._folder / f"{name}{kind}")
                    self.files.append(shown(self._folder / f"{name}{kind}"))
        return standing


def _has_pyarrow() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None and find_spec("pandas") is not None


def _show(s: ComparisonResults, files: list[str]) -> None:
    metrics = s.metrics
    names = [label(s, m) for m in metrics]
    view: Table = plain_table("method", *names, f"over {s.plan.reference}", "wins", "pictures", s.plan.resource)
    for line in s.lines:
        over = line.over.get(metrics[0])
        wins = line.wins.get(metrics[0])
        view.add_row(
            line.method,
            *(number(line.values[m].value) for m in metrics),
            "" if over is None else f"{number(over.value, sign=True)}  {interval(over, True)}",
            "" if wins is None else f"{wins.value:.0%}",
            "" if line.method == BASELINE_ROW else count(line.candidates),
            "" if line.method == BASELINE_ROW else count(getattr(line.cost, s.plan.resource)),
        )
    console = stdout()
    if not s.complete:
        console.print(unfinished(s), style="yellow", highlight=False, soft_wrap=True)
    print_table(console, view)
    for sentence in sentences(s):
        console.print(sentence, style="dim", highlight=False, soft_wrap=True)
    for file in files:
        console.print(file, highlight=False, soft_wrap=True)
