"""POST /v1/images/generations by OpenAI's own client, against the real process."""

from __future__ import annotations

import base64
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fairlead.app.cli import main
from fairlead.app.workers.address import lock_path
from fairlead.run.diverse_subset import keep
from fairlead.run.view import View

openai = pytest.importorskip("openai", reason="needs openai: pip install openai")


LONG = {"budget": "nfe=1000000"}
"""A run that takes minutes."""


def pixels(text: str) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return image.size, image.convert("RGB").tobytes()


def own(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["fairlead"]
    return found


def test_a_picture_is_that_of_the_command_line(server: Any, tmp_path: Path) -> None:
    answer = server.draw("a bird")
    words = ["run", "a bird", "--model", "mixture", "--reward", "brightness", "--steps", "4", "--budget", "nfe=64"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    view = View.read(tmp_path / "run")
    assert view.best is not None
    assert own(answer)["run"] == view.spec.id()
    assert own(answer)["reward"] == view.best.reward
    with Image.open(tmp_path / "run" / "best.png") as image:
        assert pixels(answer.data[0].b64_json) == (image.size, image.convert("RGB").tobytes())
    assert (answer.quality, answer.output_format, answer.background) == ("medium", "png", "opaque")
    assert answer.usage.output_tokens == 0
    data = base64.b64decode(answer.data[0].b64_json)
    for piece in (b"tEXt", b"iTXt", b"a bird", str(server.runs).encode()):
        assert piece not in data


def test_the_same_request_is_the_same_run(server: Any) -> None:
    ask = {"prompt": "twice", "fairlead": {"reward": "brightness", "steps": 4}}
    first = server.ask("POST", "/v1/images/generations", json=ask)
    hits = server.counted("fairlead_run_cache_hits_total")
    spent = server.counted("fairlead_nfe_total")
    again = server.ask("POST", "/v1/images/generations", json=ask)
    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert server.counted("fairlead_run_cache_hits_total") == hits + 1
    assert server.counted("fairlead_nfe_total") == spent
    streamed = list(server.draw("twice", stream=True))
    assert [event.type for event in streamed] == ["image_generation.completed"]
    assert streamed[0].b64_json == first.json()["data"][0]["b64_json"]


def test_several_pictures_are_kept_ones(server: Any) -> None:
    low = server.draw("several", quality="low")
    high = server.draw("several", quality="high", n=4)
    one = server.draw("several", quality="high")
    assert own(low)["run"] == own(high)["run"], "quality is a budget, not another question"
    folder = server.runs / "local" / own(high)["run"]
    assert len(View.read(folder).candidates) == 64
    chosen = [item.model_extra["fairlead"]["candidate"] for item in high.data]
    assert chosen == keep(folder, 4)
    assert high.data[0].b64_json == one.data[0].b64_json
    jpeg = server.draw("several", quality="high", output_format="jpeg", output_compression=80)
    assert base64.b64decode(jpeg.data[0].b64_json)[:2] == b"\xff\xd8"


def test_a_stream_shows_the_best_so_far(server: Any) -> None:
    words = {"prompt": "streamed", "own": {"budget": "nfe=4000"}, "n": 2}
    events = list(server.draw(**words, stream=True, partial_images=3))
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    done = events[len(partial) :]
    assert 1 <= len(partial) <= 3
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert [event.type for event in done] == ["image_generation.completed"] * 2
    assert [event.model_extra["fairlead"]["rank"] for event in done] == [1, 2]
    for event in events:
        pixels(event.b64_json)
    whole = server.draw(**words)
    assert [item.b64_json for item in whole.data] == [event.b64_json for event in done]


def test_twenty_equal_requests_are_one_run(server: Any) -> None:
    client = server.client()
    before = server.counted("fairlead_nfe_total")
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: server.draw("twenty", client=client), range(20)))
    assert len({answer.data[0].b64_json for answer in found}) == 1
    assert server.counted("fairlead_nfe_total") == before + 64


def test_a_hasty_client_gets_the_best_so_far(server: Any) -> None:
    answer = server.draw("hasty", own=LONG, client=server.client(timeout=8))
    assert own(answer)["stopped"] == "seconds"
    run = own(answer)["run"]
    stopped = server.wait_for(run, lambda found: found["status"] == "stopped")
    more = server.draw("hasty", own=LONG, client=server.client(timeout=8))
    assert own(more)["run"] == run
    assert own(more)["cost"]["nfe"] > stopped["cost"]["nfe"], "it goes on from where it was"
    assert own(more)["reward"] >= own(answer)["reward"]


