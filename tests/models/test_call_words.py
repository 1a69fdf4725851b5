"""What a pipeline's own call takes: taken under its own name with the same pictures, or refused by name."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, rendered, same_as_pipeline

import fairlead
import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError
from fairlead.core.samplers import consistency, euler
from fairlead.models.aura_flow import AuraFlow
from fairlead.models.flux2 import Flux2, Flux2Klein
from fairlead.models.pixart import PixArtSigma
from fairlead.models.qwen_image import QwenImage
from fairlead.models.sana import Sana
from fairlead.models.sd import LatentConsistency, StableDiffusion
from fairlead.models.sd3 import StableDiffusion3
from fairlead.models.sdxl import StableDiffusionXL
from fairlead.models.z_image import ZImage
from fairlead.run import registry
from fairlead.run.options import IN_A_PIPELINE

DDIM = {**tiny.SCALED, "steps_offset": 1, "clip_sample": False}


def mean(images: torch.Tensor, prompts: Any) -> torch.Tensor:
    return images.mean((1, 2, 3))


RUN: dict[str, Any] = {"reward": mean, "budget": {"nfe": 4}, "steps": 2, "batch": 2}
ADAPTERS = {
    "sd": StableDiffusion,
    "lcm": LatentConsistency,
    "sdxl": StableDiffusionXL,
    "sd3": StableDiffusion3,
    "pixart": PixArtSigma,
    "sana": Sana,
    "aura_flow": AuraFlow,
    "qwen_image": QwenImage,
    "z_image": ZImage,
    "flux2_klein": Flux2Klein,
    "flux2": Flux2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    class Folders:
        """Made when first asked for."""

        def __getitem__(self, name: str) -> str:
            if name not in made:
                flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
                levels = {"sd": diffusers.DDIMScheduler(**DDIM), "sdxl": diffusers.DDIMScheduler(**DDIM)}
                levels |= {"lcm": diffusers.LCMScheduler(**tiny.SCALED, clip_sample=False)}
                levels |= {"pixart": diffusers.EulerDiscreteScheduler()}
                where = tmp_path_factory.mktemp(name)
                made[name] = tiny.saved(where, getattr(tiny, name), levels.get(name, flow))
            return made[name]

    return Folders()


def loaded(folder: str) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    if isinstance(pipe, diffusers.StableDiffusionPipeline | diffusers.LatentConsistencyModelPipeline):
        # diffusers reads this name under clip_skip, and transformers 5 has dropped it
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("sd", {"guidance_rescale": 0.7}),
        ("sd", {"clip_skip": 1, "negative_prompt": "cat"}),
        ("sdxl", {"guidance_rescale": 0.7, "clip_skip": 1, "negative_prompt": "cat"}),
        ("sdxl", {"prompt_2": "a green dog", "negative_prompt": "cat", "negative_prompt_2": "a car"}),
        ("sd3", {"prompt_2": "a green dog", "prompt_3": "a car", "negative_prompt_3": "blue", "clip_skip": 1}),
    ],
)
def test_the_pipelines_words(family: str, words: dict[str, Any], folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pipe = ADAPTERS[family](folders[family], guidance_scale=4.0, **words), loaded(folders[family])
    call = {name: [value] * 2 if isinstance(value, str) else value for name, value in words.items()}
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, guidance_scale=4.0, **call)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_embeddings_and_latents(family: str, folders: Any) -> None:
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


def test_sizes_of_the_negative_prompt(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one prompt: with several, the pipeline repeats the two rows of sizes in another order than those of text."""
    words = {"target_size": (8, 8), "negative_original_size": (8, 16), "negative_target_size": (16, 8)}
    model, pipe = StableDiffusionXL(folders["sdxl"], guidance_scale=4.0, **words), loaded(folders["sdxl"])
    same_as_pipeline(model, pipe, euler, 3, PROMPTS[:1], monkeypatch, guidance_scale=4.0, **words)


