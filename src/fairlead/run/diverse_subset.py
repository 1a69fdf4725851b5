"""`--keep k`: pictures of a finished run that are good and different. A function of the record; nothing is rendered.

A quality-weighted determinant is used, not a MAP-Elites grid. A grid needs axes that somebody names and divides into
bins, and it fills as many cells as it has. A determinant needs only a measure of likeness, returns exactly k pictures,
and has one setting between the k best and the k most different.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fairlead.core.check import must_be, number_in_range
from fairlead.core.diverse import kernel, pick, standard, vendi
from fairlead.core.errors import FairleadError, StoreError, unknown
from fairlead.run import models, registry, scoring
from fairlead.run.files import is_folder
from fairlead.run.records import Candidate
from fairlead.run.store import Store, write_atomically

KEPT = "kept.json"
FOLDER = "kept"
WEIGHT = 0.5
FLOOR = "median"
FLOORS = ("median", "none")
POOL = 800
"""Pictures compared with each other at most, unless many are kept."""
FRONT = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights of quality whose choices the report shows."""
SLIDER = (0.0, *(round(2 ** (i / 4 - 6), 4) for i in range(37)))
"""Weights that a page tries, up to 8; the default is one of them."""


@dataclass(frozen=True)
class Choosable:
    """The pictures of a run that may be kept, compared with each other."""

    candidates: list[Candidate]
    worth: Tensor
    """[N]: the reward, or what people said"""
    likes: Tensor
    """[N, N]"""
    of: int
    """Pictures of the run."""
    likeness: str

    def pick(self, k: int, weight: float, least: float) -> list[int]:
        """Positions of k, the most wanted first."""
        return pick(self.likes, weight * _above(least, self.worth, k), k)

    def best(self, k: int) -> list[int]:
        """Positions of the k best."""
        values = self.worth.nan_to_num(-torch.inf)
        return sorted(range(len(values)), key=lambda i: -float(values[i]))[:k]

    def point(self, weight: float | None, chosen: Sequence[int]) -> dict[str, Any]:
        """Mean reward and Vendi score of a choice."""
        return _point(weight, chosen, self.worth, self.likes)


def keep(
    folder: Path,
    k: int,
    *,
    weight: float = WEIGHT,
    floor: float | str = FLOOR,
    likeness: str | None = None,
    among: Collection[int] | None = None,
    quality: Mapping[int, float] | None = None,
) -> list[int]:
    """Indices of k candidates as `choose` finds them; writes kept.json and copies the pictures to kept/."""
    found, pictures = choose(folder, k, weight=weight, floor=floor, likeness=likeness, among=among, quality=quality)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / FOLDER).mkdir()
    for place, one in enumerate(pictures, 1):
        shutil.copyfile(folder / one.image, folder / FOLDER / f"{place:02d}-candidate-{one.index}.png")
    write_atomically(folder / KEPT, json.dumps(found, indent=1).encode())
    return [one.index for one in pictures]


def choose(
    folder: Path,
    k: int,
    *,
    weight: float = WEIGHT,
    floor: float | str = FLOOR,
    likeness: str | None = None,
    among: Collection[int] | None = None,
    quality: Mapping[int, float] | None = None,
) -> tuple[dict[str, Any], list[Candidate]]:
    """What kept.json says, and the k candidates, the most wanted first. Writes nothing.

    `weight` counts deviations of the reward from its mean: 0 keeps the most different, a large one the best. Likeness
    is by `clip`, `pixels`, or a folder or hub name of an image encoder; left out, the package's CLIP for models that
    speak its words, pixels for the others. `among`: choose only from these candidates. `quality`: use these numbers in
    place of the reward, and choose only from candidates that have one.

    `floor` is a reward, `median` (of the pictures to choose from) or `none`. No picture below it is kept while k
    pictures are not below it; if there are fewer, the best of the others are kept too. Without it, a picture that lacks
    what the prompt asks for is kept because it differs from all others.
    """
    number_in_range("weight", weight, "[0, inf)")
    full = _choosable(folder, k, floor, likeness, among, quality, _features)
    least = _least(full.worth, floor)
    chosen = full.pick(k, weight, least)
    front = [full.point(w, full.pick(k, w, least)) for w in sorted({*FRONT, weight})]
    found = {
        "k": k,
        "of": full.of,
        "worth": "reward" if quality is None else "judged strength",
        "weight": weight,
        "floor": least if math.isfinite(least) else None,
        "below": int((full.worth[chosen] < least).sum()),
        "likeness": full.likeness,
        "kept": [full.candidates[i].index for i in chosen],
        "front": front,
        "chosen": full.point(weight, chosen),
        "best": full.point(None, full.best(k)),
        "first": full.point(None, list(range(k))),
    }
    return found, [full.candidates[i] for i in chosen]


def among_pictures(
    pictures: Sequence[Tensor], k: int, worth: Sequence[float] | None, weight: float = WEIGHT, likeness: str = "clip"
) -> list[int]:
    """Positions of k of some pictures [3, H, W] that belong to no run, as `choose` finds them with its usual floor.

    `worth` has a number for each, NaN where it has none. Without it, only the differences count.
    """
    number_in_range("weight", weight, "[0, inf)")
    models.quiet()
    encode: Callable[[Tensor], Tensor] = registry.resolve("features", likeness)()
    likes = kernel(torch.cat([encode(picture[None]) for picture in pictures]))
    values = torch.zeros(len(pictures)) if worth is None else torch.tensor(worth, dtype=torch.float64)
    return pick(likes, weight * _above(_least(values, FLOOR), values, k), k)


