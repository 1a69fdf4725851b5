"""A record as it grows: what was added after a position, and whether somebody writes it now. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from fairlead.run import judgements, lineage, marks, rows
from fairlead.run.claim import LOCK
from fairlead.run.marks import Mark
from fairlead.run.records import Candidate
from fairlead.run.sqlite_errors import sqlite_errors
from fairlead.run.store import DATABASE, Store


@dataclass(frozen=True)
class Position:
    """A place in a record: everything up to it is known. As text it is the id of an event."""

    task: int = -1
    """Number of the last batch."""
    mark: int = 0
    """Number of the last mark."""
    rewards: str = ""
    """Digest of the rewards up to that batch: rewards that rank change as candidates join."""

    def __str__(self) -> str:
        return f"{self.task}-{self.mark}-{self.rewards}"

    @staticmethod
    def parse(text: str) -> Position:
        """The inverse; what cannot be read is the start of the record."""
        try:
            sign = -1 if text.startswith("-") else 1
            task, mark, digest = text.removeprefix("-").split("-")
            return Position(sign * int(task), int(mark), digest)
        except ValueError:
            return Position()


class Follower:
    """A run that is read again and again. The rows are not verified each time: the first reader does that."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.store = Store.open(folder, verify=False)
        self._db = self.store._db
        self._path = self.folder / DATABASE
        self._file = os.stat(self._path).st_ino
        self._version = -1

    def close(self) -> None:
        """Close the connection, leaving the journal to the writer."""
        self._db.close()

    def is_gone(self) -> bool:
        """True if the record was moved or deleted."""
        try:
            return os.stat(self._path).st_ino != self._file
        except OSError:
            return True

    def changed(self) -> bool:
        """True if another connection has written since the last call."""
        with sqlite_errors(self.folder):
            version = int(self._db.execute("pragma data_version").fetchone()[0])
        is_new = version != self._version
        self._version = version
        return is_new

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is read inside belongs to one state of the record, whatever is written meanwhile."""
        with sqlite_errors(self.folder):
            self._db.execute("begin")
        try:
            yield
        finally:
            self._db.rollback()

    def position(self) -> Position:
        """Where the record ends now."""
        with sqlite_errors(self.folder):
            task = self._db.execute("select coalesce(max(number), -1) from task").fetchone()[0]
            return Position(task, marks.last(self._db), self.digest(task))

    def same_rewards(self, at: Position) -> bool:
        """True if no reward up to `at` has changed since."""
        with sqlite_errors(self.folder):
            return self.digest(at.task) == at.rewards

    def digest(self, task: int) -> str:
        """Of the rewards up to a batch."""
        found = self._db.execute("select idx, reward, terms from outcome where task<=? order by idx", (task,))
        h = blake2b(digest_size=4)
        for row in found:
            h.update(repr(row).encode())
        return h.hexdigest()

    def candidates(self, after: int) -> list[Candidate]:
        """Those of the batches after number `after`, the baseline included."""
        with sqlite_errors(self.folder):
            found = self._db.execute(f"select {rows.COLUMNS} from outcome where task>? order by idx", (after,))
            return lineage.with_origins(self._db, [rows.candidate(row) for row in found])

    def marks(self, after: int = 0) -> list[Mark]:
        """Those after number `after`."""
        with sqlite_errors(self.folder):
            return marks.read(self._db, after)

    def people(self) -> dict[str, int]:
        """How many questions wait for an answer, how many were asked, and how many judgements there are.

        A question that follows an answer at once leaves the number that wait as it was.
        """
        with sqlite_errors(self.folder):
            counts = (0, 0)
            if rows.has_table(self._db, "question"):
                counts = self._db.execute("select count(*) - count(answer), count(*) from question").fetchone()
            waiting, asked = counts
            return {"questions": waiting, "asked": asked, "judgements": judgements.count(self._db)}

    def has_picture(self, digest: str) -> bool:
        """True if a candidate of this run has the picture of that name."""
        with sqlite_errors(self.folder):
            return self._db.execute("select 1 from outcome where image=? limit 1", (digest,)).fetchone() is not None


def is_held(folder: Path) -> bool:
    """True while a process holds the run for writing."""
    return is_locked(Path(folder) / LOCK, os.O_RDWR)


def is_locked(path: Path, flags: int = os.O_RDONLY) -> bool:
    """True while another process holds the lock of a file, which is opened with `flags`."""
    try:
        handle = os.open(path, flags)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def as_number(value: float) -> float | str | None:
    """A number as JSON can hold it: NaN is null, infinities are their names in JavaScript."""
    if value != value:
        return None
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def candidate_json(c: Candidate) -> dict[str, object]:
    """A candidate for a page or a program."""
    return {
        "index": c.index,
        "reward": as_number(c.reward),
        "terms": {name: as_number(value) for name, value in c.terms.items()},
        "cost": c.cost.as_dict(),
        "image": Path(c.image).stem,
        "task": c.task,
        "steps": c.steps,
        "refines": c.refines,
        "origin": c.origin,
    }


def line(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
