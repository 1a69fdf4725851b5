"""What the report says besides the numbers: what they mean, what to try next, and what people marked."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.app import advice
from fairlead.app.report import write_report
from fairlead.app.result import Result
from fairlead.app.words import count, number
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, marks
from fairlead.run.part import Part
from fairlead.run.spec import parse_reward
from fairlead.run.view import View
from fairlead.testing.runs import small_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("advice") / "run"
    engine.start(small_spec(budget={"nfe": 80}), made).close()
    return made


def with_rewards(view: View, rewards: list[float], **spec: Any) -> View:
    """The run as if its candidates had these rewards."""
    candidates = tuple(replace(c, reward=r) for c, r in zip(view.candidates, rewards, strict=False))
    best = max(candidates, key=lambda c: c.reward)
    return replace(view, candidates=candidates, best=best, baseline=candidates[0], spec=replace(view.spec, **spec))


def lines(view: View) -> list[list[str]]:
    return [shlex.split(line) for _, line in advice.next_steps(view)]


def test_a_best_one_near_the_end_asks_for_more_and_an_early_one_for_another_method(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    engine.start(small_spec(budget={"nfe": 80}), folder).close()
    view = View.read(folder)
    many = len(view.candidates)
    rising = with_rewards(view, [float(i) for i in range(many)])
    assert ["fairlead", "resume", str(folder), "--budget", "nfe=160"] in lines(rising)
    falling = with_rewards(view, [1.0, 9.0, *([0.0] * (many - 2))])
    assert sum("zero_order" in words for words in lines(falling)) == 1
    assert not any(words[1] == "resume" for words in lines(falling))
    other = with_rewards(view, [1.0, 9.0, *([0.0] * (many - 2))], search=Part("evolution"))
    assert not any("zero_order" in words for words in lines(other))


def test_a_second_opinion_is_proposed_once(folder: Path) -> None:
    view = with_rewards(View.read(folder), [0.0, 1.0] * 10)
    assert "see whether aesthetic agrees" in " ".join(why for why, _ in advice.next_steps(view))
    watched = replace(view, spec=replace(view.spec, watch=(parse_reward("jpeg_size"),)))
    assert "agrees" not in " ".join(why for why, _ in advice.next_steps(watched))


def test_a_number_is_explained_by_its_unit_and_by_the_spread_of_the_run(folder: Path) -> None:
    view = with_rewards(View.read(folder), [0.0, 1.0, 2.0, 3.0, 4.0, 2.0] * 3)
    said = " ".join(advice.meaning(view))
    assert f"brightness: {view.unit}." in said
    assert view.spread is not None
    assert f"the gain of {number(view.gain)} is {count(round(view.gain / view.spread, 1))} of them" in said
    assert "raises the number of the winner" in said
    assert "standard deviation" not in " ".join(advice.meaning(with_rewards(view, [1.0] * 18)))


def test_every_proposed_command_can_be_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fairlead.app.cli import main

    view = View.read(folder)
    for words in [*lines(view), *(shlex.split(line) for _, line in advice.commands(view))]:
        more = "--dry-run" if words[1] == "run" else "--help"
        assert main([*words[1:], more]) == 0, words


def test_marks_are_in_the_report_and_in_python(folder: Path) -> None:
    result = Result(folder)
    assert (result.marks, result.starred) == ({}, [])
    assert 'id="starred"' not in write_report(folder).read_text()
    result.mark(3, "star")
    result.mark(4, "star")
    result.mark(4, "star", "")
    result.mark(5, "note", "<b>sharp</b> eyes", who="Ada")
    result.mark(6, "reject")
    assert [shot.index for shot in result.starred] == [3]
    assert result.marks == {3: {"star": "1"}, 5: {"note": "<b>sharp</b> eyes"}, 6: {"reject": "1"}}
    assert marks.starred(folder) == [3]
    page = write_report(folder).read_text()
    shown = page.partition('id="starred"')[2].partition("</section>")[0]
    assert shown.count("<figure") == 2
    assert shown.count("★") == 1
    assert "&lt;b&gt;sharp&lt;/b&gt; eyes" in shown
    assert "<b>sharp" not in page
    assert 'class="card rejected' in page or " rejected" in page
    with pytest.raises(FairleadError, match="Did you mean 'star'"):
        result.mark(3, "stars")
    with pytest.raises(StoreError, match="no candidate 999"):
        result.mark(999, "star")


def test_the_report_has_a_slider_where_there_are_two_pictures(folder: Path) -> None:
    page = write_report(folder).read_text()
    assert page.count('class="slide"') == 1
    for id in ("meaning", "next"):
        assert page.count(f'id="{id}"') == 1
