"""A pipeline that somebody else owns: given back after every refusal, used by one run at a time, and nothing silent."""

from __future__ import annotations

import json
import threading
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import fairlead
import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError
from fairlead.models.sd import StableDiffusion
from fairlead.models.sd3 import StableDiffusion3

DDIM = {**tiny.SCALED, "steps_offset": 1, "clip_sample": False}
RUN: dict[str, Any] = {"reward": "brightness", "budget": {"nfe": 8}, "steps": 2, "batch": 2}
LONG = "a red dog and two blue cats on the left and a green car"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.saved(tmp_path_factory.mktemp("sd"), tiny.sd, diffusers.DDIMScheduler(**DDIM))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.saved(tmp_path_factory.mktemp("sd3"), tiny.sd3, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


def pipeline(folder: str) -> Any:
    """As its owner left it: training, with gradients."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.train().requires_grad_(True)
    return pipe


def flags(pipe: Any) -> list[Any]:
    found: list[Any] = []
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            found += [(module.training, len(module._forward_pre_hooks)) for module in part.modules()]
            found += [weight.requires_grad for weight in part.parameters()]
    return found


@pytest.mark.parametrize("refused", ["height", "scheduler", "interval", "steering"])
def test_a_refused_run_changes_nothing(refused: str, folder: str) -> None:
    pipe = pipeline(folder)
    if refused == "scheduler":
        pipe.scheduler = diffusers.EDMEulerScheduler()
    before = flags(pipe)
    settings = {"height": {"height": 9}, "interval": {"guidance_interval": 3}}.get(refused, {})
    steering: dict[str, Any] = {"steer": "demon"} if refused == "steering" else {}
    with pytest.raises(FairleadError):
        fairlead.run("a dog", model=pipe, settings={"model": settings}, **RUN, **steering)
    assert flags(pipe) == before


def test_what_a_family_refuses_gives_the_pipeline_back(sd3: str) -> None:
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(sd3)
    pipe.transformer.train().requires_grad_(True)
    before = flags(pipe)
    with pytest.raises(FairleadError, match="skip_guidance_layers"):
        StableDiffusion3(pipe, skip_guidance_layers=[99])
    assert flags(pipe) == before


def test_one_run_at_a_time(folder: str) -> None:
    pipe = pipeline(folder)
    started, ended = threading.Event(), threading.Event()
    found: list[Any] = []

    def slow(images: Any, prompts: Any) -> Any:
        started.set()
        assert ended.wait(60)
        return images.mean((1, 2, 3))

    def first() -> None:
        found.append(fairlead.run("a dog", model=pipe, **{**RUN, "reward": slow}))

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(60)
    shares = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    try:
        for used in (pipe, shares):
            with pytest.raises(FairleadError, match="in use by another run"):
                fairlead.run("a dog", model=used, **RUN)
    finally:
        ended.set()
        thread.join()
    assert len(found[0].candidates) == 4
    assert len(fairlead.run("a dog", model=pipe, **RUN).candidates) == 4


def test_a_model_that_is_its_own_sibling_is_charged_once(folder: str) -> None:
    words: dict[str, Any] = {
        **RUN,
        "steer": "lidar",
        "settings": {"lidar": {"model": "other", "steps": 2, "n": 4}},
        "budget": {"nfe": 40},
    }
    pipe = pipeline(folder)
    shared = fairlead.run("a dog", model=pipe, siblings={"other": pipe}, **words)
    apart = fairlead.run("a dog", model=pipe, siblings={"other": pipeline(folder)}, **words)
    assert len(shared.candidates) == len(apart.candidates) > 0
    assert shared.cost.forwards == apart.cost.forwards


@pytest.mark.parametrize("search", ["best_of", "adam"])
def test_inside_inference_mode(search: str, folder: str) -> None:
    outside = fairlead.run("a dog", model=folder, search=search, **RUN)
    with torch.inference_mode():
        inside = fairlead.run("a dog", model=folder, search=search, **RUN)
        assert torch.is_inference_mode_enabled()
    assert list(inside.candidates["reward"]) == list(outside.candidates["reward"])


def test_weights_that_were_made_in_inference_mode(folder: str) -> None:
    with torch.inference_mode():
        pipe = pipeline(folder)
    before = flags(pipe)
    assert len(fairlead.run("a dog", model=pipe, **RUN).candidates) == 4
    with pytest.raises(FairleadError, match=r"adam needs gradients.*inference_mode"):
        fairlead.run("a dog", model=pipe, search="adam", **RUN)
    assert flags(pipe) == before


def with_ip_adapter(pipe: Any) -> None:
    """A random IP-Adapter of 4 tokens, put in by diffusers' own loader."""
    weights = {"proj.weight": torch.ones(4 * 32, 8), "proj.bias": torch.ones(4 * 32)}
    weights |= {"norm.weight": torch.ones(32), "norm.bias": torch.ones(32)}
    layers: dict[str, Any] = {}
    cross = [one for one in pipe.unet.attn_processors if "attn2" in one]
    for i, name in enumerate(cross):
        key = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k
        layers |= {f"{2 * i + 1}.to_{k}_ip.weight": torch.ones_like(key.weight) for k in "kv"}
    pipe.unet._load_ip_adapter_weights([{"image_proj": weights, "ip_adapter": layers}])


def test_an_ip_adapter_is_refused(folder: str) -> None:
    pipe = pipeline(folder)
    with_ip_adapter(pipe)
    before = flags(pipe)
    with pytest.raises(FairleadError, match=r"IP-Adapter.*unload_ip_adapter"):
        fairlead.run("a dog", model=pipe, **RUN)
    assert flags(pipe) == before
    pipe.unload_ip_adapter()
    assert len(fairlead.run("a dog", model=pipe, **RUN).candidates) == 4


def sentences(result: Any) -> str:
    return " ".join(result.warnings)


def safety_checker() -> Any:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config={**sizes, "image_size": 8, "patch_size": 4}))


