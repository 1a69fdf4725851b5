"""The world of the embedded models: emoji objects on soft backgrounds, captioned in GenEval's grammar and beyond it.

A canvas is 128x128.  An object fills a square cell of 32 (small), 64 (the usual) or 96 pixels (big); scenes with more
than four objects use cells of 42.  Objects never overlap.  A :class:`Request` says what a caption asks for; a
:class:`Scene` is one way to draw it.

Only numpy and Pillow are needed.  Images are ``uint8 [H, W, 3]``, colours RGB in 0..255.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Colour = tuple[int, int, int]

ASSETS = Path(__file__).parent
SIZE = 128
"""Side of the canvas in pixels."""
CELL = 64
"""Side of the cell of an object of the usual size in pixels."""
CROWDED = 42
"""Side of a cell in scenes with more than four objects; nine of them fit."""
SIDES = {"small": 32, None: CELL, "big": 96}
"""Side of a cell for each size that a caption can name; ``None``: no size named."""
MARGIN = 1 / 32
"""Empty border on each side of a sprite, as a share of its cell."""
GRID = 16
"""Pixels per latent token: cells start on multiples of this, crowded ones excepted."""
TOKENS = 26
"""Length of a tokenised caption, with ``<bos>`` and ``<eos>``."""
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")

_INDEX = json.loads((ASSETS / "glyphs.json").read_text())
NAMES: tuple[str, ...] = tuple(_INDEX["names"])
"""Classes of the world, spelled as GenEval spells them."""

COLOURS: dict[str, Colour] = {
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
BACKGROUNDS = COLOUR_NAMES[:-1]
"""Colours that a caption can ask for behind the objects; white is left out, because unnamed backgrounds are pale."""

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's tags."""
COMPOUND_TASKS = (
    "color_count",
    "color_position",
    "two_counts",
    "three_objects",
    "background",
    "size",
    "compound",
)
"""What GenEval's grammar lacks: number with colour, colour with place, two numbers, three kinds of object, a colour of
the background, sizes, and free combinations of all of these."""
TASK_WEIGHTS = (0.9, 1.4, 1.4, 1.0, 1.9, 1.8, 0.8, 1.0, 1.0, 1.0, 0.8, 0.8, 1.2)
"""How often each of ``TASKS + COMPOUND_TASKS`` is drawn."""
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
MOST = 6
"""Objects in one picture, at most."""

_PREFIXES = ("a photo of ", "a picture of ", "an image of ", "")
_PREFIX_WEIGHTS = (0.76, 0.07, 0.07, 0.10)
_WORDINGS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "and": ("and", "with", "next to"),
    "small": ("small", "little", "tiny"),
    "big": ("big", "large", "huge"),
    "on a background": ("on", "against", "in front of"),
}
_WORDING_WEIGHTS = (0.76, 0.12, 0.12)
_INVARIANT = ("sheep", "scissors")


@dataclass(frozen=True)
class Thing:
    """One noun of a caption: ``None`` where no colour or size is named."""

    name: str
    colour: str | None = None
    count: int = 1
    size: str | None = None


@dataclass(frozen=True)
class Request:
    """What a caption asks for; ``relation`` says where the first of two things lies, seen from the second."""

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def total(self) -> int:
        """Number of objects asked for."""
        return sum(thing.count for thing in self.things)


@dataclass(frozen=True)
class Item:
    """One object: class name, colour name (``None``: its own colours), corner and side of its cell."""

    name: str
    colour: str | None
    x: int
    y: int
    side: int = CELL

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The cell as ``(x0, y0, x1, y1)`` in pixels."""
        return self.x, self.y, self.x + self.side, self.y + self.side


@dataclass(frozen=True)
class Scene:
    """A picture to render: task, caption, objects, the two colours of the background, what the caption asks for."""

    task: str
    caption: str
    items: tuple[Item, ...]
    top: Colour
    bottom: Colour
    request: Request = Request(())


# ------------------------------------------------------------------------------------------ words


def article(word: str) -> str:
    """``an`` before a vowel letter, ``a`` otherwise."""
    return "an" if word[0] in "aeiou" else "a"


def plural(name: str) -> str:
    """GenEval's plural, oddities included (``sheeps``, ``scissorses``)."""
    return name + ("es" if name.endswith("s") else "s")


