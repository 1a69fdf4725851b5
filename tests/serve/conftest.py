"""`fairlead serve` as its own process, asked by OpenAI's own client."""

from __future__ import annotations

import contextlib
import importlib.util
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

pytest.importorskip("starlette", reason="needs fairlead[serve]")
pytest.importorskip("uvicorn", reason="needs fairlead[serve]")

from fairlead.app.serve.command import KEYS
from fairlead.app.serve.keys import KeyFile
from fairlead.app.workers.address import lock_path

USUAL = ("--model", "tiny=mixture", "--max", "nfe=2000000,seconds=120", "--linger", "1", "--idle", "60")


class Served:
    """A server on a free port."""

    def __init__(self, runs: Path, *words: str, wait: bool = True) -> None:
        self.runs = runs
        self.pair: list[str] = []
        """The keys of two tenants."""
        command = [sys.executable, "-m", "fairlead", "serve", "--runs", str(runs), "--port", "0", *USUAL, *words]
        self.errors = runs.parent / f"{runs.name}.log"
        with open(self.errors, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.base = self.process.stdout.readline().strip()
        assert self.base, self.errors.read_text()
        self.root = self.base.removesuffix("/v1")
        self.port = int(self.root.rpartition(":")[2])
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until = time.monotonic() + 120
        while self.ask("GET", "/readyz").status_code != 200:
            assert time.monotonic() < until, self.errors.read_text() + self.log()
            time.sleep(0.2)

    def client(self, **words: Any) -> Any:
        """OpenAI's client; without retries unless a test asks for them."""
        openai = pytest.importorskip("openai", reason="needs openai: pip install openai")
        return openai.OpenAI(base_url=self.base, **{"api_key": "any", "timeout": 120, "max_retries": 0, **words})

    def ask(self, method: str, path: str, **words: Any) -> Any:
        """A plain request."""
        import httpx2

        return httpx2.request(method, self.root + path, timeout=120, **words)

    def draw(
        self, prompt: str = "a dog", *, client: Any = None, own: dict[str, Any] | None = None, **words: Any
    ) -> Any:
        """Pictures by OpenAI's client, of a reward that is quick."""
        sent = {"reward": "brightness", "steps": 4, **(own or {})}
        return (client or self.client()).images.generate(prompt=prompt, extra_body={"fairlead": sent}, **words)

    def wait_for(self, run: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """The run, once it is as wanted."""
        until = time.monotonic() + seconds
        while True:
            answer = self.ask("GET", f"/v1/runs/{run}")
            found: dict[str, Any] = answer.json()
            if answer.status_code == 200 and wanted(found):
                return found
            assert time.monotonic() < until, found
            time.sleep(0.1)

    def counted(self, name: str) -> float:
        """A number of the metrics, over all labels."""
        lines = self.ask("GET", "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def log(self) -> str:
        path = self.runs / ".studio" / "worker.log"
        return path.read_text()[-2000:] if path.is_file() else ""

    def requests(self) -> list[dict[str, Any]]:
        """The lines of the server's log."""
        lines = self.errors.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def worker(self) -> int:
        return int(lock_path(self.runs).read_text())

    def end(self, sign: int = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="session")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """open_server(*words, runs=None): a server that ends with the tests, its worker too."""
    made: list[Served] = []

    def start(*words: str, runs: Path | None = None, wait: bool = True) -> Served:
        made.append(Served(runs or tmp_path_factory.mktemp("serve") / "runs", *words, wait=wait))
        return made[-1]

    yield start
    for server in made:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
    for runs in {server.runs for server in made}:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(lock_path(runs).read_text()), signal.SIGTERM)


@pytest.fixture(scope="session")
def server(open_server: Callable[..., Served]) -> Served:
    """One server for many tests, without keys."""
    aliases = (
        "nice=judge(model='m', base_url='http://127.0.0.1:9/v1', price_in=1.0, price_out=9.0)",
        "gone=http(url='http://127.0.0.1:9/x',pause=0)",
        "mute=judge(model='m',base_url='http://127.0.0.1:9/v1',retries=0)",
    )
    return open_server(*(word for alias in aliases for word in ("--reward", alias)), "--queue", "4")


@pytest.fixture(scope="session")
def guarded(open_server: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server with two keys, and with the tools for assistants where their package is installed."""
    runs = tmp_path_factory.mktemp("guarded") / "runs"
    stored = KeyFile(runs / KEYS)
    pair = [stored.add(name, {}) for name in ("alice", "bob")]
    words = ["--mcp"] if importlib.util.find_spec("mcp") else []
    server = open_server(*words, runs=runs)
    server.pair = pair
    return server
