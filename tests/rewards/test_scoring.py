"""`fairlead score`: pictures from anywhere, prompts from anywhere, tables to anywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.core.function import Function
from fairlead.run import scoring

GREYS = {"a.png": 40, "b.png": 200, "sub/c.jpg": 120}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for name, grey in GREYS.items():
        info = PngInfo()
        info.add_text("parameters", f"a picture of {grey}\nwith two lines\nNegative prompt: bad\nSteps: 4, Seed: 1")
        more = {"pnginfo": info} if name.endswith("png") else {}
        Image.new("RGB", (16 + grey // 10, 16), (grey, grey, grey)).save(root / name, **more)
    (root / "notes.txt").write_text("not a picture")
    return root


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    code = main(["score", *words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if "--json" in words else out, err


def test_a_folder_is_ranked_and_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, stats = tmp_path / "t.csv", tmp_path / "s.json"
    words = [str(folder), "--reward", "10*brightness", "--out", str(table), "--stats", str(stats), "--json"]
    code, data, _ = told(words, capsys)
    assert code == 0
    assert [Path(r["file"]).name for r in data["pictures"]] == ["b.png", "c.jpg", "a.png"]
    assert [r["rank"] for r in data["pictures"]] == [1, 2, 3]
    with table.open() as handle:
        read = list(csv.DictReader(handle))
    assert [r["rank"] for r in read] == ["3", "1", "2"]
    assert float(read[1]["reward"]) == pytest.approx(10 * 200 / 255, abs=1e-4)
    found = json.loads(stats.read_text())["10*brightness"]
    assert found["n"] == 3
    code, data, _ = told([str(folder), "--reward", f"zscore(10*brightness, stats={str(stats)!r})", "--json"], capsys)
    assert sum(r["reward"] for r in data["pictures"]) == pytest.approx(0, abs=1e-4)
    assert sum(r["reward"] ** 2 for r in data["pictures"]) == pytest.approx(3, abs=1e-3)
    code, text, _ = told([str(folder), "--reward", "rank_mean(brightness, jpeg_size)", "--prompt", "x"], capsys)
    assert "1.000" in text


def test_the_table_as_parquet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet, table = pytest.importorskip("pyarrow.parquet"), tmp_path / "t.parquet"
    assert told([str(folder), "--reward", "brightness", "--out", str(table)], capsys)[0] == 0
    read = parquet.read_table(table).to_pydict()
    assert read["rank"] == [3, 1, 2]
    assert read["reward"][1] == pytest.approx(200 / 255, abs=1e-4)


def test_prompts_are_found_in_pictures_lists_and_tables(folder: Path, tmp_path: Path) -> None:
    found = [p.prompt for p in scoring.collect([folder])]
    assert found == ["a picture of 40\nwith two lines", "a picture of 200\nwith two lines", ""]
    lines = tmp_path / "p.txt"
    lines.write_text("one\ntwo\n\nthree\n")
    assert [p.prompt for p in scoring.collect([folder], prompts=lines)] == ["one", "two", "three"]
    rows = tmp_path / "p.csv"
    rows.write_text("file,prompt\nb.png,B\nc.jpg,C\nx/a.png,A\n")
    assert [p.prompt for p in scoring.collect([folder], prompts=rows)] == ["A", "B", "C"]
    (tmp_path / "p.json").write_text('{"a.png": "A", "b.png": "B", "c.jpg": "C"}')
    assert [p.prompt for p in scoring.collect([folder], prompts=tmp_path / "p.json")] == ["A", "B", "C"]
    lines.write_text("one\ntwo\n")
    with pytest.raises(FairleadError, match="2 prompts for 3 pictures"):
        scoring.collect([folder], prompts=lines)


def test_a_run_is_scored_again_without_rendering(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    result = fairlead.run("a dog", model="mixture", reward="brightness", steps=5, budget={"nfe": 40}, out=run)
    code, data, _ = told([str(run), "--reward", "brightness + 0*jpeg_size", "--json"], capsys)
    assert code == 0
    again = {r["file"].rpartition("#")[2]: r for r in data["pictures"]}
    for row in result.candidates.to_dict("records"):
        assert again[str(row["candidate"])]["brightness"] == pytest.approx(row["brightness"], abs=1e-7)
        assert again[str(row["candidate"])]["prompt"] == "a dog"


def test_grey_and_transparent_pictures_are_read_and_broken_ones_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8), 51).save(tmp_path / "grey.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("P", (8, 8), 0).save(tmp_path / "palette.png")
    Image.fromarray(__import__("numpy").full((8, 8), 257 * 51, "uint16")).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    code, data, err = told([str(tmp_path), "--reward", "brightness", "--json"], capsys)
    rows = {r["file"].rpartition("/")[2]: r for r in data["pictures"]}
    assert code == 1
    assert "1 of 5 pictures have no score" in err
    assert rows["grey.png"]["reward"] == rows["deep.png"]["reward"] == pytest.approx(0.2, abs=1e-6)
    assert rows["clear.png"]["reward"] == pytest.approx(1.0)
    assert "white" in rows["clear.png"]["reason"]
    assert rows["broken.png"]["rank"] is None
    assert "cannot be read" in rows["broken.png"]["reason"]


def test_ranks_are_within_a_prompt(tmp_path: Path) -> None:
    pictures = []
    for i, (grey, prompt) in enumerate([(10, "x"), (20, "x"), (200, "y"), (100, "y")]):
        Image.new("RGB", (4, 4), (grey,) * 3).save(tmp_path / f"{i}.png")
        pictures.append(scoring.Picture(tmp_path / f"{i}.png", prompt, str(i)))
    from fairlead.core.algebra import RankMean
    from fairlead.rewards.brightness import Brightness

    constant = Function(lambda images, prompts: [1.0] * len(images))
    scores = scoring.score(pictures, RankMean((Brightness(), constant)), batch=3)
    assert [s.reward for s in scores] == [0.25, 0.75, 0.75, 0.25]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--reward", "brightness"], "nowhere does not exist"),
        ([".", "--reward", "brightness"], "no picture"),
        (["PICTURES", "--reward", "brightness", "--out", "x.txt"], ".csv"),
        (["PICTURES", "--reward", "my.py:f"], "cannot be read"),
        (["PICTURES", "--prompt", "x", "--prompts", "y"], "one of them"),
    ],
)
def test_wrong_words(
    words: list[str],
    said: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = told([str(folder) if w == "PICTURES" else w for w in words], capsys)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_reward_that_needs_a_prompt_says_how_to_give_one(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def f(images, prompts): return [float(len(p)) for p in prompts]")
    code, _, err = told([str(folder), "--reward", f"{mine}:f"], capsys)
    assert code == 2
    assert "--prompts FILE (1 of 3" in err
    code, data, _ = told([str(folder), "--reward", f"{mine}:f", "--prompt", "four", "--json"], capsys)
    assert [r["reward"] for r in data["pictures"]] == [4, 4, 4]


def test_the_python_door(folder: Path) -> None:
    table = fairlead.score(folder, "brightness", prompt="x")
    assert table["rank"].tolist() == [3, 1, 2]
    again = fairlead.score(
        [folder / "a.png", folder / "sub"], lambda images, prompts: images.mean((1, 2, 3)), prompt="x"
    )
    assert again["reward"].tolist() == pytest.approx([40 / 255, 120 / 255], abs=0.01)
