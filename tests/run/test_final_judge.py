"""A judge that compares two pictures chooses the winner: what it is asked, what it costs, how it is continued."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.people import Pending, Question
from fairlead.core.reward import FinalJudge
from fairlead.run import engine, final_judge, registry
from fairlead.run.judge_afterwards import judge_afterwards
from fairlead.run.knockout import most_looks
from fairlead.run.price import price
from fairlead.run.question_store import QuestionStore
from fairlead.run.spec import Part, make_spec
from fairlead.run.view import View


class Taste(FinalJudge):
    """Prefers the darker picture, or the side that `always` names; `silent` gives so many unreadable answers first."""

    name = "taste"
    unit: ClassVar[str] = "none"
    licence: ClassVar[str] = "free"
    source: ClassVar[str] = "a test"
    asked: ClassVar[list[tuple[float, float]]] = []
    silent: ClassVar[int] = 0

    def __init__(self, always: str = "", dollars: float = 0.0) -> None:
        self._always = always
        self._dollars = dollars

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))

    def prefer(self, first: Tensor, second: Tensor, prompt: str) -> list[tuple[float, str]]:
        pairs = list(zip(first.mean(dim=(1, 2, 3)).tolist(), second.mean(dim=(1, 2, 3)).tolist(), strict=True))
        Taste.asked += pairs
        out = []
        for a, b in pairs:
            if Taste.silent:
                Taste.silent -= 1
                out.append((math.nan, "unreadable reply: hm"))
            elif self._always:
                out.append((float(self._always == "first"), ""))
            else:
                out.append((float(a < b), ""))
        return out

    def dollars_per_look(self, prompt: str) -> float:
        return self._dollars


@pytest.fixture(autouse=True)
def taste(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda kind, name: Taste if name == "taste" else known(kind, name))
    Taste.asked = []
    Taste.silent = 0


def options(judge: str | Part = "taste", **more: Any) -> dict[str, Any]:
    part = judge if isinstance(judge, Part) else Part(judge)
    words = {"model": "mixture", "reward": "brightness", "steps": 4, "batch": 3, "budget": {"nfe": 40.0}}
    return {**words, "final_judge": part, "entrants": 4, **more}


def run(folder: Path, judge: str | Part = "taste", **more: Any) -> View:
    engine.start(make_spec("a dog", **options(judge, **more)), folder).close()
    return View.read(folder)


def by_reward(view: View) -> list[int]:
    return [c.index for c in sorted(view.candidates, key=lambda c: (-c.reward, c.index))]


def test_the_judge_chooses_among_the_best_by_reward(tmp_path: Path, taste: None) -> None:
    """Of the four brightest, the judge prefers the darkest."""
    view = run(tmp_path / "run")
    assert view.judging is not None
    assert [c.index for c in view.judging.entrants] == by_reward(view)[:4]
    assert view.best is not None
    assert view.best.index == by_reward(view)[3]
    assert (tmp_path / "run" / "best.png").read_bytes() == view.picture(view.best).read_bytes()
    assert view.judging.finished
    assert view.judging.answered == len(Taste.asked) == view.spent.questions == view.judging.cost.questions
    assert view.spent.questions <= most_looks(4, 2)


@pytest.mark.parametrize("side", ["first", "second"])
def test_a_judge_that_looks_at_the_side_only_keeps_the_best_reward(side: str, tmp_path: Path) -> None:
    view = run(tmp_path / "run", Part("taste", {"always": side}))
    assert view.best is not None
    assert view.best.index == by_reward(view)[0]


def test_with_drafts_only_finished_pictures_enter(tmp_path: Path, taste: None) -> None:
    view = run(tmp_path / "run", draft=2, finals=3, budget={"nfe": 60.0})
    assert view.judging is not None
    assert len(view.judging.entrants) == 3
    assert all(c.refines is not None for c in view.judging.entrants)
    assert view.best is not None
    assert view.best.reward == min(c.reward for c in view.judging.entrants)


@pytest.mark.parametrize("questions", [1, 2, 3, 4, 5, 6, 7])
def test_the_budget_of_questions_holds(questions: int, tmp_path: Path, taste: None) -> None:
    """Fewer entrants where the budget does not cover the questions of all of them at worst."""
    view = run(tmp_path / "run", budget={"nfe": 40.0, "questions": questions})
    assert len(Taste.asked) == view.spent.questions <= questions
    assert view.judging is not None
    assert len(view.judging.entrants) == min(4, questions // 2 + 1)
    assert view.judging.finished
    Taste.asked = []
    Taste.silent = 1
    unreadable = run(tmp_path / "again", budget={"nfe": 40.0, "questions": questions})
    assert len(Taste.asked) == unreadable.spent.questions <= questions
    assert unreadable.best is not None


def test_dollars_are_kept_for_the_judge(tmp_path: Path) -> None:
    judge = Part("taste", {"dollars": 0.1})
    view = run(tmp_path / "run", judge, budget={"nfe": 40.0, "dollars": 0.9})
    assert view.judging is not None
    assert len(view.judging.entrants) == 3, "two looks at each of two pairs, each asked twice at worst: 0.8 dollars"


def test_an_unreadable_answer_is_asked_again_and_then_refused(tmp_path: Path, taste: None) -> None:
    Taste.silent = 1
    view = run(tmp_path / "run")
    assert view.best is not None
    assert view.best.index == by_reward(view)[3]
    assert view.spent.questions == len(Taste.asked)
    Taste.silent = 1000
    with pytest.raises(RewardError, match=r"taste gave no readable answer about candidates \d+ and \d+ in 2 attempts"):
        run(tmp_path / "silent")
    Taste.silent = 0
    Taste.asked = []
    engine.resume(tmp_path / "silent").close()
    again = View.read(tmp_path / "silent")
    assert again.best is not None
    assert again.best.index == view.best.index


def test_a_killed_choice_asks_nothing_twice_and_replay_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    expected = list(Taste.asked)
    real = Taste.prefer
    for kill_at in range(3):
        Taste.asked = []
        rounds = iter(range(10))

        def killed(
            self: Taste, first: Tensor, second: Tensor, prompt: str, at: int = kill_at, left: Any = rounds
        ) -> list[tuple[float, str]]:
            if next(left) == at:
                raise KeyboardInterrupt
            return real(self, first, second, prompt)

        monkeypatch.setattr(Taste, "prefer", killed)
        folder = tmp_path / f"killed-{kill_at}"
        with pytest.raises(KeyboardInterrupt):
            run(folder)
        monkeypatch.setattr(Taste, "prefer", real)
        engine.resume(folder).close()
        assert Taste.asked == expected
        again = View.read(folder)
        assert again.best is not None
        assert whole.best is not None
        assert again.best.index == whole.best.index
    Taste.asked = []
    assert engine.replay(folder, again.best.index).identical
    assert engine.resume(folder).status == "finished"
    assert Taste.asked == []


def test_a_larger_budget_lets_new_pictures_enter(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    before = len(Taste.asked)
    engine.resume(tmp_path / "run", budget={"nfe": 80.0}).close()
    view = View.read(tmp_path / "run")
    assert view.judging is not None
    assert [c.index for c in view.judging.entrants] == by_reward(view)[:4]
    assert view.spent.questions == len(Taste.asked) >= before
    assert first.best is not None


def test_a_person_may_be_the_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    view = run(folder, "human")
    assert (view.status, view.stopped) == ("stopped", "waiting for an answer")
    assert view.best is not None
    assert view.best.index == by_reward(view)[0], "before an answer the best reward leads"
    brightness = {final_judge.name_of(c): c.reward for c in view.candidates}
    asked: list[Question] = []

    def darker(question: Question) -> str:
        asked.append(question)
        if len(asked) == 2:
            raise Pending(question)
        first, second = (brightness[name] for name in question.pictures)
        return "1" if first < second else "2"

    engine.resume(folder, person=darker).close()
    assert View.read(folder).status == "stopped"
    engine.resume(folder, person=darker).close()
    done = View.read(folder)
    assert done.status == "finished"
    assert done.best is not None
    assert done.best.index == by_reward(view)[3]
    assert done.spent.questions == 3
    assert asked[0].text == "Which of the two shows 'a dog' better?"
    assert not QuestionStore(folder).pending()


def test_it_is_priced_and_refused_before_the_first_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = price(make_spec("a dog", **options(Part("taste", {"dollars": 0.01}))))
    assert found.judging is not None
    assert (found.judging.entrants, found.judging.most, found.judging.expected) == (4, 6, 4.5)
    assert found.judging.dollars == pytest.approx(0.12)
    assert found.total.questions == 6
    assert Taste.asked == []
    for words, message in (
        ({"final_judge": "clip_score"}, "final_judge is 'clip_score', which scores pictures one by one"),
        ({"final_judge": None, "entrants": 3}, "entrants is 3 but final_judge is not set"),
        ({"looks": 3}, "looks is 3, but taste answers the same question alike"),
        ({"looks": 4}, r"looks is 4: must be a whole number in \[1, 3\]"),
        ({"final_judge": None, "entrants": None, "budget": "nfe=40,questions=3"}, "questions=3, which only a final"),
    ):
        with pytest.raises(FairleadError, match=message):
            fairlead.run("a dog", **{**options(), "out": tmp_path / "no", **words})
        assert not (tmp_path / "no").exists()


def test_python_plans_and_the_command_line_say_it_alike(tmp_path: Path) -> None:
    from fairlead.app.words import run_command
    from fairlead.bench.plan import parse

    judge = "pairwise_judge(model='x', base_url='http://localhost:1/v1', cache=False)"
    spec = make_spec("a dog", final_judge=judge, entrants=6, looks=2, until="clip_score>=86", stop="flat")
    assert spec == type(spec).from_json(spec.json())
    assert spec.until == "clip_score >= 86"
    text = run_command(spec, Path("run"))
    assert text is not None
    assert "--entrants 6 --looks 2 --until 'clip_score >= 86' --stop flat" in text
    plan = parse(
        'reward="clip_score"\nbudget="nfe=40"\nreference="a"\nprompts=["a dog"]\n[methods.a]\n'
        f'final_judge="{judge}"\nentrants=6\nlooks=2\nuntil="clip_score >= 86"\nstop="flat"\n',
        "plan",
        tmp_path,
    )
    found = plan.spec("a", "a dog", 0)
    assert (found.final_judge, found.entrants, found.until, found.stop) == (
        spec.final_judge,
        6,
        spec.until,
        spec.stop,
    )


def test_older_records_keep_their_names() -> None:
    spec = make_spec("a dog")
    assert not {"final_judge", "entrants", "looks", "until", "stop"} & set(json.loads(spec.json()))
    judged = make_spec("a dog", final_judge="human")
    assert judged.id() != spec.id()
    assert make_spec("a dog", until="reward > 1").id() == spec.id()


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["a dog", "-m", "mixture", "--reward", "brightness", "--steps", "4", "--budget", "nfe=40"]
    judged = [*line, "--final-judge", "human", "--entrants", "3"]
    assert main(["price", *judged]) == 0
    assert "questions" in capsys.readouterr().out
    assert main(["run", *judged, "--out", str(tmp_path / "run")]) == 130
    assert main(["answer", str(tmp_path / "run"), "--finish"]) == 0
    view = View.read(tmp_path / "run")
    assert view.judging is not None
    assert view.judging.flat
    assert "any of these" in (tmp_path / "run" / "report.html").read_text()


def test_a_finished_run_is_judged_afterwards_as_if_it_had_been_its_own_judge(taste: None, tmp_path: Path) -> None:
    """The same winner by the same answers, nothing asked twice, and a run that goes on forgets the choice."""
    more = options(budget={"nfe": 40.0})
    plain = {k: v for k, v in more.items() if k not in ("final_judge", "entrants")}
    engine.start(make_spec("a dog", **more), tmp_path / "own").close()
    own = View.read(tmp_path / "own")
    questions = len(Taste.asked)
    Taste.asked = []
    engine.start(make_spec("a dog", **plain), tmp_path / "after").close()
    assert View.read(tmp_path / "after").judging is None
    spent = View.read(tmp_path / "after").spent
    found = judge_afterwards(tmp_path / "after", Part("taste"), entrants=4)
    view = View.read(tmp_path / "after")
    assert len(Taste.asked) == questions > 0
    assert own.best is not None
    assert view.best is not None
    assert found.winner.index == view.best.index == own.best.index
    assert view.judging is not None
    assert view.judging.judge == "taste"
    assert view.spent.questions - spent.questions == questions
    png = view.folder / "best.png"
    assert png.read_bytes() == (view.folder / view.best.image).read_bytes()
    judge_afterwards(tmp_path / "after", Part("taste"), entrants=4)
    assert len(Taste.asked) == questions, "answers that the record has are not asked again"
    with pytest.raises(FairleadError, match=r"answers of taste with other settings"):
        judge_afterwards(tmp_path / "after", Part("taste", {"always": "first"}), entrants=4)
    engine.resume(tmp_path / "after", budget={"nfe": 60.0}).close()
    assert View.read(tmp_path / "after").judging is None, "more pictures: the best reward wins until it is judged again"


def test_judging_afterwards_keeps_to_its_budget_and_refuses_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {k: v for k, v in options().items() if k not in ("final_judge", "entrants")}
    engine.start(make_spec("a dog", **plain), tmp_path / "run").close()
    judge_afterwards(tmp_path / "run", Part("taste"), entrants=8, budget={"questions": 4.0})
    assert len(Taste.asked) <= 4
    with pytest.raises(FairleadError, match=r"brightness.*cannot compare two"):
        judge_afterwards(tmp_path / "run", Part("brightness"))
    engine.start(make_spec("a dog", **plain), tmp_path / "cut", stop=lambda: True).close()
    with pytest.raises(FairleadError, match="has not ended"):
        judge_afterwards(tmp_path / "cut", Part("taste"))
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n" * 20))
    assert main(["judge", str(tmp_path / "run"), "--judge", "human", "--entrants", "3"]) == 0
    assert "human" in capsys.readouterr().out
