"""PixArt-Sigma: learned variance thrown away, masks of the prompt, no rounding to aspect-ratio bins."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import dpmpp_2m, euler
from fairlead.models.pixart import PixArtSigma
from fairlead.testing import model_laws

LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str = "DPMSolverMultistepScheduler") -> str:
        if scheduler not in made:
            levels = getattr(diffusers, scheduler)(**LINEAR)
            made[scheduler] = tiny.saved(tmp_path_factory.mktemp("pixart"), tiny.pixart, levels)
        return made[scheduler]

    return get


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "height": 24, "width": 16},
        {"guidance_scale": 4.0, "negative_prompt": "a dog"},
    ],
)
@pytest.mark.parametrize(("scheduler", "sampler"), [("DPMSolverMultistep", dpmpp_2m), ("EulerDiscrete", euler)])
def test_is_the_pipeline(
    scheduler: str, sampler: Any, call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(f"{scheduler}Scheduler")
    model = PixArtSigma(where, max_sequence_length=12, **call)
    pipe = diffusers.PixArtSigmaPipeline.from_pretrained(where)
    same_as_pipeline(
        model,
        pipe,
        sampler,
        4,
        PROMPTS,
        monkeypatch,
        5e-4,
        max_sequence_length=12,
        use_resolution_binning=False,
        clean_caption=False,
        **call,
    )


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(PixArtSigma(folder("EulerDiscreteScheduler"), max_sequence_length=12, **settings))


def test_slopes(folder: Any) -> None:
    slopes(PixArtSigma(folder(), guidance_scale=2.0, max_sequence_length=12), euler)
