"""The attacks find what they should, and what they once found stays fixed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.attack import drive
from tests.attack.__main__ import TARGETS, row, warm
from tests.attack.drive import State
from tests.attack.shrink import smallest
from tests.attack.target import Target

from fairlead.app import cli
from fairlead.bench import plan
from fairlead.core.errors import LONGEST, FairleadError, StoreError
from fairlead.run import engine, rows
from fairlead.run.spec import Spec
from fairlead.run.view import View
from fairlead.steering.lidar import Lidar
from fairlead.testing.runs import after, small_spec

FEW = {"formulas": 400, "settings": 40, "specs": 400, "plans": 150, "commands": 40, "stores": 40, "pictures": 60}


@pytest.mark.parametrize("name", FEW)
def test_nothing_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the 100,000 inputs, and most of them go beyond the first check."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    warm()
    own = tmp_path / name
    own.mkdir()
    found = drive.drive(TARGETS[name](own), tmp_path / "state.json", "test", FEW[name])
    assert found.failures == []
    assert found.tried == FEW[name]
    assert found.first_checks < 0.65 * found.tried
    assert len(found.refusals) >= 2


# the attack itself


def planted(kind: str) -> Target:
    """A reader that cannot bear one input in ten, and none of those again once a file is there."""

    def run(number: int) -> None:
        if number % 10 or Path("mended").exists():
            return
        if kind == "raises":
            raise KeyError(number)
        if kind == "hangs":
            time.sleep(60)
        if kind == "stuck":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(60)
        if kind == "dies":
            os._exit(7)

    return Target(lambda draw: draw.randrange(1000), run, ())


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("raises", "KeyError"),
        ("hangs", "longer than"),
        ("stuck", "no answer for"),
        ("dies", "the process ended with 7"),
    ],
)
def test_failures_are_found(kind: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drive, "SECONDS", 0.5)
    monkeypatch.setattr(drive, "PATIENCE", 2.0)
    path = tmp_path / "state.json"
    found = drive.drive(planted(kind), path, "seed", 12)
    assert found.failures
    assert all(sentence in one["wrong"] for one in found.failures)
    assert (found.tried, found.accepted) == (12, 12 - len(found.failures))
    (tmp_path / "mended").touch()
    again = drive.drive(planted(kind), path, "seed", 20)
    assert again.failures == []
    assert (again.tried, again.accepted) == (20, 20)


def test_time_without_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine: a hundred seconds by the wall, of which the process waited ninety-nine for a processor."""
    now = [0.0]
    waited = [0.0]
    monkeypatch.setattr(drive.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(drive, "waited", lambda: waited[0])
    watch = drive.Watch()
    now[0] = 100.0
    waited[0] = 99.0
    assert watch.seconds() < 2
    waited[0] = 0.0
    assert watch.seconds() > 90


def test_inputs_become_smaller() -> None:
    what = ["aaa", {"b": [1, 2, "long text with x inside"], "c": 3}]
    assert smallest(what, lambda w: "x" in json.dumps(w)) == [{"b": ["x"]}]


def test_the_table() -> None:
    state = State(tried=4, accepted=1, first=1, longest=0.25, failures=[{}])
    state.refusals.update({"a": 2})
    assert row("x", state) == "| x | 4 | 1 | 1 | 1 | 1 | 0.2 s | 1 |"


# what was found


@pytest.mark.parametrize(
    "change",
    [
        {"watch": [{}]},
        {"watch": [[]]},
        {"watch": [{"min": 3}]},
        {"watch": [{"+": [{"name": "brightness", "settings": {}}], "*": []}]},
        {"reward": {"name": {"x": 1}, "settings": {}}},
        {"reward": {"zscore": [{"name": "brightness", "settings": {}}]}},
        {"reward": {"veto": [1.0]}},
        {"reward": {"nonsense": [1.0]}},
        {"search": {"name": "best_of", "settings": {"\ud800": 1}}},
        {"prompt": "\ud800"},
    ],
)
def test_stored_settings_that_nobody_wrote(change: dict[str, Any]) -> None:
    data = {**json.loads(small_spec().json()), **change}
    with pytest.raises(FairleadError):
        Spec.from_json(json.dumps(data))


@pytest.mark.parametrize("name", ["x" * 3000, "~nobody/x", "x" * 300 + ".safetensors"])
def test_names_that_no_disk_can_hold(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["price", "a dog", "--model", name]) == 2
    with pytest.raises(FairleadError):
        plan.read(name)
    assert cli.main(["score", name, "--reward", "brightness"]) == 2
    assert cli.main(["report", name]) == 3
    capsys.readouterr()


def test_an_error_does_not_repeat_all_that_was_typed() -> None:
    assert len(str(FairleadError("x" * 10**6 + " must be shorter."))) < LONGEST + 10
    assert str(FairleadError("x" * 10**6 + " must be shorter.")).endswith(" must be shorter.")
    assert str(FairleadError("n is 0.")) == "n is 0."


def changed(folder: Path, statement: str, *values: Any) -> Path:
    """A record with something changed and its checksums made again."""
    db = sqlite3.connect(folder / "run.sqlite")
    rows.install(db)
    db.execute(statement, values)
    for table in rows.SEALED:
        rows.seal(db, table)
    db.commit()
    db.close()
    return folder


@pytest.mark.parametrize("value", ["", "text", b"abc", b"12345678" * 100])
def test_gradients_that_are_none(value: Any, tmp_path: Path) -> None:
    engine.start(small_spec(search="adam"), tmp_path / "run", stop=after(2)).close()
    with pytest.raises(StoreError, match="damaged"):
        engine.resume(changed(tmp_path / "run", "update outcome set gradient=?", value))


@pytest.mark.parametrize("value", ["", b"", b"text", b'\x10\0\0\0\0\0\0\0{"0.nothing":{}}  '])
def test_preparations_that_are_none(value: Any, tmp_path: Path) -> None:
    engine.start(small_spec(steer=["lidar"], budget={"nfe": 200.0}), tmp_path / "run", stop=after(2)).close()
    with pytest.raises(StoreError):
        engine.resume(changed(tmp_path / "run", "update prepared set data=?", value))


def test_a_candidate_that_the_settings_do_not_lead_to(tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "run").close()
    changed(tmp_path / "run", "update run set spec=?", small_spec(budget={"nfe": 4.0}).json())
    with pytest.raises(StoreError, match="do not lead"):
        engine.replay(tmp_path / "run", 5)


@pytest.mark.parametrize("data", [b"", b"x", None])
def test_a_picture_of_the_bank_that_cannot_be_read(data: bytes | None, tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "run").close()
    if data is None:
        Image.new("RGB", (8, 8)).save(tmp_path / "run" / "bank.png")
    else:
        (tmp_path / "run" / "bank.png").write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        _ = View.read(tmp_path / "run").bank


def test_a_picture_too_tall_for_jpeg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (1, 65_501)).save(tmp_path / "tall.png")
    assert cli.main(["score", str(tmp_path / "tall.png"), "--reward", "jpeg_size"]) == 4
    assert "at most 65500" in capsys.readouterr().err


def test_prompts_with_halves_of_characters() -> None:
    with pytest.raises(FairleadError, match="not valid text"):
        plan.make({"model": "mixture", "prompts": ["\ud800"], "methods": {"a": {}}}, "x")


@pytest.mark.parametrize("run", [2, [1], {"a": 1}, (1,)])
def test_a_bank_of_no_run(run: Any) -> None:
    with pytest.raises(FairleadError, match=r"lidar\.run"):
        Lidar(run=run)


def test_numbers_that_no_float_can_hold(tmp_path: Path) -> None:
    engine.start(small_spec(), tmp_path / "run").close()
    huge = json.dumps({"brightness": 10**400})
    with pytest.raises(StoreError, match="damaged"):
        View.read(changed(tmp_path / "run", "update outcome set terms=?", huge))


@pytest.mark.parametrize("line", [["replay", "run", "best", "--out"], ["report", "run", "run", "--out"]])
def test_a_file_that_cannot_be_written(line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine.start(small_spec(), tmp_path / "run").close()
    assert cli.main([*line, "x" * 300]) == 3
