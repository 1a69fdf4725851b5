"""The judge of the pocket world: finds objects, their classes, colours and boxes.

The network is a :class:`transformers.SegformerForSemanticSegmentation` read as a centre map: at stride 4 a
softmax over the classes and, last, "no object here"; a local maximum is the centre of one 32x32 object.  It
was trained to refuse faded, blurred, cut, mixed and smeared objects.  Colour is measured, not learnt: the
pixels inside the sprite's own mask are compared with the sprite in its own colours and in the ten tints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from transformers import SegformerForSemanticSegmentation

from fairlead.pocket import world

STRIDE = 4
"""Pixels per position of the centre map."""
KEEP = 0.05
"""Objects with a lower score are not reported."""
_APART = 5
_SHIFTS = tuple((dy, dx) for dy in range(-2, 3) for dx in range(-2, 3))


@dataclass(frozen=True)
class Detection:
    """One object: class, colour (``None``: its own colours), score in 0..1, box in pixels."""

    name: str
    colour: str | None
    score: float
    box: tuple[float, float, float, float]


@cache
def _templates(name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The sprite in eleven colours ``[11, 30, 30, 3]`` in 0..1 and its mask ``[30, 30, 1]``."""
    colours = (None, *world.COLOUR_NAMES)
    stack = np.stack([world.sprite(name, colour)[0] for colour in colours]) / np.float32(255)
    alpha = world.sprite(name)[1]
    return stack, np.where(alpha > 0.5, alpha, 0).astype(np.float32)


def colour_of(pixels: npt.NDArray[np.float32], name: str, x: int, y: int) -> str | None:
    """Colour of the object of class ``name`` whose cell starts near ``(x, y)``.

    ``pixels`` is ``[H, W, 3]`` in [0, 1].  Of all colours and shifts by up to two pixels, the one with the
    least squared error inside the mask wins; ``None`` is the sprite's own palette.
    """
    templates, mask = _templates(name)
    side = world.SPRITE
    best, winner = np.inf, 0
    for dy, dx in _SHIFTS:
        top, left = y + 1 + dy, x + 1 + dx
        if top < 0 or left < 0 or top + side > pixels.shape[0] or left + side > pixels.shape[1]:
            continue
        part = pixels[top : top + side, left : left + side]
        errors = (((part - templates) ** 2) * mask).sum((1, 2, 3))
        if errors.min() < best:
            best, winner = float(errors.min()), int(errors.argmin())
    return None if winner == 0 else world.COLOUR_NAMES[winner - 1]


class Detector:
    """Finds the objects of the pocket world."""

    def __init__(self, model: SegformerForSemanticSegmentation) -> None:
        self.model = model.eval()
        labels = model.config.id2label
        self.names = [str(labels[index]) for index in range(len(labels) - 1)]

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Detector:
        """Load from a transformers folder; weights in single precision."""
        model = SegformerForSemanticSegmentation.from_pretrained(str(folder), dtype=torch.float32)
        return cls(model)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        where: torch.device = next(self.model.parameters()).device
        return where

    @torch.no_grad()
    def centres(self, images: torch.Tensor) -> torch.Tensor:
        """Class probabilities ``[B, 49, H/4, W/4]`` of images ``[B, 3, H, W]`` in [0, 1]."""
        logits: torch.Tensor = self.model(pixel_values=images.to(self.device) * 2 - 1).logits
        return logits.float().softmax(1)

    @torch.no_grad()
    def detect(self, images: torch.Tensor) -> list[list[Detection]]:
        """Objects in each of the images ``[B, 3, H, W]``, values in [0, 1], most confident first."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], not {list(images.shape)}")
        if float(images.min()) < -1e-3 or float(images.max()) > 1 + 1e-3:
            raise ValueError("images must be in [0, 1]")
        scores, classes = self.centres(images.float())[:, :-1].max(1)
        peak = F.max_pool2d(scores, 2 * _APART + 1, 1, _APART)
        found: list[list[Detection]] = [[] for _ in range(len(images))]
        pixels = images.float().permute(0, 2, 3, 1).cpu().numpy()
        for place in ((scores >= peak) & (scores > KEEP)).nonzero():
            index, row, column = (int(value) for value in place)
            name = self.names[int(classes[index, row, column])]
            x, y = column * STRIDE - world.CELL // 2, row * STRIDE - world.CELL // 2
            box = (float(x), float(y), float(x + world.CELL), float(y + world.CELL))
            colour = colour_of(pixels[index], name, x, y)
            found[index].append(Detection(name, colour, float(scores[index, row, column]), box))
        return [sorted(objects, key=lambda one: -one.score) for objects in found]