def noun(thing: Thing, size: str | None = None, name: str | None = None) -> str:
    """``an apple``, ``a small red apple``, ``three red apples``; ``size`` and ``name`` replace the plain words."""
    name = name or (thing.name if thing.count == 1 else plural(thing.name))
    words = " ".join(word for word in (size or thing.size, thing.colour, name) if word)
    return f"{article(words)} {words}" if thing.count == 1 else f"{NUMBERS[thing.count]} {words}"


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Special tokens, then every word a caption may use, sorted; the position is the token id."""
    words = set(COLOURS) | {"a", "an", "background", ","} | set(NUMBERS.values())
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
    """Token ids ``[B, TOKENS]``: ``<bos>`` words ``<eos>`` ``<pad>``..., as the folder's tokenizer gives."""
    ids = _ids()
    out = np.zeros((len(captions), TOKENS), np.int64)
    for row, caption in zip(out, captions, strict=True):
        tokens = [2, *[ids.get(word, 1) for word in split(caption)][: TOKENS - 2], 3]
        row[: len(tokens)] = tokens
    return out


def _word(rng: random.Random | None, key: str) -> str:
    return _WORDINGS[key][0] if rng is None else rng.choices(_WORDINGS[key], _WORDING_WEIGHTS)[0]


def _phrase(thing: Thing, rng: random.Random | None) -> str:
    name = None
    if rng is not None and thing.count > 1 and thing.name in _INVARIANT and rng.random() < 0.4:
        name = thing.name
    return noun(thing, thing.size and _word(rng, thing.size), name)


def caption_of(request: Request, rng: random.Random | None = None) -> str:
    """Caption of a request in GenEval's wording, or in one of the varied wordings if ``rng`` is given."""
    prefix = _PREFIXES[0] if rng is None else rng.choices(_PREFIXES, _PREFIX_WEIGHTS)[0]
    phrases = [_phrase(thing, rng) for thing in request.things]
    if len(phrases) == 1:
        text = phrases[0]
    elif request.relation is not None:
        text = f"{phrases[0]} {_word(rng, request.relation)} {phrases[1]}"
    elif len(phrases) == 2:
        text = f"{phrases[0]} {_word(rng, 'and')} {phrases[1]}"
    else:
        text = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    if request.background is not None:
        ground = f"{article(request.background)} {request.background} background"
        text = f"{text} {_word(rng, 'on a background')} {ground}"
    text = prefix + text
    if rng is not None and len(split(text)) > TOKENS - 2:
        return caption_of(request)
    return text


# --------------------------------------------------------------------------------------- requests


def draw_request(rng: random.Random, task: str) -> Request:
    """What a caption of ``task`` asks for, drawn at random."""

    def things(number: int, colours: int = 0) -> list[Thing]:
        tints = [*rng.sample(COLOUR_NAMES, colours), *[None] * (number - colours)]
        return [Thing(name, tint) for name, tint in zip(rng.sample(NAMES, number), tints, strict=True)]

    if task == "single_object":
        return Request(tuple(things(1)))
    if task == "colors":
        return Request(tuple(things(1, 1)))
    if task == "counting":
        return Request((Thing(rng.choice(NAMES), None, rng.choice((2, 3, 4))),))
    if task == "color_count":
        return Request((Thing(rng.choice(NAMES), rng.choice(COLOUR_NAMES), rng.choice((2, 3, 4))),))
    if task == "two_object":
        return Request(tuple(things(2)))
    if task == "color_attr":
        return Request(tuple(things(2, 2)))
    if task == "position":
        return Request(tuple(things(2)), rng.choice(RELATIONS))
    if task == "color_position":
        pair = things(2, rng.choice((1, 2, 2)))
        rng.shuffle(pair)
        return Request(tuple(pair), rng.choice(RELATIONS))
    if task == "two_counts":
        first, second = rng.sample(NAMES, 2)
        counts = rng.choice([(a, b) for a in (1, 2, 3, 4) for b in (1, 2, 3, 4) if 3 <= a + b <= MOST])
        return Request((Thing(first, None, counts[0]), Thing(second, None, counts[1])))
    if task == "three_objects":
        return Request(tuple(things(3, rng.choice((0, 0, 1, 2, 3)))))
    if task == "background":
        request = draw_request(rng, rng.choice(TASKS))
        return Request(request.things, request.relation, _background_for(rng, request.things))
    if task == "size":
        return _sized(rng)
    return _compound(rng)


