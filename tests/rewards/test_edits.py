"""Rewards that compare with an input picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fairlead.core.errors import FairleadError
from fairlead.rewards.edit_direction import EditDirection
from fairlead.rewards.image_similarity import ImageSimilarity
from fairlead.run import rewards
from fairlead.run.formula import parse_reward
from fairlead.run.options import RunOptions
from fairlead.run.part import Part
from fairlead.run.rewards import build_reward, reward_leaf
from fairlead.run.spec import spec_of
from fairlead.testing.registered import registered_laws
from fairlead.testing.rewards import pictures


def as_file(folder: Path, images: torch.Tensor, name: str = "in.png") -> Path:
    array = (images[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(array).save(folder / name)
    return folder / name


@pytest.mark.parametrize(("name", "more"), [("image_similarity", {}), ("edit_direction", {"source": "a red apple"})])
def test_laws(name: str, more: dict[str, Any]) -> None:
    registered_laws("rewards", name, image=pictures(6)[5:], **more)


def test_the_input_itself_is_the_most_similar() -> None:
    images = pictures(4)
    scores = ImageSimilarity(images[2:3]).score(images, [""] * 4)
    assert float(scores[2]) == pytest.approx(100.0, abs=1e-3)
    assert int(scores.argmax()) == 2
    assert float(scores[[0, 1, 3]].max()) < 99.9


def test_an_edit_is_a_direction() -> None:
    """By hand: the cosine of both changes; the opposite change of the picture has the opposite sign."""
    images = pictures(3)
    words = ["a photo of a blue car"] * 3
    reward = EditDirection("a photo of a red apple", images[:1])
    found = reward.score(images, words)
    shown, told = reward._clip.images(images), reward._clip.texts([words[0], "a photo of a red apple"])
    change, wanted = shown[1] - shown[0], told[0] - told[1]
    assert float(found[1]) == pytest.approx(100 * float(change @ wanted / (change.norm() * wanted.norm())), abs=1e-3)
    back = EditDirection("a photo of a red apple", images[1:2]).score(images[:1], words[:1])
    assert float(back[0]) == pytest.approx(-float(found[1]), abs=1e-3)
    assert torch.isnan(reward.score(images[1:2], ["a photo of a red apple"])).all()


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    file = as_file(tmp_path, pictures(1))
    scored = build_reward(parse_reward(f"image_similarity(image={str(file)!r})"), reward_leaf)
    assert float(scored(pictures(1), [""])[0]) > 99
    with pytest.raises(FairleadError, match="there is none"):
        rewards.leaf_of_run(spec_of(RunOptions("a dog", reward="brightness")))(Part("image_similarity"))
    with pytest.raises(FairleadError, match="compares with its own input picture"):
        rewards.leaf_of_run(spec_of(RunOptions("a dog")))(Part("image_similarity", {"image": str(file)}))
    with pytest.raises(FairleadError, match=r"edit_direction\.source is"):
        EditDirection("  ", pictures(1))
    with pytest.raises(FairleadError, match=r"image_similarity\.by is 'looks'"):
        ImageSimilarity(pictures(1), by="looks")


def test_a_run_compares_with_its_own_picture(tmp_path: Path) -> None:
    file = as_file(tmp_path, pictures(1, 64))
    spec = spec_of(RunOptions("a dog", image=str(file), reward="image_similarity - edit_direction(source='a cat')"))
    reward = rewards.watched_reward(spec, rewards.leaf_of_run(spec))
    _, terms = reward(pictures(2, 64), ["a dog"] * 2)
    assert set(terms) == {"image_similarity", "edit_direction"}
    assert float(terms["image_similarity"][0]) > 99
