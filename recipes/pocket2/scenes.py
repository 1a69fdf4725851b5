"""Scenes as tables of whole numbers, drawn in batches on any device.

A :class:`Table` holds many scenes; a :class:`Painter` composes their pictures from banks of sprites, clean and damaged,
so that training never waits for Pillow.  :func:`conditions` says which of a caption's conditions hold in a picture.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import world
from damage import KINDS, damaged
from torch import Tensor

CELLS = (world.SIDES["small"], world.CROWDED, world.CELL, world.SIDES["big"])
"""Sides of cells in pixels; an item's fifth number is a position in this list."""
SIZES = ("small", "big")
OWN = len(world.COLOURS)
"""Number of the colour of an object in its own colours."""
THINGS = 3
VARIANTS = 2
"""Damaged copies of every sprite, per kind of damage."""


@dataclass
class Table:
    """``N`` scenes.  Whole numbers; -1 where there is nothing or nothing is asked."""

    items: Tensor
    """``[N, 6, 5]``: class, colour (10: its own), x, y, position in `CELLS`."""
    ground: Tensor
    """``[N, 6]``: the two colours of the background, 0..255."""
    ids: Tensor
    """``[N, TOKENS]``: the caption."""
    things: Tensor
    """``[N, 3, 5]``: token of the noun, class, colour, number, size."""
    whole: Tensor
    """``[N, 2]``: relation of the first two things, colour of the background."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Tensor | slice) -> Table:
        return Table(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: str | torch.device) -> Table:
        return Table(*(getattr(self, field.name).to(device) for field in fields(self)))

    @staticmethod
    def join(tables: Sequence[Table]) -> Table:
        """One after the other."""
        return Table(*(torch.cat([getattr(table, field.name) for table in tables]) for field in fields(Table)))


def noun_tokens(caption: str, request: world.Request) -> list[int]:
    """Position in the encoded caption of the last word of each noun."""
    words = world.split(caption)
    cursor = 0
    out = []
    for thing in request.things:
        if thing.colour:
            cursor = words.index(thing.colour, cursor) + 1
        forms = [world.split(thing.name), world.split(world.plural(thing.name))]
        while not any(words[cursor : cursor + len(form)] == form for form in forms):
            cursor += 1
        cursor += len(forms[0])
        out.append(cursor)
    return out


def table(scenes: Sequence[world.Scene]) -> Table:
    """Scenes to numbers."""
    count = len(scenes)
    items = np.full((count, world.MOST, 5), -1, np.int16)
    ground = np.zeros((count, 6), np.int16)
    things = np.full((count, THINGS, 5), -1, np.int8)
    whole = np.full((count, 2), -1, np.int8)
    name_of = {name: index for index, name in enumerate(world.NAMES)}
    colour_of = {None: OWN, **{name: index for index, name in enumerate(world.COLOUR_NAMES)}}
    for n, scene in enumerate(scenes):
        for k, item in enumerate(scene.items):
            items[n, k] = (name_of[item.name], colour_of[item.colour], item.x, item.y, CELLS.index(item.side))
        ground[n] = (*scene.top, *scene.bottom)
        request = scene.request
        for k, (token, thing) in enumerate(zip(noun_tokens(scene.caption, request), request.things, strict=True)):
            colour = -1 if thing.colour is None else colour_of[thing.colour]
            size = -1 if thing.size is None else SIZES.index(thing.size)
            things[n, k] = (token, name_of[thing.name], colour, thing.count, size)
        if request.relation is not None:
            whole[n, 0] = world.RELATIONS.index(request.relation)
        if request.background is not None:
            whole[n, 1] = colour_of[request.background]
    ids = world.encode([scene.caption for scene in scenes]).astype(np.int16)
    return Table(*(torch.from_numpy(part) for part in (items, ground, ids, things, whole)))


def plain_scenes(rng: random.Random, count: int) -> list[world.Scene]:
    """Scenes of the world."""
    return [world.sample(rng) for _ in range(count)]


def _part(job: tuple[Callable[[random.Random, int], list[world.Scene]], int, int]) -> list[np.ndarray]:
    make, seed, count = job
    part = table(make(random.Random(seed), count))
    return [getattr(part, field.name).numpy() for field in fields(part)]


def generate(
    make: Callable[[random.Random, int], list[world.Scene]], count: int, seed: int, chunk: int = 4000
) -> Table:
    """About ``count`` scenes of ``make(rng, n)`` by all processors; the same for every number of them."""
    jobs = [(make, seed * 1_000_003 + first, min(chunk, count - first)) for first in range(0, count, chunk)]
    with ProcessPoolExecutor(processes(), get_context("fork")) as pool:
        parts = list(pool.map(_part, jobs))
    return Table(*(torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)))


def processes() -> int:
    """How many processes to draw with."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def _sprites(job: tuple[str, int]) -> np.ndarray:
    """All sprites of one class and side, ``uint8 [11 * (1 + 9 * VARIANTS), 4, side, side]``, clean ones first."""
    name, side = job
    rng = random.Random(f"{name} {side}")
    out = []
    colours = (*world.COLOUR_NAMES, None)
    for colour in colours:
        for kind in KINDS:
            for _ in range(1 if kind == "clean" else VARIANTS):
                rgb, alpha = damaged(name, colour, side, kind, rng)
                out.append(np.concatenate([rgb, alpha * 255], 2).round().astype(np.uint8).transpose(2, 0, 1))
    return np.stack(out)


