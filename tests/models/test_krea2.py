"""Krea 2, raw and turbo: text from several layers, guidance counted from 0, and a constant shift when distilled."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, rendered, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import euler
from fairlead.models.krea2 import Krea2
from fairlead.testing import model_laws

SIZE = {"height": 16, "width": 16}
LENGTH = {"max_sequence_length": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[bool, str] = {}

    def get(distilled: bool = False) -> str:
        if distilled not in made:
            levels = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
            made[distilled] = tiny.saved(tmp_path_factory.mktemp("krea2"), tiny.krea2, levels, distilled=distilled)
        return made[distilled]

    return get


def packed(pipe: Any) -> Any:
    return lambda x: pipe._pack_latents(x, *x.shape)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 0.0, **SIZE},
        {"guidance_scale": 3.0, "height": 24, "width": 16},
        {"guidance_scale": 0.5, "negative_prompt": "a dog", **SIZE},
    ],
)
def test_is_the_pipeline(distilled: bool, call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(distilled)
    model, pipe = Krea2(where, **LENGTH, **call), diffusers.Krea2Pipeline.from_pretrained(where)
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, pack=packed(pipe), **LENGTH, **{**call, **negative})


def test_pictures_are_the_pipelines(folder: Any) -> None:
    """The decoder's own mean and deviation, and one frame of its film."""
    model, pipe = Krea2(folder(), **LENGTH, **SIZE), diffusers.Krea2Pipeline.from_pretrained(folder())
    pipe.set_progress_bar_config(disable=True)
    x, mine = rendered(model, euler, 2, ["a dog"])
    model.release()
    with torch.no_grad():
        picture = model.decode(mine)
    theirs = pipe("a dog", latents=packed(pipe)(x), num_inference_steps=2, output_type="pt", **LENGTH, **SIZE).images
    assert float((picture - theirs).abs().max()) < 1e-4


def test_given_text(folder: Any) -> None:
    pipe = diffusers.Krea2Pipeline.from_pretrained(folder())
    text = torch.linspace(-1, 1, 5 * 2 * 16).view(1, 5, 2, 16)
    mask = torch.tensor([[True, True, True, True, False]])
    given = {"prompt_embeds": text, "prompt_embeds_mask": mask}
    given |= {"negative_prompt_embeds": text.flip(1), "negative_prompt_embeds_mask": mask}
    model = Krea2(pipe, **SIZE, **given)
    x, mine = rendered(model, euler, 2, ["a dog"])
    model.release()
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(latents=packed(pipe)(x), num_inference_steps=2, output_type="latent", **SIZE, **given).images
    assert float((packed(pipe)(mine) - theirs).abs().max()) < 2e-4 * float(theirs.abs().max())


def test_sites(folder: Any) -> None:
    assert [site.name for site in Krea2(folder(), **LENGTH, **SIZE).sites] == ["single_0", "single_1"]


@pytest.mark.parametrize("settings", [{"guidance_scale": 0.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(Krea2(folder(), **LENGTH, **{**SIZE, **settings}))


def test_slopes(folder: Any) -> None:
    slopes(Krea2(folder(), **LENGTH, guidance_scale=2.0, **SIZE), euler)
