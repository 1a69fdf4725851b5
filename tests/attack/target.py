"""What an attack is: an input, what is done with it, and how it may end."""

from __future__ import annotations

import functools
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

import fairlead
from fairlead.app import cli
from fairlead.core.errors import FairleadError

typer.main.get_command = functools.cache(typer.main.get_command)  # half of the time of a command
PACKAGE = str(Path(fairlead.__file__).parent)


class Failed(BaseException):
    """An attack that succeeded: the sentence says how."""


class Refused(Exception):
    """The input was refused with a sentence, as it should be."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True)
class Target:
    """A reader of other people's data.

    `make` draws an input, which is plain data. `run` reads it: it returns, or raises `Refused` or a `FairleadError`;
    everything else is a failure. `first` are pieces of the sentences with which the first check refuses.
    """

    make: Callable[[random.Random], Any]
    run: Callable[[Any], None]
    first: tuple[str, ...]


def place(error: BaseException) -> str:
    """Where in the package an error was raised; of one that was translated, where the first was."""
    while (inner := error.__cause__ or error.__context__) is not None and _frames(inner):
        error = inner
    found = _frames(error)
    return found[-1] if found else "outside"


def _frames(error: BaseException) -> list[str]:
    """File, line and function of the calls inside the package, the outermost first."""
    calls = traceback.extract_tb(error.__traceback__)
    inside = [call for call in calls if call.filename.startswith(PACKAGE)]
    return [f"{call.filename[len(PACKAGE) + 1 :]}:{call.lineno} {call.name}" for call in inside]


def command(line: list[str]) -> None:
    """Run one command line in this process: it may end in anything but 70."""
    caught: list[BaseException] = []

    def note(sentence: str, code: int, error: BaseException) -> int:
        caught.append(error)
        return code

    usual = cli._fail
    cli._fail = note
    try:
        code = cli.main(line)
    finally:
        cli._fail = usual
    if code == 70 and caught:
        raise Failed(f"exit 70, {type(caught[0]).__name__} at {place(caught[0])}: {str(caught[0])[:200]}")
    if code == 70:
        raise Failed("exit 70")
    if caught:
        if isinstance(caught[0], FairleadError):
            check_sentence(caught[0])
        raise Refused(caught[0])


def check_sentence(error: FairleadError) -> None:
    """An error is a sentence, not a dump of the input."""
    if len(str(error)) > 2000:
        raise Failed(f"an error of {len(str(error))} characters at {place(error)}")
