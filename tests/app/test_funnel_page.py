"""What the report says about rungs and the final judge: how many entered and survived, and who met whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairlead.app import choice, funnel
from fairlead.app.report import write_report
from fairlead.app.words import rung_words
from fairlead.run import engine
from fairlead.run.spec import make_spec
from fairlead.run.view import View


def run(folder: Path, **more: Any) -> View:
    words = {"model": "mixture", "reward": "brightness", "steps": 4, "batch": 3, "budget": {"nfe": 60.0}, **more}
    engine.start(make_spec("a dog", **words), folder).close()
    return View.read(folder)


def test_the_funnel_counts_what_entered_went_on_and_was_spent(tmp_path: Path) -> None:
    view = run(tmp_path / "run", draft=2, finals=3)
    found = funnel.section(view)
    assert found is not None
    drafts, finished = found["columns"]
    many = sum(c.refines is None for c in view.candidates)
    assert (drafts["entered"], drafts["advanced"], finished["entered"], finished["advanced"]) == (
        many,
        "3 went on",
        3,
        "",
    )
    assert drafts["name"] == "2 evaluations"
    assert dict(drafts["facts"])["one costs"] == "0.50 of a picture"
    spent = [int(dict(column["facts"])["all cost"].partition(" ")[0]) for column in found["columns"]]
    assert spent == [2 * many, 12]
    assert found["words"].endswith(f"A plain best_of of equal cost would have been {(2 * many + 12) // 4} pictures.")
    assert view.best is not None
    assert [step["css"] for step in found["winner"]] == ["", "win"]
    assert [card["css"] for card in finished["strip"]].count("win") == 1
    text = write_report(tmp_path / "run").read_text()
    for part in ('id="funnel"', 'id="lineage"', "best draft so far: 2 evaluations", "best finished so far"):
        assert part in text


def test_a_run_without_drafts_has_no_funnel(tmp_path: Path) -> None:
    view = run(tmp_path / "run")
    assert funnel.section(view) is None
    assert funnel.knockout(view) is None
    assert choice.sentence(view) == choice.flat(view) == ""
    text = write_report(tmp_path / "run").read_text()
    assert 'id="funnel"' not in text
    assert "best finished so far" not in text


def test_the_knockout_shows_who_met_whom(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, final_judge="human", entrants=3)
    engine.resume(folder, person=lambda question: "1").close()
    view = View.read(folder)
    found = funnel.knockout(view)
    assert found is not None
    assert [part["name"] for part in found["rounds"]] == ["round 1", "final"]
    assert [[sum(s["css"] == "win" for s in p["sides"]) for p in part["pairs"]] for part in found["rounds"]] == [
        [1],
        [1],
    ]
    assert "human" in choice.sentence(view)
    assert 'id="knockout"' in write_report(folder).read_text()


def test_equal_rewards_are_called_flat(tmp_path: Path) -> None:
    view = run(tmp_path / "run", reward="0*brightness")
    assert choice.flat(view) == "Flat: any of these. All 15 finished pictures have the same reward."
    assert "Flat: any of these" in write_report(tmp_path / "run").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("few(6)", "6 evaluations"),
        ("even(8)", "8 even steps"),
        ("by(pocket-turbo,4)", "pocket-turbo in 4 steps"),
        ("by(pocket-turbo,4,after=3)", "pocket-turbo after 3 steps"),
        ("peek(8)", "the first 8 steps"),
        ("picture", "picture"),
    ],
)
def test_a_rung_in_words(name: str, words: str) -> None:
    assert rung_words(name) == words
