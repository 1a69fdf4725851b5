"""Optimised beside watched: in the record, the report, the summary and the JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from fairlead.app.cli import main
from fairlead.app.report import write_report
from fairlead.run.held_out import correlation, hacked, held
from fairlead.run.view import View


def run(out: Path, capsys: pytest.CaptureFixture[str], reward: str, *watch: str) -> tuple[dict[str, object], str]:
    words = [
        "run",
        "a dog",
        "-m",
        "mixture",
        "--steps",
        "5",
        "--budget",
        "nfe=60",
        "--reward",
        reward,
        "--json",
        "--out",
        str(out),
    ]
    assert main([*words, *(w for name in watch for w in ("--watch", name))]) == 0
    said, err = capsys.readouterr()
    return json.loads(said), err


def test_a_reward_that_rises_while_the_watched_fall_is_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, err = run(tmp_path / "a", capsys, "brightness", "-1*brightness", "brightness/-2")
    assert data["hacking"] is True
    assert "Reward hacking is likely" in err
    assert err.count("but every watched reward fell: -1*brightness (") == 1, "said while it runs"
    assert err.index("but every watched reward fell") < err.index("Reward hacking is likely")
    view = View.read(tmp_path / "a")
    assert [h.fell for h in held(view)] == [True, True]
    assert held(view)[0].agreement == pytest.approx(-1)
    page = write_report(tmp_path / "a").read_text()
    assert 'id="heldout"' in page
    assert "Reward hacking is likely" in page
    assert "--watch" in page


def test_one_that_rises_with_it_is_no_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, err = run(tmp_path / "a", capsys, "brightness", "2*brightness", "-1*brightness")
    assert data["hacking"] is False
    assert "hacking" not in err
    assert [h.fell for h in held(View.read(tmp_path / "a"))] == [False, True]
    data, _ = run(tmp_path / "b", capsys, "brightness")
    assert "hacking" not in data
    assert not hacked(View.read(tmp_path / "b"))
    assert 'id="heldout"' not in write_report(tmp_path / "b").read_text()


def test_rank_correlation_is_spearmans() -> None:
    pairs = [(1.0, 2.0), (2.0, 2.0), (3.0, 5.0), (3.0, 1.0), (7.0, 9.0), (math.nan, 3.0)]
    assert correlation(pairs) == pytest.approx(float(spearmanr(*zip(*pairs[:5], strict=True)).statistic))
    assert math.isnan(correlation(pairs[:2]))
    assert math.isnan(correlation([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]))
