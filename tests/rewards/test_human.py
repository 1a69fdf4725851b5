"""A person as the judge: questions wait in the record, answers come from anywhere, and runs go on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.core.people import Question
from fairlead.rewards.human import Human
from fairlead.run import engine
from fairlead.run.question_store import QuestionStore
from fairlead.run.store import Store

RUN = ["run", "a dog", "-m", "mixture", "--steps", "5", "--batch", "4"]


def brightest(folder: Path) -> dict[str, float]:
    return {Path(c.image).stem: c.terms["brightness"] for c in Store.open(folder).candidates()}


def test_questions_read_answers() -> None:
    pick, pair = Question("pick", "", ("a", "b", "c")), Question("pair", "", ("a", "b"))
    assert [pick.read(t) for t in ("1,3", "3 1 1", "none", "0")] == [(0, 2), (0, 2), (), ()]
    assert [pair.read(t) for t in ("1", "2", "tie")] == [(0,), (1,), ()]
    for question, wrong in ((pick, "4"), (pick, "good"), (pair, "1,2"), (pick, "-1")):
        with pytest.raises(ValueError, match=r"is not a list|names both"):
            question.read(wrong)
    assert pick.name != Question("pick", "", ("a", "c", "b")).name


def test_pairwise_scores_follow_the_best_so_far() -> None:
    order = {"a": 1, "b": 3, "c": 2, "d": 5, "e": 5, "f": 4}
    asked: list[tuple[str, ...]] = []

    def ask(question: Question) -> tuple[int, ...]:
        asked.append(question.pictures)
        first, second = (order[p] for p in question.pictures)
        return () if first == second else (0,) if first > second else (1,)

    assert Human("pairwise").decide([["a", "b", "c"], ["d", "d", "e", "f"]], "p", ask) == [[0, 1, 0.5], [2, 2, 2, 1.5]]
    assert asked == [("a", "b"), ("b", "c"), ("b", "d"), ("d", "e"), ("d", "f")]


def test_a_run_waits_is_answered_from_outside_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = [*RUN, "--reward", "human(k=4) + 0*brightness", "--budget", "nfe=40", "--out", str(out)]
    assert main(words) == 130
    told = capsys.readouterr()
    assert "fairlead answer" in told.err
    other = fairlead.run("a dog", model="mixture", reward="brightness", steps=5, budget={"nfe": 20})
    assert other.stopped.startswith("budget")
    for _ in range(2):
        assert main(["answer", str(out), "--list", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["questions"]
        waiting = [q for q in listed if q["answer"] is None]
        assert len(waiting) == 1
        assert all(Path(p).is_file() for p in waiting[0]["pictures"])
        values = brightest(out)
        best = max(range(4), key=lambda i: values[Path(waiting[0]["pictures"][i]).stem]) + 1
        assert main(["answer", str(out), "--give", f"{waiting[0]['name']}={best}"]) == 0
        spent = Store.open(out).spent().nfe
        code = main(["resume", str(out)])
        capsys.readouterr()
    assert code == 0
    assert spent == 40
    found = Store.open(out).candidates()
    assert [c.reward for c in found].count(1.0) == 2
    assert sum(c.terms["human"] for c in found) == 2
    best_found = Store.open(out).best()
    assert best_found is not None
    assert engine.replay(out, best_found.index).identical


def test_a_run_is_answered_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert main([*RUN, "--reward", "human(mode='pairwise')", "--budget", "nfe=25", "--out", str(out)]) == 130
    monkeypatch.setattr("sys.stdin", io.StringIO("2\nwhat\ntie\n\n"))
    assert main(["answer", str(out)]) == 130
    said = capsys.readouterr().err
    assert "'what' is not a list of numbers" in said
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n"))
    assert main(["answer", str(out)]) == 0
    assert [c.reward for c in Store.open(out).candidates()] == [0.0, 1.0, 1.0, 0.5, 2.0]
    assert not QuestionStore(out).pending()
    assert main(["answer", str(out)]) == 0
    assert "No question is open" in capsys.readouterr().err


def test_wrong_answers_and_wrong_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    main([*RUN, "--reward", "human", "--budget", "nfe=20", "--out", str(out)])
    name = QuestionStore(out).pending()[0].name
    capsys.readouterr()
    for give, said in ((f"{name}=9", "from 1 to 4"), ("nothing=1", "no question"), ("1", "NAME=ANSWER")):
        assert main(["answer", str(out), "--give", give]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(FairleadError, match=r"in \[2, 36\]"):
        Human(k=1)
    with pytest.raises(FairleadError, match="asks a person"):
        fairlead.run("a dog", model="mixture", reward="brightness", watch="human", steps=5, budget={"nfe": 20})
    assert main(["score", str(out), "--reward", "human"]) == 2
    assert "only a run can" in capsys.readouterr().err


def test_the_record_says_that_it_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    main([*RUN, "--reward", "human", "--budget", "nfe=20", "--out", str(out), "--json"])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["stopped"] == "waiting for an answer"
    assert data["best"] is None
    assert (out / "report.html").is_file()


def test_of_two_answers_the_first_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where one of the two people sits at a terminal while the other one answers in a browser."""
    out = tmp_path / "run"
    main([*RUN, "--reward", "human", "--budget", "nfe=20", "--out", str(out)])
    store = QuestionStore(out)
    question = store.pending()[0]
    assert store.answer_if_open(question.name, "1,3") is None
    assert store.answer_if_open(question.name, "2") == "1,3"
    assert store.answer_to(question) == "1,3"
    with pytest.raises(FairleadError, match="no question"):
        store.answer_if_open("nothing", "1")

    def slow(asked: Question) -> str:
        assert QuestionStore(out).answer_if_open(asked.name, "4") is None
        return "1"

    other = Question("pick", "another", question.pictures)
    with pytest.warns(UserWarning, match=r"answered elsewhere first: '4' holds, not '1'"):
        assert QuestionStore(out, slow).ask(other) == (3,)
