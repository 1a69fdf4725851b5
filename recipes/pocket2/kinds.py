"""How well the rewards tell captions apart that differ in one thing: ``python kinds.py --assets ASSETS --json FILE``.

For each kind of difference, new captions are drawn with one clean picture each and with one clean picture of a variant
that differs in that kind only.  Printed is how often ``clip_score`` and ``image_reward`` put the caption's own picture
first, and how often ``clip_score`` puts a picture's own caption first, with Wilson's 95 % intervals.  In the row
``ruined`` the other picture shows the same scene with every object damaged.  Variants that also satisfy the caption are
left out.

The functions that draw variants are also what ``clip.py`` and ``preference.py`` train on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import world
from damage import RUINED, draw
from scenes import conditions, table
from world import Request, Thing

KINDS = (
    "object",
    "colour",
    "colours exchanged",
    "number",
    "numbers exchanged",
    "relation",
    "size",
    "sizes exchanged",
    "background",
    "missing or added",
)
GROUP = 4
"""Captions in a group of `fours`."""
WEIGHTS = (1.0, 1.0, 2.0, 2.0, 1.6, 3.6, 0.9, 0.8, 0.8, 1.0)
"""How often each kind leads a group in training; the kinds that are hard to learn come more often."""
TASKS = {
    "object": world.TASKS + world.COMPOUND_TASKS,
    "colour": ("colors", "color_attr", "color_count", "color_position", "three_objects", "compound"),
    "colours exchanged": ("color_attr", "color_attr", "color_position", "three_objects", "compound"),
    "number": ("counting", "counting", "color_count", "two_counts", "compound"),
    "numbers exchanged": ("two_counts", "two_counts", "compound"),
    "relation": ("position", "position", "position", "color_position", "color_position", "size", "compound"),
    "size": ("size",),
    "sizes exchanged": ("size",),
    "background": ("background", "background", "compound"),
    "missing or added": ("single_object", "two_object", "color_attr", "two_counts", "three_objects", "compound"),
}
"""Tasks whose captions can differ in each kind."""


# ---------------------------------------------------------------------------------------- variants


def drawable(request: Request) -> bool:
    """Whether the canvas has room for what the request asks for."""
    sizes = [thing.size for thing in request.things for _ in range(thing.count)]
    if request.total > world.MOST or (request.relation is not None and len(request.things) != 2):
        return False
    if request.relation is not None and max(thing.count for thing in request.things) > 3:
        return False
    if "big" in sizes:
        return len(sizes) == 1 or sorted(map(str, sizes)) == ["big", "small"]
    return "small" not in sizes or len(sizes) <= 4


def _with(request: Request, index: int, thing: Thing) -> Request:
    things = list(request.things)
    things[index] = thing
    return replace(request, things=tuple(things))


def _pick(rng: random.Random, request: Request, fits: Callable[[Thing], bool]) -> int | None:
    """Position of a random thing that fits."""
    found = [index for index, thing in enumerate(request.things) if fits(thing)]
    return rng.choice(found) if found else None


def _two(rng: random.Random, request: Request, key: Callable[[Thing], object]) -> tuple[int, int] | None:
    """Positions of two random things whose ``key`` differs."""
    count = len(request.things)
    values = [key(thing) for thing in request.things]
    found = [(i, j) for i in range(count) for j in range(i + 1, count) if values[i] != values[j]]
    return rng.choice(found) if found else None


def _new_name(rng: random.Random, request: Request) -> str:
    used = {thing.name for thing in request.things}
    return rng.choice([name for name in world.NAMES if name not in used])


def _new_colour(rng: random.Random, request: Request) -> str:
    used = {request.background, *(thing.colour for thing in request.things)}
    return rng.choice([colour for colour in world.COLOUR_NAMES if colour not in used])


def _object(rng: random.Random, request: Request) -> Request | None:
    index = rng.randrange(len(request.things))
    return _with(request, index, replace(request.things[index], name=_new_name(rng, request)))


def _colour(rng: random.Random, request: Request) -> Request | None:
    index = _pick(rng, request, lambda thing: thing.colour is not None)
    if index is None:
        return None
    return _with(request, index, replace(request.things[index], colour=_new_colour(rng, request)))


def _number(rng: random.Random, request: Request) -> Request | None:
    index = rng.randrange(len(request.things))
    thing = request.things[index]
    near = [count for count in (thing.count - 1, thing.count + 1) if 1 <= count <= 4]
    count = rng.choice(near if rng.random() < 0.7 else [count for count in (1, 2, 3, 4) if count != thing.count])
    return _with(request, index, replace(thing, count=count))


def _exchanged(rng: random.Random, request: Request, what: str) -> Request | None:
    """Two things exchange their ``colour``, ``count`` or ``size``."""
    pair = _two(rng, request, lambda thing: getattr(thing, what))
    if pair is None:
        return None
    first, second = (request.things[index] for index in pair)
    changed = _with(request, pair[0], replace(first, **{what: getattr(second, what)}))
    return _with(changed, pair[1], replace(second, **{what: getattr(first, what)}))


def _relation(rng: random.Random, request: Request) -> Request | None:
    if request.relation is None:
        return None
    way = rng.random()
    if way < 0.35:
        return replace(request, things=request.things[::-1])
    if way < 0.85:
        return replace(request, relation=world.OPPOSITE[request.relation])
    return replace(request, relation=rng.choice([r for r in world.RELATIONS if r != request.relation]))


def _size(rng: random.Random, request: Request) -> Request | None:
    index = _pick(rng, request, lambda thing: thing.size is not None)
    if index is None:
        return None
    thing = request.things[index]
    other = _with(request, index, replace(thing, size="big" if thing.size == "small" else "small"))
    return other if drawable(other) else _with(request, index, replace(thing, size=None))


def _background(rng: random.Random, request: Request) -> Request | None:
    if request.background is None:
        return None
    used = {request.background, *(thing.colour for thing in request.things)}
    left = [colour for colour in world.BACKGROUNDS if colour not in used]
    return replace(request, background=None if rng.random() < 0.15 else rng.choice(left))


def _missing(rng: random.Random, request: Request) -> Request | None:
    """One thing fewer or one more; without the relation, which needs two."""
    things = list(request.things)
    if len(things) == 1 or (len(things) == 2 and rng.random() < 0.5):
        colour = _new_colour(rng, request) if rng.random() < 0.5 else None
        things.insert(rng.randrange(len(things) + 1), Thing(_new_name(rng, request), colour))
    else:
        del things[rng.randrange(len(things))]
    return Request(tuple(things), None, request.background)


_CHANGES: dict[str, Callable[[random.Random, Request], Request | None]] = {
    "object": _object,
    "colour": _colour,
    "colours exchanged": partial(_exchanged, what="colour"),
    "number": _number,
    "numbers exchanged": partial(_exchanged, what="count"),
    "relation": _relation,
    "size": _size,
    "sizes exchanged": partial(_exchanged, what="size"),
    "background": _background,
    "missing or added": _missing,
}


def variant(rng: random.Random, request: Request, kind: str) -> Request | None:
    """A request that differs in one thing of this kind, or ``None`` if it cannot."""
    other = _CHANGES[kind](rng, request)
    return other if other is not None and other != request and drawable(other) else None


def start(rng: random.Random, kind: str) -> tuple[Request, Request]:
    """A request and a variant of this kind."""
    while True:
        request = world.draw_request(rng, rng.choice(TASKS[kind]))
        other = variant(rng, request, kind)
        if other is not None:
            return request, other


def another(rng: random.Random, request: Request) -> Request:
    """A variant of any kind that is possible."""
    while True:
        other = variant(rng, request, rng.choices(KINDS, WEIGHTS)[0])
        if other is not None:
            return other


def fours(rng: random.Random, count: int) -> list[world.Scene]:
    """Groups of four scenes: a request and three variants of it, in the form that `scenes.generate` takes."""
    out: list[world.Scene] = []
    while len(out) < count:
        kind = rng.choices(KINDS, WEIGHTS)[0]
        request, other = start(rng, kind)
        found = [request, other]
        while len(found) < GROUP:
            more = variant(rng, request, kind) if rng.random() < 0.2 else another(rng, request)
            if more is not None and more not in found:
                found.append(more)
        out += [world.depict(rng, one, kind) for one in found]
    return out[:count]


def sixes(rng: random.Random, count: int) -> list[world.Scene]:
    """Groups of six: one request drawn three times, two variants of it, and a variant of a variant."""
    out: list[world.Scene] = []
    while len(out) < count:
        kind = rng.choices(KINDS, WEIGHTS)[0]
        request, other = start(rng, kind)
        second = another(rng, request)
        for one in (request, request, request, other, second, another(rng, other)):
            out.append(world.depict(rng, one, kind))
    return out[:count]


def pairs(rng: random.Random, count: int, kind: str) -> list[world.Scene]:
    """Groups of two: a request and a variant of this kind that does not satisfy it."""
    out: list[world.Scene] = []
    while len(out) < count:
        two = [world.depict(rng, request, kind) for request in start(rng, kind)]
        if not satisfies(two[1], two[0]):
            out += two
    return out[:count]


def satisfies(picture: world.Scene, caption: world.Scene) -> bool:
    """Whether the clean picture of one scene fulfils every condition of another's caption."""
    one, said = table([picture]), table([caption])
    there = one.items[:, :, 0] >= 0
    return bool(conditions(one.items, one.whole[:, 1], there, said.things, said.whole).right)


