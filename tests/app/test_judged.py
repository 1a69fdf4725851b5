"""What people said about a run's pictures, in the commands, in Python, in the report and in comparisons."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.app.report import write_report
from fairlead.app.result import Result
from fairlead.bench import comparison, plan
from fairlead.bench.comparison_results import ComparisonResults
from fairlead.run import judgements, marks
from fairlead.run.held_out import hacked, held
from fairlead.run.judged import JUDGED
from fairlead.run.view import View


def judge(run: Path, order: list[int], who: str = "Ada", rounds: int = 1) -> None:
    """All pairs of these candidates, of which the earlier one is better."""
    for _ in range(rounds):
        for place, good in enumerate(order):
            for bad in order[place + 1 :]:
                turn = judgements.turn_of(judgements.of(run), who)
                judgements.add(run, "pair", (bad, good), "2", who, turn)


def test_the_command_ranks_and_exports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", str(run)]) == 2
    assert "Nobody has judged" in capsys.readouterr().err
    judge(run, [6, 2, 4, 0])
    judge(run, [6, 2], "Ben")
    assert main(["rank", str(run)]) == 0
    err = capsys.readouterr().err
    assert "7 judgements (Ada 6, Ben 1)" in err
    assert "Krippendorff's alpha over 1 shared pairs is 1.00" in err
    assert main(["rank", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"][0]
    assert [row["candidate"] for row in found["ranking"]] == [6, 2, 4, 0]
    table = tmp_path / "ranking.csv"
    pairs = tmp_path / "data" / "pairs.jsonl"
    pairs.parent.mkdir()
    assert main(["rank", str(run), "--out", str(table), "--preferences", str(pairs)]) == 0
    assert "has 7 preferences" in capsys.readouterr().err
    with table.open() as file:
        assert [row["candidate"] for row in csv.DictReader(file)] == ["6", "2", "4", "0"]
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    order = [6, 2, 4, 0]
    assert all(order.index(row["chosen_candidate"]) < order.index(row["rejected_candidate"]) for row in rows)
    for row in rows:
        assert {"prompt", "chosen", "rejected"} <= set(row)
        assert (pairs.parent / row["chosen"]).is_file(), "as seen from the file"
        assert (pairs.parent / row["rejected"]).is_file()
    assert main(["rank", str(run), "--who", "Ben", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["judgements"] == 1
    assert main(["rank", str(run), "--who", "Cleo"]) == 2
    assert "Ada, Ben" in capsys.readouterr().err
    assert main(["rank", str(run), "--out", "ranking.txt"]) == 2


def test_keep_by_what_people_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keep", str(run), "2", "--judged"]) == 2
    assert "Nobody has judged" in capsys.readouterr().err
    judge(run, [7, 1, 5, 3, 0])
    assert main(["keep", str(run), "2", "--judged", "--weight", "100", "--floor", "none"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == ["7", "1"]
    assert "mean judged strength" in err
    assert "mean judged strength" in write_report(run).read_text()
    marks.add(run, 5, "star", "1")
    marks.add(run, 3, "star", "1")
    result = Result(run)
    assert [shot.index for shot in result.starred] == [3, 5]
    assert [shot.index for shot in result.keep(1, starred=True, judged=True, weight=100.0)] == [5]
    assert list(result.judged()["candidate"]) == [7, 1, 5, 3, 0]
    assert len(result.preferences()) == 10


def test_score_shows_what_people_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright = [c.index for c in View.read(run).ranked]
    judge(run, bright[:5])
    assert main(["score", str(run), "--reward", "brightness", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "Rank correlation with what people said about 5 of these pictures: +1.000." in err
    known = [row for row in json.loads(out)["pictures"] if row[JUDGED] is not None]
    assert len(known) == 5
    table = fairlead.score(run, "brightness")
    assert int(table[JUDGED].notna().sum()) == 5


def test_people_are_held_out(run: Path) -> None:
    """One who prefers the plain sample to the winner, again and again, flags the reward; one answer does not."""
    view = View.read(run)
    assert view.best is not None
    assert view.baseline is not None
    assert held(view) == []
    judge(run, [view.baseline.index, view.best.index])
    once = View.read(run)
    assert [(h.name, h.what, h.fell) for h in held(once)] == [(JUDGED, "judged", False)]
    assert held(once)[0].before > held(once)[0].after
    judge(run, [view.baseline.index, view.best.index], rounds=8)
    assert hacked(View.read(run))
    assert "Reward hacking is likely" in write_report(run).read_text()


PLAN = """
model = "mixture"
reward = "brightness"
budget = "nfe=24"
steps = 2
batch = 2
prompts = ["one", "two"]
[methods.random]
search = "best_of"
[methods.zero_order]
search = "zero_order(neighbours=2)"
"""


def test_a_comparison_has_a_column_of_what_people_said(tmp_path: Path) -> None:
    small = plan.parse(PLAN, "small", Path())
    out = tmp_path / "out"
    comparison.run(small, out)
    assert JUDGED not in ComparisonResults.read(small, out).metrics
    for cell in small.cells():
        view = View.read(out / cell.folder)
        best = view.ranked[0].index
        other = view.ranked[-1].index
        judge(out / cell.folder, [best, other] if cell.method == "random" else [other, best])
    found = ComparisonResults.read(small, out)
    assert found.metrics[-1] == JUDGED
    values = {line.method: line.values[JUDGED].value for line in found.lines}
    assert values["random"] > 0 > values["zero_order"]
