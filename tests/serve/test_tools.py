"""`fairlead mcp` and /mcp, asked by the client of the official package: over stdin of a real process, and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fairlead.app.cli import main
from fairlead.app.mcp import previews
from fairlead.core.errors import StoreError
from fairlead.run.store import Store

DRAW = {"prompt": "a dog", "reward": "brightness"}
LONG = {**DRAW, "prompt": "a long search", "budget": "nfe=2000000"}
GONE = {**LONG, "prompt": "nobody waits for it"}
WORDS = ("--model", "tiny=mixture", "--max", "nfe=2000000,seconds=120", "--idle", "60")


def noise(side: int) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(out, "PNG")
    return out.getvalue()


NOISE = noise(640)


@pytest.mark.parametrize(
    ("data", "side", "most"),
    [(NOISE, 512, 60_000), (noise(64), 512, 120_000), (noise(300), 4096, 3_000), (noise(1), 512, 100)],
    ids=["large", "small", "few bytes", "one pixel"],
)
def test_a_preview_keeps_its_limits(data: bytes, side: int, most: int) -> None:
    found = previews.fitted(data, side, most)
    image = Image.open(io.BytesIO(found))
    assert len(found) <= most
    assert image.format == "WEBP"
    assert max(image.size) <= side
    if len(data) < most:
        assert image.size == Image.open(io.BytesIO(data)).size, "what fits keeps its size"


def test_four_previews_fit_into_what_a_client_reads_at_once() -> None:
    assert previews.MOST * previews.BYTES * 4 / 3 < 700_000


@contextlib.asynccontextmanager
async def over_stdin(runs: Path) -> AsyncIterator[Any]:
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    words = ["-m", "fairlead", "mcp", "--runs", str(runs), *WORDS]
    process = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    with open(runs.parent / "errors.log", "a") as errors:
        async with Client(stdio_client(process, errlog=errors)) as client:
            yield client


@contextlib.asynccontextmanager
async def over_http(root: str, key: str = "any", mode: str = "auto") -> AsyncIterator[Any]:
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=120) as http,
        Client(streamable_http_client(f"{root}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit
        await asyncio.sleep(0.05)


async def left_in_the_middle(client: Any, folder: Callable[[], Path]) -> None:
    """Begin a long search, leave it once it has candidates, and wait until it has stopped."""
    steps: list[tuple[float, float | None, str | None]] = []

    async def told(done: float, expected: float | None, words: str | None) -> None:
        steps.append((done, expected, words))

    call = asyncio.create_task(client.call_tool("search", LONG, progress_callback=told))
    await until(lambda: len(steps) > 1)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert [one[0] for one in steps] == sorted({one[0] for one in steps}), "progress only grows"
    assert all(expected == 2_000_000 for _, expected, _ in steps)
    await until(lambda: status(folder()) == "stopped")


def status(folder: Path) -> str:
    store = Store.open(folder, verify=False)
    try:
        return store.status.value
    finally:
        store.close()


def only_run(runs: Path, prompt: str, tenant: str = "local") -> Path:
    for folder in (runs / tenant).iterdir():
        store = Store.open(folder, verify=False)
        found = store.spec.prompt
        store.close()
        if found == prompt:
            return folder
    raise AssertionError(prompt)


def test_the_tools_of_a_process(tmp_path: Path) -> None:
    """One process, one story: list, price, search, look, keep, score, refusals, leaving and coming back."""
    pytest.importorskip("mcp", reason="needs fairlead[mcp]")
    runs = tmp_path / "runs"

    async def story() -> dict[str, Any]:
        async with over_stdin(runs) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"price", "search", "score", "keep"}
            assert all(tool.description for tool in tools.values())
            assert [name for name, tool in tools.items() if not tool.annotations.read_only_hint] == ["search"]
            price = (await client.call_tool("price", DRAW)).structured_content
            found = await client.call_tool("search", {**DRAW, "n": 2})
            run: str = found.structured_content["run"]
            assert run == price["run"], "the price is that of the same run"
            assert found.structured_content["cost"]["nfe"] == price["budget"]["nfe"]
            kinds = [block.type for block in found.content]
            assert kinds == ["text", "image", "image", "resource_link", "resource_link"]
            again = await client.call_tool("search", {**DRAW, "n": 2})
            assert again.content == found.content, "the same request is the same run"
            link = found.content[3]
            shown = (await client.read_resource(link.uri)).contents[0]
            assert Image.open(io.BytesIO(base64.b64decode(shown.blob))).format == "WEBP"
            await keeps_and_scores(client, run)
            await refuses(client, run)
            await left_in_the_middle(client, lambda: only_run(runs, LONG["prompt"]))
            await continues(client, runs)
            leaving = asyncio.create_task(client.call_tool("search", GONE))
            await until(lambda: has_candidates(runs, GONE["prompt"]))
        await asyncio.wait({leaving})  # stdin is closed in the middle of a call
        return dict(found.structured_content)

    found = asyncio.run(story())
    folder = runs / "local" / found["run"]
    assert main(["keep", str(folder), "2"]) == 0
    kept = json.loads((folder / "kept.json").read_text())["kept"]
    assert kept == [one["candidate"] for one in found["pictures"]], "as fairlead keep chooses"
    asyncio.run(until(lambda: status(only_run(runs, GONE["prompt"])) == "stopped"))


async def continues(client: Any, runs: Path) -> None:
    """The same search again goes on from what is recorded."""
    before = count(only_run(runs, LONG["prompt"]))
    found = await client.call_tool("search", {**LONG, "budget": f"nfe={(before + 4) * 20}"})
    assert found.structured_content["cost"]["nfe"] == (before + 4) * 20
    assert count(only_run(runs, LONG["prompt"])) == before + 4


def has_candidates(runs: Path, prompt: str) -> bool:
    try:
        return count(only_run(runs, prompt)) > 0
    except (AssertionError, StoreError):
        return False


def count(folder: Path) -> int:
    store = Store.open(folder, verify=False)
    try:
        return store.count()
    finally:
        store.close()


async def keeps_and_scores(client: Any, run: str) -> None:
    kept = (await client.call_tool("keep", {"run": run, "n": 3})).structured_content
    best = (await client.call_tool("search", {**DRAW, "n": 3})).structured_content
    assert [one["candidate"] for one in kept["candidates"]] == [one["candidate"] for one in best["pictures"]]
    picked = [one["candidate"] for one in kept["candidates"]]
    scored = (
        await client.call_tool("score", {"run": run, "candidates": picked, "reward": "brightness"})
    ).structured_content
    assert scored["scores"] == [one["reward"] for one in kept["candidates"]]
    sent = {"images": [base64.b64encode(noise(8)).decode()], "prompts": "a dog", "reward": "brightness"}
    assert len((await client.call_tool("score", sent)).structured_content["scores"]) == 1


async def refuses(client: Any, run: str) -> None:
    """Every refusal is an error with fairlead's own sentence."""
    from mcp.shared.exceptions import MCPError

    sentences = {
        "does not afford": ("search", {**DRAW, "budget": "nfe=3"}),
        "may not be named": ("search", {**DRAW, "reward": "http(url='http://127.0.0.1:9')"}),
        "file or an address": ("score", {"run": run, "reward": "x.py:f"}),
        "not served here": ("price", {**DRAW, "model": "/etc/passwd"}),
        "There is no run": ("keep", {"run": "../" + run}),
        "has no candidate": ("score", {"run": run, "candidates": [10**6], "reward": "brightness"}),
        "either a run or images": ("score", {"reward": "brightness"}),
        "whole number in [1, 10]": ("search", {**DRAW, "n": 11}),
        "must be one of clip, pixels": ("keep", {"run": run, "likeness": "/tmp"}),
    }
    for words, (tool, arguments) in sentences.items():
        answer = await client.call_tool(tool, arguments)
        assert answer.is_error
        assert words in answer.content[0].text, answer.content[0].text
    for place in (f"..%2F{run}/{'0' * 32}", f"{run}/{'0' * 32}", f"{'0' * 32}/..%2F..%2Fbest"):
        with pytest.raises(MCPError):
            await client.read_resource(f"fairlead://runs/{place}")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_tools_over_http(guarded: Any, mode: str) -> None:
    pytest.importorskip("mcp", reason="needs fairlead[mcp]")
    alice, bob = guarded.pair

    async def story() -> None:
        async with over_http(guarded.root, alice, mode) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"price", "search", "score", "keep"}
            found = await client.call_tool("search", {**DRAW, "n": 2})
            links = found.structured_content["links"]
            answer = guarded.ask(
                "GET", links[0].removeprefix(guarded.root), headers={"authorization": f"Bearer {alice}"}
            )
            assert answer.headers["content-type"] == "image/png"
            run = found.structured_content["run"]
            before = stopped(guarded, alice)
            await left_in_the_middle(client, lambda: only_run(guarded.runs, LONG["prompt"], alice.split("-")[1]))
            await until(lambda: stopped(guarded, alice) > before)
        assert run in [folder.name for folder in (guarded.runs / alice.split("-")[1]).iterdir()]
        async with over_http(guarded.root, bob, mode) as other:
            answer = await other.call_tool("keep", {"run": run})
            assert answer.is_error
            assert "There is no run" in answer.content[0].text

    asyncio.run(story())


