"""Pictures carry their recipe."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.run import engine, png
from fairlead.run.spec import Part, Spec
from fairlead.testing.runs import small_spec


def test_pixels_round_trip() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, -1)
    data = png.encode(array, {"a": 1, "ü": None}, "text")
    back, recipe = png.read(data)
    assert np.array_equal(back, array)
    assert recipe == {"a": 1, "ü": None}
    image = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255
    assert np.array_equal(png.pixels(image), array), "k/255 is k again for every k"
    assert png.pixels(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)).tolist() == [[[0, 128, 255]]]


def test_pictures_of_others_have_no_recipe() -> None:
    buffer = io.BytesIO()
    Image.new("L", (3, 2)).save(buffer, "PNG")
    array, recipe = png.read(buffer.getvalue())
    assert array.shape == (2, 3, 3)
    assert recipe == {}


@pytest.mark.parametrize("prompt", ["a photo of a dog", "ein Foto: Äpfel, 犬"])
def test_a_candidate_can_be_rendered_from_its_picture_alone(prompt: str, tmp_path: Path) -> None:
    """The recipe in the file, as a new run with the budget for that many candidates, gives the same pixels."""
    spec = replace(small_spec(reward="brightness + jpeg_size", seed=3), prompt=prompt)
    store = engine.start(spec, tmp_path / "run")
    chosen = store.get(4)
    data = (store.folder / chosen.image).read_bytes()
    array, recipe = png.read(data)
    assert recipe["candidate"] == 4
    assert recipe["key"] == chosen.key
    assert recipe["reward"] == chosen.reward
    assert recipe["terms"] == chosen.terms
    assert recipe["run"] == spec.id()
    assert "budget" not in recipe["spec"]
    again = Spec.from_json(json.dumps({**recipe["spec"], "budget": {"decodes": 5.0}}))
    assert again.id() == spec.id()
    other = engine.start(again, tmp_path / "again").get(4)
    assert np.array_equal(png.read((tmp_path / "again" / other.image).read_bytes())[0], array)
    with Image.open(io.BytesIO(data)) as image:
        text = str(image.info["parameters"])
    assert text.splitlines()[0] == prompt
    assert "Steps: 4, Sampler: euler, Seed: 3, Size: 8x1, Model: mixture" in text


def test_the_parameters_other_tools_read() -> None:
    spec = Spec("a dog", model=Part("x/y", {"true_cfg_scale": 3.0, "negative_prompt": "blur"}), steps=7, seed=5)
    lines = png.parameters(spec, (64, 32), "9.9", 2).splitlines()
    assert lines[:2] == ["a dog", "Negative prompt: blur"]
    assert lines[2].startswith("Steps: 7, Sampler: euler, CFG scale: 3, Seed: 5, Size: 64x32, Model: x/y")


def test_nan_is_null() -> None:
    nan = float("nan")
    recipe = png.recipe(small_spec(), "1", 0, "ab", nan, {"a": nan, "b": 1.0}, False)
    assert recipe["reward"] is None
    assert recipe["terms"] == {"a": None, "b": 1.0}
    png.encode(np.zeros((1, 1, 3), np.uint8), recipe, "x")
