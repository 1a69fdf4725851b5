"""The server is killed, the worker is killed, pages come and go: nothing is lost and nothing is shown twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from fairlead.app.studio.events import PageEvents
from fairlead.app.studio.library import Library
from fairlead.app.workers.jobs import DIED, Jobs
from fairlead.app.workers.vouching import vouch
from fairlead.core.errors import FairleadError
from fairlead.run import engine, marks
from fairlead.run.store import Store
from fairlead.run.view import View
from fairlead.testing.runs import small_spec

LONG = {"prompt": "a photo of a dog", "model": "mixture", "reward": "brightness", "steps": 4, "budget": "nfe=40000"}


def parsed(text: str) -> tuple[str, str, Any]:
    """Id, kind and data of one event."""
    words = dict(line.split(": ", 1) for line in text.strip().split("\n"))
    return words.get("id", ""), words["event"], json.loads(words["data"])


def listen(folder: Path, after: str = "") -> list[tuple[str, str, Any]]:
    """Everything that a page hears that knows the record up to `after`."""
    source = PageEvents(folder, after, lambda: None, lambda: {})
    found = [parsed(text) for text in source.news()]
    source.close()
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events") / "run"
    engine.start(small_spec(), folder).close()
    return folder


def test_a_page_that_drops_out_anywhere_hears_the_rest_once(recorded: Path, tmp_path: Path) -> None:
    """The record grows batch by batch; a page leaves after every possible event and comes back at the end."""
    folder = tmp_path / "run"
    positions = [""]
    known: list[dict[int, Any]] = [{}]
    budget = 0.0
    while not folder.exists() or budget < 40:
        budget += 12
        limits = {"nfe": min(budget, 40.0)}
        if folder.exists():
            engine.resume(folder, budget=limits).close()
        else:
            engine.start(small_spec(budget=limits), folder).close()
        marks.add(folder, 0, "note", f"at {budget}")
        for id, kind, data in listen(folder, positions[-1]):
            if id:
                rows = dict(known[-1])
                rows |= (
                    {c["index"]: c for c in data["candidates"]} if kind == "candidates" else {"mark": data["marks"][-1]}
                )
                positions.append(id)
                known.append(rows)
    whole = known[-1]
    assert len([index for index in whole if index != "mark"]) == 10
    for position, rows in zip(positions, known, strict=True):
        heard: list[int] = []
        rows = dict(rows)
        for _, kind, data in listen(folder, position):
            if kind == "candidates":
                heard += [c["index"] for c in data["candidates"]]
                rows |= {c["index"]: c for c in data["candidates"]}
            if kind == "marks":
                rows["mark"] = data["marks"][-1]
        assert rows == whole
        assert len(heard) == len(set(heard))
        assert set(heard).isdisjoint(known[positions.index(position)]), "nothing that was known is sent again"


def test_rewards_that_changed_are_sent_again(recorded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recorded, tmp_path / "run"))
    end = [id for id, _, _ in listen(folder) if id][-1]
    assert [kind for _, kind, _ in listen(folder, end)] == ["state"]
    store = Store.open(folder)
    store.set_rewards({1: 7.5}, {})
    store.close()
    _, kind, data = listen(folder, end)[0]
    assert kind == "candidates"
    assert next(c for c in data["candidates"] if c["index"] == 1)["reward"] == 7.5


def test_a_folder_that_goes_away_is_said(recorded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recorded, tmp_path / "run"))
    source = PageEvents(folder, "", lambda: None, lambda: {})
    list(source.news())
    shutil.rmtree(folder)
    assert [parsed(text)[1] for text in source.news()] == ["gone"]
    assert source.ended
    source.close()


def test_the_stream_of_a_server_reads_like_the_record(studio: Any) -> None:
    id = studio.start(**{**LONG, "budget": "nfe=400"})
    request = Request(f"{studio.base}/api/runs/{id}/events", headers={"cookie": studio.cookie})
    heard: list[int] = []
    with urlopen(request, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.readline() == b"retry: 2000\n"
        for line in answer:
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                heard += [c["index"] for c in data.get("candidates", [])]
                if data.get("state", {}).get("word") == "finished":
                    break
    assert heard == [c["index"] for c in studio.run(id)["candidates"]]


def test_a_killed_server_changes_nothing(open_studio: Callable[..., Any]) -> None:
    """Three runs: one works, two wait. All are there again, in their order, and each is computed once."""
    studio = open_studio()
    id = studio.start(**LONG)
    waiting = studio.start(**{**LONG, "budget": "nfe=80"}, seed=1)
    last = studio.start(**{**LONG, "budget": "nfe=80"}, seed=2)
    before = len(studio.wait(id, ("running",))["candidates"])
    worker = studio.worker()
    studio.kill()
    os.kill(worker, 0)  # it still works
    time.sleep(0.5)
    again = open_studio(studio.runs)
    assert again.worker() == worker
    found = again.run(id)
    assert found["state"]["word"] == "running"
    assert len(found["candidates"]) > before
    assert [again.run(one)["state"]["word"] for one in (waiting, last)] == ["queued", "queued"]
    assert again.ask(f"/api/runs/{id}/stop", {}).status == 200
    stopped = again.wait(id, ("stopped",))
    assert [c["index"] for c in stopped["candidates"]] == list(range(len(stopped["candidates"])))
    for one in (waiting, last):
        assert [c["index"] for c in again.wait(one)["candidates"]] == list(range(20))
    assert len(again.ask("/api/runs").json["runs"]) == 3


def test_a_killed_worker_is_shown_and_its_run_goes_on_bit_for_bit(open_studio: Callable[..., Any]) -> None:
    studio = open_studio()
    id = studio.start(**{**LONG, "budget": "nfe=8000"})
    waiting = studio.start(**{**LONG, "budget": "nfe=80"}, seed=1)
    while not studio.wait(id, ("running",))["candidates"]:
        time.sleep(0.05)
    os.kill(studio.worker(), signal.SIGKILL)
    dead = studio.wait(id, ("died",))
    assert dead["state"]["sentence"] == DIED
    assert dead["state"]["resumable"]
    assert 0 < len(dead["candidates"]) < 2000
    studio.wait(waiting)  # the queue goes on with another worker
    assert studio.ask(f"/api/runs/{id}/resume", {}).status == 200
    found = studio.wait(id)
    alone = studio.start(**{**LONG, "budget": "nfe=8000"})
    other = studio.wait(alone)
    assert found["spent"]["nfe"] == other["spent"]["nfe"]
    assert [c["image"] for c in found["candidates"]] == [c["image"] for c in other["candidates"]]


def test_the_server_ends_while_pages_listen(open_studio: Callable[..., Any]) -> None:
    studio = open_studio()
    request = Request(f"{studio.base}/api/events", headers={"cookie": studio.cookie})
    with urlopen(request, timeout=20) as answer:
        assert any(line.startswith(b"event: ") for line in answer)
        since = time.monotonic()
        studio.end()
        assert time.monotonic() - since < 10
        answer.read()  # the stream has ended by itself


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FairleadError, match=r"disk .* is full"):
        Jobs(tmp_path).add({"prompt": "a dog"})
    assert Jobs(tmp_path).all() == []


def computed_under(limit: str, runs: Path) -> None:
    """A worker whose process may use only so much, until nothing waits."""
    words = f"ulimit {limit}; exec {sys.executable} -m fairlead.app.workers.worker {runs} --idle 1"
    subprocess.run(["bash", "-c", words], check=True, timeout=180, capture_output=True)


def state_of(runs: Path, name: str) -> dict[str, Any]:
    """How the page shows a run, from its record and its job."""
    return next(row["state"] for row in Library(runs, Jobs(runs)).list() if row["name"] == name)


def test_a_disk_that_is_full_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """No file may grow beyond 40 kB, so the record cannot: a sentence, and with room the run goes on bit for bit."""
    jobs = Jobs(tmp_path)
    words = {**LONG, "budget": "nfe=1200"}
    jobs.add(words, "full")
    computed_under("-f 40", tmp_path)
    state = state_of(tmp_path, "full")
    assert state["word"] == "died"
    assert re.search("full|disk|space|large", state["sentence"])
    assert "bug" not in state["sentence"]
    before = View.read(tmp_path / "full").candidates
    assert 0 < len(before) < 300
    jobs.resume("full", None)
    jobs.add(words, "whole")
    computed_under("-f unlimited", tmp_path)
    found = View.read(tmp_path / "full").candidates
    assert found[: len(before)] == before
    assert [(c.reward, c.image) for c in found] == [
        (c.reward, c.image) for c in View.read(tmp_path / "whole").candidates
    ]


GREEDY = """
import numpy
def greedy(images, prompts):
    return [float(numpy.ones(30 << 27).sum()) for _ in images]