def draw_banks() -> list[Tensor]:
    """Every sprite clean and damaged, one bank per side of a cell: ``uint8 [48 * 11 * (1 + 9 * 2), 4, side, side]``."""
    jobs = [(name, side) for side in CELLS for name in world.NAMES]
    with ProcessPoolExecutor(processes(), get_context("fork")) as pool:
        parts = list(pool.map(_sprites, jobs))
    count = len(world.NAMES)
    return [torch.from_numpy(np.concatenate(parts[k * count : (k + 1) * count])) for k in range(len(CELLS))]


class Painter:
    """Draws pictures of a table on one device."""

    per_colour = 1 + (len(KINDS) - 1) * VARIANTS

    def __init__(self, device: str | torch.device, folder: Path | None = None) -> None:
        self.device = torch.device(device)
        stored = folder / "banks.pt" if folder else None
        banks = torch.load(stored) if stored and stored.exists() else draw_banks()
        if stored and not stored.exists():
            part = stored.with_suffix(f".{os.getpid()}")
            torch.save(banks, part)
            os.replace(part, stored)
        self.banks = [bank.to(device) for bank in banks]
        middle = self.banks[CELLS.index(world.CELL)][:: self.per_colour].float()
        alpha = middle[:, 3:] / 255
        self.mean_colour = (middle[:, :3] * alpha).sum((2, 3)) / alpha.sum((2, 3))
        """Mean colour of each clean sprite, ``[48 * 11, 3]`` in 0..255."""
        self.step = torch.linspace(0, 1, world.SIZE, device=device)

    def ground(self, ground: Tensor) -> Tensor:
        """Backgrounds ``[B, 3, 128, 128]`` in 0..255."""
        top, bottom = ground[:, :3, None, None].float(), ground[:, 3:, None, None].float()
        step = self.step[None, None, :, None]
        return (top * (1 - step) + bottom * step).expand(-1, -1, -1, world.SIZE).contiguous()

    def paint(self, items: Tensor, ground: Tensor, kinds: Tensor | None = None, variant: int = 0) -> Tensor:
        """Pictures ``[B, 3, 128, 128]`` in [0, 1] with 256 levels; ``kinds`` ``[B, 6]`` are numbers in `KINDS`."""
        canvas = self.ground(ground).permute(0, 2, 3, 1).contiguous()
        for slot in range(world.MOST):
            one = items[:, slot].long()
            for number, side in enumerate(CELLS):
                which = ((one[:, 0] >= 0) & (one[:, 4] == number)).nonzero()[:, 0]
                if len(which) == 0:
                    continue
                name, colour, x, y, _ = one[which].unbind(1)
                place = (name * (OWN + 1) + colour) * self.per_colour
                if kinds is not None:
                    kind = kinds[which, slot].long()
                    place = place + torch.where(kind > 0, 1 + (kind - 1) * VARIANTS + variant, 0)
                sprite = self.banks[number][place].permute(0, 2, 3, 1).float()
                reach = torch.arange(side, device=self.device)
                rows, columns = (y[:, None] + reach)[:, :, None], (x[:, None] + reach)[:, None, :]
                at = (which[:, None, None], rows, columns)
                under = canvas[at]
                canvas[at] = under + (sprite[..., :3] - under) * (sprite[..., 3:] / 255)
        return (canvas + 0.5).floor().clamp(0, 255).permute(0, 3, 1, 2).contiguous() / 255

    def looks(self, items: Tensor, ground: Tensor, kinds: Tensor | None = None) -> Tensor:
        """The analytic aesthetic value of pictures ``[B]``, 1 to 10: ``1 + 6 sharpness + 2 contrast + balance``.

        Sharpness is the mean over the objects of 1 (clean), 0.85 (mild) or 0 (ruined); contrast the mean distance
        between an object's mean colour and the background behind its middle, as a fraction of 150 grey levels, at
        most 1; balance 1 for objects centred on the canvas, falling to 0 for one object in a corner.
        """
        there = (items[:, :, 0] >= 0).float()
        count = there.sum(1).clamp(min=1)
        cells = torch.tensor(CELLS, device=self.device)
        side = cells[items[:, :, 4].long().clamp(min=0)].float()
        middle = items[:, :, 2:4].float() + side[..., None] / 2
        share = (middle[..., 1:] / world.SIZE).clamp(0, 1)
        behind = ground[:, None, :3].float() * (1 - share) + ground[:, None, 3:].float() * share
        own = self.mean_colour[(items[:, :, 0].long().clamp(min=0) * (OWN + 1) + items[:, :, 1].long().clamp(min=0))]
        contrast = ((own - behind).norm(dim=2) * there).sum(1) / count / 150
        centre = (middle * there[..., None]).sum(1) / count[:, None] - world.SIZE / 2
        farthest = 2**0.5 * (world.SIZE - world.CELL) / 2
        balance = (1 - centre.norm(dim=1) / farthest).clamp(min=0)
        sharpness = torch.ones_like(count)
        if kinds is not None:
            worth = torch.tensor([1.0, 0.85, *[0.0] * (len(KINDS) - 2)], device=self.device)
            sharpness = (worth[kinds.long().clamp(min=0)] * there).sum(1) / count
        return 1 + 6 * sharpness + 2 * contrast.clamp(max=1) + balance


