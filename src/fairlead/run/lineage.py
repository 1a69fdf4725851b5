"""Who was drawn from whom, as rows in a run's own record. Imports no torch.

A search says which of its earlier proposals a new one was drawn from (`Proposal.origin`). A record of a search that
names none has no such table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fairlead.run import rows
from fairlead.run.records import Candidate

SCHEMA = "create table if not exists lineage(idx integer primary key, origin integer not null, checksum text not null)"


def index_at(places: Sequence[int], origin: int | None) -> int | None:
    """The candidate at a place among all proposals; `places` are their indices in the run."""
    return None if origin is None else places[origin]


def add(db: sqlite3.Connection, indices: Sequence[int], origins: Sequence[int | None]) -> None:
    """Write the known origins of some candidates, in the transaction that records them."""
    pairs = [(index, origin) for index, origin in zip(indices, origins, strict=False) if origin is not None]
    if not pairs:
        return
    db.execute(SCHEMA)
    db.executemany("insert or replace into lineage values(?,?,?)", [(*pair, rows.checksum(*pair)) for pair in pairs])


def read(db: sqlite3.Connection, only: int | None = None) -> Mapping[int, int]:
    """Candidate -> the candidate that it was drawn from; of one candidate if `only` names it."""
    if not rows.has_table(db, "lineage"):
        return {}
    found: dict[int, int] = {}
    rule = "where ?1 is null or idx=?1"
    for index, origin, checksum in db.execute(f"select idx, origin, checksum from lineage {rule}", (only,)):
        if rows.checksum(index, origin) != checksum:
            raise rows.BadRow(f"the origin of candidate {index!r:.20} does not have its checksum")
        found[rows.whole(index, "idx")] = rows.whole(origin, "origin")
    return found


def with_origins(db: sqlite3.Connection, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, each with what it was drawn from."""
    origins = read(db, candidates[0].index if len(candidates) == 1 else None)
    return [replace(c, origin=origins[c.index]) if c.index in origins else c for c in candidates]


def candidates(db: sqlite3.Connection) -> list[Candidate]:
    """Every candidate of a record, in ask order."""
    found = db.execute(f"select {rows.COLUMNS} from outcome order by idx").fetchall()
    return with_origins(db, rows.candidates(found))
