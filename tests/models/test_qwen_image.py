"""Qwen-Image: prompts of unlike length, guidance of unchanged length, a video autoencoder."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.key import Key
from fairlead.core.samplers import euler
from fairlead.models.qwen_image import QwenImage
from fairlead.testing import model_laws


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str = "FlowMatchEulerDiscreteScheduler", **settings: Any) -> str:
        name = f"{scheduler}{settings}"
        if name not in made:
            levels = getattr(diffusers, scheduler)(
                **({"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9} | settings)
            )
            made[name] = tiny.saved(tmp_path_factory.mktemp("qwen_image"), tiny.qwen_image, levels)
        return made[name]

    return get


def pack(x: Any) -> Any:
    return diffusers.QwenImagePipeline._pack_latents(x, *x.shape)


@pytest.mark.parametrize(
    "call",
    [
        {"true_cfg_scale": 1.0, "height": 16, "width": 16},
        {"true_cfg_scale": 4.0, "height": 24, "width": 16, "negative_prompt": " "},
        {"true_cfg_scale": 4.0, "height": 16, "width": 16, "negative_prompt": "two cats and the dog"},
    ],
)
def test_is_the_pipeline(call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pipe = QwenImage(folder(), **call), diffusers.QwenImagePipeline.from_pretrained(folder())
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, pack=pack, **{**call, **negative})


def test_the_decoder_is_the_pipelines(folder: Any) -> None:
    pipe = diffusers.QwenImagePipeline.from_pretrained(folder())
    x = Key.root(0).normal(1, 4, 8, 8)
    pipe.set_progress_bar_config(disable=True)
    steps: list[Any] = []

    def keep(pipe: Any, i: int, t: Any, inside: dict[str, Any]) -> dict[str, Any]:
        steps.append(inside["latents"])
        return {}

    theirs = pipe(
        "a dog",
        latents=pack(x),
        num_inference_steps=1,
        height=16,
        width=16,
        true_cfg_scale=1.0,
        output_type="pt",
        callback_on_step_end=keep,
    ).images
    z = diffusers.QwenImagePipeline._unpack_latents(steps[-1], 16, 16, pipe.vae_scale_factor)[:, :, 0]
    assert torch.allclose(QwenImage(pipe, height=16, width=16).decode(z), theirs, atol=1e-5)


def test_sites(folder: Any) -> None:
    assert [site.name for site in QwenImage(folder()).sites] == ["joint_0", "joint_1"]


@pytest.mark.parametrize("settings", [{"true_cfg_scale": 1.0}, {"true_cfg_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(QwenImage(folder(), **{"height": 16, "width": 16, **settings}))


def test_slopes(folder: Any) -> None:
    slopes(QwenImage(folder(), height=16, width=16, true_cfg_scale=2.0), euler)
