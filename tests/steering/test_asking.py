"""A person inside the loop: previews of every asked step on a sheet, the run waits, survives and can be finished."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.core.people import Question
from fairlead.rewards.human import Human
from fairlead.run import engine
from fairlead.run.executor import Local
from fairlead.run.png import read
from fairlead.run.question_store import QuestionStore
from fairlead.run.records import StopReason
from fairlead.run.store import Store
from fairlead.testing.runs import answers, small_spec

WORDS: dict[str, Any] = {
    "reward": "human",
    "steer": "demon",
    "batch": 1,
    "steps": 8,
    "settings": {"demon": {"k": 5, "estimate": "clean", "stop": 5.0, "tail": 2}},
}


def spec(**more: Any) -> Any:
    """One candidate of 2 asked steps beside its baseline."""
    made = small_spec(**{**WORDS, **more})
    unit = Local(made).price()[1].nfe
    return small_spec(**{**WORDS, **more, "budget": {"nfe": made.steps + unit}})


def chooser(folder: Path, answer: Callable[[Question, list[float]], str]) -> Callable[[Question], str]:
    """Answers by the brightness of what is shown."""

    def person(question: Question) -> str:
        shots = [(folder / "images" / f"{name}.png").read_bytes() for name in question.pictures]
        return answer(question, [float(read(shot)[0].mean()) for shot in shots])

    return person


def brightest(question: Question, values: list[float]) -> str:
    if question.kind != "steer":
        return "none"
    order = sorted(range(len(values)), key=lambda i: values[i])
    return f"{order[-1] + 1},-{order[0] + 1}"


def test_likes_and_dislikes_are_read() -> None:
    q = Question("steer", "", ("a", "b", "c"))
    assert [q.read(t) for t in ("1,-3", "none", "-2 -1", "finish")] == [(~2, 0), (), (~1, ~0), ()]
    assert [q.ends(t) for t in ("finish", "none")] == [True, False]
    for wrong, said in (
        ("4", "from 1 to 3"),
        ("-4", "from 1 to 3"),
        ("--1", "from 1"),
        ("2,-2", "both"),
        ("done", "finish"),
    ):
        with pytest.raises(ValueError, match=said):
            q.read(wrong)
    assert not Question("pick", "", ("a",)).ends("finish")
    assert Human().choose(["a", "b", "c"], "p", lambda q: (~2, 0)) == [1, 0, -1]


def test_a_run_waits_survives_and_is_what_it_would_have_been(tmp_path: Path) -> None:
    """Answered at once, or one answer a process: the same pictures; what was answered is not asked again."""
    made = spec()
    engine.start(made, tmp_path / "a").close()
    whole = engine.resume(tmp_path / "a", person=chooser(tmp_path / "a", brightest))
    assert whole.status == "finished"
    asked = [p.question for p in QuestionStore(tmp_path / "a").questions()]
    assert [q.kind for q in asked] == ["pick", "steer", "steer", "pick"], "the baseline, two steps, the end"
    b = tmp_path / "b"
    store = engine.start(made, b)
    rounds = 0
    while store.status != "finished":
        assert store.stopped == StopReason.WAITING
        (waiting,) = QuestionStore(b).pending()
        QuestionStore(b).answer(waiting.name, chooser(b, brightest)(waiting))
        store, rounds = engine.resume(b), rounds + 1
    assert rounds == 4
    assert answers(store) == answers(whole)
    assert store.spent().nfe == whole.spent().nfe == made.budget["nfe"], "counted work is charged for answers only"
    assert [p.question for p in QuestionStore(b).questions()] == asked
    assert engine.replay(b, 0).identical


def test_what_is_liked_decides(tmp_path: Path) -> None:
    def darkest(question: Question, values: list[float]) -> str:
        return brightest(question, [-v for v in values])

    found = []
    for name, answer in (("up", brightest), ("down", darkest)):
        folder = tmp_path / name
        engine.start(spec(reward="human + 0*brightness"), folder).close()
        store = engine.resume(folder, person=chooser(folder, answer))
        found.append(store.candidates()[0].terms["brightness"])
    assert found[0] > found[1] + 0.02


def test_enough_is_the_ode_from_there(tmp_path: Path) -> None:
    """Finished at the first question, a sample is that of no demon step at all; it costs less than its price."""
    folder = tmp_path / "run"
    made = spec()
    engine.start(made, folder).close()
    store = engine.resume(folder, person=lambda q: "finish" if q.kind == "steer" else "none")
    assert [p.question.kind for p in QuestionStore(folder).questions()] == ["pick", "steer", "pick"]
    settings = {"demon": {**WORDS["settings"]["demon"], "beta": 0.0}}
    plain = engine.start(small_spec(**{**WORDS, "reward": "brightness", "settings": settings}), tmp_path / "plain")
    shots = [(s.folder / s.candidates()[0].image).read_bytes() for s in (store, plain)]
    assert abs(read(shots[0])[0].astype(int) - read(shots[1])[0].astype(int)).max() <= 1
    assert store.spent().nfe < made.budget["nfe"]
    assert engine.replay(folder, 0).identical


def test_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    sets = [f"demon.{k}={v}" for k, v in WORDS["settings"]["demon"].items()]
    words = ["run", "a dog", "-m", "mixture", "--steps", "8", "--batch", "1", "--reward", "human", "--steer", "demon"]
    words += [word for s in sets for word in ("--set", s)]
    assert main([*words, "--budget", f"nfe={spec().budget['nfe']}", "--out", str(out)]) == 130
    monkeypatch.setattr("sys.stdin", io.StringIO("none\nperhaps\n1 -2\n"))
    assert main(["answer", str(out)]) == 130
    said = capsys.readouterr().err
    assert "'perhaps' is not a list of numbers" in said
    assert "or finish" in said
    assert main(["answer", str(out), "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["questions"]
    assert [q["answer"] for q in listed] == ["none", "1 -2", None]
    assert listed[0]["sheet"] is None
    with Image.open(listed[2]["sheet"]) as sheet:
        assert sheet.size == (800, 400), "five numbered tiles in rows of four"
    assert all(Path(p).is_file() for p in listed[2]["pictures"])
    assert main(["answer", str(out), "--finish"]) == 0
    assert Store.open(out).status == "finished"
    assert not QuestionStore(out).pending()


def test_waiting_spends_no_seconds(tmp_path: Path) -> None:
    import time

    folder = tmp_path / "run"
    engine.start(spec(), folder).close()

    def slow(question: Question) -> str:
        time.sleep(0.4)
        return "none"

    store = engine.resume(folder, person=slow)
    assert store.spent().seconds < 0.6


@pytest.mark.parametrize("steer", ["paths", "dfs"])
def test_steerings_that_cannot_ask_are_refused(steer: str) -> None:
    with pytest.raises(FairleadError, match=f"{steer} cannot ask while a picture is sampled"):
        fairlead.run("a dog", model="mixture", reward="human", steer=["demon", steer], steps=4, budget={"nfe": 400})
