"""Chroma: a mask that is added to the logits, joint blocks and blocks over one sequence."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import euler
from fairlead.models.chroma import Chroma
from fairlead.testing import model_laws

SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(**settings: Any) -> str:
        name = f"{settings}"
        if name not in made:
            levels = diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 1.0} | settings))
            made[name] = tiny.saved(tmp_path_factory.mktemp("chroma"), tiny.chroma, levels)
        return made[name]

    return get


@pytest.mark.parametrize("scheduler", [{"shift": 3.0}, {"use_dynamic_shifting": True}])
@pytest.mark.parametrize(
    "call",
    [{"guidance_scale": 1.0, **SIZE}, {"guidance_scale": 4.0, "height": 24, "width": 16, "negative_prompt": "a dog"}],
)
def test_is_the_pipeline(
    scheduler: dict[str, Any], call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Chroma(folder(**scheduler), max_sequence_length=12, **call)
    pipe = diffusers.ChromaPipeline.from_pretrained(folder(**scheduler))
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(
        model,
        pipe,
        euler,
        3,
        PROMPTS,
        monkeypatch,
        pack=lambda x: pipe._pack_latents(x, *x.shape),
        max_sequence_length=12,
        **{**call, **negative},
    )


def test_sites(folder: Any) -> None:
    assert [site.name for site in Chroma(folder(), **SIZE).sites] == ["joint_0", "single_0", "single_1"]


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(Chroma(folder(), max_sequence_length=12, **{**SIZE, **settings}))


def test_slopes(folder: Any) -> None:
    slopes(Chroma(folder(), max_sequence_length=12, guidance_scale=2.0, **SIZE), euler)
