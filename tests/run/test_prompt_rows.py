"""Files of prompts, lists of prompts and seeds: every row is a run, and every mistake says where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.run import prompt_rows
from fairlead.run.options import RunOptions
from fairlead.run.set_file import SetFile

USUAL = RunOptions("", model="pocket-turbo", seed=3)


def rows(tmp_path: Path, name: str, text: str) -> list[RunOptions]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found, _ = prompt_rows.read(tmp_path / name)
    return [options for _, options in prompt_rows.expanded(USUAL, found)]


def test_every_kind_of_file(tmp_path: Path) -> None:
    text = rows(tmp_path, "a.txt", "\ufeffa dog\r\n\n  two cats \n")
    assert [(o.prompt, o.seed) for o in text] == [("a dog", 3), ("two cats", 3)]
    table = rows(tmp_path, "a.csv", 'prompt,seed,guidance_scale\n"a dog, red",5,\ntwo cats,,2.5\n')
    assert [(o.prompt, o.seed, o.guidance_scale) for o in table] == [("a dog, red", 5, None), ("two cats", 3, 2.5)]
    objects = rows(tmp_path, "a.jsonl", '{"prompt": "a dog", "settings": {"best_of": {"n": 2}}}\n"two cats"\n')
    assert [(o.prompt, o.settings) for o in objects] == [("a dog", {"best_of": {"n": 2}}), ("two cats", None)]


def test_seeds_multiply_prompts_and_a_row_keeps_its_own() -> None:
    found = prompt_rows.expanded(USUAL, prompt_rows.of(["a dog", {"prompt": "a cat", "seed": 9}]), "0-2,7")
    assert [(o.prompt, o.seed) for _, o in found] == [*(("a dog", s) for s in (0, 1, 2, 7)), ("a cat", 9)]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.md", "a dog", "must end in"),
        ("a.txt", "\n\n", "no prompt"),
        ("a.csv", "text\na dog\n", "column 'prompt'"),
        ("a.csv", "prompt\na dog,red\n", "line 2 has more cells"),
        ("a.csv", "prompt,seed\n,4\n", "line 2 has options but no prompt"),
        ("a.csv", "prompt,seed\na dog,four\n", "line 2: seed is 'four', but must be a whole number"),
        ("a.csv", "prompt,sead\na dog,4\n", "sets 'sead', which is no option of a run. Did you mean 'seed'"),
        ("a.jsonl", "{nothing}\n", "line 1 is not valid JSON"),
        ("a.jsonl", "[1]\n", "line 1 must be an object"),
    ],
)
def test_a_bad_file_is_one_sentence(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=sentence):
        rows(tmp_path, name, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match="cannot be read"):
        prompt_rows.read(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"a dog\n\xff\xfe")
    with pytest.raises(FairleadError, match="not UTF-8"):
        prompt_rows.read(tmp_path / "a.txt")


@pytest.mark.parametrize("seeds", ["7-3", "a", "1.5", [], [1.5], True, "0-99999999"])
def test_bad_seeds_are_one_sentence(seeds: Any) -> None:
    with pytest.raises(FairleadError, match="seeds"):
        prompt_rows.seeds_of(seeds)


def test_too_many_runs_are_refused() -> None:
    with pytest.raises(FairleadError, match="more than"):
        prompt_rows.expanded(USUAL, prompt_rows.of(["a dog"] * 10_000), "0-2")


def test_a_set_on_the_command_line_and_its_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("a photo of a dog\n\na photo of a dog\n")
    words = ["-m", "pocket-turbo", "--reward", "brightness", "--budget", "nfe=4", "--out", str(tmp_path / "set")]
    assert main(["run", "--prompts", str(tmp_path / "p.txt"), "--seeds", "0-1", *words]) == 0
    said = capsys.readouterr()
    assert "1 empty lines were left out" in said.err
    assert "2 runs were asked for twice and are done once" in said.err
    entries = SetFile.read(tmp_path / "set").entries
    assert [entry.spec.seed for entry in entries] == [0, 1]
    page = (tmp_path / "set" / "index.html").read_text()
    assert all(f"{entry.folder}/best.png" in page for entry in entries)
    assert (tmp_path / "set" / "table.csv").read_text().count("\n") == 3
    assert main(["resume", str(tmp_path / "set"), "--budget", "nfe=8", "--json"]) == 0
    assert [run["cost"]["nfe"] for run in json.loads(capsys.readouterr().out)["runs"]] == [8, 8]
    assert main(["run"]) == 2
    assert "Missing argument 'PROMPT'" in capsys.readouterr().err
    assert main(["run", "a dog", "--prompts", str(tmp_path / "p.txt")]) == 2


def test_a_list_of_prompts_in_python() -> None:
    prompts = ["a photo of a dog", {"prompt": "a photo of a cat", "seed": 4}, "a photo of a dog"]
    found = fairlead.run(prompts, model="pocket-turbo", reward="brightness", budget={"nfe": 4})
    assert len(found) == 3
    assert found[0].folder == found[2].folder != found[1].folder
    assert found.table["seed"] == [0, 4, 0]
    assert found.table["best"] == [result.best.reward for result in found]
    with pytest.raises(FairleadError, match="prompt 0 sets 'reward', but reward was passed as an object"):
        fairlead.run(
            [{"prompt": "a dog", "reward": "brightness"}], reward=lambda images, prompts: images.mean((1, 2, 3))
        )
