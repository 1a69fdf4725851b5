"""What every refusal looks like from outside: JSON, a code, a request id, and the right class of OpenAI's client."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.cli import main

openai = pytest.importorskip("openai", reason="needs openai: pip install openai")


def checked(answer: Any) -> tuple[int, str]:
    """Status and code; every error is whole."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, answer.text
    assert error["message"]
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, error["code"]


PATH = "/v1/images/generations"
GOOD = b'{"prompt": "a dog"}'


@pytest.mark.parametrize(
    ("data", "headers", "wanted"),
    [
        (GOOD[:-2], {}, (400, "invalid_json")),
        (b"[]", {}, (400, "invalid_json")),
        (b'{"prompt": NaN}', {}, (400, "invalid_json")),
        (b'{"n": Infinity}', {}, (400, "invalid_json")),
        (b'{"a": ' * 10_000 + b"1" + b"}" * 10_000, {}, (400, "invalid_json")),
        (b'{"prompt": "\xff"}', {}, (400, "invalid_json")),
        (b"", {}, (400, "invalid_json")),
        (b" " * (2 << 20) + GOOD, {}, (413, "too_large")),
        (gzip.compress(b" " * (64 << 20)), {"content-encoding": "gzip"}, (415, "json_only")),
        (GOOD, {"content-type": "text/plain"}, (415, "json_only")),
        (GOOD, {"content-type": "multipart/form-data; boundary=x"}, (415, "json_only")),
        (GOOD, {"origin": "http://evil.test"}, (403, "forbidden_origin")),
        (GOOD, {"sec-fetch-site": "cross-site"}, (403, "forbidden_origin")),
        (GOOD, {"host": "evil.test"}, (421, "wrong_host")),
        (b'{"prompt": "\\ud800"}', {}, (400, "invalid_value")),
        (json.dumps({"prompt": "x" * 1_000_000}).encode(), {}, (400, "prompt_too_long")),
    ],
)
def test_bodies_that_are_refused(server: Any, data: bytes, headers: dict[str, str], wanted: tuple[int, str]) -> None:
    sent = {"content-type": "application/json", **headers}
    started = time.monotonic()
    assert checked(server.ask("POST", PATH, content=data, headers=sent)) == wanted
    assert time.monotonic() - started < 10


def test_a_body_without_a_length(server: Any) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    headers = {"content-type": "application/json"}
    assert checked(server.ask("POST", PATH, content=pieces(), headers=headers)) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/", (404, "not_found")),
        ("GET", "/v1/nothing", (404, "not_found")),
        ("GET", PATH, (405, "wrong_method")),
        ("PUT", "/v1/score", (405, "wrong_method")),
        ("GET", "/v1/models/other", (404, "model_not_found")),
        ("GET", "/v1/runs/" + "0" * 32, (404, "run_not_found")),
        ("GET", "/v1/runs/..%2f..%2fetc", (404, "not_found")),
        ("DELETE", "/v1/runs/%2e%2e", (404, "run_not_found")),
        ("POST", "/v1/images/variations", (404, "edits_unsupported")),
    ],
)
def test_paths_that_are_refused(server: Any, method: str, path: str, wanted: tuple[int, str]) -> None:
    assert checked(server.ask(method, path)) == wanted


def test_each_error_is_its_class(server: Any) -> None:
    client = server.client()

    def caught(kind: type[Exception], **words: Any) -> Any:
        with pytest.raises(kind) as found:
            server.draw(client=client, **words)
        assert found.value.request_id
        return found.value

    assert caught(openai.BadRequestError, n=0).param == "n"
    assert caught(openai.BadRequestError, size="bogus").param == "size"
    assert caught(openai.BadRequestError, quality="ultra").code == "invalid_value"
    assert caught(openai.NotFoundError, model="dall-e-3").code == "model_not_found"
    small = caught(openai.BadRequestError, n=4, own={"budget": "nfe=8"})
    assert (small.code, small.param) == ("budget_too_small", "fairlead.budget")
    assert "nfe=16" in str(small)
    assert caught(openai.BadRequestError, own={"search": "best_off"}).code == "invalid_value"
    assert caught(openai.BadRequestError, own={"settings": {"best_of": {"m": 3}}}).code == "invalid_value"
    assert caught(openai.BadRequestError, own={"reward": "judge(model='m')"}).code == "not_allowed"
    paid = caught(openai.BadRequestError, own={"reward": "nice"})
    assert "127.0.0.1:9" not in str(paid), "the address of an alias is told to nobody"
    with pytest.raises(openai.NotFoundError) as edits:
        client.images.edit(image=b"x" * 3_000_000, prompt="a dog")
    assert edits.value.code == "edits_unsupported"
    with pytest.raises(TypeError):
        client.images.generate(prompt="a dog", seed=3)
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize(("reward", "said"), [("gone", "returned no scores"), ("mute", "gave no answer")])
def test_a_reward_that_is_gone(server: Any, reward: str, said: str) -> None:
    with pytest.raises(openai.InternalServerError) as whole:
        server.draw("gone", own={"reward": reward})
    assert (whole.value.status_code, whole.value.code) == (503, "reward_unavailable")
    with pytest.raises(openai.APIError, match=said) as streamed:
        list(server.draw("gone", own={"reward": reward}, stream=True))
    for error in (whole.value, streamed.value):
        assert "127.0.0.1:9" not in str(error)


