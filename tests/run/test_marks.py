"""Stars, rejects and notes in a run's own record."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, marks
from fairlead.run.records import BASELINE
from fairlead.run.store import Store
from fairlead.testing.runs import answers, small_spec


def test_the_last_mark_of_a_kind_holds_and_the_list_is_the_history(run: Path) -> None:
    marks.add(run, 1, "star", "1", "Ada")
    marks.add(run, 0, "note", "sharp eyes")
    marks.add(run, 1, "star", "")
    marks.add(run, 2, "star", "1")
    marks.add(run, 2, "reject", "1")
    found = marks.of(run)
    assert [mark.number for mark in found] == [1, 2, 3, 4, 5]
    assert (found[0].who, found[0].value, found[2].value) == ("Ada", "1", "")
    assert marks.present(found) == {0: {"note": "sharp eyes"}, 2: {"star": "1", "reject": "1"}}
    assert marks.starred(run) == [2]


def test_marks_change_nothing_else(run: Path) -> None:
    store = Store.open(run)
    before = answers(store)
    store.close()
    marks.add(run, 0, "star", "1")
    engine.resume(run, budget={"nfe": 2 * small_spec().budget["nfe"]}).close()
    store = Store.open(run)
    assert answers(store)[: len(before)] == before
    assert len(answers(store)) > len(before)
    store.close()
    assert marks.starred(run) == [0]


def test_a_run_without_marks_has_none(run: Path) -> None:
    assert marks.of(run) == []
    assert marks.starred(run) == []


def test_many_people_mark_at_once(run: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: marks.add(run, i % 3, "note", f"note {i}", f"person {i}"), range(24)))
    found = marks.of(run)
    assert [mark.number for mark in found] == list(range(1, 25))
    assert {mark.value for mark in found} == {f"note {i}" for i in range(24)}


@pytest.mark.parametrize(
    ("candidate", "kind", "value", "error"),
    [
        (999, "star", "1", StoreError),
        (BASELINE, "star", "1", StoreError),
        (0, "heart", "1", FairleadError),
        (0, "star", "yes", FairleadError),
        (0, "note", "x" * 2001, FairleadError),
    ],
)
def test_wrong_marks_are_refused(candidate: int, kind: str, value: str, error: type[Exception], run: Path) -> None:
    with pytest.raises(error):
        marks.add(run, candidate, kind, value)
    assert marks.of(run) == []


def test_a_note_is_text(run: Path) -> None:
    text = "'); drop table mark; -- <img src=x onerror=alert(1)> שלום 🍎"
    marks.add(run, 0, "note", text)
    assert marks.of(run)[0].value == text


def test_a_changed_mark_is_noticed(run: Path) -> None:
    marks.add(run, 0, "note", "mine")
    with sqlite3.connect(run / "run.sqlite") as db:
        db.execute("update mark set value='yours'")
    with pytest.raises(StoreError, match="damaged"):
        marks.of(run)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no"):
        marks.add(tmp_path, 0, "star", "1")
