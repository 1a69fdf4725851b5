"""What all experiments share: the four words, rows that grow, intervals, and that each of them can be called."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import by_path
from fairlead.bench import plan
from fairlead.core.key import Key

FOLDER = by_path.ROOT / "experiments"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="experiments are not part of this source tree")
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))


@pytest.fixture(scope="module")
def common() -> ModuleType:
    return by_path.experiment("common")


def test_a_quick_run_does_not_write_over_evidence(common: ModuleType, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"

    def options(*words: str) -> Path:
        out: Path = common.parse(common.parser("doc", evidence), words).out
        return out

    assert options("run") == options("report") == evidence
    assert options("run", "--quick") != evidence
    assert options("run", "--quick", "--out", str(tmp_path / "here")) == tmp_path / "here"
    with pytest.raises(SystemExit):
        options("measure")


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_rows_grow(common: ModuleType, tmp_path: Path, ending: str) -> None:
    rows = common.Rows(tmp_path / f"rows{ending}")
    assert rows.read() == []
    rows.append([{"a": 1, "b": "x"}])
    rows.append([])
    rows.append([{"a": 2, "b": "y, z"}])
    assert rows.read() == [{"a": "1", "b": "x"}, {"a": "2", "b": "y, z"}]


def test_pairs_stay_together(common: ModuleType) -> None:
    """The difference of columns that differ by a constant has no spread, whatever the spread of each."""
    a = Key.root(0).normal(30).tolist()
    mean, low, high = common.bootstrap([[v + 2 for v in a], a], Key.root(1), lambda x, y: x - y)
    assert (mean, low, high) == pytest.approx((2, 2, 2))
    ratio, low, high = common.ratio_of_medians([2.0, 2.2, 1.8], [1.0, 1.1, 0.9])
    assert ratio == pytest.approx(2)
    assert low <= ratio <= high


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_the_same_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        by_path.experiment(f"{name}.run").main(["--help"])
    shown = capsys.readouterr().out
    for word in ("{run,report}", "--quick", "--out"):
        assert word in shown


PRIVATE = {"_limit"}
"""Of the adapter: full_size measures what happens when memory allows one row only, and nothing public says that."""


def test_experiments_use_what_is_public() -> None:
    for path in FOLDER.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                private = [a.name for a in node.names if a.name.startswith("_")]
                parts = (node.module or "").split(".")
                assert not private, f"{path} imports {private}"
                assert not any(p.startswith("_") for p in parts if p != "__future__"), f"{path} imports {node.module}"
            elif isinstance(node, ast.Import):
                assert not any(a.name.startswith("importlib") for a in node.names), f"{path} imports importlib"
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert own or node.attr in PRIVATE, f"{path}:{node.lineno} uses {node.attr}"


def test_the_league_is_a_plan() -> None:
    raw = tomllib.loads((FOLDER / "seeds" / "league.toml").read_text())
    assert plan.make(raw, "league").reference == "random"


def test_evidence_is_small() -> None:
    large = [path.name for path in FOLDER.rglob("*") if path.is_file() and path.stat().st_size > 500_000]
    assert not large, "compress rows (.csv.gz), or keep what a table needs"
