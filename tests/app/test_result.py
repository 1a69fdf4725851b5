"""A run in Python: pictures, numbers, a table, a copy."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead.app.report import write_report
from fairlead.app.result import Result
from fairlead.core.errors import FairleadError, StoreError


def test_best_baseline_and_cost(make_run: Callable[..., Path]) -> None:
    result = Result(make_run())
    assert (result.best.index, result.best.reward, result.best.terms) == (2, 0.8, {"brightness": 0.8})
    assert (result.baseline.index, result.baseline.reward) == (0, 0.5)
    assert result.best.image.size == (64, 64)
    assert result.best.image.getpixel((0, 0)) != result.baseline.image.getpixel((0, 0))
    assert result.gain == pytest.approx(0.3)
    assert (result.cost.nfe, result.cost.decodes) == (80, 4)
    assert result.spec.prompt == "a photo of a red apple"
    assert result.stopped == "budget: nfe"
    assert result.report().name == "report.html"
    assert "0.5000 -> 0.8000, 4 candidates" in repr(result)


def test_the_baseline_of_a_controlled_run_is_apart(make_run: Callable[..., Path]) -> None:
    from fairlead.run.spec import make_spec

    spec = make_spec("a dog", reward="brightness", intervene="token_mean_damping")
    result = Result(make_run(spec=spec, baseline=0.9))
    assert (result.baseline.index, result.baseline.reward) == (-1, 0.9)
    assert result.gain == pytest.approx(-0.1)
    assert len(result.candidates) == 4


def test_candidates_are_a_table(make_run: Callable[..., Path]) -> None:
    pandas = pytest.importorskip("pandas")
    table = Result(make_run([0.5, math.nan, 0.8])).candidates
    assert isinstance(table, pandas.DataFrame)
    assert list(table["candidate"]) == [0, 1, 2]
    assert table["reward"].idxmax() == 2
    assert {"brightness", "nfe", "seconds", "steps", "batch", "image", "key"} <= set(table.columns)


def test_without_pandas_they_are_dicts(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    rows = Result(make_run()).candidates
    assert [row["reward"] for row in rows] == [0.5, 0.2, 0.8, 0.4]


def test_save_copies_everything_and_overwrites_nothing(make_run: Callable[..., Path], tmp_path: Path) -> None:
    result = Result(make_run())
    result.report()
    saved = result.save(tmp_path / "deep" / "copy")
    assert Result(saved).best.reward == result.best.reward
    assert write_report(saved).is_file()
    names = {p.relative_to(saved) for p in saved.rglob("*")}
    assert {Path("best.png"), Path("baseline.png"), Path("run.sqlite")} <= names
    assert len(list((saved / "images").iterdir())) == 4
    with pytest.raises(StoreError, match="not empty"):
        result.save(saved)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        result.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_save_into_an_empty_folder(make_run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert Result(Result(make_run()).save(tmp_path / "empty")).best.index == 2


def test_a_notebook_shows_it(make_run: Callable[..., Path]) -> None:
    markup = Result(make_run())._repr_html_()
    assert markup.count("data:image/png;base64,") == 2
    assert "+0.3000" in markup


def test_nothing_found_is_one_sentence(make_run: Callable[..., Path], tmp_path: Path) -> None:
    result = Result(make_run([math.nan]))
    with pytest.raises(FairleadError, match="no candidate with a reward"):
        _ = result.best
    assert "–" in result._repr_html_()
    with pytest.raises(FairleadError, match="has no baseline"):
        _ = Result(make_run([], status="running")).baseline
    with pytest.raises(StoreError, match=r"has no run\.sqlite"):
        Result(tmp_path / "nothing")
