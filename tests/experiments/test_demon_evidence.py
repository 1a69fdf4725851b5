"""The experiments of Demon at their smallest: every part has rows, nothing is made twice, and the order is the
published one.
"""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import by_path

FOLDER = by_path.ROOT / "experiments" / "demon"


@pytest.fixture(scope="module")
def pocket() -> ModuleType:
    return by_path.experiment("demon.run")


def test_networks(pocket: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "run",
        "--models",
        "mixture",
        "--sibling",
        "mixture=mixture",
        "--reward",
        "brightness",
        "--watch",
        "jpeg_size",
        "--quick",
        "--out",
        str(tmp_path),
    ]
    pocket.main(words)
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {r["part"] for r in rows} == {"curve", "settings", "estimates"}
    nfe = {r["method"]: float(r["nfe"]) for r in rows if r["part"] == "estimates" and not r["setting"]}
    assert nfe["ode"] > nfe["few"] > nfe["sibling"] == nfe["clean"] > nfe["plain SDE"]
    marks = [r for r in rows if r["method"].startswith("best of N")]
    assert all(float(r["nfe"]) <= float(r["setting"].split()[0]) for r in marks)
    said = (tmp_path / "results.md").read_text()
    assert "| sibling |" in said
    assert "| ode |  | 0 " in said, "paired with itself"
    capsys.readouterr()
    pocket.main(words)
    assert len(capsys.readouterr().out.splitlines()) == 1, "a second call makes nothing"


def test_what_is_committed_is_the_published_order() -> None:
    """On the exact world, at every strength: Tanh > Boltzmann > best of K > the plain SDE."""
    rows = csv.DictReader((FOLDER / "gaussian" / "cells.csv").open())
    found = {(r["method"], r["setting"]): r for r in rows if r["part"] == "gaussian"}
    for beta in ("0.05", "0.1", "0.5"):
        order = [found[m, f"beta={beta}"] for m in ("tanh", "boltzmann", "best of K", "sde")]
        for better, worse in pairwise(order):
            assert float(better["low"]) > float(worse["high"])
        for r in order:
            assert float(r["mean"]) == pytest.approx(float(r["published"]), abs=0.35)