def front(
    folder: Path,
    k: int,
    *,
    floor: float | str = FLOOR,
    among: Collection[int] | None = None,
    quality: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """The different choices that weights lead to, from the most different to the best. Writes nothing.

    Of weights that choose the same pictures the default is named, else the lowest.
    """
    full = _choosable(folder, k, floor, None, among, quality, _remembered)
    least = _least(full.worth, floor)
    points: list[dict[str, Any]] = []
    for weight in SLIDER:
        chosen = full.pick(k, weight, least)
        kept = [full.candidates[i].index for i in chosen]
        if points and set(points[-1]["kept"]) == set(kept):
            if weight == WEIGHT:
                points[-1] |= {"weight": weight, "kept": kept}
            continue
        points.append({**full.point(weight, chosen), "kept": kept})
    usable = int(full.worth.isfinite().sum())
    return {"k": k, "of": usable, "likeness": full.likeness, "default": WEIGHT, "points": points}


def _choosable(
    folder: Path,
    k: int,
    floor: float | str,
    likeness: str | None,
    among: Collection[int] | None,
    quality: Mapping[int, float] | None,
    features: Callable[[Path, tuple[str, ...], str], Tensor],
) -> Choosable:
    """Whom to choose from, after every check."""
    if isinstance(floor, str) and floor not in FLOORS:
        raise FairleadError(must_be("floor", floor, "a reward, 'median' or 'none'"))
    if not isinstance(floor, str):
        number_in_range("floor", floor, "(-inf, inf)")
    store = Store.open(folder)
    try:
        every = store.candidates()
        name = store.spec.model.name
    finally:
        store.close()
    if not every:
        raise FairleadError(f"{folder} has no pictures yet. Continue the run with 'fairlead resume {folder}'.")
    models.quiet()
    highest = max(c.rung for c in every)
    full = [c for c in every if c.rung == highest]
    if among is not None:
        full = [c for c in every if c.index in among]
    if quality is not None:
        full = [replace(c, reward=quality[c.index]) for c in every if c.index in quality and c in full]
    full = _pool(full, k)
    likeness = likeness or ("clip" if _speaks(name) else "pixels")
    if likeness not in (known := registry.table("features")) and "/" not in likeness and not is_folder(Path(likeness)):
        raise unknown("likeness", likeness, known)
    worth = torch.tensor([c.reward for c in full], dtype=torch.float64)
    likes = kernel(features(folder, tuple(c.image for c in full), likeness))
    return Choosable(full, worth, likes, len(every), likeness)


def _least(rewards: Tensor, floor: float | str) -> float:
    """The floor as a reward; minus infinity without one."""
    if floor == "none" or not bool(rewards.isfinite().any()):
        return -math.inf
    return float(rewards.nanmedian()) if floor == "median" else float(floor)


def _above(least: float, rewards: Tensor, k: int) -> Tensor:
    """Rewards [N] -> their deviations in units of their spread, NaN for those that may not be kept.

    If fewer than k are not below the floor, the best k may be kept.
    """
    allowed = rewards >= least
    if int(allowed.sum()) < k:
        order = rewards.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        allowed = torch.zeros_like(allowed)
        allowed[order[:k]] = True
    return torch.where(allowed, standard(rewards), torch.nan)


def _pool(full: Sequence[Candidate], k: int) -> list[Candidate]:
    """Those that are compared with each other: all, or of very many the first k, the best and an even sample.

    Comparing all pairs of n pictures takes n^2 numbers, which are 3.2 GB at 20,000.
    """
    size = max(POOL, 4 * k)
    if len(full) <= size:
        return list(full)
    ranked = sorted(range(len(full)), key=lambda i: (math.isnan(full[i].reward), -full[i].reward, i))
    best = ranked[: size // 2]
    rest = ranked[size // 2 :]
    spread = [rest[len(rest) * i // (size // 2)] for i in range(size // 2)]
    return [full[i] for i in sorted({*range(k), *best, *spread})]


def _speaks(name: str) -> bool:
    return name != models.LIVE and models.defaults(name).get("vocabulary") == "words"


def _features(folder: Path, chosen: tuple[str, ...], likeness: str) -> Tensor:
    """Of the files of these names."""
    known = likeness in registry.table("features")
    make: Callable[..., Any] = registry.resolve("features", likeness if known else "clip")
    encode: Callable[[Tensor], Tensor] = make() if known else make(likeness)
    out = []
    for start in range(0, len(chosen), scoring.BATCH):
        some = chosen[start : start + scoring.BATCH]
        images = [_pixels(folder / name) for name in some]
        if len({image.shape for image in images}) > 1:
            raise StoreError(f"Pictures of {folder} have different sizes: restore those that were replaced.")
        out.append(encode(torch.stack(images)))
    return torch.cat(out)


_remembered = lru_cache(maxsize=4)(_features)
"""For a page that asks again and again: a picture's name is a digest of its content."""


def _pixels(path: Path) -> Tensor:
    try:
        return scoring.load(path)[0]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise StoreError(f"{path} cannot be read ({error!s:.80}): restore it, or start the run again.") from error


def _point(weight: float | None, chosen: Sequence[int], rewards: Tensor, likes: Tensor) -> dict[str, Any]:
    """Mean reward and Vendi score of a choice."""
    some = torch.tensor(chosen)
    reward = float(rewards[some].nanmean())
    return {
        "weight": weight,
        "reward": reward if reward == reward else None,
        "vendi": float(vendi(likes[some][:, some])),
    }
