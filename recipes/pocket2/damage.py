"""Damaged objects: what the detector must refuse and the aesthetic head must dislike."""

from __future__ import annotations

import random

import numpy as np
import world
from PIL import Image, ImageFilter

RUINED = ("faded", "blurred", "cut", "chimera", "blend", "scrambled", "smeared", "ghost")
"""Damage after which an object no longer counts as one."""
KINDS = ("clean", "mild", *RUINED)
"""Every state of an object; the position is its number in :mod:`scenes`."""
UNIT = 32
"""Side of the cell for which the sizes below are given, in pixels; they grow with the cell."""


def _smooth(rng: random.Random, side: int, cells: int, scale: float) -> world.Floats:
    """A smooth random field ``[side, side]`` of about unit size times ``scale``."""
    coarse = np.array([[rng.gauss(0, 1) for _ in range(cells)] for _ in range(cells)], np.float32)
    field = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(field) * np.float32(scale)


def _blur(rgb: world.Floats, alpha: world.Floats, radius: float) -> tuple[world.Floats, world.Floats]:
    """Gaussian blur of a sprite: colours are weighted by their alpha."""
    stack = np.concatenate([rgb * alpha, alpha * 255], 2).clip(0, 255).astype(np.uint8)
    soft = np.asarray(Image.fromarray(stack, "RGBA").filter(ImageFilter.GaussianBlur(radius))).astype(np.float32)
    share = soft[..., 3:] / 255
    return soft[..., :3] / np.maximum(share, 1 / 255), share


def _cut_mask(rng: random.Random, side: int) -> world.Floats:
    """1 on one side of a line through about the middle, 0 on the other, ``[side, side, 1]``."""
    y, x = np.mgrid[0:side, 0:side] - side / 2 + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    kept = x * np.cos(angle) + y * np.sin(angle) < rng.uniform(-2, 5) * side / UNIT
    return kept[..., None].astype(np.float32)


def damaged(
    name: str, colour: str | None, side: int, damage: str, rng: random.Random
) -> tuple[world.Floats, world.Floats]:
    """One object in one of :data:`KINDS`: RGB ``[side, side, 3]`` and alpha ``[side, side, 1]``."""
    scale = side / UNIT
    rgb, alpha = (part.copy() for part in world.sprite(name, colour, side))
    if damage in ("chimera", "blend"):
        other_colour = colour if rng.random() < 0.5 else None
        other_rgb, other_alpha = world.sprite(rng.choice(world.NAMES), other_colour, side)
    if damage == "faded":
        alpha = alpha * rng.uniform(0.1, 0.4)
    elif damage == "ghost":
        low = rng.uniform(0, 0.5)
        alpha = alpha * np.clip(0.3 + _smooth(rng, side, 4, 0.5)[..., None], low * 0.3, 0.8)
    elif damage == "cut":
        alpha = alpha * _cut_mask(rng, side)
    elif damage == "chimera":
        mask = _cut_mask(rng, side)
        rgb = rgb * mask + other_rgb * (1 - mask)
        alpha = alpha * mask + other_alpha * (1 - mask)
    elif damage == "blend":
        share = rng.uniform(0.4, 0.6)
        mixed = alpha * share + other_alpha * (1 - share)
        colours = rgb * alpha * share + other_rgb * other_alpha * (1 - share)
        rgb, alpha = colours / np.maximum(mixed, 1e-3), mixed
    elif damage == "mild":
        alpha = alpha * (1 - rng.uniform(0, 0.12))
        if rng.random() < 0.5:
            rgb, alpha = _blur(rgb, alpha, rng.uniform(0, 0.6) * scale)
        wobble = [_smooth(rng, side, 8, rng.uniform(0, 7)) for _ in range(3)]
        rgb = rgb + np.stack(wobble, -1)
    elif damage == "blurred":
        rgb, alpha = _blur(rgb, alpha, rng.uniform(2.4, 4.5) * scale)
    elif damage == "scrambled":
        tile = side // 4
        edge = (side - 3 * tile) // 2
        tiles = [(i * tile + edge, j * tile + edge) for i in range(3) for j in range(3)]
        both = np.concatenate([rgb, alpha], 2)
        source = both.copy()
        for (i, j), (k, m) in zip(tiles, rng.sample(tiles, len(tiles)), strict=True):
            both[i : i + tile, j : j + tile] = source[k : k + tile, m : m + tile]
        rgb, alpha = both[..., :3], both[..., 3:]
    elif damage == "smeared":
        size = rng.uniform(4.0, 7.0) * scale
        rows, columns = np.mgrid[0:side, 0:side]
        rows = (rows + _smooth(rng, side, 4, size)).round().clip(0, side - 1).astype(int)
        columns = (columns + _smooth(rng, side, 4, size)).round().clip(0, side - 1).astype(int)
        rgb, alpha = _blur(rgb[rows, columns], alpha[rows, columns], rng.uniform(0.4, 1.2) * scale)
    return rgb.clip(0, 255).astype(np.float32), alpha.astype(np.float32)


def draw(scene: world.Scene, damages: list[str], rng: random.Random) -> world.Pixels:
    """Render a scene with one kind of damage per object, ``uint8 [128, 128, 3]``."""
    canvas = world.backdrop(scene)
    for item, damage in zip(scene.items, damages, strict=True):
        rgb, alpha = damaged(item.name, item.colour, item.side, damage, rng)
        part = canvas[item.y : item.y + item.side, item.x : item.x + item.side]
        part += (rgb - part) * alpha
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)
