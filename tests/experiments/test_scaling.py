"""The scaling experiment at its smallest: rows, nesting, what it says, and that nothing is made twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fairlead.core.key import Key

SCRIPT = Path(__file__).parents[2] / "experiments" / "noise_search" / "scaling.py"


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    from fairlead.run import models

    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module, build = importlib.util.module_from_spec(spec), models.build
    spec.loader.exec_module(module)
    yield module
    models.build = build


def test_tiny_run(scaling: ModuleType, tmp_path: Path) -> None:
    words = [
        "--model", "mixture", "--verifier", "b=brightness", "--verifier", "j=jpeg_size", "--judge", "brightness",
        "--prompts", "one;two", "--images", "16", "--steps", "4", "--out", str(tmp_path),
        "--methods", "random,zero_order,paths,dfs,steps",
    ]  # fmt: skip
    scaling.main(words)
    rows = scaling.read(tmp_path / "rows.jsonl")
    assert all(row["nfe"] <= row["budget"] for row in rows)
    for prompt in ("one", "two"):
        for method in ("random", "zero_order"):
            curve = [
                r["metrics"]["b"] for r in rows if (r["prompt"], r["method"], r["verifier"]) == (prompt, method, "b")
            ]
            assert len(curve) == 5
            assert curve == sorted(curve), "the winner of more candidates is no worse on what chose it"
    assert {r["metrics"]["b"] for r in rows if r["method"] == "random" and r["budget"] == 4} != {
        rows[0]["metrics"]["b"]
    }
    assert {r["method"] for r in rows} == {"random", "zero_order", "paths", "dfs", "steps"}
    table = (tmp_path / "tables.md").read_text()
    assert "| b + zero_order |" in table
    before = (tmp_path / "rows.jsonl").read_bytes()
    scaling.main(words)
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert (tmp_path / "tables.md").read_text() == table


def test_interval_covers_the_mean(scaling: ModuleType) -> None:
    """95 % intervals of 40 normal values hold the true mean about 95 times in 100."""
    hits = 0
    for i in range(100):
        values = Key.root(i).normal(40).tolist()
        mean, low, high = scaling.interval(values, Key.root(i).fold("boot"))
        assert low < mean < high
        hits += low < 0 < high
    assert 87 <= hits <= 99
