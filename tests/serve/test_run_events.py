"""The events of a run, by HTTP against the real process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.serve.run_events import Listened
from fairlead.run import engine
from fairlead.run.follow import Follower, Position
from fairlead.run.store import Store
from fairlead.run.view import View
from fairlead.testing.runs import small_spec

DRAWN = {"reward": "brightness", "steps": 4, "budget": "nfe=8000"}


def parsed(text: str) -> dict[str, Any]:
    """One event."""
    words = dict(line.split(": ", 1) for line in text.strip().split("\n"))
    return {"id": words.get("id", ""), "kind": words["event"], **json.loads(words["data"])}


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream, as they come."""
    block: list[str] = []
    for line in lines:
        if line:
            block.append(line)
        elif any(one.startswith("data: ") for one in block):
            yield parsed("\n".join(block))
            block = []
        else:
            block = []


def hear(server: Any, run: str, after: str, many: int = 10_000) -> tuple[int, list[dict[str, Any]]]:
    """Status and events after a position; the listener leaves after so many."""
    import httpx2

    found: list[dict[str, Any]] = []
    headers = {"last-event-id": after}
    with httpx2.stream("GET", f"{server.root}/v1/runs/{run}/events", headers=headers, timeout=120) as answer:
        for one in events(answer.iter_lines()):
            found.append(one)
            if len(found) == many:
                break
    return answer.status_code, found


def test_a_listener_that_drops_after_each_event_hears_the_run_once(server: Any) -> None:
    thread = threading.Thread(target=lambda: server.draw("heard", own=DRAWN))
    before = {path.name for path in (server.runs / "local").glob("*")}
    thread.start()
    while not (new := {path.name for path in (server.runs / "local").glob("*")} - before):
        assert thread.is_alive()
        time.sleep(0.05)
    run = new.pop()
    heard: list[dict[str, Any]] = []
    status, after = 200, ""
    while status == 200:
        status, found = hear(server, run, after, many=1)
        heard += found
        after = found[-1]["id"] if found else after
        assert status == 204 or found
    thread.join(60)
    view = View.read(server.runs / "local" / run)
    assert status == 204, "after the end there is nothing more to hear"
    assert [one["kind"] for one in heard].count("end") == 1
    assert heard[-1]["kind"] == "end"
    assert heard[-1]["status"] == "finished"
    counts = [one["candidates"] for one in heard[:-1]]
    assert counts == sorted(set(counts)), "nothing is sent twice"
    assert heard[-1]["candidates"] == len(view.candidates) == 2000
    assert view.best is not None
    assert heard[-1]["best"]["candidate"] == view.best.index
    assert heard[-1]["best"]["image"] == Path(view.best.image).stem
    assert server.ask("GET", f"/v1/runs/{run}/images/{heard[-1]['best']['image']}").status_code == 200
    assert "heard" not in json.dumps(heard), "a prompt is not part of an event"
    assert hear(server, run, "")[1][-1] == heard[-1]
    assert hear(server, run, f"{'0' * 32}.7-0-0")[1][-1] == heard[-1], "the position of another run is the start"
    wanted = server.ask("GET", f"/v1/runs/{run}/events?after={after}")
    assert (wanted.status_code, wanted.content) == (204, b"")


def told(folder: Path, after: str, is_active: bool) -> list[dict[str, Any]]:
    source = Listened(folder, after, lambda: is_active)
    found = [parsed(text) for text in source.news()]
    source.close()
    return found


def test_each_event_is_a_function_of_the_record(tmp_path: Path) -> None:
    """A run that ends, is heard to the end, and is continued: the listener hears the rest, and the end again."""
    folder = tmp_path / "run"
    assert [one["kind"] for one in told(folder, "", True)] == []
    assert [(one["kind"], one["status"]) for one in told(folder, "", False)] == [("end", "failed")]
    engine.start(small_spec(budget={"nfe": 20.0}), folder).close()
    first = told(folder, "", False)
    assert [one["kind"] for one in first] == ["best", "end"]
    assert Listened(folder, first[-1]["id"], lambda: False).is_over()
    assert not Listened(folder, first[0]["id"], lambda: False).is_over(), "the end was not heard"
    assert [one["kind"] for one in told(folder, first[0]["id"], False)] == ["end"]
    engine.resume(folder, budget={"nfe": 40.0}).close()
    assert not Listened(folder, first[-1]["id"], lambda: False).is_over()
    more = told(folder, first[-1]["id"], True)
    assert [one["candidates"] for one in more] == [10]
    best = Store.open(folder).best()
    assert best is not None
    assert more[0]["kind"] == ("progress" if best.index == first[0]["best"]["candidate"] else "best")
    assert told(folder, more[0]["id"], True) == []
    store = Store.open(folder)
    store.set_rewards({0: 99.0}, {})
    store.close()
    again = told(folder, more[0]["id"], True)
    assert [(one["kind"], one["best"]["candidate"]) for one in again] == [("best", 0)]


def test_a_run_that_is_not_there(server: Any) -> None:
    for id in ("0" * 32, "..%2f..", "A" * 32):
        answer = server.ask("GET", f"/v1/runs/{id}/events")
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


def test_a_count_is_never_ahead_of_its_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is recorded between the position and the count: the next event tells it, and this one does not."""
    folder = tmp_path / "run"
    engine.start(small_spec(budget={"nfe": 40}), folder).close()
    few = len(View.read(folder).candidates)
    position = Follower.position

    def meanwhile(follower: Follower) -> Position:
        found = position(follower)
        monkeypatch.setattr(Follower, "position", position)
        engine.resume(folder, budget={"nfe": 80}).close()
        return found

    monkeypatch.setattr(Follower, "position", meanwhile)
    source = Listened(folder, "", lambda: True)
    counts = [parsed(text)["candidates"] for _ in range(2) for text in source.news()]
    source.close()
    assert counts == [few, len(View.read(folder).candidates)]