def test_clip_skip_of_an_lcm(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pipe = LatentConsistency(folders["lcm"], guidance_scale=8.0, clip_skip=1), loaded(folders["lcm"])
    same_as_pipeline(model, pipe, consistency, 2, PROMPTS, monkeypatch, guidance_scale=8.0, clip_skip=1)


def test_clip_skip_is_another_picture(folders: Any) -> None:
    for family in ("sd", "sdxl", "sd3"):
        one, other = (ADAPTERS[family](folders[family], clip_skip=skip).encode(["a dog"]) for skip in (None, 1))
        assert not torch.allclose(one.tokens, other.tokens)


WORDS = torch.linspace(-1, 1, 5)[None, :, None]
"""Five tokens that no encoder made, to be widened."""


def given_text(family: str, guided: bool) -> dict[str, Any]:
    """The tensors that the pipeline's own call takes, of unlike content for both halves of guidance."""
    width = {"sana": 8, "qwen_image": 16, "z_image": 16, "flux2_klein": 24, "flux2": 24}.get(family, 32)
    text = WORDS * torch.linspace(0.2, 1, width)
    negative = text.flip(1) * 0.5
    out: dict[str, Any] = {"prompt_embeds": text}
    if guided:
        out["negative_prompt_embeds"] = negative
    mask = {"qwen_image": "prompt_embeds_mask"}.get(family, "prompt_attention_mask")
    if family in ("pixart", "sana", "aura_flow", "qwen_image"):
        out[mask] = torch.tensor([[1, 1, 1, 1, 0]])
        out |= {f"negative_{mask}": torch.tensor([[1, 1, 1, 0, 0]])} if guided else {}
    if family == "z_image":
        out = {name: [value[0]] for name, value in out.items()}
    if family == "sd3":
        out["pooled_prompt_embeds"] = torch.linspace(-1, 1, 32)[None]
        out["negative_pooled_prompt_embeds"] = torch.linspace(1, -1, 32)[None]
    return out


CALLS: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": 3.0},
    "pixart": {"guidance_scale": 3.0},
    "sana": {"guidance_scale": 3.0},
    "aura_flow": {"guidance_scale": 3.0},
    "qwen_image": {"true_cfg_scale": 3.0},
    "z_image": {"guidance_scale": 3.0},
    "flux2_klein": {"guidance_scale": 3.0},
    "flux2": {"guidance_scale": 3.0},
}
SIZE = {"height": 16, "width": 16}
OWN_CALL: dict[str, dict[str, Any]] = {
    name: {"use_resolution_binning": False, "negative_prompt": None} for name in ("pixart", "sana")
}


@pytest.mark.parametrize("family", CALLS)
def test_given_text_draws_the_pipelines_picture(family: str, folders: Any) -> None:
    """Text from elsewhere, with masks where the family has them, without encoding anything."""
    pipe, call = loaded(folders[family]), CALLS[family]
    tensors = given_text(family, guided=family != "flux2")
    call = call if family in ("pixart", "sana") else {**call, **SIZE}
    model = ADAPTERS[family](pipe, **call, **({k: _row(v) for k, v in tensors.items()}))
    x, mine = rendered(model, euler, 3, ["a dog"])
    model.release()
    height, width = model.size
    packed = x if family not in PACKED else PACKED[family](pipe, x)
    own = {**OWN_CALL.get(family, {}), **call, "height": height, "width": width, "latents": packed}
    mine = model.unscale(mine) if family == "flux2_klein" else mine
    theirs = pipe(num_inference_steps=3, output_type="latent", **own, **tensors).images
    mine = mine.flatten(2).mT if family == "flux2" else mine
    mine = mine if family not in PACKED or family == "flux2_klein" else PACKED[family](pipe, mine)
    assert float((mine - theirs).abs().max()) <= 2e-4 * max(1.0, float(theirs.abs().max()))


def _row(value: Any) -> Any:
    return value[0][None] if isinstance(value, list) else value


PACKED: dict[str, Any] = {
    "qwen_image": lambda pipe, x: pipe._pack_latents(x, *x.shape),
    "flux2_klein": lambda pipe, x: x,
    "flux2": lambda pipe, x: x,
}


