"""Sana: its own instruction before the prompt, and either of its schedulers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import dpmpp_2m, euler
from fairlead.models.sana import Sana
from fairlead.testing import model_laws


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str = "FlowMatchEulerDiscreteScheduler", **settings: Any) -> str:
        name = f"{scheduler}{settings}"
        if name not in made:
            levels = getattr(diffusers, scheduler)(**({"shift": 3.0} if "Flow" in scheduler else {} | settings))
            made[name] = tiny.saved(tmp_path_factory.mktemp("sana"), tiny.sana, levels)
        return made[name]

    return get


DPM = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0, "height": 32, "width": 32},
        {"guidance_scale": 4.0, "height": 64, "width": 32},
        {"guidance_scale": 4.0, "negative_prompt": "a dog", "height": 32, "width": 32},
    ],
)
@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_is_the_pipeline(scheduler: str, call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dpm = scheduler.startswith("DPM")
    where = folder(scheduler, **(DPM if dpm else {}))
    model, pipe = Sana(where, max_sequence_length=12, **call), diffusers.SanaPipeline.from_pretrained(where)
    words = {"max_sequence_length": 12, "use_resolution_binning": False, "clean_caption": False}
    same_as_pipeline(model, pipe, dpmpp_2m if dpm else euler, 4, PROMPTS, monkeypatch, 5e-4, **words, **call)


def test_without_the_instruction(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"guidance_scale": 1.0, "height": 32, "width": 32, "max_sequence_length": 12}
    model, pipe = Sana(folder(), instruction=False, **call), diffusers.SanaPipeline.from_pretrained(folder())
    same_as_pipeline(
        model,
        pipe,
        euler,
        2,
        PROMPTS,
        monkeypatch,
        complex_human_instruction=None,
        use_resolution_binning=False,
        **call,
    )


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 64}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(Sana(folder(), **{"height": 32, "width": 32, "max_sequence_length": 12, **settings}))


def test_slopes(folder: Any) -> None:
    slopes(Sana(folder(), height=32, width=32, max_sequence_length=12, guidance_scale=2.0), euler)
