"""The five systems at their smallest: every claim is tried, told with its parts, and made once."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import ModuleType

import pytest

import by_path
from fairlead.bench.statistics import Mean


@pytest.fixture(scope="module")
def seeds() -> ModuleType:
    return by_path.experiment("seeds.run")


def test_verdicts(seeds: ModuleType) -> None:
    up, down, open_, none = Mean(1, 0.5, 2, 9), Mean(-1, -2, -0.5, 9), Mean(1, -1, 3, 9), Mean(math.nan)
    assert seeds.verdict([up, up]) == "holds"
    assert seeds.verdict([up, down]) == seeds.verdict([up, open_]) == "holds partly"
    assert seeds.verdict([down, open_]) == "does not hold"
    assert seeds.verdict([open_, Mean(5, n=2)]) == "not shown at this size"
    assert seeds.verdict([none]) == "not tried"


def test_tiny_run(seeds: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "run",
        "--model",
        "mixture",
        "--reward",
        "brightness",
        "--watch",
        "jpeg_size",
        "--quick",
        "--only",
        "noise search,LiDAR,league",
        "--methods",
        "random,zero_order",
        "--out",
        str(tmp_path),
    ]
    seeds.main(words)
    said = capsys.readouterr().out
    with (tmp_path / "claims.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [r["system"] for r in rows] == ["noise search"] * 3 + ["LiDAR"] * 3
    assert all(math.isfinite(float(r["mean"])) for r in rows), [r["reason"] for r in rows]
    grown = next(r for r in rows if "quarter" in r["part"])
    assert float(grown["mean"]) >= 0, "more search is never worse on what it searches for"
    assert "not shown at this size" in said, "two prompts show nothing"
    assert "| zero_order |" in said
    assert "| no search |" in said
    seeds.main(words)
    again = capsys.readouterr().out
    assert ": random, 'a" not in again, "nothing is made twice"
    assert again.splitlines()[-20:] == said.splitlines()[-20:]
