"""SDXL and its few-step descendants."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import ancestral, consistency, euler
from fairlead.models.sdxl import StableDiffusionXL
from fairlead.testing import model_laws

EULER = {**tiny.SCALED, "timestep_spacing": "leading", "steps_offset": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str = "EulerDiscreteScheduler", settings: dict[str, Any] = EULER, **more: Any) -> str:
        name = f"{scheduler}{settings}{more}"
        if name not in made:
            made[name] = tiny.saved(
                tmp_path_factory.mktemp("sdxl"), tiny.sdxl, getattr(diffusers, scheduler)(**settings), **more
            )
        return made[name]

    return get


def pair(where: str, **settings: Any) -> tuple[StableDiffusionXL, Any]:
    return StableDiffusionXL(where, **settings), diffusers.StableDiffusionXLPipeline.from_pretrained(where)


@pytest.mark.parametrize(
    ("zeros", "call"),
    [
        (True, {"guidance_scale": 1.0}),
        (True, {"guidance_scale": 4.0, "height": 24, "width": 16}),
        (True, {"guidance_scale": 4.0, "negative_prompt": "a dog"}),
        (True, {"guidance_scale": 4.0, "negative_prompt": ""}),
        (False, {"guidance_scale": 4.0}),
    ],
)
def test_is_the_pipeline(zeros: bool, call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pipe = pair(folder(zeros=zeros), **call)
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 4, PROMPTS, monkeypatch, **{**call, **negative})


def test_micro_conditioning(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pipe = pair(folder(), guidance_scale=1.0, original_size=(8, 8), crops_coords_top_left=(2, 4), clip_skip=1)
    call = {"original_size": (8, 8), "crops_coords_top_left": (2, 4), "clip_skip": 1, "guidance_scale": 1.0}
    same_as_pipeline(model, pipe, euler, 2, PROMPTS, monkeypatch, **call)


@pytest.mark.parametrize("steps", [1, 3])
def test_turbo(steps: int, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder("EulerAncestralDiscreteScheduler", {**tiny.SCALED, "timestep_spacing": "trailing"})
    model, pipe = pair(where, guidance_scale=0.0)
    same_as_pipeline(model, pipe, ancestral, steps, PROMPTS, monkeypatch, guidance_scale=0.0)


def test_lightning_is_a_swapped_denoiser_on_trailing_steps(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder("EulerDiscreteScheduler", {**tiny.SCALED, "timestep_spacing": "trailing"})
    with torch.no_grad():
        net = diffusers.UNet2DConditionModel.from_pretrained(f"{other}/unet")
        net.conv_in.weight.mul_(0.5)
        net.save_pretrained(f"{other}/lightning")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(other, unet=net)
    file = f"{other}/lightning/diffusion_pytorch_model.safetensors"
    for swap in (f"{other}/lightning", file):
        model = StableDiffusionXL(other, guidance_scale=0.0, swap=swap)
        same_as_pipeline(model, pipe, euler, 2, PROMPTS, monkeypatch, guidance_scale=0.0)


def test_dmd2_schedule(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [999, 749, 499, 249]
    model, pipe = pair(folder("LCMScheduler", {**tiny.SCALED}), guidance_scale=0.0, timesteps=times)
    same_as_pipeline(model, pipe, consistency, 4, PROMPTS, monkeypatch, guidance_scale=0.0, timesteps=times)


@pytest.mark.parametrize("settings", [{"guidance_scale": 0.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(StableDiffusionXL(folder(), **settings))


def test_slopes(folder: Any) -> None:
    slopes(StableDiffusionXL(folder(), guidance_scale=2.0), euler)
