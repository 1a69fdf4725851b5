"""Stars, rejects and notes of people, as rows in a run's own record. Imports no torch.

A mark is never changed: a new row replaces an older one of the same candidate and kind, so the list is also the
history. Marks may be added while the run is computed. A record without marks has no such table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import FairleadError, StoreError, unknown
from fairlead.run import rows
from fairlead.run.claim import DATABASE, connect, record_of
from fairlead.run.sqlite_errors import sqlite_errors

if TYPE_CHECKING:
    from fairlead.run.store import Store

KINDS = ("star", "reject", "note")
LONGEST = 2000
"""Characters of a note."""
COLUMNS = "number, candidate, kind, value, who, at"
SCHEMA = """create table if not exists mark(
    number integer primary key, candidate integer not null, kind text not null, value text not null,
    who text not null, at text not null, checksum text not null)"""


@dataclass(frozen=True)
class Mark:
    """What somebody said about one candidate."""

    number: int
    """Its place in the record, from 1."""
    candidate: int
    kind: str
    """`star`, `reject` or `note`"""
    value: str
    """The text of a note; of the others "1", or empty where the mark was taken back."""
    who: str
    at: str
    """ISO 8601 UTC."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def add(folder: Path, candidate: int, kind: str, value: str, who: str = "") -> Mark:
    """Record one mark. An empty value takes it back."""
    _check(kind, value, who)
    path = record_of(Path(folder))
    with sqlite_errors(Path(folder)), closing(connect(path)) as db, db:
        db.execute("begin immediate")
        if db.execute("select 1 from outcome where idx=?", (candidate,)).fetchone() is None:
            raise StoreError(f"{folder} has no candidate {candidate}. Choose one of the report.")
        db.execute(SCHEMA)
        mark = Mark(last(db) + 1, candidate, kind, value, who, datetime.now(UTC).isoformat(timespec="seconds"))
        values = _values(mark)
        db.execute("insert into mark values(?,?,?,?,?,?,?)", (*values, rows.checksum(*values)))
    return mark


def _check(kind: str, value: str, who: str) -> None:
    if kind not in KINDS:
        raise unknown("mark", kind, KINDS)
    if kind != "note" and value not in ("", "1"):
        raise FairleadError(f"The value of a {kind} is {value!r:.60}: must be '1', or empty to take it back.")
    for name, text, longest in (("A note", value, LONGEST), ("A name", who, 60)):
        if len(text) > longest:
            raise FairleadError(f"{name} has {len(text)} characters: must be at most {longest}. Shorten it.")


def _values(mark: Mark) -> Sequence[Any]:
    return tuple(asdict(mark).values())


def last(db: sqlite3.Connection) -> int:
    """The number of the last mark; 0 without one."""
    if not rows.has_table(db, "mark"):
        return 0
    return int(db.execute("select coalesce(max(number), 0) from mark").fetchone()[0])


def read(db: sqlite3.Connection, after: int = 0) -> list[Mark]:
    """The marks after number `after`, in the order in which they were made."""
    if not rows.has_table(db, "mark"):
        return []
    found = db.execute(f"select {COLUMNS}, checksum from mark where number>? order by number", (after,)).fetchall()
    for *values, checksum in found:
        if rows.checksum(*values) != checksum:
            raise rows.BadRow(f"mark {values[0]!r:.20} does not have its checksum")
    return [Mark(*values) for *values, _ in found]


def of(folder: Path) -> list[Mark]:
    """All marks of a run."""
    with sqlite_errors(Path(folder)), closing(connect(Path(folder) / DATABASE)) as db:
        return read(db)


def present(marks: Sequence[Mark]) -> dict[int, dict[str, str]]:
    """What holds now: candidate -> kind -> value. Marks that were taken back are left out."""
    found: dict[int, dict[str, str]] = {}
    for mark in marks:
        own = found.setdefault(mark.candidate, {})
        own.pop(mark.kind, None)
        if mark.value:
            own[mark.kind] = mark.value
    return {candidate: own for candidate, own in found.items() if own}


def held(store: Store) -> dict[int, dict[str, str]]:
    """What holds now in an open record."""
    with sqlite_errors(store.folder):
        return present(read(store._db))


def starred(folder: Path) -> list[int]:
    """The candidates with a star, in order."""
    return sorted(candidate for candidate, own in present(of(folder)).items() if "star" in own)