def maps(items: Tensor) -> tuple[Tensor, Tensor]:
    """Class and colour at each latent token ``[B, 64]``, by the cell that covers its middle; 48 and 11: background."""
    count, across = len(items), world.SIZE // world.GRID
    names = torch.full((count, across, across), len(world.NAMES), device=items.device)
    colours = torch.full((count, across, across), OWN + 1, device=items.device)
    middle = torch.arange(across, device=items.device) * world.GRID + world.GRID // 2
    cells = torch.tensor(CELLS, device=items.device)
    for slot in range(world.MOST):
        name, colour, x, y, number = items[:, slot].long().unbind(1)
        side = cells[number.clamp(min=0)]
        inside_x = (middle >= x[:, None]) & (middle < (x + side)[:, None])
        inside_y = (middle >= y[:, None]) & (middle < (y + side)[:, None])
        inside = inside_y[:, :, None] & inside_x[:, None, :] & (name >= 0)[:, None, None]
        names = torch.where(inside, name[:, None, None], names)
        colours = torch.where(inside, colour[:, None, None], colours)
    return names.flatten(1), colours.flatten(1)


def lie(items: Tensor, relation: Tensor) -> Tensor:
    """Whether item i is ``relation`` item j, ``bool [B, 6, 6]``: GenEval's rule, as `world.lies`."""
    cells = torch.tensor(CELLS, device=items.device)
    side = cells[items[:, :, 4].long().clamp(min=0)].float()
    middle = items[:, :, 2:4].float() + side[..., None] / 2
    apart = middle[:, :, None] - middle[:, None]
    across = (relation < 2)[:, None, None]
    along = torch.where(across, apart[..., 0], apart[..., 1])
    along = torch.where((relation % 2 == 0)[:, None, None], -along, along)
    reach = side[:, :, None] + side[:, None]
    return (along - 0.1 * reach) / apart.norm(dim=3).clamp(min=1e-3) > 0.5


@dataclass
class Conditions:
    """Of ``B`` pictures and captions, which conditions hold; the masks say which are asked."""

    present: Tensor
    """``[B, 3]``: objects found of each thing, at most its number."""
    number: Tensor
    """``[B, 3]``: whether there are exactly as many."""
    colour: Tensor
    size: Tensor
    alone: Tensor
    """``[B]``: whether nothing else is there."""
    relation: Tensor
    background: Tensor
    share: Tensor
    """``[B]``: share of all conditions asked that hold."""
    right: Tensor
    """``[B]``: whether all hold."""


def conditions(items: Tensor, ground_of: Tensor, there: Tensor, things: Tensor, whole: Tensor) -> Conditions:
    """Pictures (``items``, ``ground_of`` [B]: the named colour of their background or -1, ``there`` [B, 6]: not ruined)
    against captions (``things``, ``whole``)."""
    wanted = things[:, :, 1] >= 0
    mine = (items[:, None, :, 0] == things[:, :, None, 1]) & wanted[..., None] & there[:, None]
    have = mine.sum(2)
    number = things[:, :, 3].long().clamp(min=0)
    present = torch.minimum(have, number)
    colour_fits = items[:, None, :, 1] == things[:, :, None, 2]
    colour = (have > 0) & (colour_fits | ~mine).all(2)
    small_or_big = torch.where(items[:, :, 4] == 0, 0, torch.where(items[:, :, 4] == 3, 1, -2))
    size = (have > 0) & ((small_or_big[:, None] == things[:, :, None, 4]) | ~mine).all(2)
    alone = (there & (items[:, :, 0] >= 0)).sum(1) == present.sum(1)
    holds = lie(items, whole[:, 0])
    pairs = mine[:, 0, :, None] & mine[:, 1, None, :]
    relation = (have[:, 0] > 0) & (have[:, 1] > 0) & (holds | ~pairs).all(2).all(1)
    background = ground_of == whole[:, 1]
    asked_colour, asked_size = things[:, :, 2] >= 0, things[:, :, 4] >= 0
    asked_relation, asked_background = whole[:, 0] >= 0, whole[:, 1] >= 0
    good = present.sum(1) + alone + (colour & asked_colour).sum(1) + (size & asked_size).sum(1)
    good = good + (relation & asked_relation) + (background & asked_background)
    every = number.sum(1) + 1 + asked_colour.sum(1) + asked_size.sum(1) + asked_relation + asked_background
    return Conditions(present, have == number, colour, size, alone, relation, background, good / every, good == every)
