"""Rewards that are formulas, against independent computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.rewards.brightness import Brightness
from fairlead.rewards.jpeg_size import JpegSize

NOISE = Key.root(3).uniform(4, 3, 40, 24).float()


def test_brightness_is_rec_709_luma() -> None:
    solid = torch.eye(3)[..., None, None].expand(3, 3, 5, 7)
    assert Brightness().score(solid, ["x"] * 3).tolist() == pytest.approx([0.2126, 0.7152, 0.0722])
    grey = torch.full((1, 3, 4, 4), 0.37)
    assert float(Brightness().score(grey, ["x"])) == pytest.approx(0.37)
    expected = (NOISE.numpy().astype(np.float64).mean((2, 3)) * [0.2126, 0.7152, 0.0722]).sum(1)
    np.testing.assert_allclose(Brightness().score(NOISE, ["x"] * 4).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("quality", [95, 40])
def test_jpeg_size_is_what_pillow_writes(quality: int) -> None:
    expected = []
    for picture in NOISE:
        pixels = np.round(picture.numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        expected.append(len(buffer.getvalue()) / 1000)
    assert JpegSize(quality).score(NOISE, ["x"] * 4).tolist() == pytest.approx(expected)


def test_jpeg_size_grows_with_detail_and_quality() -> None:
    flat = torch.full_like(NOISE, 0.5)
    assert (JpegSize().score(NOISE, ["x"] * 4) > 2 * JpegSize().score(flat, ["x"] * 4)).all()
    assert (JpegSize(95).score(NOISE, ["x"] * 4) > JpegSize(30).score(NOISE, ["x"] * 4)).all()


@pytest.mark.parametrize("quality", [0, 96, 50.0, "high"])
def test_jpeg_quality_is_checked(quality: object) -> None:
    with pytest.raises(FairleadError, match=r"jpeg_size\.quality is .*: must be a whole number in \[1, 95\]"):
        JpegSize(quality)  # type: ignore[arg-type]
