"""SD3 and SD3.5, with static and size-dependent shift, and blocks with a second attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from pipeline_law import PROMPTS, rendered, same_as_pipeline, slopes

import fairlead
import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError
from fairlead.core.samplers import euler
from fairlead.models.sd3 import StableDiffusion3
from fairlead.run.store import Store
from fairlead.testing import model_laws

MEDIUM = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}
SKIP = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 2.0, "skip_layer_guidance_stop": 0.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: dict[str, Any] | None = None, **net: Any) -> str:
        name = f"{scheduler}{net}"
        if name not in made:
            levels = diffusers.FlowMatchEulerDiscreteScheduler(**(scheduler or {"shift": 3.0}))
            made[name] = tiny.saved(tmp_path_factory.mktemp("sd3"), tiny.sd3, levels, **net)
        return made[name]

    return get


def pair(where: str, **settings: Any) -> tuple[StableDiffusion3, Any]:
    model = StableDiffusion3(where, max_sequence_length=12, **settings)
    return model, diffusers.StableDiffusion3Pipeline.from_pretrained(where)


@pytest.mark.parametrize(
    ("scheduler", "net", "call"),
    [
        (None, {}, {"guidance_scale": 1.0}),
        (None, {}, {"guidance_scale": 4.0, "negative_prompt": "a dog", "height": 24, "width": 16}),
        ({"use_dynamic_shifting": True}, {}, {"guidance_scale": 4.0}),
        (None, MEDIUM, {"guidance_scale": 4.0}),
    ],
)
def test_is_the_pipeline(
    scheduler: Any, net: dict[str, Any], call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pipe = pair(folder(scheduler, **net), **call)
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 4, PROMPTS, monkeypatch, max_sequence_length=12, **{**call, **negative})


def test_without_the_t5_encoder(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folder(), text_encoder_3=None, tokenizer_3=None)
    model = StableDiffusion3(pipe, guidance_scale=4.0, max_sequence_length=12)
    same_as_pipeline(model, pipe, euler, 2, PROMPTS, monkeypatch, max_sequence_length=12, guidance_scale=4.0)


def test_skip_layer_guidance(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 1 and 2 of 5 take a third row; without them the latents are others."""
    call = {"guidance_scale": 4.0, **SKIP}
    model, pipe = pair(folder(**MEDIUM), **call)
    same_as_pipeline(model, pipe, euler, 5, PROMPTS, monkeypatch, max_sequence_length=12, thrice=2, **call)
    plain, _ = pair(folder(**MEDIUM), guidance_scale=4.0)
    both = [rendered(m, euler, 5, PROMPTS)[1] for m in (model, plain)]
    assert not torch.allclose(*both, atol=1e-2)


def test_skip_layer_guidance_is_priced(folder: Any, tmp_path: Path) -> None:
    words = {"model": {"max_sequence_length": 12, "guidance_scale": 4.0, **SKIP}}
    result = fairlead.run(
        "a dog",
        model=folder(**MEDIUM),
        reward="brightness",
        budget={"forwards": 25},
        steps=5,
        batch=2,
        settings=words,
        out=tmp_path / "run",
    )
    assert len(result.candidates) == 2
    assert Store.open(tmp_path / "run").spent().forwards == 24


@pytest.mark.parametrize(
    ("words", "said"),
    [({"guidance_scale": 1.0}, "acts under guidance only"), ({"skip_guidance_layers": [3]}, "0 to 2")],
)
def test_skip_layer_guidance_that_cannot_be(words: dict[str, Any], said: str, folder: Any) -> None:
    with pytest.raises(FairleadError, match=said):
        pair(folder(**MEDIUM), **{**SKIP, **words})


def test_sites_are_the_blocks_that_hand_on_text(folder: Any) -> None:
    assert [site.name for site in StableDiffusion3(folder()).sites] == ["joint_0", "joint_1"]


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(StableDiffusion3(folder(), max_sequence_length=12, **settings))


def test_slopes(folder: Any) -> None:
    slopes(StableDiffusion3(folder(), guidance_scale=2.0, max_sequence_length=12), euler)
