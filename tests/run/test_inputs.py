"""Picture inputs of a run: part of its name, stored with it, and composed with every search, reward and steering."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fairlead
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import engine, inputs, models, price
from fairlead.run.options import RunOptions
from fairlead.run.spec import Part, Spec
from fairlead.run.store import Store

PROMPT = "a red apple left of a blue car"
DEMON = {"demon": {"k": 2, "estimate": "few"}}
BASE: dict[str, Any] = {"model": "pocket-turbo", "reward": "brightness", "steps": 5, "batch": 2, "strength": 0.6}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that can be read, and some that cannot be meant."""
    folder = tmp_path_factory.mktemp("pictures")
    ramp = np.linspace(0, 255, 96)[None, :, None] * np.ones((96, 1, 3))
    picture = Image.fromarray(ramp.astype(np.uint8))
    picture.save(folder / "ramp.png")
    turned = picture.rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    half = Image.new("L", (96, 96), 0)
    half.paste(255, (48, 0, 96, 96))
    half.save(folder / "half.png")
    half.resize((48, 48)).save(folder / "small.png")
    Image.new("L", (96, 96), 0).save(folder / "black.png")
    Image.new("RGBA", (96, 96), (10, 20, 30, 255)).save(folder / "opaque.png")
    Image.new("RGBA", (96, 96), (10, 20, 30, 100)).save(folder / "clear.png")
    picture.resize((96, 64)).save(folder / "wide.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[turned])
    (folder / "text.png").write_text("no picture")
    return folder


def spec(files: Path, **more: Any) -> Spec:
    given = {**BASE, "image": files / "ramp.png", "budget": {"nfe": 12}, **more}
    return models.spec_of(RunOptions(PROMPT, **given))


def in_folder(files: Path, words: dict[str, Any]) -> dict[str, Any]:
    """The names of pictures as paths, where there is such a picture."""
    return {k: files / v if isinstance(v, str) and (files / v).is_file() else v for k, v in words.items()}


def test_a_run_says_keeps_and_continues_its_picture(files: Path, tmp_path: Path) -> None:
    question = spec(files, mask=files / "half.png", budget={"nfe": 6})
    digest = question.model.settings["image"]
    assert inputs.DIGEST.fullmatch(digest)
    assert Spec.from_json(question.json()) == question
    out = tmp_path / "run"
    engine.start(question, out).close()
    assert inputs.path_of(out, digest).is_file()
    moved = tmp_path / "moved"
    shutil.move(out, moved)
    inputs._known.clear()
    engine.resume(moved, budget={"nfe": 12}).close()
    inputs._known.clear()
    assert engine.replay(moved, 3).identical
    direct = tmp_path / "direct"
    engine.start(spec(files, mask=files / "half.png"), direct).close()
    assert [c.image for c in Store.open(moved).candidates()] == [c.image for c in Store.open(direct).candidates()]
    kept = inputs.path_of(moved, digest)
    inputs._known.clear()
    Image.new("RGB", (96, 96)).save(kept)
    with pytest.raises(StoreError, match="is not the picture that the run was started with"):
        engine.replay(moved, 0)
    kept.write_text("no picture")
    with pytest.raises(StoreError, match="is damaged"):
        engine.replay(moved, 0)
    kept.unlink()
    with pytest.raises(StoreError, match="is missing, the input picture of the run"):
        engine.replay(moved, 0)


def test_the_name_of_a_run_follows_the_pixels_alone(files: Path) -> None:
    one = spec(files)
    assert one.model.settings["strength"] == 0.6
    picture = Image.open(files / "ramp.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    for same in (files / "turned.png", picture, array, array / 255.0, tensor, tensor[None]):
        assert spec(files, image=same).id() == one.id()
    assert spec(files, image=files / "opaque.png").id() != one.id()
    assert spec(files, strength=0.7).id() != one.id()
    assert spec(files, strength=None, mask=files / "half.png").model.settings["strength"] == 1.0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"image": "nowhere.png"}, "image is 'nowhere.png', which is not a file"),
        ({"image": "text.png"}, "cannot be read as a picture. Save it as PNG or JPEG"),
        ({"image": "bomb.png"}, "more than 67 million pixels"),
        ({"image": "moving.gif"}, "which holds several pictures"),
        ({"image": "clear.png"}, "which is transparent in places"),
        ({"image": 7}, "image is of type int: must be a file"),
        ({"image": np.full((4, 4, 3), 2.0)}, "must be bytes, or finite numbers in"),
        ({"image": None}, "strength acts on an input picture, and this run has none. Add --image FILE"),
        ({"strength": 0.0}, r"strength is 0.0: must be a number in \(0, 1\]"),
        ({"strength": 1.1}, "strength is 1.1"),
        ({"mask": "small.png"}, "mask is 48x48 and image is 96x96: must be of the same size"),
        ({"mask": "black.png"}, "mask is black everywhere"),
        ({"mask": "wide.png"}, "must be of the same size"),
        ({"draft": 3}, "draft is 3: must be a whole number in"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(more: dict[str, Any], said: str, files: Path) -> None:
    with pytest.raises(FairleadError, match=said):
        spec(files, **in_folder(files, more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"strength": 0.02, "model": "pocket-unet"}, "strength is 0.02 and steps is 5: no step is left"),
        (
            {"image": "wide.png"},
            "is 96x64, which does not have the shape of 64x64: crop it, or use --width 80 --height",
        ),
        ({"model": "mixture", "strength": None}, "image cannot be used with 'mixture'"),
    ],
)
def test_what_the_model_cannot_do_leaves_nothing_behind(
    more: dict[str, Any], said: str, files: Path, tmp_path: Path
) -> None:
    with pytest.raises(FairleadError, match=said):
        engine.start(spec(files, **in_folder(files, more)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"search": "zero_order"},
        {"search": "adam"},
        {"space": "embedding", "search": "sep_cma"},
        {"draft": 2},
        {"draft": "peek(2)"},
        {"steer": "lidar", "settings": {"lidar": {"n": 2}}},
        {"steer": "demon", "settings": DEMON},
        {"steer": "feynman_kac", "group": 2, "sampler": "ancestral"},
        {"intervene": "repulsion", "group": 2},
        {"sampler": "scheduler"},
    ],
)
def test_it_composes_at_its_price(more: dict[str, Any], files: Path, tmp_path: Path) -> None:
    chosen = spec(files, mask=files / "half.png", strength=0.6, budget={"nfe": 60}, **more)
    engine.start(chosen, tmp_path / "run").close()
    store = Store.open(tmp_path / "run")
    found = store.candidates()
    assert found
    each = price.price(chosen)
    assert store.spent().nfe == pytest.approx(each.total.nfe, abs=2 * each.cost_per_candidate.nfe)


