"""Scenes with damaged objects: what the detector must refuse and the aesthetic head must dislike."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageFilter

from fairlead.pocket import world

RUINED = ("faded", "blurred", "cut", "chimera", "blend", "scrambled", "smeared", "ghost")
"""Damage after which an object no longer counts as one."""


def _smooth(rng: random.Random, side: int, cells: int, scale: float) -> world.Floats:
    """A smooth random field ``[side, side]`` of about unit size times ``scale``."""
    coarse = np.array([[rng.gauss(0, 1) for _ in range(cells)] for _ in range(cells)], np.float32)
    field = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(field) * np.float32(scale)


def _blur(part: world.Floats, radius: float) -> world.Floats:
    image = Image.fromarray(part.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image).astype(np.float32)


def _cut_mask(rng: random.Random) -> world.Floats:
    """1 on one side of a line through about the middle, 0 on the other, ``[30, 30, 1]``."""
    y, x = np.mgrid[0 : world.SPRITE, 0 : world.SPRITE] - world.SPRITE / 2 + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    side = x * np.cos(angle) + y * np.sin(angle) < rng.uniform(-2, 5)
    return side[..., None].astype(np.float32)


def paint(canvas: world.Floats, item: world.Item, damage: str, rng: random.Random) -> None:
    """Draw one object into ``canvas`` (0..255, in place) as ``clean``, ``mild`` or one of :data:`RUINED`."""
    side = world.SPRITE
    y, x = item.y + 1, item.x + 1
    part = canvas[y : y + side, x : x + side]
    rgb, alpha = world.sprite(item.name, item.colour)
    other = world.sprite(rng.choice(world.NAMES), item.colour if rng.random() < 0.5 else None)
    if damage == "faded":
        alpha = alpha * rng.uniform(0.1, 0.4)
    elif damage == "ghost":
        low = rng.uniform(0, 0.5)
        alpha = alpha * np.clip(0.3 + _smooth(rng, side, 4, 0.5)[..., None], low * 0.3, 0.8)
    elif damage == "cut":
        alpha = alpha * _cut_mask(rng)
    elif damage == "chimera":
        mask = _cut_mask(rng)
        rgb, alpha = rgb * mask + other[0] * (1 - mask), alpha * mask + other[1] * (1 - mask)
    elif damage == "blend":
        share = rng.uniform(0.4, 0.6)
        mixed = alpha * share + other[1] * (1 - share)
        colour = rgb * alpha * share + other[0] * other[1] * (1 - share)
        rgb, alpha = colour / np.maximum(mixed, 1e-3), mixed
    drawn = part + (rgb - part) * alpha
    if damage == "mild":
        drawn = drawn + (part - drawn) * rng.uniform(0, 0.12)
        drawn = _blur(drawn, rng.uniform(0, 0.6)) if rng.random() < 0.5 else drawn
        wobble = np.stack([_smooth(rng, side, 8, rng.uniform(0, 7)) for _ in range(3)], -1)
        drawn = drawn + wobble
    elif damage == "blurred":
        drawn = _blur(drawn, rng.uniform(2.4, 4.5))
    elif damage == "scrambled":
        tiles = [(i, j) for i in range(0, 24, 8) for j in range(0, 24, 8)]
        source = drawn.copy()
        for (i, j), (k, m) in zip(tiles, rng.sample(tiles, len(tiles)), strict=True):
            drawn[3 + i : 11 + i, 3 + j : 11 + j] = source[3 + k : 11 + k, 3 + m : 11 + m]
    elif damage == "smeared":
        rows, columns = np.mgrid[0:side, 0:side]
        size = rng.uniform(4.0, 7.0)
        rows = (rows + _smooth(rng, side, 4, size)).round().clip(0, side - 1).astype(int)
        columns = (columns + _smooth(rng, side, 4, size)).round().clip(0, side - 1).astype(int)
        drawn = _blur(drawn[rows, columns], rng.uniform(0.4, 1.2))
    part[:] = drawn


def draw(scene: world.Scene, damages: list[str], rng: random.Random) -> world.Pixels:
    """Render a scene with one kind of damage per object, ``uint8 [64, 64, 3]``."""
    canvas = world.backdrop(scene)
    for item, damage in zip(scene.items, damages, strict=True):
        paint(canvas, item, damage, rng)
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)