def test_a_mask_is_demanded_where_the_pipeline_demands_it(folders: Any) -> None:
    text = given_text("pixart", guided=False)
    pipe = loaded(folders["pixart"])
    with pytest.raises(
        FairleadError, match="prompt_embeds has 5 tokens: pass prompt_attention_mask of the same length"
    ):
        fairlead.run("a dog", model=pipe, prompt_embeds=text["prompt_embeds"], guidance_scale=1.0, **RUN)
    with pytest.raises(FairleadError, match="PixArtSigmaPipeline takes no prompt_embeds_mask"):
        fairlead.run("a dog", model=pipe, prompt_embeds_mask=text["prompt_attention_mask"], **RUN)
    result = fairlead.run("a dog", model=pipe, guidance_scale=1.0, **RUN, **text)
    other = fairlead.run(
        "a dog", model=pipe, guidance_scale=1.0, **RUN, **(text | {"prompt_attention_mask": torch.ones(1, 5)})
    )
    assert result.candidates["reward"][0] != other.candidates["reward"][0]
    assert result.spec.id() != other.spec.id()


def test_wrong_tensors_are_refused(folders: Any) -> None:
    pipe = loaded(folders["sd"])
    ones = torch.ones
    with pytest.raises(FairleadError, match=r"latents must have the shape \(1, 4, 8, 8\)"):
        fairlead.run("a dog", model=pipe, latents=ones(1, 4, 4, 4), **RUN)
    with pytest.raises(FairleadError, match="prompt_embeds must be a tensor like"):
        fairlead.run("a dog", model=pipe, prompt_embeds=ones(1, 12, 5), **RUN)
    with pytest.raises(FairleadError, match="takes no pooled_prompt_embeds"):
        fairlead.run("a dog", model=pipe, pooled_prompt_embeds=ones(1, 32), **RUN)
    with pytest.raises(FairleadError, match="negative_prompt_embeds has no effect"):
        fairlead.run("a dog", model=pipe, negative_prompt_embeds=ones(1, 12, 32), guidance_scale=1.0, **RUN)
    with pytest.raises(FairleadError, match="negative_prompt_embeds of the same length"):
        fairlead.run("a dog", model=pipe, prompt_embeds=ones(1, 24, 32), guidance_scale=2.0, **RUN)
    with pytest.raises(FairleadError, match="latents are a point of the space 'noise'"):
        fairlead.run("a dog", model=pipe, latents=ones(1, 4, 8, 8), space="embedding", **RUN)
    with pytest.raises(FairleadError, match="prompt_embeds needs a live pipeline"):
        fairlead.run("a dog", model=folders["sd"], prompt_embeds=ones(1, 12, 32), **RUN)


def test_what_a_run_does_not_take_is_refused_by_name(folders: Any) -> None:
    with pytest.raises(TypeError, match=r"no argument 'num_inference_steps': use steps\."):
        fairlead.run("a dog", num_inference_steps=4)  # type: ignore[call-arg]
    with pytest.raises(FairleadError, match=r"'ip_adapter_image' .* cannot be used: a run takes no IP-Adapter"):
        fairlead.run("a dog", model=folders["sd"], settings={"model": {"ip_adapter_image": "x.png"}}, **RUN)


@pytest.mark.parametrize("family", registry.table("adapters"))
def test_every_word_of_a_pipelines_call_is_taken_or_explained(family: str) -> None:
    """No argument of the call is unknown here: a setting, an option, a tensor, or a sentence that says what to do."""
    taken = {"prompt", *IN_A_PIPELINE}
    adapter = registry.resolve("adapters", family)
    taken |= {*inspect.signature(adapter).parameters, *adapter.loading, *adapter.inputs}
    call = inspect.signature(getattr(diffusers, family).__call__).parameters.values()
    assert {one.name for one in call if one.kind is not one.VAR_KEYWORD} - {"self"} <= taken
