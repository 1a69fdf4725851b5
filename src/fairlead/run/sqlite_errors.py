"""Errors of SQLite and of the file system as sentences that say what to do. Imports no torch."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairlead.core.errors import StoreError


def file_error(folder: Path, error: OSError) -> StoreError:
    """An error of a file, with what to do: continue the run in whose folder it is, if it is in one."""
    run = next((path for path in (folder, *folder.parents[:2]) if (path / "run.sqlite").is_file()), None)
    again = "run the command again" if run is None else f"continue with 'fairlead resume {run}'"
    if error.errno == errno.ENOSPC:
        return StoreError(f"The disk of {folder} is full. Free some space, then {again}.")
    return StoreError(f"{folder} cannot be written ({error.strerror}). Check its permissions, then {again}.")


@contextmanager
def sqlite_errors(folder: Path) -> Iterator[None]:
    """Turn an error of SQLite or of a file into a `StoreError` that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            raise StoreError(
                f"The disk of {folder} is full. Free some space, then continue with 'fairlead resume {folder}'."
            ) from error
        if "locked" in text:
            raise StoreError(f"{folder} is being written by another process. Wait for it, or stop it first.") from error
        if "readonly" in text or "unable to open" in text:
            raise StoreError(f"{folder} cannot be opened ({text}). Check its permissions.") from error
        raise StoreError(
            f"{folder}/run.sqlite cannot be used ({text}). Restore it from a copy or start again."
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{folder}/run.sqlite is damaged ({error}). Restore it from a copy or start the run again."
        ) from error
    except OSError as error:
        raise file_error(folder, error) from error
