"""The judge of the pocket world: finds objects with class, colour, size and box, and names the background.

The network is a :class:`transformers.SegformerForSemanticSegmentation` read as a centre map: at stride 4 a softmax over
the classes and "nothing", and another over the sides of cells.  A local maximum is the centre of one object.  It was
trained to refuse faded, blurred, cut, mixed and smeared objects.  Colours are measured, not learnt: the pixels inside
the sprite's own mask are compared with the sprite in its own colours and in the ten tints, and the background is the
median of the pixels outside the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import world
from torch import Tensor
from torch.nn import functional as F
from transformers import SegformerForSemanticSegmentation

STRIDE = 4
"""Pixels per position of the centre map."""
KEEP = 0.05
"""Objects with a lower score are not reported."""
APART = 0.4
"""Two centres nearer than this share of the larger of the two sides are one object: the more confident one."""
BACKGROUND_DISTANCE = 38.0
"""How far the background may be from a named colour, as a distance of RGB values in 0..255."""
MOST_PEAKS = 24
"""Peaks looked at in one picture, at most."""

Box = tuple[float, float, float, float]

_WINDOW = 3
_INNER = 30
"""Side of the sprites that colours are compared at, whatever the size of the object."""
_SHIFT = 2
_WIDE = _INNER + 2 * _SHIFT
_CHUNK = 256
_SIZES = {side: size for size, side in world.SIDES.items()}


@dataclass(frozen=True)
class Detection:
    """One object: class, colour (``None``: its own colours), score in 0..1, box in pixels, size (``None``: usual)."""

    name: str
    colour: str | None
    score: float
    box: Box
    size: str | None = None


@cache
def _templates(name: str) -> tuple[Tensor, Tensor]:
    """The sprite in eleven colours ``[11, 3 * 30 * 30]`` in -0.5..0.5, zero outside its mask, and the mask."""
    small = world.SIDES["small"]
    inner = slice((small - _INNER) // 2, (small + _INNER) // 2)
    colours = (None, *world.COLOUR_NAMES)
    stack = np.stack([world.sprite(name, colour, small)[0][inner, inner] for colour in colours]) / 255 - 0.5
    alpha = world.sprite(name, None, small)[1][inner, inner]
    mask = torch.from_numpy(np.where(alpha > 0.5, alpha, 0).astype(np.float32)).expand(-1, -1, 3)
    flat = mask.permute(2, 0, 1).reshape(1, -1)
    return torch.from_numpy(stack.astype(np.float32)).permute(0, 3, 1, 2).reshape(len(colours), -1), flat


def _crops(images: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
    """The boxes ``[N, 4]`` of ``images[index]``, wider by the shifts, at the common scale: ``[N, 3, 34, 34]``."""
    fine = torch.arange(2 * _WIDE, device=images.device) + 0.5
    side = (boxes[:, 2] - boxes[:, 0])[:, None]
    margin = (side * world.MARGIN).round().clamp(min=1)
    step = (side - 2 * margin) / (2 * _INNER)
    columns = boxes[:, :1] + margin + (fine - 2 * _SHIFT) * step
    rows = boxes[:, 1:2] + margin + (fine - 2 * _SHIFT) * step
    height, width = images.shape[2:]
    across = (columns * 2 / width - 1)[:, None, :].expand(-1, 2 * _WIDE, -1)
    down = (rows * 2 / height - 1)[:, :, None].expand(-1, -1, 2 * _WIDE)
    where = torch.stack([across, down], 3)
    parts = F.grid_sample(images[index], where, padding_mode="border", align_corners=False)
    return F.avg_pool2d(parts, 2)


def colours_of(images: Tensor, index: Tensor, names: Sequence[str], boxes: Tensor) -> list[str | None]:
    """Colours of objects of known class in ``boxes`` ``[N, 4]`` of ``images[index]``, values in [0, 1].

    An object and its sprites are compared at a common scale of 30 pixels.  Of all colours and shifts by up to two of
    those, the one with the least squared error inside the mask wins; ``None`` is the sprite's own palette.
    """
    chosen: list[str | None] = []
    for first in range(0, len(names), _CHUNK):
        part = slice(first, first + _CHUNK)
        known = list(dict.fromkeys(names[part]))
        which = torch.tensor([known.index(name) for name in names[part]], device=images.device)
        sprites = torch.stack([_templates(name)[0] for name in known]).to(images.device)[which]
        masks = torch.stack([_templates(name)[1] for name in known]).to(images.device)[which]
        crops = _crops(images, index[part], boxes[part]) - 0.5
        seen = F.unfold(crops, _INNER)  # [N, 3 * 30 * 30, 25]
        # sum of mask * (seen - sprite)^2, multiplied out
        errors = (masks * sprites**2).sum(2)[:, :, None] - 2 * (masks * sprites) @ seen + masks @ seen**2
        best = errors.amin(2).argmin(1).tolist()
        chosen += [None if winner == 0 else world.COLOUR_NAMES[winner - 1] for winner in best]
    return chosen


def colour_of(pixels: npt.NDArray[np.float32], name: str, x: int, y: int, side: int = world.CELL) -> str | None:
    """Colour of one object whose cell starts near ``(x, y)``; ``pixels`` is ``[H, W, 3]`` in [0, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).permute(2, 0, 1)[None]
    box = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
    return colours_of(image, torch.zeros(1, dtype=torch.long), [name], box)[0]


