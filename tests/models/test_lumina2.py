"""Lumina-Image 2.0: reversed time, a system prompt before the prompt alone, guidance that keeps its length."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import euler
from fairlead.models.lumina2 import Lumina2
from fairlead.testing import model_laws

LENGTH = {"max_sequence_length": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(**settings: Any) -> str:
        name = f"{settings}"
        if name not in made:
            levels = diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 6.0} | settings))
            made[name] = tiny.saved(tmp_path_factory.mktemp("lumina2"), tiny.lumina2, levels)
        return made[name]

    return get


@pytest.mark.parametrize("scheduler", [{}, {"use_dynamic_shifting": True}])
@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0, "system_prompt": "two blue dogs"},
        {"guidance_scale": 4.0, "height": 32, "width": 16, "cfg_normalization": False},
        {"guidance_scale": 4.0, "negative_prompt": "a dog"},
    ],
)
def test_is_the_pipeline(
    scheduler: dict[str, Any], call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Lumina2(folder(**scheduler), **LENGTH, **call)
    pipe = diffusers.Lumina2Pipeline.from_pretrained(folder(**scheduler))
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, **LENGTH, **{**call, **negative})


def test_the_system_prompt_is_read(folder: Any) -> None:
    one, other = (Lumina2(folder(), **LENGTH, system_prompt=words).encode(["a dog"]) for words in ("a car", "blue"))
    assert not torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.extra["negative"], other.extra["negative"])


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 32}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(Lumina2(folder(), **LENGTH, **settings))


def test_slopes(folder: Any) -> None:
    slopes(Lumina2(folder(), **LENGTH, guidance_scale=2.0), euler)
