"""Errors a person can act on: one sentence with the value, the cause and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairlead.core.cost import Cost


class FairleadError(Exception):
    """Something the caller can mend. The command line prints its text alone and exits with `exit_code`."""

    exit_code = 2
    unanswered: Cost | None = None
    """Seconds and dollars that work had spent when this ended it; the worker fills it in, the driver books it."""


class OutOfMemory(FairleadError):
    """Not even the smallest piece of the work fits on the device."""


class StoreError(FairleadError):
    """The run directory cannot be read, written or continued."""

    exit_code = 3


class RewardError(FairleadError):
    """A reward raised, or returned something that is not one number per image."""

    exit_code = 4


def unknown(kind: str, name: str, known: Iterable[str]) -> FairleadError:
    """The error for a name that is not there, with the nearest one that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = (
        f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}." if names else "none is registered."
    )
    return FairleadError(f"There is no {kind} named {name!r}: {hint}")