# -------------------------------------------------------------------------------------- measurement


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.959964
    share = right / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def share(right: list[bool]) -> dict[str, float]:
    """Share that is right, with its interval."""
    low, high = wilson(sum(right), len(right))
    return {"right": round(sum(right) / len(right), 4), "low": round(low, 4), "high": round(high, 4)}


def _pictures(shots: list[world.Pixels]) -> torch.Tensor:
    return torch.from_numpy(np.stack(shots)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def measure(assets: Path, count: int, seed: int = 31, batch: int = 50) -> dict[str, dict[str, dict[str, float]]]:
    """For each kind the shares of ``clip_score``, of its captions, and of ``image_reward``."""
    from fairlead.rewards.clip_score import ClipScore
    from fairlead.rewards.image_reward import ImageReward

    clip, preference = ClipScore(str(assets / "clip")), None
    if (assets / "preference").is_dir():
        preference = ImageReward(str(assets / "preference"))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in (*KINDS, "ruined"):
        rng = random.Random(f"{seed} {kind}")
        scenes = _ruined_pairs(rng, count) if kind == "ruined" else pairs(rng, 2 * count, kind)
        right: dict[str, list[bool]] = {"clip_score": [], "clip_score captions": [], "image_reward": []}
        for first in range(0, 2 * count, 2 * batch):
            part = scenes[first : first + 2 * batch]
            owns, others = part[::2], part[1::2]
            states = [rng.choice(RUINED) if kind == "ruined" else "clean" for _ in others]
            own = _pictures([world.render(scene) for scene in owns])
            other = _pictures([draw(s, [state] * len(s.items), rng) for s, state in zip(others, states, strict=True)])
            captions = [scene.caption for scene in owns]
            scores = clip.score(own, captions)
            right["clip_score"] += (scores > clip.score(other, captions)).tolist()
            if kind != "ruined":
                wrong = [scene.caption for scene in others]
                reverse = [not satisfies(a, b) for a, b in zip(owns, others, strict=True)]
                above = (scores > clip.score(own, wrong)).tolist()
                right["clip_score captions"] += [a for a, fair in zip(above, reverse, strict=True) if fair]
            if preference is not None:
                right["image_reward"] += (preference.score(own, captions) > preference.score(other, captions)).tolist()
        found[kind] = {name: share(values) for name, values in right.items() if values}
    return found


def _ruined_pairs(rng: random.Random, count: int) -> list[world.Scene]:
    """Every scene twice."""
    return [scene for scene in (world.sample(rng) for _ in range(count)) for _ in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder that holds clip/ and preference/")
    parser.add_argument("--count", type=int, default=400, help="pairs of each kind")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    a = parser.parse_args()
    found = measure(a.assets, a.count)
    names = ("clip_score", "clip_score captions", "image_reward")
    print(f"{'kind':20}" + "".join(f"{name:>28}" for name in names))
    for kind, row in found.items():
        cells = []
        for name in names:
            one = row.get(name)
            text = f"{one['right']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" if one else "-"
            cells.append(f"{text:>28}")
        print(f"{kind:20}" + "".join(cells))
    if a.json:
        a.json.write_text(json.dumps({"pairs of each kind": a.count, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
