"""FLUX.2 dev and klein: latents as patches, a shift that knows the number of steps."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import euler
from fairlead.models.flux2 import Flux2, Flux2Klein
from fairlead.testing import model_laws

SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(make: Any, **settings: Any) -> str:
        name = f"{make.__name__}{settings}"
        if name not in made:
            levels = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
            made[name] = tiny.saved(tmp_path_factory.mktemp("flux2"), make, levels, **settings)
        return made[name]

    return get


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("call", [{"guidance_scale": 1.0, **SIZE}, {"guidance_scale": 4.0, "height": 24, "width": 16}])
def test_klein_is_the_pipeline(
    call: dict[str, Any], distilled: bool, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(tiny.flux2_klein, distilled=distilled)
    model = Flux2Klein(where, max_sequence_length=32, **call)
    pipe = diffusers.Flux2KleinPipeline.from_pretrained(where)
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, out=model.unscale, max_sequence_length=32, **call)


def test_dev_is_the_pipeline(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tiny.flux2)
    call = {"guidance_scale": 2.5, "height": 24, "width": 16, "max_sequence_length": 64}
    model, pipe = Flux2(where, **call), diffusers.Flux2Pipeline.from_pretrained(where)
    same_as_pipeline(model, pipe, euler, 3, PROMPTS, monkeypatch, out=lambda z: z.flatten(2).mT, **call)
    assert [site.name for site in model.sites] == ["joint_0", "single_0", "single_1"]


@pytest.mark.parametrize("settings", [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws_of_klein(settings: dict[str, Any], folder: Any) -> None:
    model_laws(Flux2Klein(folder(tiny.flux2_klein), max_sequence_length=32, **{**SIZE, **settings}))


def test_laws_of_dev(folder: Any) -> None:
    model_laws(Flux2(folder(tiny.flux2), max_sequence_length=64, **SIZE))


def test_slopes(folder: Any) -> None:
    slopes(Flux2Klein(folder(tiny.flux2_klein), guidance_scale=2.0, max_sequence_length=32, **SIZE), euler)
