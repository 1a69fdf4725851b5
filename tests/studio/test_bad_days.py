"""The server is killed, the worker is killed, pages come and go: nothing is lost and nothing is shown twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from fairlead.app.studio.events import RunEvents
from fairlead.app.studio.jobs import DIED
from fairlead.core.errors import FairleadError
from fairlead.run import engine, marks
from fairlead.run.store import Store
from fairlead.testing.runs import small_spec

LONG = {"prompt": "a photo of a dog", "model": "mixture", "reward": "brightness", "steps": 4, "budget": "nfe=40000"}


def parsed(text: str) -> tuple[str, str, Any]:
    """Id, kind and data of one event."""
    words = dict(line.split(": ", 1) for line in text.strip().split("\n"))
    return words.get("id", ""), words["event"], json.loads(words["data"])


def listen(folder: Path, after: str = "") -> list[tuple[str, str, Any]]:
    """Everything that a page hears that knows the record up to `after`."""
    source = RunEvents(folder, after, lambda: None, lambda: {})
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
    source = RunEvents(folder, "", lambda: None, lambda: {})
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
    studio = open_studio()
    id = studio.start(**LONG)
    waiting = studio.start(**{**LONG, "budget": "nfe=80"}, seed=1)
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
    assert again.run(waiting)["state"]["word"] == "queued"
    assert again.ask(f"/api/runs/{id}/stop", {}).status == 200
    stopped = again.wait(id, ("stopped",))
    assert [c["index"] for c in stopped["candidates"]] == list(range(len(stopped["candidates"])))
    again.wait(waiting)


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
        while not answer.readline().startswith(b"event: "):
            pass
        since = time.monotonic()
        studio.end()
        assert time.monotonic() - since < 10
        answer.read()  # the stream has ended by itself


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairlead.app.studio.jobs import Jobs

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FairleadError, match=r"disk .* is full"):
        Jobs(tmp_path).add({"prompt": "a dog"})
    assert Jobs(tmp_path).all() == []
