"""AuraFlow: registers before the text, joint blocks and blocks over one sequence."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import euler
from fairlead.models.aura_flow import AuraFlow
from fairlead.testing import model_laws


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str = "FlowMatchEulerDiscreteScheduler", **settings: Any) -> str:
        name = f"{scheduler}{settings}"
        if name not in made:
            levels = getattr(diffusers, scheduler)(**({"shift": 1.73} | settings))
            made[name] = tiny.saved(tmp_path_factory.mktemp("aura_flow"), tiny.aura_flow, levels)
        return made[name]

    return get


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "height": 24, "width": 16},
        {"guidance_scale": 4.0, "negative_prompt": "a dog"},
    ],
)
def test_is_the_pipeline(call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AuraFlow(folder(), max_sequence_length=12, **call)
    pipe = diffusers.AuraFlowPipeline.from_pretrained(folder())
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, max_sequence_length=12, **{**call, **negative})


def test_sites(folder: Any) -> None:
    assert [site.name for site in AuraFlow(folder()).sites] == ["joint_0", "single_0", "single_1"]


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(AuraFlow(folder(), height=16, max_sequence_length=12, **settings))


def test_slopes(folder: Any) -> None:
    slopes(AuraFlow(folder(), height=16, max_sequence_length=12, guidance_scale=2.0), euler)
