"""Rewards that compare, rank or watch, in whole runs of the closed-form model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import fairlead
from fairlead.core.errors import FairleadError
from fairlead.core.reward import EarlyReward
from fairlead.run import engine
from fairlead.run.executor import Local
from fairlead.run.store import Store


def run(reward: Any, out: Path | None = None, nfe: float = 100, **more: Any) -> Any:
    return fairlead.run("a dog", model="mixture", reward=reward, steps=5, budget={"nfe": nfe}, out=out, **more)


def test_the_door_opens_twice() -> None:
    assert run("brightness").gain == run("brightness").gain


def test_a_ranking_is_over_all_candidates_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    formula = "rank_mean(brightness, jpeg_size)"
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(formula, whole, settings={"mixture": {"size": 16}})
    run(formula, part, nfe=45, settings={"mixture": {"size": 16}})
    fairlead.resume(part, budget={"nfe": 100})
    rewards = [[(c.index, c.reward, dict(c.terms)) for c in Store.open(f).candidates()] for f in (whole, part)]
    assert rewards[0] == rewards[1]
    every = [r for _, r, _ in rewards[0]]
    assert len(every) == 20
    assert sum(every) / len(every) == pytest.approx(0.5)
    best = Store.open(whole).best()
    assert best is not None
    again = engine.replay(whole, best.index)
    assert again.identical
    assert again.reward == best.reward
    assert [(c.index, c.reward, dict(c.terms)) for c in Store.open(whole).candidates()] == rewards[0]


def test_vetoed_candidates_have_terms_and_never_win() -> None:
    found = run("veto(brightness, brightness < 0.54)").candidates
    lost = found[found.reward.isna()]
    assert 0 < len(lost) < len(found)
    assert lost.brightness.notna().all()


class Drift(EarlyReward):
    """Minus the mean distance between the early prediction and the picture."""

    name = "drift"
    needs_prompt = False
    level: ClassVar[float] = 0.4  # type: ignore[misc]

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), math.nan)

    def compare(self, images: Tensor, early: Tensor, prompts: Sequence[str]) -> Tensor:
        return -(images - early).abs().mean((1, 2, 3))


def test_a_reward_may_read_the_early_prediction_at_one_more_decode_and_no_evaluation() -> None:
    plain, result = run("brightness"), run(Drift())
    assert result.candidates.reward.notna().all()
    assert (result.candidates.reward < 0).all()
    assert result.cost.nfe == plain.cost.nfe == 100
    assert result.cost.decodes == 2 * plain.cost.decodes
    _, unit = Local(result.spec, reward=Drift()).price()
    assert (unit.scores, unit.decodes) == (1, 2), "the price is the bill"
    assert result.cost.scores == len(result.candidates)
    assert Drift()(torch.zeros(1, 3, 4, 4), [""])[0].isnan().all()


def test_watched_rewards_are_stored_and_change_nothing() -> None:
    alone, watched = run("brightness"), run("brightness", watch=["jpeg_size", "jpeg_size(quality=50)/2"])
    assert (alone.candidates.reward == watched.candidates.reward).all()
    assert {"brightness", "jpeg_size", "jpeg_size(quality=50)/2"} <= set(watched.candidates.columns)
    assert watched.cost.scores == 3 * alone.cost.scores
    assert watched.spec.id() != alone.spec.id()
    with pytest.raises(FairleadError, match="cannot also be watched"):
        run("brightness + jpeg_size", watch="jpeg_size")
    with pytest.raises(FairleadError, match="compares pictures or"):
        run("brightness", watch="rank_mean(jpeg_size, jpeg_size(quality=50))")


def test_a_steering_never_asks_what_is_only_watched(register: Any) -> None:
    register("steerings", "test_tries", "items:Tries")
    more = {"steer": "test_tries", "sampler": "ancestral"}
    alone, watched = run("brightness", nfe=200, **more), run("brightness", nfe=200, watch="jpeg_size", **more)
    assert (alone.candidates.reward == watched.candidates.reward).all()
    assert watched.cost.scores - alone.cost.scores == len(watched.candidates) + 1
    for formula in ("rank_mean(brightness, jpeg_size)", "human"):
        with pytest.raises(FairleadError, match="steering"):
            run(formula, nfe=200, **more)
    with pytest.raises(FairleadError, match="steering cannot use it"):
        run(Drift(), nfe=200, **more)


def test_a_live_ranking_is_written_like_a_named_one() -> None:
    from fairlead.rewards.jpeg_size import JpegSize

    live = run(fairlead.rank_mean(fairlead.Brightness(), JpegSize()))
    assert live.candidates.reward.tolist() == run("rank_mean(brightness, jpeg_size)").candidates.reward.tolist()


OWN = """
from PIL import Image, ImageStat

def taste(image: Image.Image):
    red, green, _ = (band / 255 for band in ImageStat.Stat(image).mean)
    return {"red": red, "green": green}
"""


def test_a_dict_of_a_file_on_pil_pictures_is_recorded_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(f"{path}:taste", whole, nfe=40)
    run(f"{path}:taste", part, nfe=20)
    fairlead.resume(part, budget={"nfe": 40})
    found = [[(c.index, c.reward, dict(c.terms)) for c in Store.open(f).candidates()] for f in (whole, part)]
    assert found[0] == found[1]
    for _, reward, terms in found[0]:
        assert list(terms) == ["taste", "taste.red", "taste.green"]
        assert reward == terms["taste"] == pytest.approx(terms["taste.red"] + terms["taste.green"])
    picture = whole / Store.open(whole).best().image
    assert fairlead.score(picture, f"{path}:taste").iloc[0]["taste.red"] > 0


def test_a_plain_torch_function_serves_a_search_by_gradient() -> None:
    def green(images: Tensor) -> Tensor:
        return images[:, 1].mean((1, 2))

    def off_the_graph(images: Tensor) -> Any:
        return images[:, 1].mean((1, 2)).tolist()

    assert run(green, search="adam").gain > 0
    with pytest.raises(FairleadError, match="gradient"):
        run(off_the_graph, search="adam")
