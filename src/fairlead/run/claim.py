"""The folder of a run: who may use it, its lock, its leftovers, and its database opened. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from fairlead.core.errors import StoreError
from fairlead.run import rows
from fairlead.run.files import is_file

DATABASE = "run.sqlite"
LOCK = "run.lock"
PROCESS = uuid4().hex
"""Names this process in the lock of the runs that it creates."""
LEFTOVER = re.compile(r"\..+\.(\d+)(-wal|-shm|-journal)?")
"""A file that a process was writing when it was killed; the number is the process's."""


def record_of(folder: Path) -> Path:
    """The database of a run folder; raises where there is none."""
    path = folder / DATABASE
    if not is_file(path):
        if runs := sorted(folder.glob(f"*/{DATABASE}")):
            one = folder / runs[0].parent.name
            raise StoreError(f"{folder} holds {len(runs)} runs. Pass one of them, such as {one}.")
        raise StoreError(f"{folder} has no {DATABASE}. Pass the folder that 'fairlead run' printed.")
    return path


def is_vacant(folder: Path) -> bool:
    """True if a run may be made here: nothing is there, or only what a process left that was killed too early."""
    if not folder.is_dir():
        return not folder.exists()
    names = {path.name for path in folder.iterdir() if not LEFTOVER.fullmatch(path.name)} - {LOCK}
    if "images" in names and any(not LEFTOVER.fullmatch(path.name) for path in (folder / "images").iterdir()):
        return False
    if DATABASE not in names:
        return names <= {"images"}
    if not names <= {"images", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"}:
        return False
    try:
        with contextlib.closing(connect_to_read(folder / DATABASE)) as db:
            return bool(db.execute("select count(*) from sqlite_master").fetchone()[0] == 0)
    except (sqlite3.Error, UnicodeDecodeError):
        return False


def refuse_taken(folder: Path) -> None:
    """Raise unless a run may be made here."""
    try:
        vacant = is_vacant(folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be used ({error.strerror}). Choose another --out.") from error
    if not vacant:
        resumable = folder.is_dir() and (folder / DATABASE).is_file()
        hint = f", or continue the run in it with 'fairlead resume {folder}'" if resumable else ""
        raise StoreError(f"{folder} exists already. Choose another --out{hint}.")


def remove_record(folder: Path) -> None:
    """Remove what fairlead made in a folder, and the folder unless something else is in it."""
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK):
        (folder / name).unlink(missing_ok=True)
    for name in ("images", "inputs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def clean(folder: Path) -> None:
    """Remove the unfinished files of processes that are gone."""
    for path in [*folder.iterdir(), *(folder / "images").iterdir()]:
        if (found := LEFTOVER.fullmatch(path.name)) and not _is_alive(int(found[1])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock file of a run, as an open file."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}). Check its permissions.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreError(f"{folder} is being written by another process. Wait for it, or stop it first.") from None
    try:
        yield handle
    finally:
        os.close(handle)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that writes, waits for other writers, and checks the rows."""
    db = sqlite3.connect(path, timeout=10.0)
    db.execute("pragma synchronous=full")
    rows.install(db)
    return db


class _Copy(sqlite3.Connection):
    """A connection that can be referred to weakly, so that its files can be removed with it."""


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Also in a folder that cannot be written, where SQLite cannot read its log: then a copy of both files."""
    if os.access(path.parent, os.W_OK):
        return connect(path)
    log = Path(f"{path}-wal")
    if not log.exists() or log.stat().st_size == 0:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        rows.install(db)
        return db
    scratch = Path(tempfile.mkdtemp(prefix="fairlead-"))
    for _ in range(5):  # a writer may move the log into the file meanwhile
        before = _stamps(path, log)
        for source in (path, log):
            if source.exists():
                shutil.copyfile(source, scratch / source.name)
        if _stamps(path, log) == before:
            break
    db = sqlite3.connect(scratch / path.name, factory=_Copy)
    rows.install(db)
    weakref.finalize(db, shutil.rmtree, scratch, ignore_errors=True)
    return db


def _stamps(*paths: Path) -> list[tuple[int, int] | None]:
    return [(p.stat().st_size, p.stat().st_mtime_ns) if p.exists() else None for p in paths]
