"""Where the worker of a runs folder listens, who may be it, and one question to it. Imports no torch.

A Unix socket in a folder that only this user may open. Questions and answers are lines of JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fairlead.app.studio.jobs import HOME
from fairlead.core.errors import FairleadError

LOCK = "worker.lock"


def address(root: Path) -> Path:
    """The socket of the worker of a runs folder. Its path is short, because a socket's path must be."""
    folder = Path(tempfile.gettempdir()) / f"fairlead-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FairleadError(f"{folder} must be a folder that only you can open. Remove it, or set TMPDIR to another.")
    return folder / f"{blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()}.sock"


def connect(root: Path, timeout: float | None) -> socket.socket:
    """A connection to the worker; raises OSError where none listens."""
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(timeout)
    try:
        link.connect(str(address(root)))
    except OSError:
        link.close()
        raise
    return link


def ask(root: Path, message: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """The worker's answer to one message; raises OSError where it does not answer."""
    with connect(root, timeout) as link, link.makefile("rw", encoding="utf-8") as file:
        file.write(json.dumps(message) + "\n")
        file.flush()
        text = file.readline()
    if not text:
        raise ConnectionResetError("the worker closed the connection")
    answer: dict[str, Any] = json.loads(text)
    return answer


def lock_path(root: Path) -> Path:
    """The file that the worker holds, with the number of its process."""
    return root / HOME / LOCK


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[bool]:
    """True inside if no other worker serves this runs folder; the lock ends with the process, however it ends."""
    lock_path(root).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock_path(root), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.ftruncate(handle, 0)
        yield True
    finally:
        os.close(handle)
