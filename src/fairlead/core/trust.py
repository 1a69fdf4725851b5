"""Whether the settings at hand were chosen by the user of this command, or come from a stored run of anybody.

A stored run is data. What it names is not executed, and gets no key, unless the user of this command says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from fairlead.core.errors import FairleadError

_run: ContextVar[Path | None] = ContextVar("stored run", default=None)
_executed: set[str] = set()
"""Digests of files that this process has executed because its user named them."""


@contextmanager
def stored_run(folder: Path, trusted: bool) -> Iterator[None]:
    """Inside, settings are those of the run in `folder`; `trusted` if the user of this command vouches for it."""
    token = _run.set(None if trusted else Path(folder))
    try:
        yield
    finally:
        _run.reset(token)


def is_stored() -> bool:
    """True where settings come from a stored run that nobody has vouched for."""
    return _run.get() is not None


def allow_file(path: Path, digest: str) -> None:
    """Raise where a stored run names a file to execute that the user of this process did not name."""
    folder = _run.get()
    if folder is None:
        _executed.add(digest)
    elif digest not in _executed:
        raise FairleadError(
            f"The run in {folder} executes {path} as its reward, with all that your account may do. "
            "Read that file; if you trust it, add --trust (in Python: trust=True)."
        )
