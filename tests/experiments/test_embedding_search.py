"""The experiment at its smallest: the published draw of prompts, rows, resuming, what the tables say."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest
import torch

import by_path


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return by_path.experiment("embedding_search.run")


def test_the_36_prompts_are_those_of_the_paper(script: ModuleType) -> None:
    path = script.found_parti()
    if not path.is_file():
        pytest.skip("the published data is not here: set FAIRLEAD_SHARED")
    drawn = script.prompts_of("parti", 36)
    assert len(drawn) == 36
    assert [p for c, p in drawn if c == "Abstract"] == ["happiness", "metal", "element"]
    assert [p for c, p in drawn if c == "Animals"][1] == "a cat"
    assert any(p.endswith(" ") for _, p in drawn), "the trailing space of one of them is kept"
    categories = [c for c, _ in drawn]
    assert all(categories.count(c) == 3 for c in categories)
    digest = sha256("\n".join(p for _, p in drawn).encode()).hexdigest()
    assert digest[:16] == "85bb627c8587bb34"


def test_prompts_of_the_small_world(script: ModuleType) -> None:
    pairs = script.prompts_of(None, 36)
    assert len(set(pairs)) == 36
    assert len({tag for tag, _ in pairs}) == 6


def test_tiny_run_and_its_resumption(script: ModuleType, tmp_path: Path) -> None:
    words = [
        "run",
        "--model",
        "mixture",
        "--reward",
        "brightness",
        "--judge",
        "jpeg_size",
        "--prompts",
        "one;two",
        "--weights",
        "0.5",
        "--population",
        "4",
        "--generations",
        "2",
        "--rates",
        "0.05,0.2",
        "--steps",
        "2",
        "--out",
        str(tmp_path),
        "--methods",
        "sep_cma,adam,best_of",
    ]
    (tmp_path / "resources.json").write_text("[]")  # measured in processes of their own
    script.main(words)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [r["prompt"] for r in rows] == ["one", "two"]
    for row in rows:
        assert set(row["methods"]) == {"sep_cma", "adam@0.05", "adam@0.2", "best_of"}
        assert {m["evaluations"] for m in row["methods"].values()} == {9}
        assert all(m["objective"] >= row["baseline"]["objective"] for m in row["methods"].values())
        assert row["baseline"]["ssim"] == pytest.approx(1)
        for rival, pair in row["pairs"].items():
            together = min(row["methods"][m]["seconds"] for m in ("sep_cma", rival))
            assert pair["seconds"] == together
            quick = min(("sep_cma", rival), key=lambda m: row["methods"][m]["seconds"])
            assert pair[quick]["objective"] == row["methods"][quick]["objective"]
    before = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(before.splitlines()[0] + "\n")
    script.main(words)
    again = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for a, b in zip(rows, again, strict=True):
        assert {k: v["objective"] for k, v in a["methods"].items()} == {
            k: v["objective"] for k, v in b["methods"].items()
        }
    text = (tmp_path / "results.md").read_text()
    assert "sep_cma is at least adam@" in text
    with (tmp_path / "contests.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_similarity_and_statistics(script: ModuleType) -> None:
    a = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    b = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert script.ssim(a, a) == pytest.approx(1)
    assert script.ssim(a, b) == pytest.approx(script.ssim(b, a))
    assert abs(script.ssim(a, b)) < 0.2
    key = script.Key.root(1)
    found = script.compare([1.0, 2, 3, 4, 5, 6], [0.5, 1, 2, 3, 4, 7], key)
    assert (found["wins"], found["ties"], found["prompts"]) == (5, 0, 6)
    assert found["sign_p"] == pytest.approx(2 * 7 / 64)
    assert found["low"] < found["difference"] < found["high"]
    entries = [{"wilcoxon_p": p} for p in (0.04, 0.01, 0.03)]
    script.holm(entries)
    assert [e["holm_p"] for e in entries] == pytest.approx([0.06, 0.03, 0.06])
