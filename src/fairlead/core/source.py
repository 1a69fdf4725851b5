"""Files a run depends on, named by their content."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from fairlead.core.errors import FairleadError


def split(source: str) -> tuple[Path, str]:
    """`path/to/file.py:function` -> the file and the name in it."""
    path, colon, name = source.rpartition(":")
    if not (colon and path.endswith(".py") and name.isidentifier()):
        raise FairleadError(f"{source!r} does not name a function in a file: write path/to/file.py:function.")
    return Path(path).expanduser(), name


def digest(source: str) -> str:
    """16 hex digits of the content of the file in `path/to/file.py:function`."""
    path, _ = split(source)
    try:
        return blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError as error:
        raise FairleadError(
            f"{path} cannot be read ({error.strerror}): check its name and your current folder."
        ) from error
