"""Records that meet other processes, other users, kills and tampering: nothing is lost, nothing of others is shown."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead.app import cli, running
from fairlead.app.report import write_report
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, rows, store
from fairlead.run.store import Store
from fairlead.run.view import View
from fairlead.testing.runs import after, answers, small_spec


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run interrupted after two of four batches."""
    folder = tmp_path / "run"
    engine.start(small_spec(), folder, stop=after(2)).close()
    return folder


# two processes


def test_a_refused_run_leaves_the_folder_of_another_process(tmp_path: Path) -> None:
    """Two processes choose one folder; the second is refused at its start, when the first has recorded nothing yet."""
    folder = tmp_path / "run"

    def refused() -> None:
        Store.create(folder, small_spec(), {}, "now").close()  # the first process, a moment before
        (folder / store.LOCK).write_text("another process")
        raise FairleadError("refused")

    with pytest.raises(FairleadError), running.reported(folder):
        refused()
    assert Store.open(folder).spec == small_spec()


def test_what_this_process_made_and_did_not_use_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Store.create(folder, small_spec(), {}, "now").close()
    assert store.discard(folder)
    assert not folder.exists()
    Store.create(folder, small_spec(), {}, "now").close()
    (folder / "notes.txt").write_text("mine")
    assert store.discard(folder)
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_a_run_with_candidates_is_never_discarded(stopped: Path) -> None:
    assert (stopped / store.LOCK).read_text() == store.PROCESS
    assert not store.discard(stopped)
    assert len(Store.open(stopped).candidates()) == 6


