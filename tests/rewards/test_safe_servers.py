"""Servers that overcharge, lie, stall, repeat keys, point elsewhere, or answer without end."""

from __future__ import annotations

import gzip
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from server import Server, serving
from test_judge import pictures, rated, reply

from fairlead.core import trust
from fairlead.core.cost import BudgetExceeded, Cost, Meter
from fairlead.core.errors import FairleadError, RewardError
from fairlead.rewards import _post
from fairlead.rewards.http import HttpReward
from fairlead.rewards.judge import Judge
from fairlead.run import engine
from fairlead.run.spec import make_spec
from fairlead.run.store import Store

KEY = "sk-secret-of-the-user-0123456789"


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Judge]:
    def make(url: str, **settings: Any) -> Judge:
        wanted = {"pause": 0.0, "cache": False, "price_in": 1.0, "price_out": 10.0, **settings}
        return Judge("tiny", base_url=f"{url}/v1", **wanted)

    return make


def billed(read: Any, wrote: Any = 100) -> Callable[[int, dict[str, Any]], Any]:
    """A server that reports this usage for every question."""

    def answer(n: int, body: dict[str, Any]) -> Any:
        return 200, {**rated(body), "usage": {"prompt_tokens": read, "completion_tokens": wrote}}

    return answer


# money


@pytest.mark.parametrize("read", [1000, 25_500, 10**9])
def test_what_was_billed_is_recorded_and_the_cap_holds(read: int, judge: Any) -> None:
    """A reply that costs more than expected is booked whole; the next question is not asked if it cannot be paid."""
    each = (read * 1.0 + 100 * 10.0) / 1e6
    with serving(billed(read)) as server:
        reward = judge(server.url, cap=0.5 if read > 1000 else 0.1)
        with pytest.raises(RewardError, match=r"judge.cap is \$0."):
            _ = [reward(pictures(*range(8 * i, 8 * i + 8)), [f"p{i}"] * 8) for i in range(31)]
        bill = each * len(server.requests)
        assert reward.client.spent == pytest.approx(bill)
        assert bill <= max(0.5 if read > 1000 else 0.1, each)


@pytest.mark.parametrize("read", [25_500, 10**9])
def test_a_run_records_the_dollars_that_ended_it(read: int, tmp_path: Path, judge: Any) -> None:
    each = (read * 1.0 + 100 * 10.0) / 1e6
    with serving(billed(read)) as server:
        budget = {"nfe": 400.0, "dollars": 0.2}
        words = {"model": "mixture", "steps": 4, "batch": 4, "budget": budget}
        with pytest.raises(FairleadError, match="ended before its first candidate"):
            engine.start(make_spec("a dog", **words), tmp_path / "run", reward=judge(server.url))
        found = Store.open(tmp_path / "run")
        bill = each * len(server.requests)
        assert found.spent().dollars == pytest.approx(bill)
        assert bill <= max(0.2, each)
        assert found.stopped == "budget: dollars"


@pytest.mark.parametrize("usage", [-5, math.nan, math.inf, "1000", True, [1], 1e30])
def test_usage_that_cannot_be_is_refused(usage: Any, judge: Any) -> None:
    with serving(billed(usage)) as server:
        reward = judge(server.url, cap=1.0)
        with pytest.raises(RewardError, match="reports the usage"):
            reward(pictures(1), ["p"])
        assert reward.client.spent > 0, "it was asked, so the most that was expected is booked"
        free = judge(server.url, price_in=0.0, price_out=0.0)
        assert free(pictures(1), ["p"])[0].tolist() == [1]
        assert free.client.spent == 0


def test_a_reply_without_usage_costs_the_most(judge: Any) -> None:
    with serving(lambda n, body: (200, {**rated(body), "usage": None})) as server:
        reward = judge(server.url)
        reward(pictures(1), ["p"])
        assert reward.client.spent == pytest.approx(reward.dollars("p") / 2, rel=0.05)


@pytest.mark.parametrize("words", [{"price_in": -1.0}, {"price_out": math.nan}, {"cap": -1.0}, {"picture_tokens": 0}])
def test_prices_are_numbers(words: Any, judge: Any) -> None:
    with pytest.raises(FairleadError, match="must be"):
        judge("http://127.0.0.1:9", **words)


def test_tokens_of_a_picture_are_raised_to_what_was_seen(judge: Any) -> None:
    with serving(billed(25_500)) as server:
        reward = judge(server.url)
        before = reward.dollars("p")
        reward(pictures(1), ["p"])
        assert reward.dollars("p") > before + 2 * 0.02
        assert judge(server.url, picture_tokens=30_000).dollars("p") > reward.dollars("p")


