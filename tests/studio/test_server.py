"""The real server over HTTP: who may do what, what is refused, and what a run looks like from outside."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.cli import main
from fairlead.app.studio import page_files
from fairlead.core.errors import FairleadError
from fairlead.run import marks
from fairlead.run.rows import picture_name
from fairlead.run.store import Store
from fairlead.run.view import View

FAST = {"prompt": "a photo of a dog", "model": "mixture", "reward": "brightness", "steps": 4, "budget": "nfe=80"}


@pytest.fixture(scope="module")
def finished(studio: Any) -> str:
    id: str = studio.start(**FAST)
    studio.wait(id)
    return id


def folder_of(studio: Any, id: str) -> Path:
    return studio.runs / studio.run(id)["name"]


def test_a_run_is_that_of_the_command_line(studio: Any, finished: str, tmp_path: Path) -> None:
    words = ["run", FAST["prompt"], "--model", "mixture", "--reward", "brightness", "--steps", "4"]
    words += ["--budget", "nfe=80", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    here = View.read(folder_of(studio, finished))
    there = View.read(tmp_path / "run")
    assert here.spec == there.spec
    assert [(c.index, c.reward, c.image) for c in here.candidates] == [
        (c.index, c.reward, c.image) for c in there.candidates
    ]
    assert (here.folder / "report.html").is_file()


def test_the_page_shows_the_record(studio: Any, finished: str) -> None:
    found = studio.run(finished)
    view = View.read(folder_of(studio, finished))
    assert [c["index"] for c in found["candidates"]] == [c.index for c in view.candidates]
    assert [c["reward"] for c in found["candidates"]] == [c.reward for c in view.candidates]
    assert found["spent"] == view.spent.as_dict()
    row = next(row for row in studio.ask("/api/runs").json["runs"] if row["id"] == finished)
    assert view.best is not None
    assert row["best"]["index"] == view.best.index
    assert row["state"]["word"] == "finished"


def test_a_picture_is_the_picture_of_the_record(studio: Any, finished: str) -> None:
    digest = studio.run(finished)["candidates"][0]["image"]
    answer = studio.ask(f"/api/runs/{finished}/images/{digest}")
    assert answer.headers["content-type"] == "image/png"
    assert picture_name(answer.data) == digest


@pytest.mark.parametrize(
    "digest", ["0" * 32, "..%2f..%2frun.sqlite", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "run.sqlite", "%00", "A" * 32]
)
def test_pictures_are_found_by_digest_alone(studio: Any, finished: str, digest: str) -> None:
    assert studio.ask(f"/api/runs/{finished}/images/{digest}").status == 404


@pytest.mark.parametrize("id", ["0" * 32, "..", "..%2f..%2fetc", "%2e%2e%2f%2e%2e%2fetc", ".studio", "%00", "x" * 3000])
def test_ids_are_looked_up(studio: Any, id: str) -> None:
    assert studio.ask(f"/api/runs/{id}").status == 404
    assert studio.ask(f"/api/runs/{id}/trash", {}).status in (404, 405)
    assert studio.ask(f"/api/runs/{id}/marks", {"candidate": 0, "kind": "star", "value": "1"}).status in (404, 405)


def test_a_picture_from_another_run_is_not_served(studio: Any, finished: str) -> None:
    other = studio.start(**FAST, seed=9)
    studio.wait(other)
    digest = studio.run(other)["candidates"][-1]["image"]
    assert studio.ask(f"/api/runs/{other}/images/{digest}").status == 200
    assert studio.ask(f"/api/runs/{finished}/images/{digest}").status == 404


def test_the_cookie_cannot_be_read_by_scripts_or_sent_by_other_sites(studio: Any) -> None:
    said = studio.ask(f"/?token={studio.token}", headers={"cookie": None}).headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    for token in ("", "x", studio.token[:-1], studio.writing):
        assert "set-cookie" not in studio.ask(f"/?token={token}", headers={"cookie": None}).headers


def test_without_the_cookie_there_is_only_the_empty_page(studio: Any, finished: str) -> None:
    assert studio.ask("/", headers={"cookie": None}).status == 200
    for path in ("/api/session", "/api/runs", f"/api/runs/{finished}", f"/api/runs/{finished}/events", "/api/form"):
        assert studio.ask(path, headers={"cookie": None}).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.test"}, 421),
        ({"origin": "http://evil.test"}, 403),
        ({"origin": None}, 403),
        ({"x-fairlead-token": None}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"cookie": None}, 401),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_changes_of_others_are_refused(studio: Any, headers: dict[str, str | None], status: int) -> None:
    before = len(studio.ask("/api/runs").json["runs"])
    answer = studio.ask("/api/jobs", {"options": FAST}, headers)
    assert answer.status == status
    assert answer.json["error"]["message"]
    assert len(studio.ask("/api/runs").json["runs"]) == before


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/runs", "/api/nothing", "/static/../server.py"])
def test_every_answer_has_the_policy(studio: Any, path: str) -> None:
    headers = studio.ask(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("name", ["../server.py", "%2e%2e/server.py", "vendor/../../guard.py", "/etc/passwd", ""])
def test_static_files_are_those_of_the_page(studio: Any, name: str) -> None:
    assert studio.ask(f"/static/{name}").status == 404


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"options": NaN}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 40 + b"1" + b"}" * 40, 400),
        (b"\xff", 400),
        (b'{"options": "' + b"x" * (1 << 20) + b'"}', 413),
    ],
)
def test_bodies_have_limits(studio: Any, data: bytes, status: int) -> None:
    answer = studio.ask("/api/jobs", data=data)
    assert answer.status == status
    assert answer.json["error"]["message"]


def test_a_body_without_length_is_counted_too(studio: Any) -> None:
    with socket.create_connection(("127.0.0.1", studio.port)) as link:
        head = (
            f"POST /api/jobs HTTP/1.1\r\nhost: 127.0.0.1:{studio.port}\r\norigin: {studio.base}\r\n"
            f"cookie: {studio.cookie}\r\nx-fairlead-token: {studio.writing}\r\ncontent-type: application/json\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        )
        link.sendall(head.encode())
        answer = b""
        try:
            for _ in range(40):
                link.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            pass
        link.settimeout(10)
        with contextlib.suppress(OSError):
            answer = link.recv(100)
    assert b"413" in answer


REFUSED = [
    ({"prompt": ""}, "empty"),
    ({"prompt": "x" * 2001}, "2001 characters"),
    ({"prompt": "a\0b"}, "NUL"),
    ({"prompt": "\ud800"}, "not valid text"),
    ({"model": "pocket-trubo"}, "Did you mean 'pocket-turbo'"),
    ({"rewrad": "x"}, "Did you mean 'reward'"),
    ({"steps": "many"}, "must be a whole number"),
    ({"steps": True}, "must be a whole number"),
    ({"search": "best_off"}, "Did you mean 'best_of'"),
    ({"settings": "best_of"}, "part.setting=value"),
    ({"budget": "nfe=lots"}, "not name=number"),
    ({"watch": [["x"]]}, "must be a list of texts"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_wrong_option_is_refused_at_once(studio: Any, change: dict[str, Any], said: str) -> None:
    answer = studio.ask("/api/jobs", {"options": {**FAST, **change}})
    assert answer.status == 422
    assert said in answer.json["error"]["message"]


def test_the_price_is_that_of_the_command_line(studio: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = studio.ask("/api/price", {"options": FAST}).json
    words = [
        "price",
        FAST["prompt"],
        "--model",
        "mixture",
        "--reward",
        "brightness",
        "--steps",
        "4",
        "--budget",
        "nfe=80",
    ]
    assert main([*words, "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert (found["candidates"], found["total"]) == (there["candidates"], there["total"])
    assert (
        found["command"]
        == "fairlead run 'a photo of a dog' --model mixture --reward brightness --budget nfe=80 --steps 4"
    )
    assert found["python"].startswith("fairlead.run('a photo of a dog', model='mixture'")


def test_what_cannot_run_is_refused_with_the_sentence_of_the_run(
    studio: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**FAST, "search": "adam", "reward": "jpeg_size"}
    found = studio.ask("/api/price", {"options": options}).json
    words = ["run", FAST["prompt"], "--model", "mixture", "--reward", "jpeg_size", "--steps", "4", "--search", "adam"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert found["error"] in capsys.readouterr().err
    id = studio.start(**options)
    failed = studio.wait(id, ("failed",))
    assert failed["state"]["sentence"] == found["error"]
    assert studio.ask(f"/api/runs/{id}/trash", {}).status == 200
    assert studio.ask(f"/api/runs/{id}").status == 404


def test_marks_are_in_the_record(studio: Any, finished: str) -> None:
    path = f"/api/runs/{finished}/marks"
    assert studio.ask(path, {"candidate": 3, "kind": "star", "value": "1", "who": "Ada"}).status == 200
    assert studio.ask(path, {"candidate": 3, "kind": "note", "value": "<img src=x onerror=alert(1)>"}).status == 200
    assert marks.starred(folder_of(studio, finished)) == [3]
    assert studio.run(finished)["marks"]["3"]["note"] == "<img src=x onerror=alert(1)>"
    for wrong in ({"candidate": "3"}, {"candidate": 3, "kind": "heart"}, {"candidate": True}, {}):
        assert studio.ask(path, wrong).status == 422


def test_the_trash_gives_back(studio: Any) -> None:
    id = studio.start(**FAST, seed=4)
    folder = folder_of(studio, id)
    studio.wait(id)
    moved = studio.ask(f"/api/runs/{id}/trash", {}).json
    assert not folder.exists()
    assert (studio.runs / ".trash" / moved["name"] / "run.sqlite").is_file()
    assert studio.ask(f"/api/runs/{id}").status == 404
    back = studio.ask(f"/api/trash/{moved['id']}/restore", {}).json["id"]
    assert studio.run(back)["state"]["word"] == "finished"
    assert Store.open(folder).spent().nfe == 80


def test_two_runs_wait_and_one_is_stopped(studio: Any) -> None:
    long = {**FAST, "budget": "nfe=200000"}
    first = studio.start(**long, seed=1)
    second = studio.start(**FAST, seed=2)
    third = studio.start(**FAST, seed=3)
    studio.wait(first, ("running",))
    assert studio.run(second)["state"]["word"] == "queued"
    assert studio.ask(f"/api/runs/{first}/trash", {}).status == 409
    assert studio.ask(f"/api/runs/{third}/stop", {}).status == 200
    assert studio.ask(f"/api/runs/{third}").status == 404
    assert studio.ask(f"/api/runs/{first}/stop", {}).status == 200
    assert studio.wait(first, ("stopped",))["state"]["sentence"] == "interrupted"
    assert len(studio.wait(second)["candidates"]) == 20
    assert studio.ask(f"/api/runs/{second}/stop", {}).status == 409


def test_a_price_between_two_batches_changes_nothing(studio: Any) -> None:
    options = {**FAST, "budget": "nfe=1600"}
    id = studio.start(**options)
    studio.wait(id, ("running", "finished"))
    while studio.run(id)["state"]["active"]:
        assert studio.ask("/api/price", {"options": options}).json["candidates"] == 400
    again = studio.start(**options)
    alone = studio.wait(again)
    found = studio.wait(id)
    assert found["spent"]["nfe"] == alone["spent"]["nfe"] == 1600
    assert [(c["reward"], c["image"]) for c in found["candidates"]] == [
        (c["reward"], c["image"]) for c in alone["candidates"]
    ]


def test_a_stopped_run_goes_on_with_a_larger_budget(studio: Any) -> None:
    id = studio.start(**FAST, seed=6)
    studio.wait(id)
    assert studio.ask(f"/api/runs/{id}/resume", {"budget": "nfe=0"}).status == 422
    assert studio.ask(f"/api/runs/{id}/resume", {"budget": "nfe=160"}).status == 200
    until = time.monotonic() + 60
    while len(studio.run(id)["candidates"]) < 40 and time.monotonic() < until:
        time.sleep(0.1)
    assert studio.wait(id)["spent"]["nfe"] == 160


def test_a_damaged_and_a_newer_record_are_sentences(studio: Any) -> None:
    for name, data in (("half", b"SQLite format 3\0" + b"x" * 200), ("empty", b"")):
        (studio.runs / name).mkdir()
        (studio.runs / name / "run.sqlite").write_bytes(data)
    rows = {row["name"]: row for row in studio.ask("/api/runs").json["runs"]}
    for name in ("half", "empty"):
        assert rows[name]["error"]
        assert studio.ask(f"/api/runs/{rows[name]['id']}").status == 409
    assert len(rows) > 2, "the other runs are still listed"


@pytest.mark.parametrize("name", ["..", "a b'c\"<img src=x>", "%2e%2e%2f", "שלום"])
def test_folders_with_strange_names_are_shown(studio: Any, finished: str, name: str) -> None:
    if name != "..":
        shutil.copytree(folder_of(studio, finished), studio.runs / name)
        rows = {row["name"]: row for row in studio.ask("/api/runs").json["runs"]}
        assert studio.run(rows[name]["id"])["name"] == name
    for path in studio.runs.glob("*/run.sqlite"):
        assert path.resolve().is_relative_to(studio.runs.resolve())


def test_reading_imports_no_torch() -> None:
    code = "import sys, fairlead.app.studio.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_no_server_package() -> None:
    code = "import sys, fairlead.app.cli; sys.exit('starlette' in sys.modules or 'uvicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fairlead.app.studio.command import studio as command

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "fairlead.app.studio.server", raising=False)
    with pytest.raises(FairleadError, match=r"pip install 'fairlead\[studio\]'"):
        command(runs=tmp_path / "runs")


def test_an_address_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    from fairlead.app.web.listening import listen

    taken = listen("127.0.0.1", 0)
    for host, port in (("127.0.0.1", taken.getsockname()[1]), ("256.1.1.1", 0), ("evil\ud800", 0)):
        with pytest.raises(FairleadError, match="Choose another"):
            listen(host, port)
    taken.close()


def test_the_page_names_every_module_and_nothing_else(studio: Any) -> None:
    """A module that only another module names would be found one journey later."""
    page = studio.ask("/").data.decode()
    named = set(re.findall(r'href="/static/([^"]+\.js)"', page)) | {"main.js"}
    folder = Path(page_files.__file__).parent / "static"
    assert named == {path.relative_to(folder).as_posix() for path in folder.rglob("*.js")}
    assert page.index("modulepreload") < page.index("<script")
