"""The questions of a run to a person: a table in its database that any process can read and answer."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.people import Enough, Pending, Question
from fairlead.run.claim import DATABASE, record_of

Person = Callable[[Question], str]
"""Asks a person who is present; raises `Pending` if they want to answer later."""
SCHEMA = """create table if not exists question(
    name text primary key, kind text not null, text text not null, pictures text not null, asked text not null,
    answer text, answered text)"""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sheet_of(folder: Path, question: Question) -> Path:
    """The file of the sheet, beside the pictures."""
    return Path(folder) / "images" / f"sheet-{question.name}.png"


def _read(question: Question, answer: str) -> tuple[int, ...]:
    if question.ends(answer):
        raise Enough(question.text)
    return question.read(answer)


@dataclass(frozen=True)
class StoredQuestion:
    """A question in the record."""

    question: Question
    answer: str | None
    """What was typed; None before there is an answer."""


class QuestionStore:
    """The questions of one run folder. Answers are stored as typed."""

    def __init__(self, folder: Path, person: Person | None = None) -> None:
        self._path = Path(folder) / DATABASE
        self._person = person

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(record_of(self._path.parent), timeout=10.0)
        try:
            with db:
                db.execute(SCHEMA)
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be used ({error}): check its permissions.") from error
        finally:
            db.close()

    def ask(self, question: Question) -> tuple[int, ...]:
        """The answer if there is one. Else record the question, and ask a person who is present or raise `Pending`."""
        with self._open() as db:
            row = db.execute("select answer from question where name=?", (question.name,)).fetchone()
            if row is None:
                values = (question.name, question.kind, question.text, json.dumps(question.pictures), _now())
                db.execute("insert into question values(?,?,?,?,?,null,null)", values)
        if row is not None and row[0] is not None:
            return _read(question, row[0])
        if self._person is None:
            raise Pending(question)
        answer = self._person(question)
        before = self.answer_if_open(question.name, answer)
        if before is not None and before != answer:
            warnings.warn(
                f"This question was answered elsewhere first: {before!r} holds, not {answer!r}.", stacklevel=2
            )
        return _read(question, answer if before is None else before)

    def peek(self, question: Question) -> tuple[int, ...]:
        """The answer if there is one, else `Pending`; writes nothing."""
        for posted in self.questions():
            if posted.question == question and posted.answer is not None:
                return _read(question, posted.answer)
        raise Pending(question)

    def answer(self, name: str, answer: str) -> None:
        """Record an answer, if it is valid, in place of an earlier one."""
        self._check(name, answer)
        with self._open() as db:
            db.execute("update question set answer=?, answered=? where name=?", (answer, _now(), name))

    def answer_if_open(self, name: str, answer: str) -> str | None:
        """Record an answer unless there is one: of several people the first one's holds. Returns that earlier one."""
        self._check(name, answer)
        with self._open() as db:
            db.execute("begin immediate")
            before: str | None = db.execute("select answer from question where name=?", (name,)).fetchone()[0]
            if before is None:
                db.execute("update question set answer=?, answered=? where name=?", (answer, _now(), name))
            return before

    def _check(self, name: str, answer: str) -> None:
        """Refuse an unknown question, and what is no answer to it."""
        posted = next((p for p in self.questions() if p.question.name == name), None)
        if posted is None:
            raise FairleadError(
                f"{self._path.parent} has no question {name!r}. See 'fairlead answer {self._path.parent} --list'."
            )
        try:
            posted.question.read(answer)
        except ValueError as error:
            raise FairleadError(f"{error}.") from None

    def answer_to(self, question: Question) -> str | None:
        """What was answered; None before there is an answer."""
        return next((p.answer for p in self.questions() if p.question == question), None)

    def shows(self, picture: str) -> bool:
        """True if a question is about the picture of that name."""
        return any(picture in p.question.pictures for p in self.questions())

    def questions(self) -> list[StoredQuestion]:
        """All of them, the oldest first."""
        if not self._path.is_file():
            return []
        db = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            rows = db.execute("select kind, text, pictures, answer from question order by rowid").fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            db.close()
        return [
            StoredQuestion(Question(kind, text, tuple(json.loads(pictures))), answer)
            for kind, text, pictures, answer in rows
        ]

    def sheet(self, question: Question) -> Path | None:
        """The file with all numbered pictures of a question about previews."""
        return sheet_of(self._path.parent, question) if question.kind == "steer" else None

    def pending(self) -> list[Question]:
        """Those without an answer."""
        return [p.question for p in self.questions() if p.answer is None]
