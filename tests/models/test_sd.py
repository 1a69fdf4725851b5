"""Stable Diffusion 1.x and 2.x: the pipeline's own latents from every scheduler whose levels are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError
from fairlead.core.samplers import ancestral, consistency, dpmpp_2m, euler
from fairlead.models.sd import LatentConsistency, StableDiffusion
from fairlead.testing import model_laws

pytestmark = pytest.mark.filterwarnings("ignore:The configuration file:FutureWarning")
SD15 = {
    **tiny.SCALED,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "timestep_spacing": "leading",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str, settings: dict[str, Any], **net: Any) -> str:
        name = f"{scheduler}{settings}{net}"
        if name not in made:
            made[name] = tiny.saved(
                tmp_path_factory.mktemp("sd"), tiny.sd, getattr(diffusers, scheduler)(**settings), **net
            )
        return made[name]

    return get


def pair(where: str, **settings: Any) -> tuple[StableDiffusion, Any]:
    return StableDiffusion(where, **settings), diffusers.StableDiffusionPipeline.from_pretrained(where)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "height": 24, "width": 16},
        {"guidance_scale": 4.0, "negative_prompt": "a dog"},
    ],
)
def test_ddim_is_the_pipeline(
    call: dict[str, Any], prediction: str, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder("DDIMScheduler", {**SD15, "prediction_type": prediction})
    model, pipe = pair(where, **call)
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 5, PROMPTS, monkeypatch, **{**call, **negative})


@pytest.mark.parametrize(
    ("scheduler", "settings", "sampler", "steps", "tolerance"),
    [
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, euler, 4, 2e-4),
        ("EulerDiscreteScheduler", {"timestep_spacing": "linspace", "prediction_type": "v_prediction"}, euler, 4, 2e-4),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "use_karras_sigmas": True}, euler, 4, 5e-4),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, ancestral, 4, 2e-4),
        ("DDPMScheduler", {"timestep_spacing": "leading", "clip_sample": False}, ancestral, 4, 2e-4),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}, dpmpp_2m, 5, 5e-4),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, dpmpp_2m, 5, 5e-4),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, ancestral, 1, 2e-4),
        ("LCMScheduler", {"clip_sample": False}, consistency, 3, 2e-4),
        ("LCMScheduler", {"clip_sample": False}, consistency, 1, 2e-4),
        (
            "DDIMScheduler",
            {
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "clip_sample": False,
                "prediction_type": "v_prediction",
            },
            euler,
            4,
            2e-4,
        ),
    ],
)
def test_schedulers(
    scheduler: str,
    settings: dict[str, Any],
    sampler: Any,
    steps: int,
    tolerance: float,
    folder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, pipe = pair(folder(scheduler, {**tiny.SCALED, **settings}), guidance_scale=3.0)
    same_as_pipeline(model, pipe, sampler, steps, PROMPTS, monkeypatch, tolerance, guidance_scale=3.0)


def test_pndm_has_the_levels_of_ddim(folder: Any) -> None:
    plms = {k: v for k, v in SD15.items() if k != "clip_sample"}
    model = StableDiffusion(folder("PNDMScheduler", {**plms, "skip_prk_steps": True}))
    assert model.levels(5) == StableDiffusion(folder("DDIMScheduler", {**SD15, "prediction_type": "epsilon"})).levels(5)


def test_timesteps_come_back(folder: Any) -> None:
    for scheduler in ("EulerDiscreteScheduler", "LCMScheduler", "DDPMScheduler"):
        schedule = StableDiffusion(folder(scheduler, {**tiny.SCALED})).schedule
        for at in schedule.levels(4)[:-1]:
            t = schedule.timestep(at)
            assert abs(t - round(t)) < 1e-3
    explicit = StableDiffusion(folder("LCMScheduler", {**tiny.SCALED}), timesteps=(999, 749, 499, 249))
    assert [round(explicit.schedule.timestep(at)) for at in explicit.levels(4)[:-1]] == [999, 749, 499, 249]
    assert len(explicit.levels(2)) == 3


def test_guidance_as_an_input_of_the_network(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pipe = pair(folder("LCMScheduler", {**tiny.SCALED}, time_cond_proj_dim=16), guidance_scale=8.0)
    assert model.branches == 1
    same_as_pipeline(model, pipe, consistency, 2, PROMPTS, monkeypatch, guidance_scale=8.0)


@pytest.mark.parametrize("steps", [1, 4])
def test_lcm_is_its_pipeline(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tiny.saved(tmp_path, tiny.lcm, diffusers.LCMScheduler(**tiny.SCALED, clip_sample=False))
    model = LatentConsistency(where, guidance_scale=8.5)
    pipe = diffusers.LatentConsistencyModelPipeline.from_pretrained(where)
    same_as_pipeline(model, pipe, consistency, steps, PROMPTS, monkeypatch, guidance_scale=8.5)


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "negative_prompt": "a dog"}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    where = folder("DDIMScheduler", {**SD15, "prediction_type": "epsilon"})
    model_laws(StableDiffusion(where, **settings))


def test_slopes(folder: Any) -> None:
    slopes(StableDiffusion(folder("DDIMScheduler", {**SD15, "prediction_type": "epsilon"}), guidance_scale=2.0), euler)


def test_refusals(folder: Any) -> None:
    where = folder("DDIMScheduler", {**SD15, "prediction_type": "epsilon"})
    with pytest.raises(FairleadError, match="height is 9: must be a multiple of 2"):
        StableDiffusion(where, height=9)
    model = StableDiffusion(where)
    assert model.sites == []
    with pytest.raises(FairleadError, match="steps is 1001: must be at most 1000"):
        model.levels(1001)
    assert len(model.levels(1000)) == 1001
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(where, scheduler=diffusers.EDMEulerScheduler())
    with pytest.raises(FairleadError, match="EDMEuler"):
        StableDiffusion(pipe)
