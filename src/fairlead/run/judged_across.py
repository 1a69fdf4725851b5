"""What people said about pictures of several runs of one prompt: rows in the records of both runs. Imports no torch.

A row names both pictures with their runs and has an id. It is written into the record of each of the two runs, so every
run keeps what concerns it. The ranking over some runs is made of the union of their rows by id: a row that only one of
two records holds, because a process died between them, counts once and in full. Taking back is a row too.

Pictures are told apart by their digest. Where several runs found the same picture, it takes part once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from fairlead.core.errors import FairleadError, StoreError, unknown
from fairlead.run import judgements, rows
from fairlead.run.claim import connect, connect_to_read, record_of
from fairlead.run.judged import Judged
from fairlead.run.judgements import LONGEST_NAME, PAIR, PAIR_ANSWERS, UNDO, Judgement
from fairlead.run.sqlite_errors import sqlite_errors
from fairlead.run.view import View

SCHEMA = """create table if not exists judgement_across(
    id text primary key, pictures text not null, answer text not null, who text not null, at text not null,
    checksum text not null)"""
COLUMNS = "id, pictures, answer, who, at"
MOST_RUNS = 64


@dataclass(frozen=True)
class Picture:
    """A finished picture of one of the runs."""

    run: str
    """Name of the run's folder."""
    candidate: int
    image: str
    """Its digest."""


@dataclass(frozen=True)
class Row:
    """One judgement, or the taking back of one."""

    id: str
    pictures: tuple[Picture, ...]
    """Left and right."""
    answer: str
    """As of a pair; of a row that takes back, `undo` and the id of the other row."""
    who: str
    at: str
    """ISO 8601 UTC with microseconds: the order of the rows."""


class JudgedAcross:
    """The runs that are judged together, and what was said about their pictures."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Refuses runs that answer different prompts."""
        self.folders = {Path(folder).name: Path(folder) for folder in folders}
        if not 2 <= len(self.folders) <= MOST_RUNS:
            raise FairleadError(f"{len(self.folders)} runs cannot be judged together: must be 2 to {MOST_RUNS}.")
        self.views = {name: View.read(folder) for name, folder in self.folders.items()}
        prompts = {view.spec.prompt for view in self.views.values()}
        if len(prompts) > 1:
            raise FairleadError(
                f"These runs have {len(prompts)} prompts: pictures are only judged together where the prompt is one."
            )
        self.prompt = prompts.pop()

    @cached_property
    def pictures(self) -> list[Picture]:
        """Every finished picture of every run, best first within a run; the place is its number in `judged`."""
        found: dict[str, Picture] = {}
        for name, view in self.views.items():
            for c in view.finished:
                image = Path(c.image).stem
                found.setdefault(image, Picture(name, c.index, image))
        return list(found.values())

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of a picture by its digest."""
        return {picture.image: n for n, picture in enumerate(self.pictures)}

    @cached_property
    def rows(self) -> list[Row]:
        """Every row about two of these pictures, in the order in which they were made."""
        return self.about([row for folder in self.folders.values() for row in of(folder)])

    def about(self, found: Sequence[Row]) -> list[Row]:
        """Of the rows of all records those about two of these pictures, each once, in order."""
        union = {row.id: row for row in found}
        about = [row for row in union.values() if all(p.image in self.number for p in row.pictures)]
        return sorted(about, key=lambda row: (row.at, row.id))

    @cached_property
    def judgements(self) -> list[Judgement]:
        """The rows as judgements of numbered pictures."""
        numbers = {row.id: n for n, row in enumerate(self.rows, 1)}
        return [self._judgement(row, numbers) for row in self.rows if _undone(row) in ("", *numbers)]

    def _judgement(self, row: Row, numbers: dict[str, int]) -> Judgement:
        back = _undone(row)
        shown = tuple(self.number[picture.image] for picture in row.pictures)
        if back:
            return Judgement(numbers[row.id], UNDO, (), str(numbers[back]), row.who, row.at)
        return Judgement(numbers[row.id], PAIR, shown, row.answer, row.who, row.at)

    def judged(self, who: str | None = None) -> Judged:
        """The ranking, the next pair and the agreement; candidates are numbers of `pictures`."""
        return Judged(self.judgements, who)

    def entrants(self, many: int | None) -> list[int]:
        """The best `many` pictures of each run; None for all. A picture that two runs found takes part once."""
        best = [Path(c.image).stem for view in self.views.values() for c in view.finished[:many]]
        return sorted({self.number[image] for image in best})

    def are_apart(self, one: int, two: int) -> bool:
        """True if the pictures belong to different runs: pairs of one run are judged in that run."""
        return self.pictures[one].run != self.pictures[two].run

    def turn_of(self, who: str) -> int:
        """How many rows are this person's."""
        return judgements.turn_of(self.judgements, who)


