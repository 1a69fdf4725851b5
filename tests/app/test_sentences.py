"""What people see: warnings come first, waiting is not failing, and every mistake has its sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.app.cli import main
from fairlead.app.console import stdout
from fairlead.app.report import _lines, write_report
from fairlead.app.summary import summary
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, RewardError
from fairlead.run import models
from fairlead.run.records import StopReason
from fairlead.run.spec import make_spec
from fairlead.run.view import Point, View


def test_unanswered_is_not_failed(make_run: Callable[..., Path]) -> None:
    waiting = make_run([0.5, math.nan], status="stopped", stopped=StopReason.WAITING)
    page = write_report(waiting).read_text()
    assert "(1 unanswered)" in page
    assert "1 failed" not in page
    assert ">failed<" not in page
    assert "got no number" not in page
    broken = write_report(make_run([0.5, math.nan])).read_text()
    assert "1 failed" in broken
    assert "(1 unanswered)" not in broken


def test_a_warning_leads(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(baseline=0.1, warnings='["pocket does not know zebra."]')
    page = write_report(run).read_text()
    assert page.index("does not know zebra") < page.index('id="winner"')
    table = summary(View.read(run), run / "report.html")
    stdout().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning")
    assert not any("green" in str(cell.style) for cell in table.columns[1]._cells[1].spans)  # type: ignore[union-attr]


def test_punctuation_is_no_word() -> None:
    assert not models.warnings(make_spec("a red apple, and a blue bear."))
    assert "'🍎'" in models.warnings(make_spec("a red apple, 🍎"))[0]


def test_bare_fairlead_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    assert "Usage: fairlead" in said.out
    assert said.err == ""


def test_far_names_are_not_suggested() -> None:
    with pytest.raises(FairleadError) as error:
        make_spec("a dog", reward="nice")
    assert "Did you mean" not in str(error.value)
    with pytest.raises(FairleadError, match="Did you mean 'brightness'"):
        make_spec("a dog", reward="brightnes")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"prompt": ["a dog", "a cat"]}, "prompt must be one text"),
        ({"prompt": "a dog", "search": object()}, "searches must be named, but <object"),
    ],
)
def test_objects_of_the_wrong_kind(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        make_spec(**words)


def test_a_function_in_a_formula() -> None:
    from fairlead.rewards.brightness import Brightness

    with pytest.raises(RewardError, match=r"made of rewards and numbers, but <function.*Function\(f\)"):
        Brightness() + (lambda images, prompts: images.mean((1, 2, 3)))  # type: ignore[operator]


def test_drafts_have_a_line_of_their_own() -> None:
    """A final picture is no step down of the best draft."""
    drafts = [Point(at(i), Cost(nfe=i + 1), best) for i, best in enumerate([0.5, 0.9])]
    finals = [Point(at(2, rung=1), Cost(nfe=10), 0.6)]
    view: Any = SimpleNamespace(spec=SimpleNamespace(rungs=("few(4)",)), spent=Cost(nfe=10))
    first, second = _lines(view, drafts + finals, "nfe")
    assert (first.label, first.steps, first.end) == ("best draft so far: 4 evaluations", [(1, 0.5), (2, 0.9)], 2.0)
    assert (second.label, second.steps, second.end) == ("best finished so far", [(10, 0.6)], 10.0)
    view.spec.rungs = ()
    assert [line.label for line in _lines(view, drafts, "nfe")] == ["best so far"]


def at(index: int, rung: int = 0) -> Any:
    return SimpleNamespace(index=index, rung=rung)