def _background_for(rng: random.Random, things: tuple[Thing, ...]) -> str:
    """A colour that no object has: an object would vanish on its own colour."""
    used = {thing.colour for thing in things}
    return rng.choice([colour for colour in BACKGROUNDS if colour not in used])


def _sized(rng: random.Random) -> Request:
    """One object with a size, or two with one or both sizes named."""
    names = rng.sample(NAMES, rng.choice((1, 2)))
    if len(names) == 1:
        sizes: list[str | None] = [rng.choice(("small", "big"))]
    else:
        sizes = list(rng.choice((("small", "big"), ("big", "small"), ("small", None), (None, "small"))))
    tints = [rng.choice(COLOUR_NAMES) if rng.random() < 0.4 else None for _ in names]
    things = tuple(Thing(n, c, 1, s) for n, c, s in zip(names, tints, sizes, strict=True))
    relation = rng.choice(RELATIONS) if len(names) == 2 and rng.random() < 0.5 else None
    return Request(things, relation)


def _compound(rng: random.Random) -> Request:
    """One to three things with numbers, colours, sizes, a relation and a background, each at random."""
    number = rng.choice((1, 2, 2, 2, 3))
    names = rng.sample(NAMES, number)
    counts = [rng.choice((1, 1, 2, 3, 4)) for _ in names]
    while sum(counts) > MOST:
        counts = [rng.choice((1, 1, 2, 3)) for _ in names]
    tints = rng.sample(COLOUR_NAMES, number)
    few = sum(counts) <= 4
    things = tuple(
        Thing(
            name,
            tint if rng.random() < 0.65 else None,
            count,
            "small" if few and rng.random() < 0.15 else None,
        )
        for name, tint, count in zip(names, tints, counts, strict=True)
    )
    relation = None
    if number == 2 and max(counts) <= 3 and rng.random() < 0.5:
        relation = rng.choice(RELATIONS)
    background = _background_for(rng, things) if rng.random() < 0.35 else None
    return Request(things, relation, background)


# ----------------------------------------------------------------------------------------- layout


