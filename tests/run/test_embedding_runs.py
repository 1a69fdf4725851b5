"""Runs in the prompt embedding: bad rewards, drift, memory, the command line, and the small real model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead
from fairlead.app.cli import main
from fairlead.core.errors import FairleadError, OutOfMemory
from fairlead.core.function import Function
from fairlead.models.mixture import Mixture
from fairlead.run import engine
from fairlead.testing.runs import small_spec
from items import pocket_ready


@pytest.mark.parametrize("search", ["sep_cma(population=5)", "snes(population=5)", "adam(rate=0.3)"])
def test_rewards_of_nan_never_win(search: str, tmp_path: Path) -> None:
    def fragile(images: Tensor, prompts: Sequence[str]) -> Tensor:
        light = images.mean(dim=(1, 2, 3))
        return torch.where(light > 0.6, math.nan, light)

    reward = Function(fragile, differentiable=True)
    spec = small_spec(space="embedding", search=search, budget={"nfe": 160.0})
    store = engine.start(spec, tmp_path / "run", reward=reward)
    best = store.best()
    assert best is not None
    assert best.reward == max(c.reward for c in store.candidates() if c.reward == c.reward)
    assert best.reward >= store.candidates()[0].reward


def test_all_failed_ends_with_a_sentence(tmp_path: Path) -> None:
    broken = Function(lambda images, prompts: [math.nan] * len(images))
    spec = small_spec(space="embedding", search="sep_cma(population=4)", budget={"nfe": 400.0})
    with pytest.raises(FairleadError, match="The reward of every candidate is NaN"):
        engine.start(spec, tmp_path / "run", reward=broken)


def test_drift_that_a_watched_reward_sees_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "run",
        "a dog",
        "-m",
        "mixture",
        "--steps",
        "4",
        "--budget",
        "nfe=240",
        "--reward",
        "brightness",
        "--space",
        "embedding",
        "--search",
        "sep_cma(population=8)",
        "--watch",
        "brightness/-2",
        "--json",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["hacking"] is True
    assert "Reward hacking is likely" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "sep_cma", "--set", "sep_cma.sigma=0"], "sep_cma.sigma is 0"),
        (["--search", "sep_cma", "--set", "sep_cma.population=1"], ">= 2"),
        (["--search", "reno"], "use the space noise or product"),
        (["--search", "first_order"], "use another search"),
        (["--search", "adam", "--reward", "jpeg_size"], "needs gradients"),
        (["--search", "sep_cma", "--set", "embedding.last=9"], "number of this model's tokens"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    reward = [] if "--reward" in words else ["--reward", "brightness"]
    assert main(["run", "a dog", "-m", "mixture", "--space", "embedding", *words, *reward, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


class Small(Mixture):
    """A device that holds a plain picture and no gradient."""

    def decode(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad and x.numel() > 0 and x.abs().sum() > 0:
            raise torch.OutOfMemoryError("no room")
        return super().decode(x)


def test_out_of_memory_with_a_gradient_says_what_would_fit(tmp_path: Path) -> None:
    spec = small_spec(space="embedding", search="adam")
    with pytest.raises(OutOfMemory, match="search without gradients such as sep_cma"):
        engine.start(spec, tmp_path / "adam", model=Small())
    engine.start(small_spec(space="embedding", search="sep_cma"), tmp_path / "cma", model=Small())


def test_with_a_model_that_can_be_traced_the_sentence_has_a_number(
    tmp_path: Path, tiny_flux: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_flux()
    network = model.run_network

    def no_room(x: Tensor, *rest: Any) -> Tensor:
        if torch.is_grad_enabled() and type(x) is Tensor:  # counting without data has no need of room
            raise torch.OutOfMemoryError("no room")
        return network(x, *rest)

    monkeypatch.setattr(model, "run_network", no_room)
    spec = small_spec(space="embedding", search="adam", steps=1, budget={"nfe": 4.0})
    with pytest.raises(OutOfMemory, match=r"about \S+ GB here") as caught:
        engine.start(spec, tmp_path / "run", model=model)
    dear, plain = (float(word) for word in re.findall(r"about (\S+) GB", str(caught.value)))
    assert dear > plain > 0


@pytest.mark.parametrize("space", ["embedding", "product"])
def test_pocket(space: str, tmp_path: Path) -> None:
    """The small real model: zero is its plain picture, a search moves it, a gradient climbs."""
    if not pocket_ready():
        pytest.skip("the embedded model is not in the package")
    words: dict[str, Any] = {
        "model": "pocket",
        "reward": "aesthetic_clip",
        "steps": 2,
        "seed": 4,
        "space": space,
        "settings": {"model": {"dtype": "float32"}},
    }
    result = fairlead.run("a photo of a dog", budget={"nfe": 10}, search="sep_cma(population=4, sigma=0.3)", **words)
    plain = fairlead.run("a photo of a dog", budget={"nfe": 2}, **{**words, "space": "noise"})
    assert result.baseline.reward == pytest.approx(plain.baseline.reward, abs=1e-5)
    assert result.candidates.reward.nunique() == 5
    climbed = fairlead.run("a photo of a dog", budget={"nfe": 8}, search="adam(rate=0.02)", **words)
    assert climbed.best.reward > climbed.baseline.reward