def stopped(server: Any, key: str) -> float:
    lines = server.ask("GET", "/metrics", headers={"authorization": f"Bearer {key}"}).text.splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith('fairlead_runs_total{end="stopped"}')
    )


def test_the_gate_stands_before_the_tools(guarded: Any) -> None:
    """Keys, names, other pages, kinds and sizes are those of every route."""
    pytest.importorskip("mcp", reason="needs fairlead[mcp]")
    key = {"authorization": f"Bearer {guarded.pair[0]}"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    assert guarded.ask("POST", "/mcp", json=call).status_code == 401
    assert guarded.ask("POST", "/mcp", json=call, headers={**key, "host": "evil.test"}).status_code == 421
    assert guarded.ask("POST", "/mcp", json=call, headers={**key, "origin": "http://evil.test"}).status_code == 403
    assert guarded.ask("POST", "/mcp", content="{}", headers={**key, "content-type": "text/plain"}).status_code == 415
    large = b'{"a": "' + b"x" * (5 << 20) + b'"}'
    sent = guarded.ask("POST", "/mcp", content=large, headers={**key, "content-type": "application/json"})
    assert sent.status_code == 413
    assert sent.json()["error"]["code"] == "too_large"


def test_a_session_belongs_to_its_key(guarded: Any) -> None:
    pytest.importorskip("mcp", reason="needs fairlead[mcp]")
    alice, bob = guarded.pair
    kinds = {"accept": "application/json, text/event-stream"}
    client = {"name": "t", "version": "1"}
    words = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": words}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}

    def ask(key: str, call: dict[str, Any], **headers: str) -> Any:
        return guarded.ask("POST", "/mcp", json=call, headers={**kinds, "authorization": f"Bearer {key}", **headers})

    session = {"mcp-session-id": ask(alice, begin).headers["mcp-session-id"]}
    assert ask(alice, listing, **session).status_code == 200
    assert ask(bob, listing, **session).status_code == 404
    assert ask(bob, listing, **{"mcp-session-id": "f" * 32}).status_code == 404
    streamed = guarded.ask("GET", "/mcp", headers={**kinds, **session, "authorization": f"Bearer {alice}"})
    assert streamed.status_code == 405, "no stream is held open between two calls"


def test_without_the_package_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "fairlead.app.mcp.server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    for words in (["mcp"], ["serve", "--mcp", "--port", "0"]):
        assert main([*words, "--runs", str(tmp_path / "runs")]) != 0
        assert "pip install 'fairlead[mcp]'" in capsys.readouterr().err
