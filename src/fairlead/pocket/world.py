"""The world of the embedded model: emoji objects on soft backgrounds, captioned in GenEval's grammar.

A canvas is 64x64.  Every object fills a 32x32 cell (sprite of 30 pixels) whose corner lies on the 8-pixel
grid, so each object costs the same sixteen latent tokens in every task.  Objects never overlap.

Only numpy and Pillow are needed.  Images are ``uint8 [H, W, 3]``, colours RGB in 0..255.
"""

from __future__ import annotations

import json
import random  # noqa: TID251 - scenes take a seeded Random of their own
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

ASSETS = Path(__file__).parent / "assets"
SIZE = 64
"""Side of the canvas in pixels."""
CELL = 32
"""Side of the cell of one object in pixels."""
SPRITE = 30
"""Side of a sprite in pixels; it sits one pixel inside its cell."""
GRID = 8
"""Pixels per latent token: cells start on multiples of this."""
TOKENS = 16
"""Length of a tokenised caption, with ``<bos>`` and ``<eos>``."""
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")

_INDEX = json.loads((ASSETS / "glyphs.json").read_text())
NAMES: tuple[str, ...] = tuple(_INDEX["names"])
"""Classes of the world, spelled as GenEval spells them."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "orange": (250, 138, 22),
    "yellow": (246, 218, 30),
    "green": (44, 168, 62),
    "blue": (40, 92, 226),
    "purple": (132, 52, 186),
    "pink": (250, 122, 184),
    "brown": (126, 76, 38),
    "black": (44, 44, 50),
    "white": (236, 236, 240),
}
"""GenEval's ten colours."""
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's tags."""
TASK_WEIGHTS = (1.0, 1.4, 1.2, 1.2, 1.6, 1.6)
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}

_PREFIXES = ("a photo of ", "a picture of ", "an image of ", "")
_PREFIX_WEIGHTS = (0.76, 0.07, 0.07, 0.10)
_WORDINGS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "and": ("and", "with", "next to"),
}
_WORDING_WEIGHTS = (0.76, 0.12, 0.12)
_INVARIANT = ("sheep", "scissors")


@dataclass(frozen=True)
class Item:
    """One object: class name, colour name (``None``: its own colours) and the corner of its cell."""

    name: str
    colour: str | None
    x: int
    y: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The cell as ``(x0, y0, x1, y1)`` in pixels."""
        return self.x, self.y, self.x + CELL, self.y + CELL


@dataclass(frozen=True)
class Scene:
    """A picture to render: GenEval tag, caption, objects and the two colours of the background."""

    task: str
    caption: str
    items: tuple[Item, ...]
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]


# ------------------------------------------------------------------------------------------ words


def article(word: str) -> str:
    """``an`` before a vowel letter, ``a`` otherwise."""
    return "an" if word[0] in "aeiou" else "a"


def plural(name: str) -> str:
    """GenEval's plural, oddities included (``sheeps``, ``scissorses``)."""
    return name + ("es" if name.endswith("s") else "s")


def noun(name: str, colour: str | None = None) -> str:
    """``an apple``, ``a red apple``."""
    words = f"{colour} {name}" if colour else name
    return f"{article(words)} {words}"


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Special tokens, then every word a caption may use, sorted; the position is the token id."""
    words = set(COLOURS) | {"a", "an"} | set(NUMBERS.values())
    for phrases in (_PREFIXES, *_WORDINGS.values()):
        words.update(word for phrase in phrases for word in phrase.split())
    for name in NAMES:
        words.update(name.split())
        words.update(plural(name).split())
    return SPECIAL + tuple(sorted(words))


@lru_cache(maxsize=1)
def _ids() -> dict[str, int]:
    return {word: index for index, word in enumerate(vocabulary())}


def split(prompt: str) -> list[str]:
    """Lower-case words and single punctuation marks: what the tokenizer of the folder sees."""
    return re.findall(r"\w+|[^\w\s]+", prompt.lower())


def unknown_words(prompt: str) -> list[str]:
    """Words of ``prompt`` outside the vocabulary, in order, each once."""
    known = _ids()
    return list(dict.fromkeys(word for word in split(prompt) if word not in known))


def encode(captions: list[str]) -> npt.NDArray[np.int64]:
    """Token ids ``[B, 16]``: ``<bos>`` words ``<eos>`` ``<pad>``..., as the folder's tokenizer gives."""
    ids = _ids()
    out = np.zeros((len(captions), TOKENS), np.int64)
    for row, caption in zip(out, captions, strict=True):
        tokens = [2, *[ids.get(word, 1) for word in split(caption)][: TOKENS - 2], 3]
        row[: len(tokens)] = tokens
    return out


