"""Files that are written whole, and JSON that every reader accepts. Imports no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.run.sqlite_errors import file_error


def is_file(path: Path) -> bool:
    """As `Path.is_file`; False also for a name that no disk can hold, and where nobody may look."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """As `Path.is_dir`, with the same care."""
    try:
        return path.is_dir()
    except OSError:
        return False


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """The whole file or none of it, also when the disk is full or the process dies.

    `durable` waits for the disk, for files that must survive a power cut; a candidate's picture is checked by its
    digest when it is read instead, because waiting would cost more than rendering small ones.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise file_error(path.parent, error) from error


def as_json(value: Any) -> str:
    """One line of JSON without NaN and infinity, which JSON does not have."""

    def clean(v: Any) -> Any:
        if isinstance(v, float) and not math.isfinite(v):
            return None
        if isinstance(v, Mapping):
            return {k: clean(x) for k, x in v.items()}
        return [clean(x) for x in v] if isinstance(v, list | tuple) else v

    return json.dumps(clean(value), ensure_ascii=False, allow_nan=False)
