"""`fairlead run --studio`, and what `fairlead.toml` sets for the studio."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from fairlead.app.cli import main
from fairlead.app.studio.library import run_id
from fairlead.app.studio.opening import living
from fairlead.app.workers.address import lock_path, workers
from fairlead.run import config
from fairlead.run.store import Store
from fairlead.run.view import View

SHOTS = os.environ.get("FAIRLEAD_SHOTS")

REWARD = "def flatness(images, prompts):\n    return [-float(i.std()) for i in images]\n"
WORDS = ["run", "a photo of a dog", "--model", "mixture", "--steps", "4", "--budget", "nfe=40"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a reward file, and no own settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(config.VARIABLE, str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text("[studio]\nopen = false\nidle = 60\n")
    (tmp_path / "my.py").write_text(REWARD)
    return tmp_path


def finished(folder: Path, seconds: float = 60) -> View:
    """The run once it is finished."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (folder / "report.html").is_file():
            return View.read(folder)
        time.sleep(0.2)
    raise AssertionError(f"{folder} is not finished after {seconds} s")


def test_a_run_opens_a_studio_and_the_next_one_finds_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is that of the terminal, relative names of files included, and the page is at its run."""
    words = [*WORDS, "--reward", "my.py:flatness"]
    first = subprocess.Popen(
        [sys.executable, "-m", "fairlead", *words, "--studio", "--out", "runs/one"], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    link = first.stdout.readline().strip()
    try:
        base, _, place = link.partition("#")
        assert place == f"/run/{run_id('one')}"
        assert living(here / "runs") == base
        one = finished(here / "runs" / "one")
        assert main([*words, "--studio", "--out", "runs/two", "--seed", "5"]) == 0
        said = capsys.readouterr()
        assert said.out.strip() == f"{base}#/run/{run_id('two')}"
        assert "open already" in said.err
        two = finished(here / "runs" / "two")
        cookie = f"fairlead-{base.partition('/?')[0].rpartition(':')[2]}={base.partition('token=')[2]}"
        listed = urlopen(Request(f"{base.partition('/?')[0]}/api/runs", headers={"cookie": cookie}), timeout=30)
        assert {row["name"] for row in json.loads(listed.read())["runs"]} == {"one", "two"}
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(30)
        first.stdout.close()
        with contextlib.suppress(OSError):
            os.kill(int(lock_path(here / "runs").read_text()), signal.SIGTERM)
    assert living(here / "runs") == ""
    assert main([*words, "--out", "alone"]) == 0
    alone = View.read(here / "alone")
    assert alone.spec == one.spec != two.spec
    assert [(c.reward, c.image) for c in alone.candidates] == [(c.reward, c.image) for c in one.candidates]


@pytest.mark.parametrize("more", [["--json"], ["--keep", "2"]])
def test_what_is_for_the_terminal_is_refused(here: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--reward", "brightness", "--studio", *more]) == 2
    assert f"{more[0]} is for a run in the terminal" in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_the_file_sets_the_studio(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder, host, port, idle time, devices and whether a browser opens; a word of the command wins."""
    from fairlead.app.studio import command
    from fairlead.app.web import listening

    made: dict[str, Any] = {}

    class Started:
        def __init__(self, root: Path, guard: Any, idle: float, workers: Any) -> None:
            made.update(root=root, cookie=guard.cookie, idle=idle, workers=workers)

        def app(self) -> None:
            pass

        end = app

    listened: list[tuple[str, int]] = []
    listen = listening.listen

    def anywhere(host: str, port: int) -> Any:
        listened.append((host, port))
        return listen(host, 0)

    monkeypatch.setattr(listening, "listen", anywhere)
    monkeypatch.setattr("fairlead.app.studio.server.Studio", Started)
    monkeypatch.setattr(listening, "serve", lambda app, socket, end, grace: socket.close())
    opened: list[str] = []
    monkeypatch.setattr(command, "has_browser", lambda: True)
    monkeypatch.setattr("webbrowser.open", opened.append)
    lines = "host = 'localhost'\nport = 8765\nidle = 12\nopen = false\ndevices = 'cuda:0, cuda:1'"
    (here / "own.toml").write_text(f"runs = 'pictures'\n[studio]\n{lines}\n")
    assert main(["studio"]) == 0
    assert made["root"] == Path("pictures")
    assert (listened, made["idle"], made["workers"], opened) == ([("localhost", 8765)], 12.0, ("cuda:0", "cuda:1"), [])
    (here / "own.toml").write_text("[studio]\nport = 8765\n")
    assert main(["studio", "--port", "0", "--devices", "cpu", "--runs", "others"]) == 0
    assert (listened[1], made["root"], made["workers"], len(opened)) == (("127.0.0.1", 0), Path("others"), ("cpu",), 1)
    assert main(["studio", "--devices", "gpu"]) == 2


