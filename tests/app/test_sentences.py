"""What people see: warnings come first, waiting is not failing, and every mistake has its sentence."""

from __future__ import annotations

import errno
import io
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fairlead
from fairlead.app.cli import main
from fairlead.app.report import write_report
from fairlead.app.summary import print_summary
from fairlead.core.algebra import minimum
from fairlead.core.errors import FairleadError, RewardError, StoreError
from fairlead.core.function import Function
from fairlead.run import engine, hub, models
from fairlead.run.formula import parse_part
from fairlead.run.records import StopReason
from fairlead.run.spec import make_spec
from fairlead.run.store import write_atomically
from fairlead.run.view import View
from fairlead.testing.runs import small_spec

GREEN = "\x1b[1;32m"
"""A gain without a doubt."""


def test_unanswered_is_not_failed(make_run: Callable[..., Path]) -> None:
    waiting = make_run([0.5, math.nan], status="stopped", stopped=StopReason.WAITING)
    page = write_report(waiting).read_text()
    assert "(1 unanswered)" in page
    assert "1 failed" not in page
    assert ">failed<" not in page
    assert not re.search(r'class="card[^"]*failed', page), "nor does it look like it"
    assert "got no number" not in page
    broken = write_report(make_run([0.5, math.nan])).read_text()
    assert "1 failed" in broken
    assert re.search(r'class="card[^"]*failed', broken)
    assert "(1 unanswered)" not in broken


def test_a_warning_leads(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(baseline=0.1, warnings='["pocket does not know zebra."]')
    page = write_report(run).read_text()
    assert page.index("does not know zebra") < page.index('id="winner"')
    assert 'class="gain num none">+0.7000' in page, "the gain is not praised"
    assert 'class="gain num ">+0.7000' in write_report(make_run(baseline=0.1)).read_text()
    console = Console(width=120, file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False)
    print_summary(console, View.read(run), run / "report.html")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "warning" in said.splitlines()[0]
    assert GREEN not in said
    run = make_run(baseline=0.1)
    print_summary(console, View.read(run), run / "report.html")
    assert GREEN in console.file.getvalue()  # type: ignore[attr-defined]


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
        ({"prompt": "a dog", "search": object()}, "search is <object"),
    ],
)
def test_objects_of_the_wrong_kind(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        make_spec(**words)


def test_a_function_in_a_formula() -> None:
    from fairlead.rewards.brightness import Brightness

    def red(images: Any, prompts: Any) -> Any:
        return images[:, 0].mean((1, 2))

    made: Any = Brightness() + red
    assert made.labels() == ["brightness", "red"]
    total, _ = made(torch.full((2, 3, 4, 4), 0.5), ["", ""])
    assert total.tolist() == pytest.approx([1.0, 1.0])
    assert minimum(Brightness(), red).labels() == ["brightness", "red"]
    with pytest.raises(RewardError, match="'clip_score' is text inside a formula"):
        Brightness() + "clip_score"  # type: ignore[operator]
    with pytest.raises(RewardError, match=r"'Brightness' is a class.*Brightness\(\)"):
        Function(Brightness)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"steer": object()}, "steer is <object"),
        ({"intervene": [3]}, "intervene is 3: must be a name"),
        ({"budget": 3}, "budget must be text or a mapping, but is 3"),
        ({"budget": {"nfe": "many"}}, "budget.nfe is 'many'"),
        ({"settings": {"best_of": 3}}, "settings are {'best_of': 3}"),
        ({"settings": 3}, "settings are 3"),
        ({"watch": print}, "a run watches rewards by name"),
    ],
)
def test_options_of_the_wrong_kind(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FairleadError, match=said):
        make_spec("a dog", **words)


def test_a_call_without_a_prompt_says_what_is_missing() -> None:
    with pytest.raises(FairleadError, match=r"^The prompt '' is empty: write what the picture should show\.$"):
        fairlead.run(model="pocket")


@pytest.mark.parametrize(("reward", "unit"), [("clip_score", "100 × cosine"), ("clip_score(scale='cosine')", "cosine")])
def test_the_meaning_of_a_reward_is_declared_once_and_shown_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reward: str, unit: str
) -> None:
    """The reward's own words, for the settings it was run with, in the summary, on the axes, in the tile and table."""
    out = tmp_path / "run"
    words = ["run", "a dog", "--model", "pocket-turbo", "--budget", "nfe=8", "--watch", "jpeg_size", "--out", str(out)]
    assert main([*words, "--reward", reward]) == 0
    meaning = re.compile(rf"(?<![\w×] ){unit} of picture and prompt, -\d+ to \d+")
    assert meaning.search(capsys.readouterr().out)
    page = (out / "report.html").read_text()
    assert len(meaning.findall(page)) == 6, "two axes, the tile, the term, the total and what it means"
    assert "kB as JPEG" in page, "of the watched reward"
    assert View.read(out).units[""] == meaning.search(page)[0]  # type: ignore[index]


def test_a_full_disk_names_the_run_and_not_its_folder_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "images").mkdir(parents=True)
    (tmp_path / "pages").mkdir()
    (run / "run.sqlite").touch()
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(StoreError, match=rf"is full. Free some space, then continue with 'fairlead resume {run}'\.$"):
        write_atomically(run / "images" / "x.png", b"")
    with pytest.raises(StoreError, match=r"is full. Free some space, then run the command again\.$"):
        write_atomically(tmp_path / "pages" / "x.html", b"")


def test_offline_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub alone tries six times, with pauses of 1 to 8 seconds."""
    from huggingface_hub import get_session

    asked = []

    class ConnectError(Exception):
        pass

    def send(*request: Any, **words: Any) -> Any:
        asked.append(request)
        raise ConnectError("no network")

    monkeypatch.setattr(get_session(), "send", send)
    hub.fail_fast.cache_clear()
    began = time.monotonic()
    with pytest.raises(FairleadError, match="not in the local cache and the hub cannot be reached"):
        hub.fetch("nobody/no-such-model", "model_index.json")
    assert sum("no-such-model" in str(request) for request in asked) == 1
    assert time.monotonic() - began < 1
    hub.fail_fast.cache_clear()


def test_a_budget_that_is_too_small_names_settings_that_fit(tmp_path: Path) -> None:
    """What is recommended is tried: it fits the budget, and the settings that were chosen stay."""
    spec = small_spec(steer="demon(beta=0.2)", budget={"nfe": 150})
    with pytest.raises(FairleadError, match=r'or --steer "(demon\(beta=0.2, .*\))"\.$') as error:
        engine.start(spec, tmp_path / "run")
    fitting = parse_part(re.search(r'--steer "(.*)"', str(error.value))[1], "steerings")  # type: ignore[index]
    engine.start(replace(spec, steering=(fitting,), budget={"nfe": 150}), tmp_path / "fits").close()
    assert View.read(tmp_path / "fits").candidates
    with pytest.raises(FairleadError, match="or a cheaper --steer"):
        engine.start(replace(spec, budget={"nfe": 3}), tmp_path / "run")