def test_python_takes_a_live_pipeline(files: Path, tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    folder = models.folder("pocket-turbo")
    pipe = FluxPipeline.from_pretrained(folder)
    words = {"image": Image.open(files / "ramp.png"), "strength": 0.5, "height": 64, "width": 64}
    fixed = {"steps": 4, "batch": 2, "reward": "brightness", "settings": {"model": {"max_sequence_length": 16}}}
    live = fairlead.run(PROMPT, model=pipe, budget={"nfe": 4}, out=tmp_path / "live", **words, **fixed)
    given = {**words, **fixed, "model": "pocket-turbo", "dtype": "float32", "budget": {"nfe": 4}}
    named = fairlead.run(PROMPT, out=tmp_path / "named", **given)
    pixels = [np.asarray(result.best.image).astype(int) for result in (live, named)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 3
    own = {"model": {"height": 64, "width": 64, "max_sequence_length": 16}}
    more = fairlead.resume(tmp_path / "live", budget={"nfe": 8}, model=pipe, settings=own)
    assert len(more.candidates) == 4


def test_a_setting_may_name_the_picture_too(files: Path) -> None:
    part = inputs.recorded(Part("pocket", {"image": str(files / "ramp.png"), "strength": 0.6}))
    assert part.settings == spec(files).model.settings
