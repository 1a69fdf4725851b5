"""The two consoles, and tables of one style."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairlead.app.words import count, duration
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


def pairs(rows: Sequence[tuple[str, str | Text]]) -> Table:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), value if isinstance(value, Text) else Text(value))
    return table


def plain_table(*columns: str) -> Table:
    """A table without lines."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


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
