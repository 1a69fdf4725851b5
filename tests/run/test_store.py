"""The record: interruption, replay, damage, two writers, full disks, killed processes."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.function import Function
from fairlead.run import engine, files, rows, store
from fairlead.run.executor import Local
from fairlead.run.records import BASELINE, Outcome, Task
from fairlead.run.spec import Spec
from fairlead.run.store import Store, as_json, write_atomically
from fairlead.testing.runs import after, answers, small_spec, some_tasks


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run interrupted after two of four batches."""
    folder = tmp_path / "run"
    engine.start(small_spec(), folder, stop=after(2)).close()
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    """Answers of the uninterrupted run."""
    return answers(engine.start(small_spec(), tmp_path / "whole"))


def test_an_interrupted_run_says_so(stopped: Path) -> None:
    found = Store.open(stopped)
    assert (found.status, found.stopped) == ("stopped", "interrupted")
    assert len(found.candidates()) == 6
    assert (stopped / "best.png").exists(), "what there is can be looked at"


def test_a_finished_run_costs_nothing_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start(small_spec(), tmp_path / "run").close()
    monkeypatch.setattr(engine, "Local", None)
    assert engine.resume(tmp_path / "run").status == "finished"


def test_a_resumed_run_computes_only_what_is_missing(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairlead.run.worker import Worker

    rendered: list[int] = []
    original = Worker.evaluate

    def watched(self: Any, task: Any, steering: Any) -> Any:
        if type(self.model).__name__ != "CountingModel":
            rendered.extend(task.indices)
        return original(self, task, steering)

    monkeypatch.setattr(Worker, "evaluate", watched)
    engine.resume(stopped)
    assert rendered == [6, 7, 8, 9]


def test_a_moved_run_resumes(stopped: Path, tmp_path: Path, whole: Any) -> None:
    shutil.move(stopped, tmp_path / "elsewhere" / "x")
    assert answers(engine.resume(tmp_path / "elsewhere" / "x")) == whole


def test_a_larger_budget_keeps_the_record(stopped: Path, tmp_path: Path) -> None:
    """Extended twice; recorded candidates keep their bytes, new ones are those of a run with that budget."""
    first = answers(Store.open(stopped))
    longer = engine.resume(stopped, budget={"nfe": 80})
    assert answers(longer)[: len(first)] == first
    assert len(longer.candidates()) == 20
    longer.close()
    longest = engine.resume(stopped, budget={"nfe": 100})
    direct = engine.start(small_spec(budget={"nfe": 100}), tmp_path / "direct")
    assert [c.key for c in longest.candidates()] == [c.key for c in direct.candidates()]
    for a, b in zip(longest.candidates(), direct.candidates(), strict=True):
        assert a.reward == pytest.approx(b.reward, abs=2e-3)
    assert longest.spent().nfe == 100
    assert longest.spec.budget == {"nfe": 100}


def test_a_budget_below_what_was_spent_is_refused(stopped: Path) -> None:
    with pytest.raises(FairleadError, match="has already spent"):
        engine.resume(stopped, budget={"nfe": 20})
    assert Store.open(stopped).spec.budget == {"nfe": 40}
    with pytest.raises(FairleadError, match="must be > 0"):
        engine.resume(stopped, budget={"nfe": -1})


def test_an_edited_algorithm_is_refused(tmp_path: Path, register: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    register("searches", "walk", "items:Walk")
    spec = small_spec(search="walk", batch=4, budget={"nfe": 64})
    engine.start(spec, tmp_path / "run", stop=after(2)).close()
    before = answers(Store.open(tmp_path / "run"))
    register("searches", "walk", "items:OtherPoints")
    with pytest.raises(StoreError, match=r"Candidate 0 of .* was asked another question .* start a new run"):
        engine.resume(tmp_path / "run")
    assert answers(Store.open(tmp_path / "run")) == before
    register("searches", "walk", "items:Walk")
    assert engine.resume(tmp_path / "run").status == "finished"


def test_other_settings_are_another_run(stopped: Path) -> None:
    found = Store.open(stopped)
    with pytest.raises(StoreError, match="start a new run"):
        found.extend(small_spec(seed=1))
    found.extend(small_spec(budget={"nfe": 99}))
    assert found.spec.budget == {"nfe": 99}


# two processes


def test_two_writers_are_refused(stopped: Path) -> None:
    with Store.open(stopped).lock():
        with pytest.raises(StoreError, match="being written by another process"):
            engine.resume(stopped)
        assert len(Store.open(stopped).candidates()) == 6, "reading is always possible"
    assert engine.resume(stopped).status == "finished"


def test_the_lock_is_held_while_running_and_by_the_process(tmp_path: Path) -> None:
    """Another process tries at every batch; the run itself is not disturbed."""
    folder, said = tmp_path / "run", []
    attempt = (
        "from fairlead.run.store import Store\nfrom pathlib import Path\n"
        f"with Store.open(Path({str(folder)!r})).lock(): pass"
    )

    def try_it(progress: Any) -> None:
        if progress.done == 3:
            said.append(subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False))

    engine.start(small_spec(), folder, on_progress=try_it)
    assert said[0].returncode == 1
    assert "being written by another process" in said[0].stderr
    with Store.open(folder).lock():
        pass


# killed at any moment

CHILD = """
import sys, time
from pathlib import Path
from fairlead.run import engine
from fairlead.testing.runs import small_spec
spec = small_spec(batch=2, budget={{"nfe": 80.0}}, sampler="ancestral", reward="brightness + jpeg_size")
seen = []
def tick(p):
    seen.append(p)
    print(p.done, flush=True)
    time.sleep(60 if len(seen) > {lines} else 0.01)
folder = Path({folder!r})
(engine.resume if folder.exists() else lambda f, **k: engine.start(spec, f, **k))(folder, on_progress=tick)
"""


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A real process, killed at different depths, ends where the undisturbed one does."""
    spec = small_spec(batch=2, budget={"nfe": 80.0}, sampler="ancestral", reward="brightness + jpeg_size")
    expected = engine.start(spec, tmp_path / "whole")
    folder = tmp_path / "run"
    kept: list[Any] = []
    for lines, pause in ((3, 0.0), (5, 0.004), (8, 0.013)):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(folder=str(folder), lines=lines)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        time.sleep(pause)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        now = answers(Store.open(folder))
        assert now[: len(kept)] == kept, "nothing recorded is lost"
        assert len(now) > len(kept)
        assert len(now) <= 20, "it was killed before the end"
        kept = now
    again = engine.resume(folder)
    assert answers(again) == answers(expected)
    assert (again.folder / "best.png").read_bytes() == (expected.folder / "best.png").read_bytes()
    assert replace(again.spent(), seconds=0.0) == replace(expected.spent(), seconds=0.0)
    recorded = {(folder / c.image).name for c in again.candidates()}
    extra = {p.name for p in (folder / "images").iterdir() if not p.name.startswith(".")} - recorded
    assert len(extra) <= 6, "a picture of a batch that was not recorded may be left, no more"


def test_killed_before_the_record_was_made(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    sqlite3.connect(folder / store.DATABASE).execute("pragma journal_mode=wal")
    with pytest.raises(StoreError, match="start the run again"):
        engine.resume(folder)


# damage


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no run\.sqlite"):
        Store.open(tmp_path)


@pytest.mark.parametrize("data", [b"this is no database" * 100, b"SQLite format 3\0" + bytes(500)])
def test_a_corrupt_file(data: bytes, stopped: Path) -> None:
    for name in (store.DATABASE, f"{store.DATABASE}-wal"):
        (stopped / name).unlink(missing_ok=True)
    (stopped / store.DATABASE).write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|cannot be used|not a finished run record") as told:
        engine.resume(stopped)
    assert "\n" not in str(told.value)
    assert (stopped / store.DATABASE).read_bytes() == data


def test_a_torn_page(stopped: Path) -> None:
    path = stopped / store.DATABASE
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|cannot be used"):
        engine.resume(stopped)


def test_an_empty_file(stopped: Path) -> None:
    (stopped / store.DATABASE).write_bytes(b"")
    with pytest.raises(StoreError):
        engine.resume(stopped)


def test_a_newer_record(stopped: Path) -> None:
    db = sqlite3.connect(stopped / store.DATABASE)
    db.execute(f"pragma user_version={store.VERSION + 1}")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match=r"has format 3, this fairlead reads up to 2: update fairlead"):
        Store.open(stopped)


def test_a_setting_of_a_newer_version(stopped: Path) -> None:
    db = sqlite3.connect(stopped / store.DATABASE)
    rows.install(db)
    text = db.execute("select spec from run").fetchone()[0]
    db.execute("update run set spec=?", (text.replace('{"batch"', '{"aura":1,"batch"'),))
    rows.seal(db, "run")
    db.commit()
    db.close()
    with pytest.raises(FairleadError, match="unknown field 'aura'"):
        engine.resume(stopped)


def test_a_missing_picture(stopped: Path) -> None:
    found = Store.open(stopped)
    (stopped / found.get(1).image).unlink()
    with pytest.raises(StoreError, match=r"\.png is missing"):
        engine.resume(stopped)


def test_a_torn_picture(stopped: Path) -> None:
    found = Store.open(stopped)
    path = stopped / found.get(1).image
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"\.png is damaged"):
        engine.replay(stopped, 1)
    done = engine.resume(stopped)
    winner = done.best()
    assert winner is not None, "the rows of the others are enough to go on"
    path = stopped / winner.image
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"\.png is damaged"):
        engine.resume(stopped)


def test_a_torn_picture_of_a_batch_that_was_not_recorded(stopped: Path, tmp_path: Path, whole: Any) -> None:
    """After a power cut the file may be there without its bytes; rendering again mends it."""
    for _, _, data in whole[-3:]:
        name = blake2b(data, digest_size=16).hexdigest()
        (stopped / "images" / f"{name}.png").write_bytes(data[:40])
    assert answers(engine.resume(stopped)) == whole


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        engine.start(small_spec(), tmp_path / "file" / "run")


# full disks


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any) -> None:
    """The disk fills while the second batch is written; once there is room the run continues to the same end."""
    folder, original, calls = tmp_path / "run", os.replace, [0]

    def moved(source: Path, target: Path) -> None:
        calls[0] += 1
        full() if calls[0] > 4 else original(source, target)

    monkeypatch.setattr(os, "replace", moved)
    with pytest.raises(
        StoreError, match=r"The disk of .* is full. Free some space, then continue with 'fairlead resume"
    ):
        engine.start(small_spec(), folder)
    monkeypatch.setattr(os, "replace", original)
    found = Store.open(folder)
    assert [c.index for c in found.candidates()] == [0, 1, 2]
    assert not [p for p in (folder / "images").iterdir() if p.name.startswith(".")]
    found.close()
    assert answers(engine.resume(folder)) == whole


def test_a_full_disk_under_the_database(stopped: Path) -> None:
    """SQLite's own refusal, by its page limit: the batch is not recorded in part."""
    found = Store.open(stopped)
    found._db.execute(f"pragma max_page_count={found._db.execute('pragma page_count').fetchone()[0]}")
    task, outcomes = found_task(found), []
    for i, index in enumerate(task.indices):
        outcomes.append(Outcome(index, 0.5, {"long" * 5000: 0.5}, Cost(nfe=4), b"%d" % i))
    with pytest.raises(StoreError, match="is full"):
        found.record(task, outcomes, Cost(nfe=12))
    assert found.answered_indices(task.indices) == set()
    assert found.spent().nfe == 24


def found_task(found: Store) -> Task:
    """The next three questions of that run."""
    [task] = some_tasks(Local(found.spec), found.spec, (3,))
    return replace(task, indices=(6, 7, 8))


def test_atomic_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    write_atomically(path, b"old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StoreError, match="is full"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    real = builtins.open

    class Half:
        def __init__(self, handle: Any) -> None:
            self._handle = handle

        def __enter__(self) -> Half:
            return self

        def __exit__(self, *args: object) -> None:
            self._handle.close()

        def write(self, data: bytes) -> None:
            self._handle.write(data[: len(data) // 2])
            full()

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda *a: Half(real(*a)), raising=False)
        with pytest.raises(StoreError, match="is full"):
            write_atomically(path, b"newer data")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


# replay


@pytest.mark.parametrize(
    "words", [{}, {"sampler": "ancestral", "group": 2, "batch": 4}, {"steer": "toward", "budget": {"nfe": 60}}]
)
def test_replay(words: dict[str, Any], tmp_path: Path, register: Any) -> None:
    register("steerings", "toward", "items:Toward")
    spec = small_spec(**words)
    engine.start(spec, tmp_path / "run").close()
    for index in (0, 4, *([BASELINE] if spec.controlled else [])):
        found = engine.replay(tmp_path / "run", index)
        assert found.identical, found.message
        assert found.max_pixel_difference == 0
        assert found.companions == (1 if index == BASELINE else spec.batch)
        assert found.image == (tmp_path / "run" / found.recorded.image).read_bytes()
        alone = engine.replay(tmp_path / "run", index, alone=True)
        assert alone.companions == 1
        assert alone.max_pixel_difference <= 1


def test_replay_after_moving_and_extending(stopped: Path) -> None:
    engine.resume(stopped, budget={"nfe": 60}).close()
    for index in (5, 6, 14):
        assert engine.replay(stopped, index).identical


def test_replay_notices_a_difference(stopped: Path) -> None:
    db = sqlite3.connect(stopped / store.DATABASE)
    rows.install(db)
    db.execute("update outcome set reward=reward+0.001 where idx=2")
    rows.seal(db, "outcome")
    db.commit()
    db.close()
    found = engine.replay(stopped, 2)
    assert not found.identical
    assert found.max_pixel_difference == 0


def test_replay_of_nothing(stopped: Path) -> None:
    with pytest.raises(StoreError, match="has no candidate 77"):
        engine.replay(stopped, 77)


def test_a_python_reward_is_asked_for_again(tmp_path: Path) -> None:
    from fairlead.run.spec import Part

    def red(images: Any, prompts: Any) -> Any:
        return images[:, 0].mean((1, 2))

    spec = replace(small_spec(), reward=Part("python", {"callable": "red"}))
    engine.start(spec, tmp_path / "run", reward=Function(red), stop=after(1)).close()
    with pytest.raises(FairleadError, match="was a Python object"):
        engine.resume(tmp_path / "run")
    with pytest.raises(FairleadError, match="was a Python object"):
        engine.replay(tmp_path / "run", 0)
    assert engine.resume(tmp_path / "run", reward=Function(red)).status == "finished"
    assert engine.replay(tmp_path / "run", 0, reward=Function(red)).identical


def test_json_has_no_nan() -> None:
    assert as_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": "é"}) == '{"a": null, "b": [null, 1.5], "c": "é"}'


def test_costs_of_a_task_are_kept_whole(stopped: Path) -> None:
    found = Store.open(stopped)
    total = Cost()
    for c in found.candidates():
        total = total + c.cost
    assert total.nfe == pytest.approx(found.spent().nfe) == 24
    assert total.seconds == pytest.approx(found.spent().seconds)


def test_a_spec_survives(tmp_path: Path, register: Any) -> None:
    register("steerings", "toward", "items:Toward")
    spec: Spec = small_spec(
        reward="brightness - 0.5*jpeg_size(quality=50)", steer="toward(scale=0.1)", budget={"nfe": 60, "seconds": 9}
    )
    found = engine.start(spec, tmp_path / "run", stop=after(0))
    assert found.spec == spec
    assert Spec.from_json(spec.json()) == spec