def test_dollars_are_booked_before_they_are_refused() -> None:
    meter = Meter()
    with pytest.raises(BudgetExceeded), meter.grant(Cost(dollars=1, seconds=60)):
        meter.settle(Cost(dollars=4000))
    assert meter.spent.dollars == 4000


# keys and addresses


def with_headers(seen: list[str | None]) -> Any:
    """A server that notes the key of every request and repeats it in an error."""
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers.get("Authorization"))
            raw = json.dumps({"error": {"message": f"your key {self.headers.get('Authorization')} is bad"}}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args: object) -> None:
            pass

    @contextmanager
    def run() -> Iterator[str]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()

    return run()


def test_a_stored_run_does_not_get_the_key(judge: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The key goes where the user of this command says, and no error repeats it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen: list[str | None] = []
    with with_headers(seen) as url:
        with pytest.raises(RewardError) as told:
            judge(url)(pictures(1), ["p"])
        assert KEY not in str(told.value)
        assert "***" in str(told.value)
        with trust.stored_run(tmp_path, trusted=False), pytest.raises(RewardError, match="--trust"):
            judge(url)(pictures(1), ["p"])
        with trust.stored_run(tmp_path, trusted=True), pytest.raises(RewardError):
            judge(url)(pictures(1), ["p"])
        spec = make_spec("a dog", model="mixture", reward=f"judge(model='t', base_url='{url}/v1')", budget={"nfe": 40})
        Store.create(tmp_path / "run", spec, {}, "now").close()
        with pytest.raises(RewardError):
            engine.resume(tmp_path / "run")
        stored = seen[3:]
        with pytest.raises(RewardError):
            engine.resume(tmp_path / "run", trust=True)
    assert seen[:3] == [f"Bearer {KEY}", None, f"Bearer {KEY}"]
    assert set(stored) == {None}
    assert set(seen[3 + len(stored) :]) == {f"Bearer {KEY}"}


def redirecting(target: str) -> Any:
    """A raw server that redirects every request."""
    return raw(lambda: f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())


def read_request(one: socket.socket) -> None:
    """Read all of a request. A connection that is closed with something unread is reset, not ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += one.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += one.recv(65536)


@contextmanager
def raw(start: Callable[[], bytes], drip: float | None = None, then: bytes = b"") -> Iterator[str]:
    """Sends `start`, then `then` once for ever, or a byte every `drip` seconds."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(one: socket.socket) -> None:
        try:
            read_request(one)
            one.sendall(start())
            for _ in range(100):  # long enough to be called endless
                if then or drip:
                    one.sendall(then or b" ")
                time.sleep(drip or 0)
        except OSError:
            pass
        finally:
            one.close()

    def accept() -> None:
        while not ended.is_set():
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.close()


def both(url: str, judge: Any, **words: Any) -> list[str]:
    """What the two kinds of server rewards say."""
    out = []
    for reward in (HttpReward(url, pause=0.0, **words), judge(url, retries=0, **words)):
        with pytest.raises(RewardError) as told:
            reward(pictures(1), ["p"])
        out.append(str(told.value))
    return out


def test_the_token_of_a_scorer_goes_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is read from the variable that is named, and neither a stored run nor an error has it."""
    seen: list[str | None] = []
    with with_headers(seen) as url:
        monkeypatch.setenv("SCORER", KEY)
        with pytest.raises(RewardError) as told:
            HttpReward(url, pause=0, token_env="SCORER").score(pictures(1), ["p"])
        assert KEY not in str(told.value)
        with trust.stored_run(tmp_path, trusted=False):
            stored = HttpReward(url, pause=0, token_env="SCORER")
        with pytest.raises(RewardError):
            stored.score(pictures(1), ["p"])
        with pytest.raises(RewardError):
            HttpReward(url, pause=0).score(pictures(1), ["p"])
        monkeypatch.setenv("SCORER", "")
        with pytest.raises(RewardError, match="holds no token"):
            HttpReward(url, pause=0, token_env="SCORER").score(pictures(1), ["p"])
    assert seen == [f"Bearer {KEY}", None, None]
    with pytest.raises(RewardError, match="name of an environment variable"):
        HttpReward(url, token_env="not a name")


def test_redirects_are_not_followed(judge: Any) -> None:
    with serving(lambda n, body: (200, [1.0])) as other, redirecting(f"{other.url}/x") as url:
        assert all("redirect" in text for text in both(url, judge))
        assert other.requests == []
    with redirecting("ftp://127.0.0.1/x") as url:
        assert all("redirect" in text for text in both(url, judge))


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file:///etc/passwd", "http://", "x", 5, None, "http://[::1", "http://a\nb"]
)
def test_addresses_are_checked(url: Any) -> None:
    with pytest.raises(RewardError, match="must begin with http"):
        HttpReward(url)


# stalling, flooding, cutting


def test_an_answer_that_drips_does_not_hang(judge: Any) -> None:
    """A byte now and then, in the body and already in the headers: the deadline is for the whole answer."""
    for start in (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "):
        with raw(lambda start=start: start, drip=0.02) as url:  # type: ignore[misc]
            since = time.perf_counter()
            assert all("no whole answer in 0.3 s" in text for text in both(url, judge, timeout=0.3))
            assert time.perf_counter() - since < 5


@pytest.mark.parametrize("length", ["", "Content-Length: 1500000000\r\n"])
def test_an_answer_without_end_is_not_read(length: str, judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_post.post, "__kwdefaults__", {"largest": 10**6})
    start = f"HTTP/1.1 200 OK\r\n{length}\r\n".encode()
    with raw(lambda: start, then=b"x" * 65536) as url:
        assert all("without end" in text for text in both(url, judge))


def test_compressed_answers_are_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10**6))
    start = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with raw(lambda: start + bomb) as url, pytest.raises(RewardError, match="not JSON"):
        HttpReward(url, pause=0.0)(pictures(1), ["p"])


def test_a_cut_answer_is_asked_for_again(judge: Any) -> None:
    calls = {"n": 0}

    def start() -> bytes:
        calls["n"] += 1
        whole = b"[7.0]"
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (whole[:2] if calls["n"] < 3 else whole)

    with raw(start) as url:
        assert HttpReward(url, pause=0.0)(pictures(1), ["p"])[0].tolist() == [7]
    assert calls["n"] == 3


# numbers


@pytest.mark.parametrize(
    "text", ["[-Infinity]", "[NaN]", "[1e999]", "[-1e999]", f"[{'9' * 400}]", "[" * 100_000, '["1"]']
)
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with serving(lambda n, body: (200, text)) as server, pytest.raises(RewardError):
        HttpReward(server.url, pause=0.0)(pictures(1), [""])


@pytest.mark.parametrize(
    "logprobs",
    [
        [("Yes", -5.0)],
        [("Yes", 0.7), ("No", -3.0)],
        [("Yes", 1000.0)],
        [("Yes", -0.01), ("No", -0.01)],
        [("Yes", math.nan)],
    ],
)
def test_log_probabilities_that_are_none_give_no_number(logprobs: Any, judge: Any) -> None:
    with serving(lambda n, body: (200, json.dumps(reply("Yes", logprobs=logprobs)))) as server:
        assert judge(server.url, mode="yes_no")(pictures(8), ["p"])[0].isnan().all()


def test_a_sure_single_alternative_is_read(judge: Any) -> None:
    with serving(lambda n, body: (200, reply("Yes", logprobs=[("Yes", math.log(0.9))]))) as server:
        assert judge(server.url, mode="yes_no")(pictures(8), ["p"])[0].item() == pytest.approx(0.9)


def test_a_key_that_occurs_twice_is_not_read(judge: Any) -> None:
    text = '{"explanation": "", "quality": 90, "quality": 10}'
    with serving(lambda n, body: (200, reply(text))) as server:
        assert judge(server.url, rubric="quality")(pictures(8), ["p"])[0].isnan().all()


@pytest.mark.parametrize("missing", ["vision_model", "text_model"])
def test_a_clip_without_a_tower_is_refused(missing: str, tmp_path: Path) -> None:
    """Its scores would be those of random weights."""
    import shutil

    import tiny
    from safetensors.torch import load_file, save_file

    from fairlead.metrics.features import Encoder
    from fairlead.rewards.clip_score import ClipScore
    from fairlead.rewards.pick_score import PickScore

    folder = tmp_path / "cut"
    (tmp_path / "whole").mkdir()
    shutil.copytree(tiny.clip_folder(tmp_path / "whole"), folder)
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith(missing)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    for make in (ClipScore, PickScore, *([Encoder] if missing == "vision_model" else [])):
        with pytest.raises(FairleadError, match="tensors are missing"):
            make(str(folder))
    assert torch.get_num_threads()


def test_served_answers(judge: Any) -> None:
    """The laws above do not hold because nothing works."""
    with Server(lambda n, body: (200, rated(body))) as server:
        assert judge(server.url)(pictures(3, 4), ["p", "p"])[0].tolist() == [3, 4]
