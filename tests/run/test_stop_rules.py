"""A run ends when it is good, or when more is not worth its price: at the same picture however it was interrupted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.run import engine
from fairlead.run.planner import expected_best
from fairlead.run.price import price
from fairlead.run.spec import make_spec
from fairlead.run.stop_rules import StopRules, next_gain, read_price, stop_text, until_text, usual_price
from fairlead.run.view import View
from fairlead.testing.runs import resume_laws


@dataclass
class Rated:
    index: int
    reward: float
    terms: dict[str, float] = field(default_factory=dict)


def options(**more: Any) -> dict[str, Any]:
    return {"model": "mixture", "reward": "brightness", "steps": 4, "batch": 3, "budget": {"nfe": 80.0}, **more}


def run(folder: Path, **more: Any) -> View:
    engine.start(make_spec("a dog", **options(**more)), folder).close()
    return View.read(folder)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, ""),
        ("clip_score>=86", "clip_score >= 86"),
        (" reward > .9 and aesthetic >= 5 ", "reward > 0.9 and aesthetic >= 5"),
        ("2*clip_score + aesthetic < -1e3", "2.0*clip_score + aesthetic < -1000"),
        ("clip_score(scale='cosine') >= 0.3", "clip_score(scale='cosine') >= 0.3"),
    ],
)
def test_a_condition_is_read_and_written(given: str | None, kept: str) -> None:
    text = until_text(given)
    assert text.replace("2.0*", "2*") == kept.replace("2.0*", "2*")
    assert until_text(text) == text


@pytest.mark.parametrize(
    "wrong",
    [
        "clip_score",
        "clip_score = 86",
        "clip_score >= x",
        "1 < clip_score < 2",
        "a >= 1 or b >= 1",
        "86 <= clip_score",
        ">=",
        "a >= nan",
    ],
)
def test_what_is_no_condition_is_refused(wrong: str) -> None:
    with pytest.raises(FairleadError, match=r"until is .*: must be a condition like 'clip_score >= 86'|compares"):
        until_text(wrong)


def test_a_price_is_read() -> None:
    assert [stop_text(t) for t in (None, "", "flat", "flat()", "flat( price = .05 )")] == [
        "",
        "",
        "flat",
        "flat",
        "flat(price=0.05)",
    ]
    assert read_price("flat(price=0.05)") == 0.05
    for wrong in (
        "steep",
        "flat(0.05)",
        "flat(price=0)",
        "flat(price=-1)",
        "flat(price=inf)",
        "flat(price=x)",
        "flat(price=nan)",
    ):
        with pytest.raises(FairleadError, match=r"stop is .*: must be flat, or flat"):
            stop_text(wrong)


def test_a_run_ends_at_the_first_batch_whose_best_is_good(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    rewards = [c.reward for c in whole.candidates]
    bound = sorted(rewards[3:9])[-1]
    at = next(i for i, r in enumerate(rewards) if r >= bound)
    view = run(tmp_path / "run", until=f"brightness >= {bound!r}")
    assert len(view.candidates) == (at // 3 + 1) * 3
    assert view.status == "finished"
    assert view.stopped == f"until: brightness >= {bound!r}"
    assert view.best is not None
    assert view.best.reward >= bound
    assert [c.reward for c in view.candidates] == rewards[: len(view.candidates)]
    assert price(view.spec).total.nfe == 80, "the price stays the most that is spent"


def test_the_best_picture_satisfies_every_condition() -> None:
    rules = StopRules("reward > 1 and b <= 2", "", {"reward": None, "b": "b"})
    assert rules.reached([Rated(0, 0.5, {"b": 1.0})]) == ""
    assert rules.reached([Rated(1, 2.0, {"b": 3.0}), Rated(2, 1.5, {"b": 1.0})]) == "", "the best one does not"
    assert rules.reached([Rated(3, math.nan, {"b": 1.0}), Rated(4, 3.0, {"b": math.nan})]) == ""
    assert rules.reached([Rated(5, 4.0, {"b": 2.0})]) == "until: reward > 1 and b <= 2"


def test_drafts_satisfy_nothing(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", draft=2, finals=3)
    drafts = max(c.reward for c in plain.candidates if c.refines is None)
    finals = [c.reward for c in plain.candidates if c.refines is not None]
    low = min([drafts, *finals]) - 1
    view = run(tmp_path / "run", draft=2, finals=3, until=f"reward > {low}")
    assert view.stopped.startswith("until")
    assert [c.reward for c in view.candidates if c.refines is None] == [
        c.reward for c in plain.candidates if c.refines is None
    ]
    assert any(c.refines is not None for c in view.candidates)


def test_the_flat_price_counts_finished_pictures_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    def noting(self: StopRules, best: float, means: Any, sd: float, pictures: int | None) -> str:
        seen.append(pictures)
        return ""

    monkeypatch.setattr(StopRules, "enough_finals", noting)
    view = run(tmp_path / "run", draft=2, finals=9, stop="flat")
    assert set(seen) == {9}
    assert len(view.finished) == 9


def test_a_term_that_is_not_recorded_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=r"until names 'aesthetic', which this run does not record.*--watch 'aesth"):
        run(tmp_path / "run", until="aesthetic >= 5")
    assert not (tmp_path / "run").exists()
    watched = run(tmp_path / "watched", reward="2*brightness", watch="jpeg_size", until="jpeg_size >= 0 and reward > 0")
    assert watched.stopped == "until: jpeg_size >= 0 and reward > 0"
    named = run(tmp_path / "named", reward="2*brightness", until="2*brightness > 0 and brightness > 0")
    assert named.stopped.startswith("until")
    with pytest.raises(FairleadError, match=r"rank_mean.* ranks the candidates of a run, so its value changes"):
        run(tmp_path / "ranks", reward="rank_mean(brightness, jpeg_size)", until="reward > 1")
    with pytest.raises(FairleadError, match=r"stop is 'flat', which estimates .* but zero_order proposes"):
        run(tmp_path / "zero", search="zero_order", stop="flat")
    with pytest.raises(FairleadError, match="does not say how many pictures it affords"):
        run(tmp_path / "clock", budget={"seconds": 5.0}, stop="flat")


def test_resuming_is_deliberate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    first = run(folder, until="reward > 0")
    many = len(first.candidates)
    assert many == 3
    assert main(["resume", str(folder)]) == 0
    assert "the run ended because reward > 0 is reached. Another --until, or a larger" in capsys.readouterr().err
    assert len(View.read(folder).candidates) == many
    whole = run(tmp_path / "whole")
    bound = sorted(c.reward for c in whole.candidates[:12])[-1]
    assert main(["resume", str(folder), "--until", f"reward >= {bound!r}"]) == 0
    second = View.read(folder)
    assert second.stopped.startswith("until: reward >=")
    assert many < len(second.candidates) <= 12
    assert main(["resume", str(folder), "--budget", "nfe=120"]) == 0
    third = View.read(folder)
    assert third.spec.until == ""
    assert len(third.candidates) == 30
    assert third.stopped == "budget: nfe"
    assert fairlead.resume(folder, until="reward > 0").stopped == "until: reward > 0"
    with pytest.raises(FairleadError, match="until names 'beauty'"):
        fairlead.resume(folder, until="beauty > 0")


def test_an_interrupted_run_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    whole = run(tmp_path / "probe")
    bound = sorted(c.reward for c in whole.candidates[:12])[-1]
    resume_laws(make_spec("a dog", **options(until=f"reward >= {bound!r}")), tmp_path / "until")
    resume_laws(make_spec("a dog", **options(stop="flat(price=0.02)")), tmp_path / "flat")


@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential"])
def test_the_expected_gain_of_the_next_picture(draw: str) -> None:
    """For exponential rewards the estimate is exact on average; where the tail is lighter it is not below the truth."""
    n = 40
    repeats = 2000
    estimate = 0.0
    truth = 0.0
    for seed in range(repeats):
        key = Key.root(seed).fold(draw)
        values = key.normal(n + 1) if draw == "normal" else key.uniform(n + 1)
        values = -values.clamp(min=1e-9).log() if draw == "exponential" else values
        estimate += next_gain(values[:n].tolist()) / repeats
        truth += float(values.max() - values[:n].max()) / repeats
    assert 0.85 * truth <= estimate <= 5 * truth
    if draw == "exponential":
        assert estimate == pytest.approx(truth, rel=0.15)


def test_a_ceiling_ends_the_run_and_ordinary_rewards_do_not() -> None:
    """At the usual price the budget is used where rewards are normal, and half of it is saved where they tie on top."""
    spent = {False: 0, True: 0}
    for capped in spent:
        for seed in range(60):
            values = Key.root(seed).normal(64)
            rules = StopRules("", "flat", {})
            for i, value in enumerate((values.clamp(max=0.5) if capped else values).tolist()):
                rules.reached([Rated(i, value)])
                spent[capped] += 1
                if rules.flat(64):
                    break
    assert spent[False] / 60 > 60
    assert spent[True] / 60 < 32


def test_a_price_in_units_of_the_reward_ends_easy_prompts_early() -> None:
    """The net value (reward minus price) is near that of the best fixed number of pictures, for every spread."""
    price_each = 0.05
    for spread in (0.2, 1.0, 3.0):
        net = 0.0
        for seed in range(200):
            values = (spread * Key.root(seed).normal(64)).tolist()
            rules = StopRules("", f"flat(price={price_each})", {})
            many = 0
            for many, value in enumerate(values, 1):
                rules.reached([Rated(many, value)])
                if rules.flat(64):
                    break
            net += (max(values[:many]) - price_each * many) / 200
        fixed = max(spread * expected_best(n) - price_each * n for n in range(8, 65))
        assert net > fixed - 0.2 * spread


def test_the_usual_price_is_what_the_last_picture_of_the_budget_adds() -> None:
    values = Key.root(1).normal(4000).tolist()
    assert usual_price(values, 64) == pytest.approx(expected_best(64) - expected_best(63), rel=0.05)


def test_the_stop_rule_for_finals_is_never_worse_than_a_fixed_number() -> None:
    """Boxes with known means: the net value is not below that of opening any fixed number of them."""
    sd = 0.6
    price_each = 0.1
    means = sorted((0.8 * Key.root(5).normal(30)).tolist(), reverse=True)
    repeats = 3000
    net = 0.0
    fixed = [0.0] * len(means)
    for seed in range(repeats):
        finals = [m + sd * e for m, e in zip(means, Key.root(seed).normal(30).tolist(), strict=True)]
        rules = StopRules("", f"flat(price={price_each})", {})
        opened = 1
        while opened < 30 and not rules.enough_finals(max(finals[:opened]), means[opened:], sd, None):
            opened += 1
        net += (max(finals[:opened]) - price_each * opened) / repeats
        for k in range(30):
            fixed[k] += (max(finals[: k + 1]) - price_each * (k + 1)) / repeats
    assert net >= max(fixed) - 0.01


def test_why_it_ended_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["run", "a dog", "-m", "mixture", "--reward", "brightness", "--steps", "4", "--budget", "nfe=80"]
    assert main([*line, "--until", "brightness > 0", "--out", str(tmp_path / "until")]) == 0
    assert "brightness > 0 is reached" in capsys.readouterr().out
    assert "brightness &gt; 0 is reached" in (tmp_path / "until" / "report.html").read_text()
    assert main([*line, "--stop", "flat(price=9)", "--out", str(tmp_path / "flat")]) == 0
    assert "the next picture promises" in capsys.readouterr().out
    assert View.read(tmp_path / "flat").stopped.startswith("flat: the next picture promises")
