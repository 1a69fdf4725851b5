"""Rows of prompts -> the Specs of a set, and the folder of each row. Runs that are equal are done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fairlead.core.errors import FairleadError
from fairlead.run.options import RunOptions
from fairlead.run.set_file import SetFile
from fairlead.run.spec import Spec

MakeSpec = Callable[[RunOptions], Spec]


def specs_of(options: Sequence[tuple[str, RunOptions]], make: MakeSpec) -> list[Spec]:
    """The Spec of every row; an error says where the row stands."""
    out = []
    for place, own in options:
        try:
            out.append(make(own))
        except FairleadError as error:
            raise type(error)(f"{place}: {error}") from error
    return out


def listed(folder: Path, specs: Sequence[Spec], exact: bool) -> list[Path]:
    """List the runs in a new folder: the folder of every Spec, the same one for equal ones."""
    if any(spec.parent is not None for spec in specs):
        raise FairleadError(
            "A run that starts from a picture (like, unlike) is started alone: without prompts and seeds."
        )
    different = list({spec.json(): spec for spec in specs}.values())
    made = SetFile.create(folder, different, exact)
    places = {entry.spec.json(): folder / entry.folder for entry in made.entries}
    return [places[spec.json()] for spec in specs]
