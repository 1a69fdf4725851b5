"""Z-Image: reversed time, lists of pictures and captions, guidance counted from zero."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import tiny_pipelines as tiny
from fairlead.core.samplers import euler
from fairlead.models.z_image import ZImage
from fairlead.testing import model_laws


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str = "FlowMatchEulerDiscreteScheduler", **settings: Any) -> str:
        name = f"{scheduler}{settings}"
        if name not in made:
            levels = getattr(diffusers, scheduler)(**({"shift": 3.0} | settings))
            made[name] = tiny.saved(tmp_path_factory.mktemp("z_image"), tiny.z_image, levels)
        return made[name]

    return get


@pytest.mark.parametrize("scheduler", [{}, {"use_dynamic_shifting": True}])
@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 0.0, "height": 16, "width": 16},
        {"guidance_scale": 4.0, "height": 24, "width": 16},
        {"guidance_scale": 0.5, "height": 16, "width": 16, "negative_prompt": "two cats and the dog"},
    ],
)
def test_is_the_pipeline(
    scheduler: dict[str, Any], call: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(**scheduler)
    model, pipe = ZImage(where, **call), diffusers.ZImagePipeline.from_pretrained(where)
    negative = {"negative_prompt": [call["negative_prompt"]] * 2} if "negative_prompt" in call else {}
    same_as_pipeline(model, pipe, euler, 3, list(PROMPTS), monkeypatch, **{**call, **negative})


def test_sites_are_the_blocks_of_both_streams(folder: Any) -> None:
    assert [site.name for site in ZImage(folder()).sites] == ["single_0", "single_1"]


@pytest.mark.parametrize("settings", [{"guidance_scale": 0.0}, {"guidance_scale": 3.0, "width": 24}])
def test_laws(settings: dict[str, Any], folder: Any) -> None:
    model_laws(ZImage(folder(), **{"height": 16, "width": 16, **settings}))


def test_slopes(folder: Any) -> None:
    slopes(ZImage(folder(), height=16, width=16, guidance_scale=2.0), euler)
