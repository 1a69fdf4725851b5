"""--keep: k of a run, good and different, from the record alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.cli import main
from fairlead.app.report import write_report
from fairlead.app.result import Result
from fairlead.core.errors import FairleadError
from fairlead.run import engine
from fairlead.run.diverse_subset import keep
from fairlead.testing.runs import small_spec


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keep") / "run"
    engine.start(small_spec(budget={"nfe": 64}), folder).close()
    return folder


def test_between_the_best_and_the_most_different(run: Path) -> None:
    keep(run, 4, floor="none")
    ranked = [s["candidate"] for s in sorted(_rows(run), key=lambda s: -s["reward"])]
    assert set(keep(run, 4, weight=1e6)) == set(ranked[:4])
    for k in (1, 4):
        chosen = keep(run, k, floor="none")
        assert len(set(chosen)) == k
        found = json.loads((run / "kept.json").read_text())
        assert found["kept"] == chosen
        assert len(list((run / "kept").glob("*.png"))) == k
    ends = found["front"][0], found["front"][-1]
    assert ends[0]["vendi"] >= ends[1]["vendi"]
    assert ends[0]["reward"] <= ends[1]["reward"] <= found["best"]["reward"] + 1e-9
    assert keep(run, 4, floor="none") == chosen, "the same twice"


@pytest.mark.parametrize("floor", ["median", "none", 0.45, 1e6, -1e6])
@pytest.mark.parametrize("k", [1, 3, 8, 12, 16])
def test_nothing_below_the_floor_is_kept_while_enough_are_above(run: Path, floor: float | str, k: int) -> None:
    """Whatever is chosen for being different, the floor comes first."""
    rewards = {row["candidate"]: row["reward"] for row in _rows(run)}
    chosen = keep(run, k, weight=0.0, floor=floor, likeness="pixels")
    ordered = sorted(rewards.values())
    least = {"median": ordered[(len(ordered) - 1) // 2], "none": -math.inf}.get(str(floor), floor)
    above = [i for i, reward in rewards.items() if reward >= float(least)]
    if len(above) >= k:
        assert set(chosen) <= set(above)
    else:
        assert {rewards[i] for i in chosen} == set(ordered[-k:]), "the best, where too few are above"
    found = json.loads((run / "kept.json").read_text())
    assert found["below"] == max(0, k - len(above))


def _rows(run: Path) -> list[dict[str, Any]]:
    table = Result(run).candidates
    return table if isinstance(table, list) else table.to_dict("records")


def test_report_result_and_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shots = Result(run).keep(3, likeness="pixels")
    page = write_report(run).read_text()
    assert all(f'id="{part}"' in page for part in ("kept", "front"))
    assert page.count("Kept: candidate") == 3
    assert main(["keep", str(run), "2", "--weight", "0"]) == 0
    out, err = capsys.readouterr()
    assert len(out.split()) == 2
    assert "Vendi" in err
    assert shots[0].path.is_file()


def test_run_with_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "run",
        "a dog",
        "--model",
        "mixture",
        "--reward",
        "brightness",
        "--steps",
        "2",
        "--budget",
        "nfe=16",
        "--keep",
        "3",
    ]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "Kept 3" in capsys.readouterr().err
    assert len(list((tmp_path / "run" / "kept").iterdir())) == 3


def test_a_run_that_went_on_says_that_the_choice_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    engine.start(small_spec(budget={"nfe": 16}), folder).close()
    before = len(_rows(folder))
    keep(folder, 2, likeness="pixels")
    assert main(["resume", str(folder), "--budget", "nfe=32"]) == 0
    told = f"was chosen when the run had {before} pictures, of now {len(_rows(folder))}"
    assert told in capsys.readouterr().err
    assert told in (page := (folder / "report.html").read_text())
    assert f"<th>2 of {before}</th>" in page
    assert main(["keep", str(folder), "2"]) == 0
    assert "Kept 2" in (said := capsys.readouterr().err)
    assert "Loading weights" not in said


def test_wrong_words(run: Path) -> None:
    with pytest.raises(FairleadError, match="Did you mean 'clip'"):
        keep(run, 2, likeness="clipp")
    with pytest.raises(FairleadError, match=r"^No image encoder could be loaded from [^\n]*$"):
        keep(run, 2, likeness=str(run))
    with pytest.raises(FairleadError, match="keep from 1 to"):
        keep(run, 10_000)
    with pytest.raises(FairleadError, match="floor is 'middle'"):
        keep(run, 2, floor="middle")
    with pytest.raises(FairleadError, match="finite number"):
        keep(run, 2, weight=-1)


def test_a_run_without_pictures_has_nothing_to_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    engine.start(small_spec(), folder, stop=lambda: True).close()
    assert main(["keep", str(folder), "4"]) == 2
    told = f"{folder} has no pictures yet. Continue the run with 'fairlead resume {folder}'."
    assert told in capsys.readouterr().err