def lies(relation: str, a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether box ``a`` is ``relation`` box ``b`` by GenEval's rule (`fairlead.bench.geneval.relations`)."""
    dx = (a[0] + a[2] - b[0] - b[2]) / 2
    dy = (a[1] + a[3] - b[1] - b[3]) / 2
    length = float(np.hypot(dx, dy))
    if length == 0:
        return False
    along, reach = (
        (dx, a[2] - a[0] + b[2] - b[0]) if relation in ("left of", "right of") else (dy, a[3] - a[1] + b[3] - b[1])
    )
    if relation in ("left of", "above"):
        along = -along
    return (along - 0.1 * reach) / length > 0.5


def _pair(rng: random.Random, relation: str, sides: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners of two cells of these sides so that the first is ``relation`` the second."""

    def on_grid(low: int, high: int) -> int:
        return rng.randrange(low, high + 1, GRID)

    swapped = relation in ("right of", "below")
    before, after = sides[::-1] if swapped else sides
    while True:
        start = on_grid(0, SIZE - before - after)
        first = (start, on_grid(0, SIZE - before))
        second = (on_grid(start + before, SIZE - after), on_grid(0, SIZE - after))
        if relation in ("above", "below"):
            first, second = first[::-1], second[::-1]
        if swapped:
            first, second = second, first
        boxes = [(x, y, x + side, y + side) for (x, y), side in zip((first, second), sides, strict=True)]
        if lies(relation, boxes[0], boxes[1]):
            return first, second


def _halves(rng: random.Random, relation: str, counts: tuple[int, int], lines: int) -> list[tuple[int, int]]:
    """Slots ``(column, row)`` of two groups on opposite edges of a ``lines`` by ``lines`` lattice."""
    near, far = (0, lines - 1) if relation in ("left of", "above") else (lines - 1, 0)
    slots = []
    for line, count in zip((near, far), counts, strict=True):
        slots += [(line, other) for other in rng.sample(range(lines), count)]
    return slots if relation in ("left of", "right of") else [(a, b) for b, a in slots]


def arrange(rng: random.Random, request: Request) -> tuple[Item, ...]:
    """Place the objects of a request on the canvas; the order is the request's."""
    wanted = [thing for thing in request.things for _ in range(thing.count)]
    sides = [SIDES[thing.size] for thing in wanted]
    if len(wanted) == 1:
        side = sides[0]
        corners = [(rng.randrange(0, SIZE - side + 1, GRID), rng.randrange(0, SIZE - side + 1, GRID))]
    elif len(wanted) == 2:
        relation = request.relation or rng.choice(RELATIONS)
        corners = list(_pair(rng, relation, (sides[0], sides[1])))
    else:
        crowded = len(wanted) > 4 or (request.relation is not None and max(t.count for t in request.things) > 2)
        lines, step = (3, 43) if crowded else (2, CELL)
        if crowded:
            sides = [CROWDED if side == CELL else side for side in sides]
        if request.relation is not None:
            slots = _halves(rng, request.relation, (request.things[0].count, request.things[1].count), lines)
        else:
            slots = rng.sample([(a, b) for a in range(lines) for b in range(lines)], len(wanted))
        corners = []
        for (column, row), side in zip(slots, sides, strict=True):
            inset = ((CROWDED if crowded else CELL) - side) // 2
            corners.append((column * step + inset, row * step + inset))
    return tuple(Item(t.name, t.colour, x, y, s) for t, (x, y), s in zip(wanted, corners, sides, strict=True))


def _background(rng: random.Random, colour: str | None) -> tuple[Colour, Colour]:
    """Top and bottom colour of a vertical gradient: pale, or near a named colour."""
    if colour is None:
        top = [rng.randint(178, 250) for _ in range(3)]
        bottom = [min(255, max(165, value + rng.randint(-24, 24))) for value in top]
    else:
        top = [min(255, max(0, value + rng.randint(-8, 20))) for value in COLOURS[colour]]
        bottom = [min(255, max(0, value + rng.randint(-20, 8))) for value in COLOURS[colour]]
    return (top[0], top[1], top[2]), (bottom[0], bottom[1], bottom[2])


def depict(rng: random.Random, request: Request, task: str = "", plain: bool = False) -> Scene:
    """A scene that satisfies ``request``; ``plain`` captions it in GenEval's wording only."""
    items = arrange(rng, request)
    top, bottom = _background(rng, request.background)
    return Scene(task, caption_of(request, None if plain else rng), items, top, bottom, request)


def sample(rng: random.Random, task: str | None = None, plain: bool = False) -> Scene:
    """Draw a scene; ``plain`` captions it in GenEval's wording only."""
    task = task or rng.choices(TASKS + COMPOUND_TASKS, TASK_WEIGHTS)[0]
    return depict(rng, draw_request(rng, task), task, plain)


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
def glyph(name: str, side: int, colour: str | None = None) -> tuple[Floats, Floats]:
    """A class in one colour, no shadow: RGB ``[side, side, 3]`` in 0..255 and alpha ``[side, side]`` in 0..1."""
    index, cell, columns = NAMES.index(name), int(_INDEX["cell"]), int(_INDEX["columns"])
    x, y = index % columns * cell, index // columns * cell
    inner = side - 2 * max(1, round(MARGIN * side))
    part = _sheet().crop((x, y, x + cell, y + cell)).resize((inner, inner), Image.Resampling.LANCZOS)
    placed = Image.new("RGBA", (side, side))
    placed.paste(part, ((side - inner) // 2, (side - inner) // 2))
    pixels = np.asarray(placed).astype(np.float32)
    rgb, alpha = pixels[..., :3], pixels[..., 3] * np.float32(1 / 255)
    if colour is not None:
        rgb = _tint(rgb, alpha, colour)
    return rgb, alpha


@cache
def sprite(name: str, colour: str | None = None, side: int = CELL) -> tuple[Floats, Floats]:
    """A class in one colour over its shadow: RGB ``[side, side, 3]`` in 0..255, alpha ``[side, side, 1]`` in 0..1."""
    rgb, alpha = glyph(name, side, colour)
    mask = Image.fromarray((alpha * 255).astype(np.uint8))
    blurred = mask.filter(ImageFilter.GaussianBlur(side / 28))
    drop = np.asarray(blurred).astype(np.float32) / 255
    shift = max(1, round(side / 32))
    drop = np.pad(drop, ((shift, 0), (0, 0)))[:side] * np.float32(0.28)
    both = alpha + (1 - alpha) * drop
    mixed = rgb * (alpha / np.maximum(both, 1e-4))[..., None]
    return mixed.astype(np.float32), both[..., None].astype(np.float32)


def backdrop(scene: Scene) -> Floats:
    """The background alone, ``float32 [128, 128, 3]`` in 0..255: a vertical gradient."""
    step = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    top, bottom = np.array(scene.top, np.float32), np.array(scene.bottom, np.float32)
    canvas: Floats = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = top * (1 - step) + bottom * step
    return canvas


def render(scene: Scene) -> Pixels:
    """Draw a scene, ``uint8 [128, 128, 3]``."""
    canvas = backdrop(scene)
    for item in scene.items:
        rgb, alpha = sprite(item.name, item.colour, item.side)
        part = canvas[item.y : item.y + item.side, item.x : item.x + item.side]
        part += (rgb - part) * alpha
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def batch(rng: random.Random, size: int, task: str | None = None) -> tuple[Pixels, list[Scene]]:
    """Draw and render ``size`` scenes: images ``uint8 [B, 128, 128, 3]`` and the scenes."""
    scenes = [sample(rng, task) for _ in range(size)]
    return np.stack([render(scene) for scene in scenes]), scenes


def object_map(scene: Scene, threshold: float = 0.15) -> npt.NDArray[np.bool_]:
    """Which latent tokens ``[8, 8]`` an object covers by more than ``threshold`` of their area."""
    cover = np.zeros((SIZE, SIZE), np.float32)
    for item in scene.items:
        cover[item.y : item.y + item.side, item.x : item.x + item.side] = glyph(item.name, item.side)[1]
    return np.asarray(cover.reshape(SIZE // GRID, GRID, SIZE // GRID, GRID).mean((1, 3)) > threshold)


def grid(images: Pixels, columns: int = 8, scale: int = 1) -> Image.Image:
    """Contact sheet of ``uint8 [B, H, W, 3]``."""
    height, width = images.shape[1] * scale, images.shape[2] * scale
    sheet = Image.new("RGB", (columns * (width + 2), -(-len(images) // columns) * (height + 2)))
    for index, pixels in enumerate(images):
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(picture, (index % columns * (width + 2), index // columns * (height + 2)))
    return sheet
