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

from fairlead.app.workers.jobs import HOME
from fairlead.core.errors import FairleadError
from fairlead.run.follow import is_locked

WORKER = "worker"
"""The name of the worker where there is one; with several, each has that of its device."""


def workers(devices: str) -> tuple[str, ...]:
    """Names of the workers for devices like 'cuda:0,cuda:1': one each, the second of the same device as 'cpu#2'."""
    words = [word.strip() for word in devices.split(",") if word.strip()]
    counted = [(word, words[:i].count(word)) for i, word in enumerate(words)]
    return tuple(f"{word}#{before + 1}" if before else word for word, before in counted) or (WORKER,)


def device_of(worker: str) -> str:
    """The device of a worker; empty where the machine chooses it."""
    return "" if worker == WORKER else worker.partition("#")[0]


def private_folder() -> Path:
    """A folder of this user that nobody else can open or write, and that no archive can bring along."""
    folder = Path(tempfile.gettempdir()) / f"fairlead-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FairleadError(f"{folder} must be a folder that only you can open. Remove it, or set TMPDIR to another.")
    return folder


def address(root: Path, worker: str = WORKER) -> Path:
    """The socket of a worker of a runs folder. Its path is short, because a socket's path must be."""
    name = str(root.resolve()) if worker == WORKER else f"{root.resolve()}\0{worker}"
    return private_folder() / f"{blake2b(name.encode(), digest_size=8).hexdigest()}.sock"


def connect(root: Path, timeout: float | None, worker: str = WORKER) -> socket.socket:
    """A connection to the worker; raises OSError where none listens."""
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(timeout)
    try:
        link.connect(str(address(root, worker)))
    except OSError:
        link.close()
        raise
    return link


def ask(root: Path, message: Mapping[str, Any], timeout: float = 5.0, worker: str = WORKER) -> dict[str, Any]:
    """The worker's answer to one message; raises OSError where it does not answer."""
    with connect(root, timeout, worker) as link, link.makefile("rw", encoding="utf-8") as file:
        file.write(json.dumps(message) + "\n")
        file.flush()
        text = file.readline()
    if not text:
        raise ConnectionResetError("the worker closed the connection")
    answer: dict[str, Any] = json.loads(text)
    return answer


def lock_path(root: Path, worker: str = WORKER) -> Path:
    """The file that a worker holds, with the number of its process."""
    return root / HOME / f"{worker}.lock"


def is_alive(root: Path, worker: str) -> bool:
    """True while a process of this name serves the runs folder."""
    return is_locked(lock_path(root, worker))


def living(root: Path) -> list[str]:
    """The names of all workers that live, those that an earlier server has started among them."""
    return [name for path in sorted((root / HOME).glob("*.lock")) if is_alive(root, name := path.stem)]


def wake(root: Path) -> None:
    """Tell every worker that lives to look at the queue."""
    for path in (root / HOME).glob("*.lock"):
        with contextlib.suppress(OSError, ValueError):
            ask(root, {"do": "wake"}, worker=path.stem)


@contextlib.contextmanager
def only_one(root: Path, worker: str = WORKER) -> Iterator[bool]:
    """True inside if no other process of this name serves the runs folder; the lock ends with the process."""
    lock_path(root, worker).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock_path(root, worker), os.O_RDWR | os.O_CREAT, 0o600)
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
