"""Records of runs that somebody changed: sound ones with one thing wrong, and checksums that fit all the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attack.pictures import picture
from tests.attack.target import Target, command
from tests.attack.words import broken, flipped, near, value

from fairlead.app.report import write_report
from fairlead.run import engine, rows
from fairlead.run.store import DATABASE
from fairlead.run.view import View
from fairlead.testing.runs import after, small_spec

SOURCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "draft": {"draft": "few(2)", "group": 2, "batch": 2},
    "steered": {"steer": ["lidar"], "watch": ["jpeg_size"], "budget": {"nfe": 200.0}},
    "ranked": {"reward": "rank_mean(brightness, jpeg_size)", "search": "zero_order"},
    "gradient": {"search": "adam", "space": "noise", "reward": "brightness"},
}
JSON_COLUMNS = ("spec", "versions", "message", "questions", "cost", "terms")
READS: dict[str, Callable[[str], Any]] = {
    "trace": lambda run: View.read(Path(run)).trace(),
    "report": lambda run: write_report(Path(run)),
    "resume": lambda run: engine.resume(Path(run)).close(),
    "more": lambda run: command(["resume", run, "--budget", "nfe=48"]),
    "keep": lambda run: command(["keep", run, "2", "--likeness", "pixels"]),
    "best": lambda run: command(["replay", run, "best"]),
    "last": lambda run: command(["replay", run, "3"]),
    "page": lambda run: command(["report", run, "plain", "--out", "page.html"]),
    "score": lambda run: command(["score", run, "--reward", "brightness"]),
    "list": lambda run: command(["list", "runs", "--json"]),
    "answer": lambda run: command(["answer", run, "--list"]),
}


def cell(db: sqlite3.Connection, draw: random.Random) -> tuple[str, str, int, Any]:
    """Table, column, row and its value."""
    table = draw.choice(["run", "run", "task", "outcome", "outcome", "outcome", "prepared"])
    column = draw.choice(rows.SEALED[table].split(", "))
    found = db.execute(f"select rowid, {column} from {table}").fetchall()
    if not found:
        return "run", "spec", 1, db.execute("select spec from run").fetchone()[0]
    row, old = draw.choice(found)
    return table, column, row, old


def damage(source: Path, name: str, draw: random.Random) -> list[Any]:
    """What is done to a copy of `source`, as data."""
    kind = draw.choice(["value"] * 6 + ["drop", "row", "bits", "file", "file"])
    if kind == "bits":
        where = draw.choice([DATABASE, DATABASE, "image"])
        return [kind, where, draw.randrange(1 << 30), draw.choice([1, 1, 8, 100])]
    if kind == "file":
        names = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
        return [kind, draw.choice(names), draw.choice(["gone", "empty", "cut", "picture"]), draw.randrange(1 << 30)]
    db = sqlite3.connect(source / DATABASE)
    table, column, row, old = cell(db, draw)
    db.close()
    if kind in ("drop", "row"):
        return [kind, table, column, row]
    if column in JSON_COLUMNS and draw.random() < 0.8:
        try:
            return [kind, table, column, row, json.dumps(broken(json.loads(old or "{}"), draw))]
        except ValueError:
            pass
    new = near(old, draw) if isinstance(old, str | bytes | int | float) and draw.random() < 0.7 else value(draw)
    return [kind, table, column, row, json.dumps(new) if isinstance(new, dict | list) else new]


def apply(target: Path, what: list[Any]) -> None:
    """Do it, and make the checksums again."""
    kind, *rest = what
    if kind == "bits":
        name, seed, many = rest
        draw = random.Random(seed)
        path = target / DATABASE if name == DATABASE else draw.choice(sorted((target / "images").iterdir()))
        if path.is_file():
            path.write_bytes(flipped(path.read_bytes(), draw, many))
        return
    if kind == "file":
        path = target / rest[0]
        if not path.is_file():
            return
        draw = random.Random(rest[2])
        data = {"empty": b"", "cut": path.read_bytes()[: draw.randrange(200)], "picture": picture(draw), "gone": b""}
        path.write_bytes(data[rest[1]])
        if rest[1] == "gone":
            path.unlink()
        return
    table, column, row, *new = rest
    db = sqlite3.connect(target / DATABASE)
    rows.install(db)
    try:
        if kind == "drop":
            db.execute(f"alter table {table} drop column {column}")
        elif kind == "row":
            db.execute(f"delete from {table} where rowid=?", (row,))
        else:
            db.execute(f"update {table} set {column}=? where rowid=?", (new[0], row))
        for name in rows.SEALED:
            rows.seal(db, name)
        db.commit()
    except (sqlite3.Error, OverflowError, UnicodeEncodeError):
        db.rollback()
    finally:
        db.close()


def stores(folder: Path) -> Target:
    """Every command that reads a run."""
    os.chdir(folder)
    for name, words in SOURCES.items():
        engine.start(small_spec(**words), folder / name).close()
        if name != "ranked":
            engine.start(small_spec(**words), folder / f"{name}-stopped", stop=after(2)).close()
    names = sorted(path.name for path in folder.iterdir())

    def make(draw: random.Random) -> list[Any]:
        name = draw.choice(names)
        done = [damage(folder / name, name, draw) for _ in range(draw.choice([1, 1, 1, 1, 2]))]
        return [name, draw.choice(list(READS)), done]

    def run(what: list[Any]) -> None:
        name, read, done = what
        os.chdir(folder)
        target = Path("runs") / "copy"
        shutil.rmtree("runs", ignore_errors=True)
        shutil.copytree(name, target)
        for one in done:
            apply(target, one)
        READS[read](str(target))

    return Target(make, run, ("is damaged", "has no run.sqlite", "cannot be used"))