"""


def test_a_run_that_wants_all_memory_ends_alone(tmp_path: Path) -> None:
    """It has a sentence; the process lives on and computes the next run."""
    (tmp_path / "my.py").write_text(GREEDY)
    jobs = Jobs(tmp_path)
    reward = f"{tmp_path / 'my.py'}:greedy"
    jobs.add({**LONG, "reward": reward}, "greedy", ready=lambda job: vouch(tmp_path, job))
    jobs.add({**LONG, "budget": "nfe=80"}, "modest")
    computed_under("-v 16000000", tmp_path)
    state = state_of(tmp_path, "greedy")
    assert state["word"] in ("died", "failed")
    assert "memory" in state["sentence"].lower()
    assert state_of(tmp_path, "modest")["word"] == "finished"


def test_a_record_of_a_newer_version_and_one_cut_in_half_are_sentences(recorded: Path, tmp_path: Path) -> None:
    """The others are listed all the same, and nothing is written into either."""
    for name in ("newer", "cut", "sound"):
        shutil.copytree(recorded, tmp_path / name)
    with closing(sqlite3.connect(tmp_path / "newer" / "run.sqlite")) as db:
        db.execute("pragma user_version=99")
    data = (recorded / "run.sqlite").read_bytes()
    (tmp_path / "cut" / "run.sqlite").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty").mkdir()
    stamps = {name: (tmp_path / name / "run.sqlite").stat().st_mtime_ns for name in ("newer", "cut")}
    rows = {row["name"]: row for row in Library(tmp_path, Jobs(tmp_path)).list()}
    assert set(rows) == {"newer", "cut", "sound"}
    assert "newer" in rows["newer"]["error"]
    assert rows["cut"]["error"]
    assert rows["sound"]["state"]["word"] == "finished"
    assert stamps == {name: (tmp_path / name / "run.sqlite").stat().st_mtime_ns for name in stamps}


def test_a_run_without_its_pictures_is_a_sentence(studio: Any) -> None:
    id = studio.start(**{**LONG, "budget": "nfe=16"})
    found = studio.wait(id)
    shutil.rmtree(studio.runs / found["name"] / "images")
    answer = studio.ask(f"/api/runs/{id}/images/{found['candidates'][0]['image']}")
    assert answer.status in (404, 409)
    assert "is missing: restore it" in answer.json["error"]["message"]
    assert len(studio.run(id)["candidates"]) == 4
    shutil.rmtree(studio.runs / found["name"])  # pages of other tests must not ask for its pictures


@pytest.mark.parametrize(
    "prompt", ["\u200fשלום <b>עולם</b>", "مرحبا " * 50, "x" * 2000, "<script>alert(1)</script>\n\t"]
)
def test_any_prompt_is_kept_as_it_was_typed(tmp_path: Path, prompt: str) -> None:
    jobs = Jobs(tmp_path)
    job = jobs.add({"prompt": prompt})
    assert jobs.all()[0].options["prompt"] == prompt
    assert Path(job.folder).name == job.folder
    assert job.folder.isprintable()
    assert Library(tmp_path, jobs).list()[0]["prompt"] == prompt


def test_a_prompt_of_ten_thousand_characters_is_refused_beside_the_field(studio: Any) -> None:
    found = studio.ask("/api/price", {"options": {**LONG, "prompt": "x" * 10_000}}).json
    assert found["field"] == "prompt"
    assert "10000 characters" in found["error"]
    assert len(found["error"]) < 1500


def test_a_hundred_runs_are_listed_quickly(recorded: Path, tmp_path: Path) -> None:
    """The first time every record is read; then only those that have changed."""
    for i in range(100):
        shutil.copytree(recorded, tmp_path / f"run-{i:03d}", ignore=shutil.ignore_patterns("images", "*.png", "*.html"))
    library = Library(tmp_path, Jobs(tmp_path))
    since = time.process_time()
    assert len(library.list()) == 100
    first = time.process_time() - since
    marks.add(tmp_path / "run-007", 2, "star", "1")
    since = time.process_time()
    rows = library.list()
    second = time.process_time() - since
    print(f"100 runs: {first:.2f} s, then {second:.3f} s")
    assert [row["name"] for row in rows if row["stars"]] == ["run-007"]
    assert first < 5
    assert second < first / 2
