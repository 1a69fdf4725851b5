"""Numbers and command lines as people read and type them."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.app.chart import tick_text, ticks
from fairlead.app.words import budget_text, count, duration, number, reason, run_command
from fairlead.run.folders import new_folder, slug
from fairlead.run.spec import Part, make_spec, parse_budget, parse_settings


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.31271, "0.3127"),
        (29.137, "29.14"),
        (2.0, "2.000"),
        (-0.5, "−0.5000"),
        (1234.5, "1,234"),
        (0.0, "0.0000"),
        (1e-5, "1.00e-05"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (None, "–"),
    ],
)
def test_numbers(value: float | None, told: str) -> None:
    assert number(value) == told


def test_counts_and_durations() -> None:
    assert [count(v) for v in (640.0, 2.5, 12345.0)] == ["640", "2.50", "12,345"]
    told = [duration(v) for v in (0.004, 0.42, 12.3, 59.9, 185, 7800, math.inf)]
    assert told == ["0.00 s", "0.4 s", "12 s", "1 min 00 s", "3 min 05 s", "2 h 10 min", "–"]
    assert reason("budget: nfe, seconds") == "the budget of NFE and seconds is spent"


@given(st.text(max_size=200))
def test_a_slug_is_a_file_name(prompt: str) -> None:
    assert slug(prompt)
    assert len(slug(prompt)) <= 40
    assert set(slug(prompt)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_new_folder_is_new(tmp_path: Path) -> None:
    now = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
    first = new_folder("A red apple!", now, tmp_path)
    assert first.name == "20261120-120000-a-red-apple"
    first.mkdir()
    assert new_folder("A red apple!", now, tmp_path).name == "20261120-120000-a-red-apple-2"


def test_the_command_line_of_a_run_asks_the_same_question() -> None:
    spec = make_spec(
        'it\'s a "dog" & $HOME',
        model="mixture",
        reward="brightness + -0.25*jpeg_size(quality=80)",
        search="best_of(n=4)",
        intervene=["token_mean_damping(strength=0.5)"],
        settings={"mixture": {"modes": 3, "kind": "two words", "dtype": "1"}},
        budget={"nfe": 100, "seconds": 2.5},
        steps=7,
        group=2,
        batch=6,
        seed=-3,
        sampler="heun",
        draft=3,
        finals=2,
    )
    line = run_command(spec, Path("run"))
    assert line is not None
    words = shlex.split(line)
    assert words[:3] == ["fairlead", "run", spec.prompt]
    flags = list(zip(words[3::2], words[4::2], strict=True))
    said = dict(flags)
    again = make_spec(
        words[2],
        model=said["--model"],
        reward=said["--reward"],
        space=said["--space"],
        search=said["--search"],
        intervene=[v for k, v in flags if k == "--intervene"],
        settings=parse_settings([v for k, v in flags if k == "--set"]),
        budget=said["--budget"],
        sampler=said["--sampler"],
        steps=int(said["--steps"]),
        group=int(said["--group"]),
        batch=int(said["--batch"]),
        seed=int(said["--seed"]),
        draft=said["--draft"],
        finals=int(said["--finals"]),
    )
    assert again == spec


def test_a_reward_from_python_has_no_command_line() -> None:
    assert run_command(make_spec("dog", reward=Part("python", {"callable": "mine.score"})), Path("run")) is None
    assert run_command(make_spec("dog", model=Part("python", {"pipeline": "FluxPipeline"})), Path("run")) is None


def test_budgets_are_read_back() -> None:
    assert parse_budget(budget_text({"nfe": 640.0, "seconds": 0.1})) == {"nfe": 640.0, "seconds": 0.1}


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_distinct_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    if span > abs(low) * 1e-9:
        assert 2 <= len(found) <= 9
        assert all(low - span * 1e-6 <= t <= low + span * (1 + 1e-6) for t in found)
    if span > abs(low) * 1e-3:
        assert len({tick_text(t, found) for t in found}) == len(found)


def test_the_pictures_of_a_run_are_named_by_their_place() -> None:
    settings = {"image": "0" * 32, "strength": 0.6}
    line = run_command(make_spec("dog", model=Part("pocket")), Path("runs/1"))
    assert line is not None
    assert "--image" not in line
    spec = replace(make_spec("dog", model=Part("pocket")), model=Part("pocket", settings))
    line = run_command(spec, Path("runs/1"))
    assert line is not None
    assert f"--image runs/1/inputs/{'0' * 32}.png --set pocket.strength=0.6" in line
