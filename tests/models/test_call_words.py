"""What a pipeline's own call takes: taken under its own name with the same pictures, or refused by name."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, same_as_pipeline

import fairlead
import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError
from fairlead.core.samplers import euler
from fairlead.models.sd import StableDiffusion
from fairlead.models.sd3 import StableDiffusion3
from fairlead.models.sdxl import StableDiffusionXL

DDIM = {**tiny.SCALED, "steps_offset": 1, "clip_sample": False}


def mean(images: torch.Tensor, prompts: Any) -> torch.Tensor:
    return images.mean((1, 2, 3))


RUN: dict[str, Any] = {"reward": mean, "budget": {"nfe": 4}, "steps": 2, "batch": 2}
ADAPTERS = {"sd": StableDiffusion, "sdxl": StableDiffusionXL, "sd3": StableDiffusion3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ddim = diffusers.DDIMScheduler(**DDIM)
    made = {"sd": (tiny.sd, ddim), "sdxl": (tiny.sdxl, ddim), "sd3": (tiny.sd3, flow)}
    return {name: tiny.saved(tmp_path_factory.mktemp(name), *given) for name, given in made.items()}


def loaded(folder: str) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("sd", {"guidance_rescale": 0.7}),
        ("sdxl", {"guidance_rescale": 0.7, "clip_skip": 1, "negative_prompt": "cat"}),
        ("sdxl", {"prompt_2": "a green dog", "negative_prompt": "cat", "negative_prompt_2": "a car"}),
        ("sd3", {"prompt_2": "a green dog", "prompt_3": "a car", "negative_prompt_3": "blue", "clip_skip": 1}),
    ],
)
def test_the_pipelines_words(
    family: str, words: dict[str, Any], folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pipe = ADAPTERS[family](folders[family], guidance_scale=4.0, **words), loaded(folders[family])
    call = {name: [value] * 2 if isinstance(value, str) else value for name, value in words.items()}
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, guidance_scale=4.0, **call)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_embeddings_and_latents(family: str, folders: dict[str, str]) -> None:
    """The first candidate is the picture of the pipeline's own call with the same tensors."""
    pipe = loaded(folders[family])
    told = (
        pipe.encode_prompt("two blue cats", "cpu", 1, True) if family == "sd" else pipe.encode_prompt("two blue cats")
    )
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    tensors = dict(zip(names, told, strict=False)) | {"latents": torch.ones(1, 4, 8, 8).cumsum(2) / 8}
    result = fairlead.run("a dog", model=pipe, guidance_scale=4.0, **RUN, **tensors)
    own = pipe(num_inference_steps=2, guidance_scale=4.0, output_type="pt", **tensors).images[0]
    first = result.candidates["reward"][0]
    assert first == pytest.approx(float(own.mean()), abs=0.005)
    assert result.candidates["reward"][1] != first
    again = fairlead.run(
        "a dog", model=pipe, guidance_scale=4.0, **RUN, **(tensors | {"latents": tensors["latents"] + 1})
    )
    assert again.spec.id() != result.spec.id(), "the record knows the tensors apart"


def test_wrong_tensors_are_refused(folders: dict[str, str]) -> None:
    pipe = loaded(folders["sd"])
    ones = torch.ones
    with pytest.raises(FairleadError, match=r"latents must have the shape \(1, 4, 8, 8\)"):
        fairlead.run("a dog", model=pipe, latents=ones(1, 4, 4, 4), **RUN)
    with pytest.raises(FairleadError, match="prompt_embeds must be a tensor like"):
        fairlead.run("a dog", model=pipe, prompt_embeds=ones(1, 12, 5), **RUN)
    with pytest.raises(FairleadError, match="pooled_prompt_embeds has no effect"):
        fairlead.run("a dog", model=pipe, pooled_prompt_embeds=ones(1, 32), **RUN)
    with pytest.raises(FairleadError, match="negative_prompt_embeds of the same length"):
        fairlead.run("a dog", model=pipe, prompt_embeds=ones(1, 24, 32), guidance_scale=2.0, **RUN)
    with pytest.raises(FairleadError, match="latents are a point of the space 'noise'"):
        fairlead.run("a dog", model=pipe, latents=ones(1, 4, 8, 8), space="embedding", **RUN)
    with pytest.raises(FairleadError, match="prompt_embeds needs a live pipeline"):
        fairlead.run("a dog", model=folders["sd"], prompt_embeds=ones(1, 12, 32), **RUN)


def test_what_a_run_does_not_take_is_refused_by_name(folders: dict[str, str]) -> None:
    with pytest.raises(TypeError, match=r"no argument 'num_inference_steps': use steps\."):
        fairlead.run("a dog", num_inference_steps=4)  # type: ignore[call-arg]
    with pytest.raises(FairleadError, match=r"'ip_adapter_image' .* cannot be used: a run starts from a prompt alone"):
        fairlead.run("a dog", model=folders["sd"], settings={"model": {"ip_adapter_image": "x.png"}}, **RUN)