def background(image: npt.NDArray[np.float32], boxes: Sequence[Box]) -> str | None:
    """Name of the colour behind the objects of ``image`` ``[H, W, 3]`` in [0, 1]; ``None`` for any other colour.

    The median of the pixels outside all boxes, each shrunk by the empty border of a cell, is compared with
    `world.BACKGROUNDS`: the nearest of them if it is within `BACKGROUND_DISTANCE`.  Unnamed backgrounds are pale and
    lie farther away.
    """
    outside = np.ones(image.shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        border = world.MARGIN * (x1 - x0)
        top, bottom = max(0, round(y0 + border)), max(0, round(y1 - border))
        left, right = max(0, round(x0 + border)), max(0, round(x1 - border))
        outside[top:bottom, left:right] = False
    behind = image[outside] if outside.any() else image.reshape(-1, 3)
    colour = np.median(behind, 0) * 255
    named = np.array([world.COLOURS[name] for name in world.BACKGROUNDS], np.float32)
    distances = np.linalg.norm(named - colour, axis=1)
    nearest = int(distances.argmin())
    return world.BACKGROUNDS[nearest] if distances[nearest] <= BACKGROUND_DISTANCE else None


class Detector:
    """Finds the objects of the pocket world."""

    def __init__(self, model: SegformerForSemanticSegmentation) -> None:
        self.model = model.eval()
        labels = model.config.id2label
        words = [str(labels[index]) for index in range(len(labels))]
        self.names = words[: words.index("nothing")]
        self.sides = [int(word.removeprefix("side ")) for word in words[len(self.names) + 1 :]]

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

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities and the likeliest side at every position."""
        logits: Tensor = self.model(pixel_values=images.to(self.device) * 2 - 1).logits.float()
        classes = len(self.names) + 1
        sides = torch.tensor(self.sides, dtype=torch.float32, device=self.device)
        return logits[:, :classes].softmax(1), sides[logits[:, classes:].argmax(1)]

    @torch.no_grad()
    def centres(self, images: Tensor) -> Tensor:
        """Class probabilities ``[B, 49, H/4, W/4]`` of images ``[B, 3, H, W]`` in [0, 1]."""
        return self._maps(images)[0]

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[list[Detection]]:
        """Objects in each of the images ``[B, 3, H, W]``, values in [0, 1], most confident first."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], but are {list(images.shape)}")
        if float(images.min()) < -1e-3 or float(images.max()) > 1 + 1e-3:
            raise ValueError("images must be in [0, 1]")
        pixels = images.to(self.device, torch.float32)
        probabilities, sides = self._maps(pixels)
        scores, classes = probabilities[:, :-1].max(1)
        index, rows, columns = _peaks(scores, sides).unbind(1)
        side = sides[index, rows, columns]
        corner = torch.stack([columns * STRIDE - side / 2, rows * STRIDE - side / 2], 1)
        boxes = torch.cat([corner, corner + side[:, None]], 1)
        names = [self.names[number] for number in classes[index, rows, columns].tolist()]
        colours = colours_of(pixels, index, names, boxes)
        found: list[list[Detection]] = [[] for _ in range(len(images))]
        values = (index.tolist(), scores[index, rows, columns].tolist(), boxes.tolist(), side.tolist())
        for which, score, (x0, y0, x1, y1), cell, name, colour in zip(*values, names, colours, strict=True):
            found[which].append(Detection(name, colour, score, (x0, y0, x1, y1), _SIZES.get(int(cell))))
        return found


def _peaks(scores: Tensor, sides: Tensor) -> Tensor:
    """Image, row and column of every object ``[N, 3]``, in the order of images and falling scores.

    Local maxima above `KEEP`; then, from the most confident on, those too near to a better one are dropped.
    """
    images, _, width = scores.shape
    top = F.max_pool2d(scores, 2 * _WINDOW + 1, 1, _WINDOW)
    flat = torch.where((scores >= top) & (scores > KEEP), scores, 0.0).flatten(1)
    value, place = flat.topk(min(MOST_PEAKS, flat.shape[1]), 1)
    side = sides.flatten(1).gather(1, place)
    middle = torch.stack([place // width, place % width], 2).float() * STRIDE
    apart = (middle[:, :, None] - middle[:, None]).norm(dim=3)
    near = apart < APART * torch.maximum(side[:, :, None], side[:, None])
    alive = value > KEEP
    for rank in range(1, int(alive.sum(1).max()) if images else 0):
        alive[:, rank] &= ~(near[:, rank, :rank] & alive[:, :rank]).any(1)
    index, order = alive.nonzero().unbind(1)
    at = place[index, order]
    return torch.stack([index, at // width, at % width], 1)
