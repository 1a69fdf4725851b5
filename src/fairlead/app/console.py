"""The two consoles, and tables of one style."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fairlead.app.words import count, duration, shown
from fairlead.core.cost import Cost
from fairlead.run.store import as_json as to_json


def stdout() -> Console:
    """The console of results."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def stderr() -> Console:
    """The console of messages."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show a warning of fairlead as one line: the user does not need its place in a source file."""
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            if category is UserWarning and f"{os.sep}fairlead{os.sep}" in filename:
                say(f"warning: {message}")
            else:
                otherwise(message, category, filename, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def quiet(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """With `as_json`, send whatever other libraries print to stderr, so that stdout holds only the JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    print(to_json(value), flush=True)


def print_pairs(console: Console, rows: Sequence[tuple[str, str | Text | Path]]) -> None:
    """Names and values in two columns. A path is never broken: one that does not fit has a line of its own."""
    indent = max(cell_len(name) for name, _ in rows) + 2
    for name, value in rows:
        first = Text.assemble((name.ljust(indent), "dim"))
        if isinstance(value, Path):
            path = Text(shown(value))
            if indent + path.cell_len > console.width:
                first.append("\n" + " " * max(0, min(2, console.width - path.cell_len)))
            lines = [path]
        else:
            text = value if isinstance(value, Text) else Text(value)
            lines = list(text.wrap(console, max(20, console.width - indent)))
        for i, line in enumerate(lines):
            line.rstrip()
            console.print((first if i == 0 else Text(" " * indent)) + line, soft_wrap=True)


def plain_table(*columns: str, whole: Sequence[str] = ()) -> Table:
    """A table without lines; the columns of `whole` are not wrapped."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    return table


def print_table(console: Console, table: Table) -> None:
    """A table; where the console is narrower than the longest words, lines run over instead of words being cut."""
    for column in table.columns:
        if column.no_wrap:
            cells = [cell.plain if isinstance(cell, Text) else str(cell) for cell in column.cells]
            column.min_width = max(map(cell_len, cells), default=0)
    least = Measurement.get(console, console.options.update(width=10_000), table).minimum
    width = console.width
    console.width = max(width, least)
    console.print(table)
    console.width = width


def cost_text(spent: Cost, limit: Cost) -> str:
    """What was spent, of what, on one line."""
    limits = limit.limits()

    def amount(name: str, value: float) -> str:
        return duration(value) if name == "seconds" else count(value)

    return " · ".join(
        f"{amount(name, value)}{f' of {amount(name, limits[name])}' if name in limits else ''}"
        f"{'' if name == 'seconds' else f' {name}'}"
        for name, value in asdict(spent).items()
        if value or name in limits
    )