def test_a_client_that_leaves_ends_the_run_and_one_that_returns_does_not(server: Any) -> None:
    stream = server.draw("left", own=LONG, stream=True, partial_images=1)
    next(stream)
    id = running(server)[0].name
    stream.close()
    again = server.draw("left", own=LONG, stream=True, partial_images=1)
    next(again)
    time.sleep(1.5)  # longer than the linger
    assert server.ask("GET", f"/v1/runs/{id}").json()["status"] == "running"
    again.close()
    found = server.wait_for(id, lambda found: found["status"] == "stopped")
    assert found["candidates"] > 0
    count = found["candidates"]
    server.wait_for(id, lambda found: found["candidates"] == count)


def running(server: Any) -> list[Path]:
    """The run folders that are written now."""
    found = [path for path in (server.runs / "local").glob("*") if path.is_dir()]
    return [path for path in found if server.ask("GET", f"/v1/runs/{path.name}").json().get("status") == "running"]


def test_a_run_is_stopped_by_its_id(server: Any) -> None:
    caught: list[Any] = []
    thread = threading.Thread(target=lambda: caught.append(server.draw("deleted", own=LONG)))
    thread.start()
    until = time.monotonic() + 60
    while not (found := running(server)):
        assert thread.is_alive(), caught
        assert time.monotonic() < until
        time.sleep(0.1)
    id = found[0].name
    server.wait_for(id, lambda found: found["candidates"] > 0)
    assert server.ask("DELETE", f"/v1/runs/{id}").json()["status"] == "stopping"
    thread.join(60)
    assert own(caught[0])["run"] == id
    assert server.ask("GET", f"/v1/runs/{id}").json()["status"] == "stopped"
    assert server.ask("DELETE", f"/v1/runs/{id}").json()["status"] == "stopped"
    best = server.ask("GET", f"/v1/runs/{id}").json()["best"]
    picture = server.ask("GET", f"/v1/runs/{id}/images/{best['image']}")
    assert picture.content.startswith(b"\x89PNG")
    for digest in ("0" * 32, "..%2f..%2frun.sqlite", "A" * 32):
        assert server.ask("GET", f"/v1/runs/{id}/images/{digest}").status_code == 404


def test_a_full_queue_is_tried_again(server: Any) -> None:
    def ask(number: int, retries: int) -> Any:
        body = {"seed": number, **{"budget": "nfe=4000"}}
        return server.draw("queued", own=body, client=server.client(max_retries=retries))

    with ThreadPoolExecutor(8) as pool:
        bare = [pool.submit(ask, number, 0) for number in range(8)]
        refused = [one.exception() for one in bare]
    full = [error for error in refused if error is not None]
    assert full
    assert all(isinstance(error, openai.RateLimitError) and error.code == "queue_full" for error in full)
    assert all(float(error.response.headers["retry-after"]) >= 1 for error in full)
    assert own(ask(0, 0))["seed"] == 0


def test_an_undisturbed_result_after_the_worker_was_killed(server: Any) -> None:
    words = {"prompt": "killed", "own": {"budget": "nfe=12000"}}
    stream = server.draw(**words, stream=True, partial_images=1)
    next(stream)
    os.kill(int(lock_path(server.runs).read_text()), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="What it made is kept"):
        list(stream)
    answer = server.draw(**words, client=server.client(max_retries=2))
    assert own(answer)["cost"]["nfe"] == 12000
    fresh = server.draw(**words, client=server.client(max_retries=2))
    assert fresh.data[0].b64_json == answer.data[0].b64_json


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_loses_nothing(open_server: Callable[..., Any], sign: int, tmp_path: Path) -> None:
    server = open_server(runs=tmp_path / "runs")
    words: dict[str, Any] = {"prompt": "lost", "own": {"budget": "nfe=12000"}}
    stream = server.draw(**words, stream=True, partial_images=1)
    first = next(stream)
    assert first.type == "image_generation.partial_image"
    started = time.monotonic()
    if sign == signal.SIGTERM:
        threading.Timer(0.1, server.process.terminate).start()
        events = list(stream)
        assert [event.type for event in events] == ["image_generation.completed"]
        assert events[0].model_extra["fairlead"]["stopped"] == "shutting down"
        assert server.process.wait(60) == -signal.SIGTERM
        assert time.monotonic() - started < 30
    else:
        server.end(sign)
    again = open_server(runs=server.runs)
    answer = again.draw(**words)
    assert own(answer)["cost"]["nfe"] == 12000
    assert len(list((server.runs / "local").iterdir())) == 1
    again.end()
