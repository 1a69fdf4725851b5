"""The embedded models: what lists say of them, and that the small ones still draw what they were trained to draw."""

from __future__ import annotations

import json

import pytest

from fairlead.app.listing import model_facts
from fairlead.bench import geneval
from fairlead.pocket import load, world
from fairlead.pocket.judge import Detector
from fairlead.run import models, registry
from fairlead.run.render import Renderer
from fairlead.run.spec import Part, Spec

FAMILY = [name for name in registry.BUILTIN["models"] if name.startswith("pocket")]


@pytest.mark.parametrize("name", FAMILY)
def test_list_says_size_steps_family_and_axes(name: str) -> None:
    facts = model_facts(name)
    folder = models.folder(name)
    assert folder is not None
    index = json.loads((folder / "model_index.json").read_text())
    assert facts["family"] + "Pipeline" == index["_class_name"]
    assert facts["steps"] == load.defaults(folder)["steps"]
    assert 5 < facts["megabytes"] < 30
    assert facts["size"] == "64x64"
    assert "gradients" in facts["able"]
    assert ("joint sites" in facts["able"]) == (facts["family"] == "Flux")
    assert ("few-step" in facts["able"]) == (facts["guidance"] == "none needed") == (name == "pocket-turbo")


def draw(name: str, steps: int, count: int = 24) -> tuple[float, float]:
    """Share of single objects that the judge accepts, and network rows per picture."""
    prompts = [p for p in geneval.generate(world.NAMES, 1, seed=5) if p.tag == "single_object"][:count]
    renderer = Renderer(Spec("", model=Part(name), steps=steps, batch=count))
    found = Detector.from_pretrained(load.detector_folder()).detect(renderer([p.text for p in prompts], 0))
    right = sum(geneval.correct(p, f) for p, f in zip(prompts, found, strict=True))
    return right / count, renderer.meter.spent.forwards / count


@pytest.mark.parametrize(("steps", "floor"), [(1, 0.15), (4, 0.85)])
def test_turbo_draws_single_objects_for_a_tenth_of_the_rows(steps: int, floor: float) -> None:
    accepted, rows = draw("pocket-turbo", steps)
    assert accepted >= floor
    assert 10 * rows <= 2 * load.defaults(load.folder())["steps"]


def test_unet_draws_single_objects() -> None:
    assert draw("pocket-unet", 20, 12)[0] >= 0.85
