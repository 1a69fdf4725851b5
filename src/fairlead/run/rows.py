"""Rows of a record as they are read: their checksums and their types. Imports no torch.

A stored run may come from somebody else, or from a disk that changed a bit. Every row carries a checksum of its values,
and every value is checked for its type before a reader sees it: a picture's name is a digest and nothing else.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from fairlead.core.cost import Cost
from fairlead.run.records import Candidate, Companions, RunStatus

if TYPE_CHECKING:
    from torch import Tensor

SEALED = {
    "run": "id, spec, versions, created, status, stopped, message",
    "task": "number, questions, cost",
    "outcome": "idx, task, question, key, reward, terms, cost, image, steps, gradient, refines",
    "prepared": "name, data, cost",
}
"""The columns of every table that its checksum covers."""
VERSION = 2
"""2: every row has a checksum. Records of format 1 are read, and get checksums when they are written to."""
SCHEMA = """
create table run(
    id text not null, spec text not null, versions text not null, created text not null,
    status text not null, stopped text not null, message text not null, checksum text);
create table task(number integer primary key, questions text not null, cost text not null, checksum text);
create table outcome(
    idx integer primary key, task integer not null references task(number), question text not null, key text not null,
    reward real, terms text not null, cost text not null, image text not null, steps integer not null,
    gradient blob, refines integer, checksum text);
