"""`fairlead.Pipeline`: the arguments and the output of the wrapped pipeline, on tiny networks of real classes."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import fairlead
import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError

DDIM = {**tiny.SCALED, "steps_offset": 1, "clip_sample": False}
CALL: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 64}


def mean(images: torch.Tensor, prompts: Any) -> torch.Tensor:
    return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    levels = {"sd": diffusers.DDIMScheduler(**DDIM), "sdxl": diffusers.DDIMScheduler(**DDIM), "sd3": flow}
    return {name: tiny.saved(tmp_path_factory.mktemp(name), getattr(tiny, name), at) for name, at in levels.items()}


def loaded(folder: str) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "safety_checker"):
        pipe.register_to_config(requires_safety_checker=False)
    return pipe


def better(pipe: Any, **options: Any) -> fairlead.Pipeline:
    return fairlead.Pipeline(pipe, **{"reward": mean, "budget": {"nfe": 8}, "batch": 2, **options})


def gap(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_the_plain_sample_is_the_picture_of_the_pipeline(family: str, folders: dict[str, str]) -> None:
    """With the same generator, which is left where the pipeline leaves it."""
    pipe = loaded(folders[family])
    prompts = ["a red dog", "a blue cat"]
    own_generator = torch.Generator().manual_seed(3)
    own = pipe(prompts, generator=own_generator, num_images_per_prompt=2, guidance_scale=4.0, **CALL).images
    generator = torch.Generator().manual_seed(3)
    found = better(pipe)(prompts, generator=generator, num_images_per_prompt=2, guidance_scale=4.0, **CALL)
    assert [gap(a, b) <= 1 for a, b in zip(found.baselines, own[::2], strict=True)] == [True, True]
    assert torch.equal(own_generator.get_state(), generator.get_state())
    assert len(found.images) == 4
    assert len(found.runs) == 2
    assert all(run.best.reward >= run.baseline.reward for run in found.runs)


def test_pictures_are_those_of_keep(folders: dict[str, str]) -> None:
    found = better(loaded(folders["sd"]), seed=1)("a red dog", num_images_per_prompt=3, **CALL)
    (run,) = found.runs
    kept = run.keep(3)
    assert found.rewards == [shot.reward for shot in kept]
    assert [gap(a, b.image) for a, b in zip(found.images, kept, strict=True)] == [0, 0, 0]
    assert found[0] is found.images
    assert list(found) == ["images", "runs", "rewards", "baselines"]


def test_kinds_of_output(folders: dict[str, str]) -> None:
    call = better(loaded(folders["sd"]), seed=1)
    pil = call("a red dog", **CALL).images[0]
    array = call("a red dog", output_type="np", **CALL).images
    (tensor, *_) = call("a red dog", output_type="pt", return_dict=False, **CALL)
    assert array.shape == (1, 64, 64, 3)
    assert tensor.shape == (1, 3, 64, 64)
    assert gap(pil, (array[0] * 255).round()) == 0
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), array[0])
    with pytest.raises(FairleadError, match=r"output_type is 'latent': must be"):
        call("a red dog", output_type="latent", **CALL)


def test_without_a_generator_every_call_differs_and_torch_decides(folders: dict[str, str]) -> None:
    call = better(loaded(folders["sd"]))
    torch.manual_seed(5)
    first, second = call("a red dog", **CALL), call("a red dog", **CALL)
    torch.manual_seed(5)
    again = call("a red dog", **CALL)
    assert gap(first.images[0], again.images[0]) == 0
    assert first.runs[0].spec.seed != second.runs[0].spec.seed


def test_negative_prompts_belong_to_their_prompts(folders: dict[str, str]) -> None:
    call = better(loaded(folders["sd"]), seed=1)
    found = call(["a red dog", "a blue cat"], negative_prompt=["green", "cat"], **CALL)
    assert [run.spec.model.settings["negative_prompt"] for run in found.runs] == ["green", "cat"]
    with pytest.raises(FairleadError, match="negative_prompt has 1 texts for 2 prompts"):
        call(["a red dog", "a blue cat"], negative_prompt=["green"], **CALL)


def test_tensors_are_stored_by_digest(folders: dict[str, str]) -> None:
    pipe = loaded(folders["sd"])
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    size = {**CALL, "height": 32 * pipe.vae_scale_factor, "width": 32 * pipe.vae_scale_factor}
    found = better(pipe, budget={"nfe": 2})("a red dog", latents=latents, **size)
    assert len(found.runs[0].spec.model.settings["latents"]) == 16
    assert gap(found.baselines[0], pipe("a red dog", latents=latents, **size).images[0]) <= 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"callback_on_step_end": print}, "write a steering"),
        ({"eta": 0.5}, "choose a sampler"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "write an intervention"),
        ({"timesteps": [3, 1]}, "levels come from"),
        ({"heigth": 3}, "heigth"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(words: dict[str, Any], reason: str, folders: dict[str, str]) -> None:
    with pytest.raises(TypeError, match=reason):
        better(loaded(folders["sd"]))("a red dog", **CALL, **words)


def test_the_pipeline_shows_through(folders: dict[str, str]) -> None:
    pipe = loaded(folders["sd"])
    call = better(pipe)
    assert call.to("cpu") is call
    call.scheduler = diffusers.DDIMScheduler(**DDIM, timestep_spacing="trailing")
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    assert call.unet is pipe.unet


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda call: call(None, **CALL), "prompt is missing"),
        (lambda call: call([], **CALL), "empty"),
        (lambda call: call("a red dog", num_images_per_prompt=0, **CALL), "num_images_per_prompt is 0"),
        (lambda call: call("a red dog", num_images_per_prompt=50, **CALL), "Use a larger budget"),
        (lambda call: call("a red dog", generator=[torch.Generator()] * 3, **CALL), "list of 3"),
    ],
)
def test_bad_calls_are_one_sentence(act: Any, sentence: str, folders: dict[str, str]) -> None:
    with pytest.raises(FairleadError, match=sentence):
        act(better(loaded(folders["sd"])))


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(FairleadError, match="needs a loaded diffusers pipeline"):
        fairlead.Pipeline("pocket")