def test_config_shows_the_studio(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["settings"]
    assert found["studio.open"] == {"value": False, "from": "own.toml"}
    assert set(found) >= {"runs", "studio.host", "studio.port", "studio.idle", "studio.devices"}


def test_names_of_workers() -> None:
    assert workers("") == ("worker",)
    assert workers("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert workers("cpu,cpu,cpu") == ("cpu", "cpu#2", "cpu#3")


def test_two_workers_compute_at_once(open_studio: Callable[..., Any]) -> None:
    """One process for each declared device. A killed server loses no run, and a killed worker takes no other along."""
    studio = open_studio(devices="cpu,cpu")
    long = {"prompt": "a dog", "model": "mixture", "reward": "brightness", "steps": 50, "budget": "nfe=400000"}
    first = studio.start(**long, seed=1)
    second = studio.start(**long, seed=2)
    third = studio.start(**{**long, "budget": "nfe=200"}, seed=3)
    for id in (first, second):
        studio.wait(id, ("running",))
    assert studio.run(third)["state"]["word"] == "queued"
    assert studio.ask("/api/form").json["devices"] == ["cpu"]
    wrong = studio.ask("/api/jobs", {"options": long, "device": "cuda:7"})
    assert (wrong.status, "cuda:7" in wrong.json["error"]["message"]) == (422, True)
    jobs = {job.folder: job.worker for job in studio.jobs.all()}
    assert {jobs[studio.run(id)["name"]] for id in (first, second)} == {"cpu", "cpu#2"}
    studio.kill()
    studio = open_studio(studio.runs, devices="cpu,cpu")
    words = [studio.run(id)["state"]["word"] for id in (first, second, third)]
    assert words == ["running", "running", "queued"]
    dead = jobs[studio.run(first)["name"]]
    os.kill(int(lock_path(studio.runs, dead).read_text()), signal.SIGKILL)
    studio.wait(first, ("died",))
    assert studio.run(second)["state"]["word"] == "running"
    studio.wait(third)
    assert studio.ask(f"/api/runs/{second}/stop", {}).status == 200
    stopped = studio.wait(second, ("stopped",))
    record = Store.open(studio.runs / stopped["name"])
    assert [c.index for c in record.candidates()] == list(range(len(stopped["candidates"])))
    record.close()


@pytest.mark.browser
def test_a_run_whose_device_is_gone_says_so_and_is_queued_again(open_studio: Callable[..., Any], chromium: Any) -> None:
    """The studio is started again with other devices while a worker of the old one still lives, and then dies."""
    studio = open_studio(devices="cpu")
    words = {"prompt": "a dog", "model": "mixture", "reward": "brightness", "steps": 50, "budget": "nfe=400000"}
    first = studio.start(**words, seed=1)
    studio.wait(first, ("running",))
    bound = studio.ask("/api/jobs", {"options": {**words, "budget": "nfe=200"}, "device": "cpu"}).json["run"]
    studio.kill()
    studio = open_studio(studio.runs)
    studio.wait(studio.start(**{**words, "budget": "nfe=200"}))
    assert studio.run(bound)["state"]["word"] == "queued", "the old worker lives and will take it"
    os.kill(int(lock_path(studio.runs, "cpu").read_text()), signal.SIGKILL)
    studio.wait(first, ("died",))
    state = studio.wait(bound, ("stuck",))["state"]
    assert "waits for cpu, which this studio does not use" in state["sentence"]
    assert (state["active"], state["resumable"], state["devices"]) == (False, False, [])
    assert next(row for row in studio.ask("/api/runs").json["runs"] if row["id"] == bound)["state"] == state
    assert studio.ask(f"/api/runs/{bound}/device", {"device": "cpu"}).status == 422
    page = chromium.new_page()
    page.goto(studio.link)
    page.get_by_role("button", name="Queue again").wait_for(timeout=60_000)
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/stuck-list.png")
    page.goto(f"{studio.base}/#/run/{bound}")
    page.wait_for_selector(".state.stuck", timeout=60_000)
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/stuck.png")
    page.get_by_role("button", name="Queue again").click()
    page.wait_for_selector(".state.finished", timeout=60_000)
    assert len(studio.run(bound)["candidates"]) == 4
    assert studio.ask(f"/api/runs/{bound}/device", {"device": ""}).status == 409
    page.close()


def test_a_second_prompt_shows_its_first_picture_within_one_batch(studio: Any) -> None:
    """The model stays loaded, so what is waited for is the batch itself."""
    words = {"model": "pocket-turbo", "reward": "clip_score", "budget": "nfe=64"}
    studio.wait(studio.start(**words, prompt="a photo of a dog"), seconds=180)
    waited = []
    for prompt in ("a red apple", "two blue cubes"):
        since = time.monotonic()
        id = studio.start(**words, prompt=prompt)
        while not studio.run(id)["candidates"]:
            time.sleep(0.02)
        batch = sum(c["cost"]["seconds"] for c in studio.run(id)["candidates"][:16])
        waited.append((time.monotonic() - since, batch))
        studio.wait(id)
    print("first picture after (of which the batch): " + ", ".join(f"{a:.2f} ({b:.2f}) s" for a, b in waited))
    slack = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert min(after - batch for after, batch in waited) < 1.0 * slack