def test_a_safety_checker_that_is_not_run_is_named(folder: str) -> None:
    pipe = pipeline(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fairlead.run("a dog", model=pipe, **RUN).warnings
    pipe.register_modules(safety_checker=safety_checker())
    with pytest.warns(UserWarning, match="safety checker"):
        result = fairlead.run("a dog", model=pipe, **RUN)
    assert "safety checker of this StableDiffusionPipeline is not run" in sentences(result)


def test_a_watermark_that_is_left_out_is_named(folder: str) -> None:
    pipe = pipeline(folder)
    pipe.watermark = object()
    with pytest.warns(UserWarning, match="watermark"):
        result = fairlead.run("a dog", model=pipe, **RUN)
    assert "watermark of this StableDiffusionPipeline is left out" in sentences(result)


def test_subclasses_are_accepted(folder: str) -> None:
    class Mine(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
        pass

    class Calling(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
        def __call__(self, *args: Any, **words: Any) -> Any:
            raise NotImplementedError

    plain = fairlead.run("a dog", model=pipeline(folder), **RUN)
    for kind in (Mine, Calling):
        pipe = pipeline(folder)
        pipe.__class__ = kind
        with warnings.catch_warnings(record=True):
            result = fairlead.run("a dog", model=pipe, **RUN)
        assert list(result.candidates["reward"]) == list(plain.candidates["reward"])
        assert ("Calling has a __call__ of its own" in sentences(result)) == (kind is Calling)


def test_a_path_is_a_folder(folder: str) -> None:
    result = fairlead.run("a dog", model=Path(folder), **RUN)
    assert result.spec.model.name == folder
    assert fairlead.run("a dog", model=folder, **RUN).spec.id() == result.spec.id()


@pytest.mark.filterwarnings("ignore:The .*prompt is longer")
def test_what_is_truncated_is_named(folder: str) -> None:
    result = fairlead.run(LONG, model=folder, **RUN, negative_prompt=f"{LONG} on")
    assert result.warnings == (
        "The prompt is longer than the 12 tokens that the model reads: 'and a green car' is lost.",
        "The negative prompt is longer than the 12 tokens that the model reads: 'and a green car on' is lost.",
    )
    kept = "a red dog and two blue cats on the left"
    assert not fairlead.run(kept, model=folder, **RUN).warnings
    one, other = (StableDiffusion(folder).encode([prompt]).tokens for prompt in (LONG, kept))
    assert torch.equal(one, other), "exactly the words that were named are lost"


def test_what_one_encoder_reads_is_not_lost(sd3: str) -> None:
    assert StableDiffusion3(sd3).warnings(LONG, "euler") == []
    assert "green car" in StableDiffusion3(sd3, max_sequence_length=8).warnings(LONG, "euler")[0]


def test_weights_in_a_prompt_are_named(folder: str) -> None:
    found = fairlead.run("(red:1.5) dog (a", model=folder, **RUN).warnings
    assert [sentence.partition(" is")[0] for sentence in found] == ["'(red:1.5)'"]


def test_the_record_is_still_json(folder: str) -> None:
    spec = fairlead.run("a dog", model=pipeline(folder), **RUN).spec
    assert json.loads(spec.json())["model"]["settings"]["pipeline"] == "StableDiffusionPipeline"
