"""Stars that were given in the studio, seen by the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairlead.app.cli import main
from fairlead.run import engine, marks
from fairlead.testing.runs import small_spec


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        engine.start(small_spec(seed=seed), Path("runs") / f"run-{seed}").close()
    return tmp_path / "runs"


def test_list_runs_by_stars(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "runs", "--starred"]) == 0
    assert "No run in runs has a starred picture" in capsys.readouterr().err
    marks.add(runs / "run-1", 4, "star", "1")
    marks.add(runs / "run-0", 4, "note", "no star")
    assert main(["list", "runs", "--starred", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["run"], run["starred"]) for run in found] == [("runs/run-1", [4])]
    assert main(["list", "searches", "--starred"]) == 2


def test_keep_chooses_among_the_starred(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs / "run-0"
    assert main(["keep", str(folder), "2", "--starred"]) == 2
    assert "no picture with a star" in capsys.readouterr().err
    for index in (3, 5, 8):
        marks.add(folder, index, "star", "1")
    assert main(["keep", str(folder), "2", "--starred"]) == 0
    chosen = {int(word) for word in capsys.readouterr().out.split()}
    assert len(chosen) == 2
    assert chosen <= {3, 5, 8}
    assert main(["keep", str(folder), "4", "--starred"]) == 2