def _word(rng: random.Random, key: str, plain: bool) -> str:
    return key if plain else rng.choices(_WORDINGS[key], _WORDING_WEIGHTS)[0]


def caption_of(task: str, items: tuple[Item, ...], relation: str, rng: random.Random | None = None) -> str:
    """Caption of a scene in GenEval's wording, or in one of the varied wordings if ``rng`` is given."""
    plain = rng is None
    prefix = _PREFIXES[0] if rng is None else rng.choices(_PREFIXES, _PREFIX_WEIGHTS)[0]
    first = items[0]
    if task == "counting":
        name = plural(first.name)
        if rng is not None and first.name in _INVARIANT and rng.random() < 0.4:
            name = first.name
        return f"{prefix}{NUMBERS[len(items)]} {name}"
    if len(items) == 1:
        return prefix + noun(first.name, first.colour)
    key = relation if task == "position" else "and"
    between = _word(rng or random.Random(0), key, plain)
    text = f"{prefix}{noun(first.name, first.colour)} {between} {noun(items[1].name, items[1].colour)}"
    if len(text.split()) > TOKENS - 2:
        return caption_of(task, items, relation)
    return text


# ----------------------------------------------------------------------------------------- scenes


def _background(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    top = [rng.randint(178, 250) for _ in range(3)]
    bottom = [min(255, max(165, value + rng.randint(-24, 24))) for value in top]
    return (top[0], top[1], top[2]), (bottom[0], bottom[1], bottom[2])


def _pair(rng: random.Random, relation: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners of two cells so that the first is ``relation`` the second."""
    first, second = rng.randrange(0, CELL + 1, GRID), rng.randrange(0, CELL + 1, GRID)
    return {
        "left of": ((0, first), (CELL, second)),
        "right of": ((CELL, first), (0, second)),
        "above": ((first, 0), (second, CELL)),
        "below": ((first, CELL), (second, 0)),
    }[relation]


def arrange(
    rng: random.Random, task: str, names: list[str], colours: list[str | None], relation: str, count: int
) -> tuple[Item, ...]:
    """Place the named objects on the canvas as ``task`` asks."""
    if task == "counting":
        if count == 2:
            spots = list(_pair(rng, rng.choice(RELATIONS)))
        else:
            spots = rng.sample([(0, 0), (CELL, 0), (0, CELL), (CELL, CELL)], count)
        return tuple(Item(names[0], colours[0], x, y) for x, y in spots)
    if len(names) == 1:
        x, y = rng.randrange(0, CELL + 1, GRID), rng.randrange(0, CELL + 1, GRID)
        return (Item(names[0], colours[0], x, y),)
    spots = list(_pair(rng, relation))
    return tuple(Item(n, c, *spot) for n, c, spot in zip(names, colours, spots, strict=True))


def sample(rng: random.Random, task: str | None = None, plain: bool = False) -> Scene:
    """Draw a scene; ``plain`` captions it in GenEval's wording only."""
    task = task or rng.choices(TASKS, TASK_WEIGHTS)[0]
    relation = rng.choice(RELATIONS)
    count = rng.choice((2, 3, 4))
    names = rng.sample(NAMES, 1 if task in ("single_object", "counting", "colors") else 2)
    colours: list[str | None] = [None] * len(names)
    if task == "colors":
        colours = [rng.choice(COLOUR_NAMES)]
    elif task == "color_attr":
        colours = list(rng.sample(COLOUR_NAMES, 2))
    elif task == "position" and not plain and rng.random() < 0.35:
        chosen = rng.choice(((0,), (1,), (0, 1)))
        for index, colour in zip(chosen, rng.sample(COLOUR_NAMES, len(chosen)), strict=True):
            colours[index] = colour
    items = arrange(rng, task, names, colours, relation, count)
    caption = caption_of(task, items, relation, None if plain else rng)
    top, bottom = _background(rng)
    return Scene(task, caption, items, top, bottom)


# -------------------------------------------------------------------------------------- rendering


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    return Image.open(ASSETS / "glyphs.png").convert("RGBA")


def _tint(rgb: Floats, alpha: Floats, colour: str) -> Floats:
    """Shading of the glyph, stretched to the full range, mapped to shades of one colour."""
    light = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    low, high = np.percentile(light[alpha > 0.5], [4, 96])
    shade = np.clip((light - low) / max(float(high - low), 24.0), 0, 1)[..., None]
    middle = float(np.clip(np.median(shade[alpha > 0.5]), 0.3, 0.6))
    shade = shade ** (np.log(0.6) / np.log(middle))
    base = np.array(COLOURS[colour], np.float32)
    if colour == "black":
        dark, bright = base * 0.2, base + 62
    elif colour == "white":
        dark, bright = base * 0.60, np.full(3, 255, np.float32)
    else:
        dark, bright = base * 0.48, base + (255 - base) * 0.30
    out = np.where(shade < 0.6, dark + (base - dark) * shade / 0.6, base + (bright - base) * (shade - 0.6) / 0.4)
    shaded: Floats = np.clip(out, 0, 255).astype(np.float32)
    return shaded


@cache
def sprite(name: str, colour: str | None = None) -> tuple[Floats, Floats]:
    """A class in one colour: RGB ``[30, 30, 3]`` in 0..255 and alpha ``[30, 30, 1]`` in 0..1."""
    index, cell, columns = NAMES.index(name), int(_INDEX["cell"]), int(_INDEX["columns"])
    x, y = index % columns * cell, index // columns * cell
    glyph = _sheet().crop((x, y, x + cell, y + cell)).resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)
    pixels = np.asarray(glyph).astype(np.float32)
    rgb, alpha = pixels[..., :3], pixels[..., 3] * np.float32(1 / 255)
    if colour is not None:
        rgb = _tint(rgb, alpha, colour)
    return rgb, alpha[..., None]


def backdrop(scene: Scene) -> Floats:
    """The background alone, ``float32 [64, 64, 3]`` in 0..255: a vertical gradient."""
    step = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    top, bottom = np.array(scene.top, np.float32), np.array(scene.bottom, np.float32)
    canvas: Floats = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = top * (1 - step) + bottom * step
    return canvas


def render(scene: Scene) -> Pixels:
    """Draw a scene, ``uint8 [64, 64, 3]``."""
    canvas = backdrop(scene)
    for item in scene.items:
        rgb, alpha = sprite(item.name, item.colour)
        part = canvas[item.y + 1 : item.y + 1 + SPRITE, item.x + 1 : item.x + 1 + SPRITE]
        part += (rgb - part) * alpha
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def batch(rng: random.Random, size: int, task: str | None = None) -> tuple[Pixels, list[Scene]]:
    """Draw and render ``size`` scenes: images ``uint8 [B, 64, 64, 3]`` and the scenes."""
    scenes = [sample(rng, task) for _ in range(size)]
    return np.stack([render(scene) for scene in scenes]), scenes


def object_map(scene: Scene, threshold: float = 0.15) -> npt.NDArray[np.bool_]:
    """Which latent tokens ``[8, 8]`` an object covers by more than ``threshold`` of their area."""
    cover = np.zeros((SIZE, SIZE), np.float32)
    for item in scene.items:
        cover[item.y + 1 : item.y + 1 + SPRITE, item.x + 1 : item.x + 1 + SPRITE] = sprite(item.name)[1][..., 0]
    return np.asarray(cover.reshape(SIZE // GRID, GRID, SIZE // GRID, GRID).mean((1, 3)) > threshold)


def grid(images: Pixels, columns: int = 8, scale: int = 2) -> Image.Image:
    """Contact sheet of ``uint8 [B, H, W, 3]``."""
    height, width = images.shape[1] * scale, images.shape[2] * scale
    sheet = Image.new("RGB", (columns * (width + 2), -(-len(images) // columns) * (height + 2)))
    for index, pixels in enumerate(images):
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (index % columns * (width + 2), index // columns * (height + 2)))
    return sheet
