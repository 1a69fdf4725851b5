"""What people said about finished pictures of a run, as rows in its own record. Imports no torch.

A judgement is never changed: taking one back is a row too, so the list is also the history. Judgements may be added
while the run is computed. A record without judgements has no such table.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError, StoreError, unknown
from fairlead.run import rows
from fairlead.run.claim import connect, connect_to_read, record_of
from fairlead.run.sqlite_errors import sqlite_errors

PAIR = "pair"
PICK = "pick"
UNDO = "undo"
FIRST = "1"
SECOND = "2"
TIE = "tie"
BOTH_BAD = "both bad"
PAIR_ANSWERS = (FIRST, SECOND, TIE, BOTH_BAD)
MOST_SHOWN = 36
LONGEST_NAME = 60
SCHEMA = """create table if not exists judgement(
    number integer primary key, kind text not null, shown text not null, answer text not null,
    who text not null, at text not null, checksum text not null)"""
COLUMNS = "number, kind, shown, answer, who, at"


@dataclass(frozen=True)
class Judgement:
    """What somebody said about the pictures that were shown."""

    number: int
    """Its place in the record, from 1."""
    kind: str
    """`pair`: one of two; `pick`: any of several; `undo`: the judgement whose number is `answer` is taken back."""
    shown: tuple[int, ...]
    """The candidates, from left to right."""
    answer: str
    """Of a pair `1`, `2`, `tie` or `both bad`; of a pick the chosen places like `1,3`, or `none`."""
    who: str
    """A name, or empty."""
    at: str
    """ISO 8601 UTC."""

    @property
    def chosen(self) -> tuple[int, ...]:
        """The candidates that were chosen."""
        words = [word for word in self.answer.split(",") if word.isdigit()]
        return tuple(self.shown[int(word) - 1] for word in words) if self.kind != UNDO else ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def add(folder: Path, kind: str, shown: Sequence[int], answer: str, who: str, turn: int) -> Judgement:
    """Record one judgement. `turn`: how many rows this person had when the pictures were shown.

    So an answer that is sent twice, or from two windows, counts once.
    """
    answer = _checked(kind, shown, answer)
    with sqlite_errors(Path(folder)), closing(connect(record_of(Path(folder)))) as db, db:
        _begin(db, folder, who, turn)
        for index in shown:
            if db.execute("select 1 from outcome where idx=?", (index,)).fetchone() is None:
                raise StoreError(f"{folder} has no candidate {index}. Reload the page.")
        return _write(db, kind, shown, answer, who)


def undo(folder: Path, who: str, turn: int) -> Judgement | None:
    """Take back the last judgement of this person that still holds; None if there is none."""
    with sqlite_errors(Path(folder)), closing(connect(record_of(Path(folder)))) as db, db:
        _begin(db, folder, who, turn)
        own = [judgement for judgement in valid(read(db)) if judgement.who == who]
        return _write(db, UNDO, (), str(own[-1].number), who) if own else None


def _begin(db: sqlite3.Connection, folder: Path, who: str, turn: int) -> None:
    """Start writing; refuse what belongs to an older state."""
    if len(who) > LONGEST_NAME:
        raise FairleadError(f"A name has {len(who)} characters: must be at most {LONGEST_NAME}. Shorten it.")
    db.execute("begin immediate")
    db.execute(SCHEMA)
    now = turn_of(read(db), who)
    if now != turn:
        name = who or "the person without a name"
        raise StoreError(
            f"Another window has judged as {name} meanwhile: {now} rows are recorded in {Path(folder).name}, this "
            f"window knew {turn}. Nothing was recorded; the next pictures are shown."
        )


def _checked(kind: str, shown: Sequence[int], answer: str) -> str:
    """The answer in its recorded form."""
    if kind not in (PAIR, PICK):
        raise unknown("kind of judgement", kind, (PAIR, PICK))
    if not 2 <= len(shown) <= (2 if kind == PAIR else MOST_SHOWN) or len(set(shown)) != len(shown):
        raise FairleadError(f"A {kind} of the candidates {list(shown)!r:.80} cannot be judged: must be different ones.")
    if kind == PAIR:
        if answer not in PAIR_ANSWERS:
            raise unknown("answer", answer, PAIR_ANSWERS)
        return answer
    words = [] if answer == "none" else [word.strip() for word in answer.split(",")]
    if not all(word.isdigit() and 1 <= int(word) <= len(shown) for word in words):
        raise FairleadError(f"The answer is {answer!r:.60}: must be numbers from 1 to {len(shown)} like 1,3, or none.")
    return ",".join(str(place) for place in sorted({int(word) for word in words})) or "none"


def _write(db: sqlite3.Connection, kind: str, shown: Sequence[int], answer: str, who: str) -> Judgement:
    number = int(db.execute("select coalesce(max(number), 0) from judgement").fetchone()[0]) + 1
    made = Judgement(number, kind, tuple(shown), answer, who, datetime.now(UTC).isoformat(timespec="seconds"))
    values = (number, kind, json.dumps(list(shown)), answer, who, made.at)
    db.execute("insert into judgement values(?,?,?,?,?,?,?)", (*values, rows.checksum(*values)))
    return made


def read(db: sqlite3.Connection) -> list[Judgement]:
    """Every row, in the order in which they were made."""
    if not rows.has_table(db, "judgement"):
        return []
    found = []
    for *values, checksum in db.execute(f"select {COLUMNS}, checksum from judgement order by number"):
        if rows.checksum(*values) != checksum:
            raise rows.BadRow(f"judgement {values[0]!r:.20} does not have its checksum")
        number, kind, shown, answer, who, at = values
        found.append(Judgement(number, kind, tuple(json.loads(shown)), answer, who, at))
    return found


def of(folder: Path) -> list[Judgement]:
    """Every row of a run."""
    with sqlite_errors(Path(folder)), closing(connect_to_read(record_of(Path(folder)))) as db:
        return read(db)


def count(db: sqlite3.Connection) -> int:
    """How many rows there are."""
    if not rows.has_table(db, "judgement"):
        return 0
    return int(db.execute("select count(*) from judgement").fetchone()[0])


def taken_back(every: Sequence[Judgement], who: str) -> Judgement | None:
    """What this person has just taken back, and is to be shown again; None if that was not the last thing they did."""
    own = [judgement for judgement in every if judgement.who == who]
    if not own or own[-1].kind != UNDO:
        return None
    return next(judgement for judgement in own if judgement.number == int(own[-1].answer))


def turn_of(every: Sequence[Judgement], who: str) -> int:
    """How many rows are this person's."""
    return sum(judgement.who == who for judgement in every)


def valid(every: Sequence[Judgement]) -> list[Judgement]:
    """Those that were not taken back."""
    gone = {int(judgement.answer) for judgement in every if judgement.kind == UNDO}
    return [judgement for judgement in every if judgement.kind != UNDO and judgement.number not in gone]