def test_a_price_is_a_dry_run(server: Any) -> None:
    body = {"prompt": "priced", "quality": "low", "fairlead": {"reward": "brightness", "steps": 4}}
    found = server.ask("POST", "/v1/price", json=body).json()
    assert (found["budget"], found["pictures"]) == ({"nfe": 16}, 4)
    assert not (server.runs / "local" / found["run"]).exists()
    fresh = {**body, "seed": "fresh"}
    seen = {server.ask("POST", "/v1/price", json=fresh).json()["run"] for _ in range(3)}
    again = server.ask("POST", "/v1/price", json=fresh, headers={"x-stainless-retry-count": "1"}).json()["run"]
    assert len(seen) == 3
    assert again in seen, "a retry is not a new request"


def test_metrics_and_health(server: Any) -> None:
    text = server.ask("GET", "/metrics").text
    assert 'fairlead_requests_total{code="400",route="/v1/images/generations"}' in text
    assert "fairlead_worker_up 1" in text
    started = time.monotonic()
    assert server.ask("GET", "/healthz").json() == {"ok": True}
    assert time.monotonic() - started < 5
    for line in server.requests():
        assert "a dog" not in json.dumps(line), "prompts are not logged"


def test_keys_separate_tenants(open_server: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    secrets = []
    for name, limits in (("a", "nfe=200"), ("b", "")):
        assert main(["serve", "keys", "add", name, "--limits", limits, "--runs", str(runs)]) == 0
        secrets.append(capsys.readouterr().out.strip())
    server = open_server(runs=runs)
    first, second = (server.client(api_key=secret) for secret in secrets)
    with pytest.raises(openai.AuthenticationError) as nobody:
        server.draw(client=server.client(api_key="fl-00000000-" + "x" * 43))
    assert nobody.value.code == "invalid_api_key"
    answer = server.draw("private", client=first)
    run = answer.model_extra["fairlead"]["run"]
    as_first = {"headers": {"authorization": f"Bearer {secrets[0]}"}}
    as_second = {"headers": {"authorization": f"Bearer {secrets[1]}"}}
    assert server.ask("GET", f"/v1/runs/{run}", **as_first).status_code == 200
    assert checked(server.ask("GET", f"/v1/runs/{run}", **as_second)) == (404, "run_not_found")
    assert checked(server.ask("DELETE", f"/v1/runs/{run}", **as_second)) == (404, "run_not_found")
    for method, path, more in (("GET", "events", {}), ("POST", "keep", {"json": {"n": 1}})):
        assert server.ask(method, f"/v1/runs/{run}/{path}", **as_first, **more).status_code == 200
        assert checked(server.ask(method, f"/v1/runs/{run}/{path}", **as_second, **more)) == (404, "run_not_found")
        assert checked(server.ask(method, f"/v1/runs/{run}/{path}", **more)) == (401, "invalid_api_key")
    before = time.monotonic()
    with pytest.raises(openai.RateLimitError) as poor:
        server.draw("private", quality="high", client=first.with_options(max_retries=2))
    assert poor.value.code == "insufficient_quota"
    assert time.monotonic() - before < 20, "it is asked once"
    other = server.draw("private", client=second)
    assert other.data[0].b64_json == answer.data[0].b64_json
    assert len(list(runs.glob(f"*/{run}"))) == 2, "tenants share no folder"
    assert main(["serve", "keys", "remove", secrets[0][3:11], "--runs", str(runs)]) == 0
    with pytest.raises(openai.AuthenticationError):
        server.draw("private", client=first)
    stored = (runs / ".serve" / "keys.json").read_text() + server.errors.read_text()
    assert not any(secret[12:] in stored for secret in secrets)
    server.end()


def test_an_open_server_needs_keys(tmp_path: Path, capsys: Any) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--port", "0", "--runs", str(tmp_path)]) == 2
    assert "fairlead serve keys add" in capsys.readouterr().err


def test_importing_it_costs_nothing() -> None:
    code = (
        "import sys, fairlead.app.cli; assert 'starlette' not in sys.modules; "
        "import fairlead.app.serve.server; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_one_sentence(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("fairlead.app.serve.") and "command" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    assert main(["serve", "--port", "0", "--runs", str(tmp_path)]) == 2
    assert "pip install 'fairlead[serve]'" in capsys.readouterr().err


def test_a_second_signal_ends_at_once(open_server: Callable[..., Any], tmp_path: Path) -> None:
    server = open_server(runs=tmp_path / "runs", wait=False)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    if server.process.poll() is None:
        os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(30) == -signal.SIGTERM