create table prepared(name text primary key, data blob not null, cost text not null, checksum text);
"""

MOST_ROWS = 8192
"""Rows of a shared batch at most."""
COLUMNS = "idx, reward, terms, cost, image, key, task, steps, refines"
"""What `rows.candidate` reads."""
DIGEST = re.compile(r"[0-9a-f]{32}")
HEX = re.compile(r"[0-9a-f]{1,128}")
COSTS = frozenset(f.name for f in fields(Cost))


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """True where a record has this table: what people said and what a search remembers are added when they come."""
    return db.execute("select 1 from sqlite_master where name=?", (name,)).fetchone() is not None


class BadRow(sqlite3.DatabaseError):
    """A row whose values cannot be what fairlead wrote."""


def checksum(*values: Any) -> str:
    """16 hex digits of the values of a row, their types included."""
    parts = []
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
        parts += [b"%s %d " % (type(value).__name__.encode(), len(data)), data]
    return blake2b(b"".join(parts), digest_size=8).hexdigest()


def install(db: sqlite3.Connection) -> None:
    """The SQL function `checksum(...)` on a connection."""
    db.create_function("checksum", -1, checksum, deterministic=True)


def seal(db: sqlite3.Connection, table: str, where: str = "true", values: Sequence[Any] = ()) -> None:
    """Write the checksums of rows, in the transaction that changed them."""
    db.execute(f"update {table} set checksum=checksum({SEALED[table]}) where {where}", values)


def verify(db: sqlite3.Connection) -> None:
    """Raise `BadRow` where a page of the file, or a row and its checksum, do not agree."""
    found = db.execute("pragma quick_check(1)").fetchone()[0]
    if found != "ok":
        raise BadRow(str(found))
    for table, columns in SEALED.items():
        wrong = f"select count(*) from {table} where checksum is not checksum({columns})"
        if many := db.execute(wrong).fetchone()[0]:
            raise BadRow(f"{many} rows of {table} do not have their checksum")


def picture_name(png: bytes) -> str:
    """What a picture is called in `images/`, without its ending."""
    return blake2b(png, digest_size=16).hexdigest()


def image(digest: Any) -> str:
    """The name of a picture: a digest, never a path."""
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise BadRow(f"a picture is named {digest!r:.60}, which is no digest")
    return digest


@lru_cache(maxsize=64)
def cost(text: Any) -> Cost:
    """What was spent, from its JSON. The candidates of a batch have the same."""
    data = _object(text)
    if not set(data) <= COSTS:
        raise BadRow(f"a cost has the entry {sorted(set(data) - COSTS)[0]!r:.60}")
    return Cost(**{name: _number(value, name) for name, value in data.items()})


def terms(text: Any) -> dict[str, float]:
    """The terms of a reward by name, from their JSON."""
    return {name: _number(value, name, finite=False) for name, value in _object(text).items()}


def reward(value: Any) -> float:
    """A reward; NULL stands for NaN."""
    return math.nan if value is None else _number(value, "reward", finite=False)


def data(value: Any) -> bytes:
    """Bytes, and nothing else."""
    if not isinstance(value, bytes):
        raise BadRow(f"{value!r:.60} stands where bytes belong")
    return value


def gradient(value: Any, dim: int) -> Tensor | None:
    """The gradient of a candidate, [dim] numbers of four bytes."""
    if value is None:
        return None
    found = data(value)
    if len(found) != 4 * dim:
        raise BadRow(f"a gradient has {len(found)} bytes where {4 * dim} belong")
    import torch

    return torch.frombuffer(bytearray(found), dtype=torch.float32)


def candidate(row: Sequence[Any]) -> Candidate:
    """idx, reward, terms, cost, image, key, task, steps, refines -> what readers see."""
    index, value, named, spent, digest, key, task, steps, refines = row
    if not isinstance(key, str) or not HEX.fullmatch(key):
        raise BadRow(f"a key is {key!r:.60}, which is not hexadecimal")
    return Candidate(
        whole(index, "idx"),
        reward(value),
        terms(named),
        cost(spent),
        f"images/{image(digest)}.png",
        key,
        whole(task, "task"),
        whole(steps, "steps"),
        None if refines is None else whole(refines, "refines"),
    )


def candidates(found: Sequence[Sequence[Any]]) -> list[Candidate]:
    """Rows as readers see them, each one rung above the candidate that it refines."""
    read = [candidate(row) for row in found]
    rung_of = rungs({c.index: c.refines for c in read if c.refines is not None})
    return [replace(c, rung=rung_of[c.index]) if c.refines is not None else c for c in read]


def rungs(below: Mapping[int, int]) -> dict[int, int]:
    """How many candidates lie below each that refines another, from what each refines."""
    rung_of: dict[int, int] = {}
    for index in below:
        path = []
        at: int | None = index
        while at is not None and at not in rung_of and at not in path:
            path.append(at)
            at = below.get(at)
        rung = -1 if at is None else rung_of.get(at, -1)
        for step, passed in enumerate(reversed(path), start=1):
            rung_of[passed] = rung + step
    return rung_of


def asked(questions: Sequence[str], among: Companions | None) -> str:
    """The questions of a batch as JSON; with its place where it was a part of a shared batch."""
    if among is None:
        return json.dumps(questions)
    return json.dumps({"questions": questions, "before": among.before, "rows": among.rows, "runs": among.runs})


def companions(text: Any) -> Companions | None:
    """The place of a batch among those of other runs, from what `asked` wrote; None where it stood alone."""
    if not str(text).startswith("{"):
        return None
    data = _object(text)
    before = whole(data.get("before"), "before")
    many = whole(data.get("rows"), "rows")
    own = data.get("questions")
    if not isinstance(own, list) or not 0 <= before <= many - len(own) or many > MOST_ROWS:
        raise BadRow(f"a batch of {many} rows cannot hold its own behind {before} others")
    runs = tuple((str(name), _indices(indices)) for name, indices in data.get("runs", []))
    return Companions(before, many, runs)


def _indices(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(whole(value, "candidate") for value in values)


def status(text: Any) -> RunStatus:
    """How the run stands."""
    if text not in list(RunStatus):
        raise BadRow(f"the status is {text!r:.60}")
    return RunStatus(text)


def texts(text: Any) -> dict[str, str]:
    """Texts by name, from their JSON."""
    data = _object(text)
    if not all(isinstance(value, str) for value in data.values()):
        raise BadRow(f"{text!r:.60} does not hold texts by name")
    return data


def extended_after(text: Any) -> int:
    """The last candidate of an earlier budget, from the note about it; -1 without one."""
    return whole(_object(text or "{}").get("extended_after", -1), "extended_after")


def _object(text: Any) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise BadRow(f"{text!r:.60} is not a JSON object")
    return data


def _number(value: Any, name: str, finite: bool = True) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        usable = usable and (math.isfinite(float(value)) or not finite)
    except OverflowError:
        usable = False
    if not usable:
        raise BadRow(f"{name!r:.60} is {value!r:.60}, which is not a number")
    number: float = value
    return number


def whole(value: Any, name: str) -> int:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRow(f"{name} is {value!r:.60}, which is not a whole number")
    return value