def of(folder: Path) -> list[Row]:
    """The rows of one record."""
    with sqlite_errors(Path(folder)), closing(connect_to_read(record_of(Path(folder)))) as db:
        return _rows(db)


def _rows(db: sqlite3.Connection) -> list[Row]:
    if not rows.has_table(db, "judgement_across"):
        return []
    return [_read(values) for values in db.execute(f"select {COLUMNS}, checksum from judgement_across")]


def _read(values: Sequence[str]) -> Row:
    *own, checksum = values
    if rows.checksum(*own) != checksum:
        raise rows.BadRow(f"judgement {own[0]!r:.20} across runs does not have its checksum")
    id, pictures, answer, who, at = own
    return Row(id, tuple(Picture(*one) for one in json.loads(pictures)), answer, who, at)


def _undone(row: Row) -> str:
    """The id of the row that this one takes back; empty where it is a judgement."""
    word, _, id = row.answer.partition(" ")
    return id if word == UNDO else ""


def add(folders: Sequence[Path], shown: Sequence[str], answer: str, who: str, turn: int) -> None:
    """Record one judgement about two pictures by their digests. `turn`: rows this person had when they were shown."""
    if answer not in PAIR_ANSWERS:
        raise unknown("answer", answer, PAIR_ANSWERS)
    if len(who) > LONGEST_NAME:
        raise FairleadError(f"A name has {len(who)} characters: must be at most {LONGEST_NAME}. Shorten it.")
    runs = JudgedAcross(folders)
    places = [runs.number.get(image, -1) for image in shown]
    if len(places) != 2 or min(places) < 0 or not runs.are_apart(*places):
        raise StoreError(f"The pictures {list(shown)!r:.90} are not two of different runs here. Reload the page.")
    _write(runs, [runs.pictures[place] for place in places], answer, who, turn)


def undo(folders: Sequence[Path], who: str, turn: int) -> bool:
    """Take back the last judgement of this person that still holds; False if there is none."""
    runs = JudgedAcross(folders)
    own = [j.number for j in judgements.valid(runs.judgements) if j.who == who]
    if not own:
        return False
    last = runs.rows[own[-1] - 1]
    _write(runs, last.pictures, f"{UNDO} {last.id}", who, turn)
    return True


def _write(runs: JudgedAcross, pictures: Sequence[Picture], answer: str, who: str, turn: int) -> None:
    """One row in the records of both runs, which are locked in the order of their names."""
    named = sorted({picture.run for picture in pictures} & set(runs.folders))
    with ExitStack() as stack:
        every: list[sqlite3.Connection] = []
        found: list[Row] = []
        for name in named:
            stack.enter_context(sqlite_errors(runs.folders[name]))
            db = stack.enter_context(closing(connect(record_of(runs.folders[name]))))
            stack.enter_context(db)
            db.execute("begin immediate")
            db.execute(SCHEMA)
            every.append(db)
            found += _rows(db)
        for name in sorted({*runs.folders} - {*named}):
            found += of(runs.folders[name])
        now = sum(row.who == who for row in runs.about(found))
        if now != turn:
            raise StoreError(
                f"Another window has judged as {who or 'the person without a name'} meanwhile: {now} rows are "
                f"recorded, this window knew {turn}. Nothing was recorded; the next pictures are shown."
            )
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        words = json.dumps([[p.run, p.candidate, p.image] for p in pictures])
        id = blake2b("\n".join((words, answer, who, at)).encode(), digest_size=8).hexdigest()
        values = (id, words, answer, who, at)
        for db in every:
            db.execute("insert into judgement_across values(?,?,?,?,?,?)", (*values, rows.checksum(*values)))
