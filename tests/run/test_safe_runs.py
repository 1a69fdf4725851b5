"""Runs that would never end, end with nothing, or execute what a stored run names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.app import cli
from fairlead.app.words import run_command
from fairlead.core import trust
from fairlead.core.errors import FairleadError
from fairlead.run import engine, formula
from fairlead.run.price import price
from fairlead.run.spec import MOST, Spec, make_spec, parse_settings
from fairlead.run.store import Store
from fairlead.testing.runs import after, small_spec


@pytest.mark.parametrize("budget", [{"backwards": 1.0}, {"dollars": 1.0}, {"backwards": 1.0, "dollars": 2.0}])
def test_a_budget_that_nothing_spends_is_refused(budget: dict[str, float], tmp_path: Path) -> None:
    """Such a run would never end."""
    spec = small_spec(budget=budget)
    with pytest.raises(FairleadError, match="would never end"):
        engine.start(spec, tmp_path / "run")
    with pytest.raises(FairleadError, match="would never end"):
        price(spec)
    engine.start(small_spec(), tmp_path / "other", stop=after(2)).close()
    with pytest.raises(FairleadError, match="would never end"):
        engine.resume(tmp_path / "other", budget=budget)
    assert Store.open(tmp_path / "other").spec.budget == {"nfe": 40}


@pytest.mark.parametrize("name", MOST)
def test_sizes_have_upper_bounds(name: str) -> None:
    words: dict[str, Any] = {name: MOST[name] + 1}
    if name in ("finals",):
        words |= {"draft": 2}
    with pytest.raises(FairleadError, match="must be a whole number in"):
        make_spec("a dog", model="mixture", **words)


def test_the_price_of_a_large_budget_is_the_whole_price() -> None:
    found = price(small_spec(budget={"nfe": 20_000.0}))
    assert found.candidates == 5000
    assert found.total.nfe == 20_000


def test_a_run_without_a_candidate_is_no_success(tmp_path: Path) -> None:
    line = ["run", "a dog", "--model", "mixture", "--reward", "brightness", "--budget", "seconds=0.0000001"]
    assert cli.main([*line, "--out", str(tmp_path / "run")]) == 2


def test_a_reward_that_exits_is_an_error(tmp_path: Path) -> None:
    for name, text in (("early", "raise SystemExit(0)"), ("late", "def f(images, prompts):\n    raise SystemExit(0)")):
        (tmp_path / f"{name}.py").write_text(text)
        line = ["run", "a dog", "--model", "mixture", "--reward", f"{tmp_path / name}.py:f"]
        assert cli.main([*line, "--out", str(tmp_path / name)]) in (2, 4)


def test_the_same_run_from_nothing_has_its_drafts() -> None:
    told = run_command(small_spec(draft=2, finals=3), Path("run"))
    assert told is not None
    assert "--draft 'few(2)'" in told
    assert "--finals 3" in told


def test_a_stored_run_does_not_execute_a_file_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from somebody else names a file: it is executed only where the user of this command says so."""
    monkeypatch.setattr(trust, "_executed", set())
    seen = tmp_path / "seen"
    file = tmp_path / "reward.py"
    file.write_text(
        f"open({str(seen)!r}, 'a').write('x')\ndef f(images, prompts):\n    return images.mean((1, 2, 3))\n"
    )
    folder = tmp_path / "run"
    Store.create(folder, small_spec(reward=f"{file}:f"), {}, "now").close()
    for word in ("resume", "replay", "answer"):
        with pytest.raises(FairleadError, match="--trust") if word == "resume" else pytest.raises(FairleadError):
            engine.resume(folder) if word == "resume" else engine.replay(folder, 0)
        assert cli.main([word, str(folder), *(["0"] if word == "replay" else [])]) != 0
        assert not seen.exists()
    assert cli.main(["resume", str(folder), "--trust"]) == 0
    assert seen.exists()
    trusted = len(seen.read_text())
    monkeypatch.setattr(trust, "_executed", set())
    with pytest.raises(FairleadError, match="--trust"):
        engine.replay(folder, 0)
    assert len(seen.read_text()) == trusted
    assert engine.replay(folder, 0, trust=True).identical


# texts that are no settings, formulas or Specs


@pytest.mark.parametrize(
    "value", ["{[]:1}", "b'x'", "{1:2}", "1j", "{1,2}", "9" * 310, "9" * 5000, "-" * 4000 + "1", "...", "'\\ud800'"]
)
def test_settings_are_plain_values(value: str) -> None:
    sentence = ""
    try:
        json.dumps(parse_settings([f"best_of.n={value}"])).encode()
    except FairleadError as error:
        sentence = str(error)
    assert sentence == "" or "best_of.n" in sentence
    with pytest.raises(FairleadError):
        formula.parse_reward(f"http(url={value})")


@pytest.mark.parametrize(
    "text", ["-" * 4000 + "brightness", "(" * 300 + "brightness" + ")" * 300, "brightness+" * 3000 + "1", "9" * 5000]
)
def test_formulas_that_are_too_deep_are_refused(text: str) -> None:
    with pytest.raises(FairleadError):
        formula.parse_reward(text)


def test_a_reward_with_a_setting_of_another_type_is_refused() -> None:
    with pytest.raises(FairleadError, match=r"http\.timeout"):
        engine.Local(small_spec(reward="http(url='http://x', timeout='x')"))


def test_broken_settings_of_a_stored_run_are_refused() -> None:
    """Every field missing, and of every wrong type: one sentence each."""
    good = json.loads(small_spec(steer=(), draft=2).json())
    wrong: list[Any] = [None, True, 0, -1, 1.5, "x", [], [1], {}, {"name": 1}, {"name": "x", "settings": 1}, {"+": 1}]
    for name in good:
        for value in wrong:
            sentence = ""
            try:
                Spec.from_json(json.dumps({**good, name: value}))
            except FairleadError as error:
                sentence = str(error)
            assert "\n" not in sentence
    for text in ("", "[]", "1", "null", "{", "[" * 10_000, '{"prompt": 1}', json.dumps({k: None for k in good})):
        with pytest.raises(FairleadError):
            Spec.from_json(text)
    for name in ("model", "search", "reward", "prompt"):
        with pytest.raises(FairleadError):
            Spec.from_json(json.dumps({**good, name: 5}))
    assert Spec.from_json(json.dumps(good)) == replace(small_spec(draft=2))
