"""A real server on a free port with the real embedded model, and a real Chromium where one is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("starlette", reason="needs fairlead[studio]")
pytest.importorskip("uvicorn", reason="needs fairlead[studio]")

import contextlib

from fairlead.app.workers.address import lock_path
from fairlead.app.workers.jobs import Jobs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"


class Answer:
    """What the server sent back."""

    def __init__(self, status: int, headers: Any, data: bytes) -> None:
        self.status, self.headers, self.data = status, headers, data

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Studio:
    """`fairlead studio` as its own process, asked over HTTP."""

    def __init__(self, runs: Path, port: int = 0, devices: str = "") -> None:
        words = [sys.executable, "-m", "fairlead", "studio", "--runs", str(runs), "--no-open", "--idle", "60"]
        words += ["--devices", devices] if devices else []
        self.runs = runs
        self.jobs = Jobs(runs)
        self.process = subprocess.Popen(
            [*words, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()
        assert self.link, self.process.communicate()[1]
        self.base, _, self.token = self.link.partition("/?token=")
        self.port = int(self.base.rpartition(":")[2])
        self.cookie = f"fairlead-{self.port}={self.token}"
        self.writing = self.ask("/api/session").json["token"]

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str | None] | None = None, data: bytes | None = None
    ) -> Answer:
        """GET, or POST where there is a body. A header that is None is left out."""
        sent: dict[str, str | None] = {"cookie": self.cookie}
        if body is not None or data is not None:
            sent |= {"origin": self.base, "x-fairlead-token": getattr(self, "writing", "")}
            sent |= {"content-type": "application/json"}
        sent |= headers or {}
        data = json.dumps(body).encode() if body is not None else data
        request = Request(self.base + path, data=data, headers={k: v for k, v in sent.items() if v is not None})
        try:
            with urlopen(request, timeout=120) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def start(self, **options: Any) -> str:
        """Queue a run; its id."""
        answer = self.ask("/api/jobs", {"options": options})
        assert answer.status == 200, answer.data
        found: str = answer.json["run"]
        return found

    def run(self, id: str) -> Any:
        return self.ask(f"/api/runs/{id}").json

    def wait(self, id: str, words: tuple[str, ...] = ("finished",), seconds: float = 90) -> Any:
        """The run once its state is one of `words`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = self.run(id)
            if "state" in found and found["state"]["word"] in words:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{found.get('state')} after {seconds} s, worker: {self.log()}")

    def log(self) -> str:
        path = self.runs / ".studio" / "worker.log"
        return path.read_text()[-2000:] if path.is_file() else ""

    def worker(self) -> int:
        """The process that computes."""
        return int(lock_path(self.runs).read_text())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close()

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        self._close()
        return code

    def _close(self) -> None:
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="session")
def open_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Studio]]:
    """open_studio(runs=None, port=0, devices=""): a server that ends with the tests, its worker too."""
    made: list[Studio] = []

    def start(runs: Path | None = None, port: int = 0, devices: str = "") -> Studio:
        made.append(Studio(runs or tmp_path_factory.mktemp("studio") / "runs", port, devices))
        return made[-1]

    yield start
    for studio in made:
        if studio.process.poll() is None:
            studio.end()
    for path in {path for studio in made for path in lock_path(studio.runs).parent.glob("*.lock")}:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(path.read_text()), signal.SIGTERM)


@pytest.fixture(scope="session")
def studio(open_studio: Callable[..., Studio]) -> Studio:
    return open_studio()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; tests that need one are skipped where there is none. Its event loop runs in this thread until it is
    closed, and no other may begin meanwhile: so it ends with the file.
    """
    if not Path(CHROMIUM).exists():
        pytest.skip("no Chromium here: install it with 'apt-get install chromium'")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page whose requests, errors and violations are written down."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.expected_errors = False

    def asked(self, base: str) -> None:
        page = self.page
        page.on("request", lambda r: self.foreign.append(r.url) if not r.url.startswith(base) else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)


@pytest.fixture
def page(chromium: Any, studio: Studio) -> Iterator[Any]:
    """The studio opened by its link. Afterwards: no foreign request, no error, no violation of the policy."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    made = context.new_page()
    watched = Watched(made)
    watched.asked(studio.base)
    made.goto(studio.link)
    made.wait_for_selector("h1")
    yield made
    context.close()
    assert watched.foreign == []
    assert watched.errors == []
