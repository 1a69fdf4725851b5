"""Errors that a person can act on: what is wrong, why, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairlead.core.cost import Cost

LONGEST = 1000
"""Characters of a sentence."""


class FairleadError(Exception):
    """A mistake that the caller can correct. The command line prints only its text and exits with `exit_code`."""

    exit_code = 2
    unanswered: Cost | None = None
    """Seconds and dollars spent on work that this error ended; set by the worker, charged by the engine."""

    def __init__(self, sentence: str = "") -> None:
        """A sentence that repeats thousands of characters of what was typed is shortened in its middle."""
        cut = len(sentence) > LONGEST
        super().__init__(f"{sentence[: LONGEST // 2]} ... {sentence[-LONGEST // 2 :]}" if cut else sentence)


class OutOfMemory(FairleadError):
    """Not even the smallest piece of the work fits on the device."""


class StoreError(FairleadError):
    """The run folder cannot be read, written or continued."""

    exit_code = 3


class RewardError(FairleadError):
    """A reward raised, or returned something that is not one number per image."""

    exit_code = 4


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`; None if none is close."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6) if isinstance(word, str) else []
    return found[0] if found else None


def unknown(kind: str, name: str, known: Iterable[str], *, of: str = "", see: str = "") -> FairleadError:
    """The error for a name that does not exist, with the nearest one that does.

    `of` is what the name belongs to ("setting" `of` "lidar"); `see` is a command that lists the known names.
    """
    names = sorted(known)
    start = kind if "." in kind else kind[:1].upper() + kind[1:]
    owner = f" of {of}" if of else ""
    near = nearest(name, names)
    if near is not None:
        hint = f"Did you mean {near!r}?"
    elif names:
        hint = f"Known names: {', '.join(names)}."
    else:
        hint = "There are none."
    command = f" See '{see}'." if see else ""
    return FairleadError(f"{start} {name!r}{owner} is unknown. {hint}{command}")