def test_two_processes_create_one_run(tmp_path: Path) -> None:
    """Exactly one of four succeeds, and the others are told so in a sentence."""
    code = f"""
import sys, time
from pathlib import Path
from fairlead.run.store import Store
from fairlead.testing.runs import small_spec
spec = small_spec()
sys.stdin.readline()
Store.create(Path({str(tmp_path / "run")!r}), spec, {{}}, "now").close()
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    said = [child.communicate()[1] for child in children]
    assert sorted(child.returncode for child in children) == [0, 1, 1]
    assert all("StoreError" in text for child, text in zip(children, said, strict=True) if child.returncode)
    assert Store.open(tmp_path / "run").spec == small_spec()


# other users, and kills


def kill_with_a_log(folder: Path) -> None:
    """A record as a killed process leaves it: copied while it is open, so that its rows are in the log beside it."""
    alive = engine.start(small_spec(), folder.with_name("alive"), stop=after(2))
    shutil.copytree(alive.folder, folder)
    alive.close()
    assert (folder / f"{store.DATABASE}-wal").stat().st_size > 0


def test_a_killed_run_is_read_by_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder cannot be written, so SQLite cannot use the log in place; its rows are read all the same."""
    folder = tmp_path / "run"
    kill_with_a_log(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    found = Store.open(folder)
    assert len(found.candidates()) == 6
    found.close()
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before, "reading wrote into the folder"
    assert len(engine.resume(folder).candidates()) == 10


def test_no_error_advises_to_delete(stopped: Path) -> None:
    Store.open(stopped).close()
    db = sqlite3.connect(stopped / store.DATABASE)
    db.execute("pragma user_version=0")
    db.commit()
    db.close()
    with pytest.raises(StoreError) as told:
        Store.open(stopped)
    assert "delete" not in str(told.value)


def test_a_folder_killed_before_its_first_row_can_be_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    (folder / store.LOCK).write_text("gone")
    (folder / f".{store.DATABASE}.999999999").write_bytes(b"half a database")
    (folder / f".{store.DATABASE}.999999999-journal").write_bytes(b"x")
    assert cli.main(["run", "a dog", "--model", "mixture", "--reward", "brightness", "--out", str(folder)]) == 0
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_an_old_record_without_tables_can_be_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    sqlite3.connect(folder / store.DATABASE).execute("pragma journal_mode=wal")
    assert store.is_vacant(folder)
    Store.create(folder, small_spec(), {}, "now").close()
    assert Store.open(folder).candidates() == []


@pytest.mark.parametrize("name", ["notes.txt", "images/a.png", "run.sqlite"])
def test_a_folder_with_something_in_it_is_not_vacant(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text("something")
    assert not store.is_vacant(tmp_path)
    with pytest.raises(StoreError, match="exists already"):
        engine.start(small_spec(), tmp_path)
    assert (tmp_path / name).read_text() == "something"


def test_temporary_files_of_dead_processes_are_removed(stopped: Path) -> None:
    for name in (".best.png.999999999", "images/.abc.png.999999999", ".report.html.1"):
        (stopped / name).write_bytes(b"half")
    engine.resume(stopped)
    left = [p.name for p in stopped.rglob(".*")]
    assert left == [".report.html.1"], "process 1 is alive"


@pytest.mark.parametrize("stop_at", ["best.png", "baseline.png"])
def test_a_run_killed_at_its_very_end_gets_its_pictures(
    stop_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are written before the run is called finished, so that resuming writes what is missing."""
    from fairlead.run import final_judge

    class Killed(BaseException):
        pass

    def killed(path: Path, data: bytes, durable: bool = True) -> None:
        if path.name == stop_at:
            raise Killed
        store.write_atomically(path, data, durable)

    monkeypatch.setattr(final_judge, "write_atomically", killed)
    with pytest.raises(Killed):
        engine.start(small_spec(), tmp_path / "run")
    monkeypatch.undo()
    engine.resume(tmp_path / "run").close()
    assert (tmp_path / "run" / "best.png").is_file()
    assert (tmp_path / "run" / "baseline.png").is_file()


def test_a_finished_run_without_its_pictures_gets_them(tmp_path: Path) -> None:
    """As earlier versions could leave it."""
    engine.start(small_spec(), tmp_path / "run").close()
    kept = (tmp_path / "run" / "best.png").read_bytes()
    (tmp_path / "run" / "best.png").unlink()
    engine.resume(tmp_path / "run").close()
    assert (tmp_path / "run" / "best.png").read_bytes() == kept


# tampering


def tamper(folder: Path, statement: str, *values: Any) -> None:
    """Change the record as somebody who knows how checksums are made."""
    Store.open(folder).close()
    db = sqlite3.connect(folder / store.DATABASE)
    rows.install(db)
    db.execute(statement, values)
    for table in rows.SEALED:
        rows.seal(db, table)
    db.commit()
    db.close()


MARKUP = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image", "../../../secret"),
        ("image", MARKUP),
        ("reward", MARKUP),
        ("steps", MARKUP),
        ("task", MARKUP),
        ("key", MARKUP),
        ("refines", MARKUP),
        ("terms", json.dumps({"brightness": MARKUP})),
        ("terms", "[1]"),
        ("terms", "{"),
        ("cost", json.dumps({"nfe": MARKUP})),
        ("cost", json.dumps({MARKUP: 1})),
        ("cost", '{"nfe": NaN}'),
    ],
)
def test_values_of_a_tampered_record_are_refused(column: str, value: Any, stopped: Path, tmp_path: Path) -> None:
    """No file outside the run is read, and nothing that is no number is shown as one."""
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    tamper(stopped, f"update outcome set {column}=? where idx=2", value)
    for read in (View.read, write_report, lambda f: engine.resume(f), lambda f: engine.replay(f, 2)):
        with pytest.raises(StoreError, match=r"damaged|FOREIGN"):
            read(stopped)


def test_markup_in_texts_of_a_tampered_record_is_escaped(stopped: Path) -> None:
    for column in ("created", "stopped"):
        tamper(stopped, f"update run set {column}=?", MARKUP)
    tamper(stopped, "update run set versions=?", json.dumps({"torch": MARKUP, MARKUP: "1"}))
    tamper(stopped, "update outcome set terms=?", json.dumps({MARKUP: 1.0}))
    page = write_report(stopped).read_text()
    assert MARKUP not in page
    assert "&lt;script&gt;" in page


def test_a_row_that_does_not_have_its_checksum_is_refused(stopped: Path) -> None:
    db = sqlite3.connect(stopped / store.DATABASE)
    db.execute("update outcome set reward=0.9 where idx=2")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="checksum"):
        Store.open(stopped)


def flipped(source: Path, target: Path, bits: int, seed: int, read: Callable[[Path], Any]) -> list[int]:
    """Positions of flipped bits that change what is read, without an error."""
    expected, draw, silent = read(source), random.Random(seed), []
    data = (source / store.DATABASE).read_bytes()
    for _ in range(bits):
        place = draw.randrange(8 * len(data))
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (target / store.DATABASE).write_bytes(changed)
        for name in ("-wal", "-shm"):
            (target / f"{store.DATABASE}{name}").unlink(missing_ok=True)
        try:
            if read(target) != expected:
                silent.append(place)
        except StoreError:
            pass
    return silent


def contents(folder: Path) -> Any:
    """All that a record says."""
    found = Store.open(folder)
    try:
        every = [repr(c) for c in found._candidates()]
        tasks = [found.task_of(i) for i in range(len(every))]
        return every, tasks, found.spec, found.versions, found.status, found.stopped, repr(found.spent())
    finally:
        found.close()


def test_no_flipped_bit_is_accepted(stopped: Path, tmp_path: Path) -> None:
    Store.open(stopped).close()
    shutil.copytree(stopped, tmp_path / "copy")
    assert flipped(stopped, tmp_path / "copy", 150, 1, contents) == []


def test_a_record_of_format_1_is_read_and_continued(stopped: Path, tmp_path: Path) -> None:
    """What was recorded before checksums existed: read as it is, given checksums when it is continued."""
    whole = answers(engine.start(small_spec(), tmp_path / "whole"))
    Store.open(stopped).close()
    db = sqlite3.connect(stopped / store.DATABASE)
    for table in rows.SEALED:
        db.execute(f"alter table {table} drop column checksum")
    db.execute("pragma user_version=1")
    db.commit()
    db.close()
    assert len(Store.open(stopped).candidates()) == 6
    assert answers(engine.resume(stopped)) == whole
    again = Store.open(stopped)
    assert again._db.execute("pragma user_version").fetchone()[0] == 2
    assert again._db.execute("select count(*) from outcome where checksum is null").fetchone()[0] == 0
