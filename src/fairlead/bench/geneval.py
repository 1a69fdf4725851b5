"""GenEval with any detector: prompts, the published decision rules, aggregation.

A :class:`Prompt` is one line of GenEval's ``evaluation_metadata.jsonl``.  :func:`generate` draws new ones in
the same grammar, with the same order of random draws.  Detections are anything with ``name``, ``colour``
(or ``None``), ``score`` in 0..1 and ``box`` = ``(x0, y0, x1, y1)`` in pixels, x to the right, y down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

Box = tuple[float, float, float, float]

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("zero", "one", "two", "three", "four")

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MAX_OBJECTS = 16
POSITION_THRESHOLD = 0.1


class Found(Protocol):
    """One detected object."""

    @property
    def name(self) -> str:
        """Class name."""

    @property
    def colour(self) -> str | None:
        """One of the ten colours, or none of them."""

    @property
    def score(self) -> float:
        """Confidence, 0..1."""

    @property
    def box(self) -> Box:
        """``(x0, y0, x1, y1)`` in pixels."""


class Detects(Protocol):
    """A detector of objects."""

    def detect(self, images: torch.Tensor) -> Sequence[Sequence[Found]]:
        """Images ``[B, 3, H, W]`` in [0, 1] to one list of objects per image."""


@dataclass(frozen=True)
class Wanted:
    """``count`` objects of class ``name``, perhaps of a colour, perhaps placed relative to another entry."""

    name: str
    count: int
    colour: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """One prompt, its task and its conditions."""

    tag: str
    text: str
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()

    @property
    def names(self) -> set[str]:
        """Classes it speaks of."""
        return {wanted.name for wanted in self.include + self.exclude}


# ---------------------------------------------------------------------------------------- prompts


def _wanted(entry: Mapping[str, Any]) -> Wanted:
    position = entry.get("position")
    place = (str(position[0]), int(position[1])) if position else None
    return Wanted(str(entry["class"]), int(entry["count"]), entry.get("color"), place)


def read_prompts(path: Path | str, names: Iterable[str] | None = None) -> list[Prompt]:
    """Prompts of a metadata file in its order; with ``names`` only those whose classes are all among them."""
    known = None if names is None else set(names)
    records = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    prompts = [of_record(record) for record in records]
    return [prompt for prompt in prompts if known is None or prompt.names <= known]


def of_record(record: Mapping[str, Any]) -> Prompt:
    """A prompt from one line of a metadata file."""
    include = tuple(_wanted(entry) for entry in record["include"])
    exclude = tuple(_wanted(entry) for entry in record.get("exclude", ()))
    return Prompt(str(record["tag"]), str(record["prompt"]), include, exclude)


def as_record(prompt: Prompt) -> dict[str, Any]:
    """Inverse of `of_record`, in the keys of the official scorer."""

    def entry(wanted: Wanted) -> dict[str, Any]:
        more = {"color": wanted.colour, "position": list(wanted.position) if wanted.position else None}
        return {"class": wanted.name, "count": wanted.count, **{k: v for k, v in more.items() if v is not None}}

    record: dict[str, Any] = {"tag": prompt.tag, "include": [entry(w) for w in prompt.include]}
    if prompt.exclude:
        record["exclude"] = [entry(w) for w in prompt.exclude]
    return {**record, "prompt": prompt.text}


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")


def generate(names: Sequence[str], count: int = 100, seed: int = 43) -> list[Prompt]:
    """Draw a split: every class once, then ``count`` prompts of each other task; duplicates are dropped.

    ``person``, if among ``names``, must come first: it is never given a colour.  With GenEval's 80 names and
    the default arguments this is the published file.
    """
    rng = np.random.default_rng(seed)  # noqa: TID251 - the published order of draws
    total = len(names)
    skip = 1 if names[0] == "person" else 0
    prompts: list[Prompt] = []

    def add(tag: str, words: str, include: tuple[Wanted, ...], exclude: tuple[Wanted, ...] = ()) -> None:
        prompts.append(Prompt(tag, f"a photo of {words}", include, exclude))

    for index in rng.choice(total, size=total, replace=False):
        add("single_object", _with_article(names[index]), (Wanted(names[index], 1),))
    for _ in range(count):
        a, b = (names[i] for i in rng.choice(total, size=2, replace=False))
        add("two_object", f"{_with_article(a)} and {_with_article(b)}", (Wanted(a, 1), Wanted(b, 1)))
    for _ in range(count):
        a = names[rng.choice(total)]
        number = int(rng.integers(2, 4, endpoint=True))
        add("counting", f"{NUMBERS[number]} {_plural(a)}", (Wanted(a, number),), (Wanted(a, number + 1),))
    for _ in range(count):
        a = names[(rng.choice(total - skip) + skip) % total]
        colour = COLOURS[rng.choice(len(COLOURS))]
        add("colors", _with_article(f"{colour} {a}"), (Wanted(a, 1, colour),))
    for _ in range(count):
        a, b = (names[i] for i in rng.choice(total, size=2, replace=False))
        relation = RELATIONS[rng.choice(len(RELATIONS))]
        add(
            "position",
            f"{_with_article(a)} {relation} {_with_article(b)}",
            (Wanted(b, 1), Wanted(a, 1, position=(relation, 0))),
        )
    for _ in range(count):
        a, b = (names[(i + skip) % total] for i in rng.choice(total - skip, size=2, replace=False))
        p, q = (COLOURS[i] for i in rng.choice(len(COLOURS), size=2, replace=False))
        words = f"{_with_article(f'{p} {a}')} and {_with_article(f'{q} {b}')}"
        add("color_attr", words, (Wanted(a, 1, p), Wanted(b, 1, q)))
    return list(dict.fromkeys(prompts))


# ------------------------------------------------------------------------------------------ rules


def relations(a: Box, b: Box, threshold: float = POSITION_THRESHOLD) -> set[str]:
    """Where box ``a`` is relative to box ``b``: the published offset rule."""
    first = np.asarray(a, float)
    second = np.asarray(b, float)
    offset = (first[:2] + first[2:] - second[:2] - second[2:]) / 2
    extent = (first[2:] - first[:2]) + (second[2:] - second[:2])
    revised = np.sign(offset) * np.maximum(np.abs(offset) - threshold * extent, 0)
    if np.all(np.abs(revised) < 1e-3):
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    named = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in named.items() if holds}


def by_class(found: Sequence[Found], tag: str) -> dict[str, list[Found]]:
    """Detections that count for a task, most confident first, per class."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    groups: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda item: -item.score):
        if one.score > threshold:
            groups.setdefault(one.name, []).append(one)
    return {name: group[:MAX_OBJECTS] for name, group in groups.items()}


def correct(prompt: Prompt, found: Sequence[Found]) -> bool:
    """GenEval's decision for one image."""
    seen = by_class(found, prompt.tag)
    good = True
    groups: list[list[Found] | None] = []
    for wanted in prompt.include:
        chosen = seen.get(wanted.name, [])[: wanted.count]
        matched = len(chosen) >= wanted.count
        if matched and wanted.colour is not None:
            matched = sum(one.colour == wanted.colour for one in chosen) >= wanted.count
        if matched and wanted.position is not None:
            relation, index = wanted.position
            others = groups[index]
            matched = others is not None and all(
                relation in relations(one.box, other.box) for one in chosen for other in others
            )
        good &= matched
        groups.append(chosen if matched else None)
    return good and all(len(seen.get(wanted.name, [])) < wanted.count for wanted in prompt.exclude)


# ------------------------------------------------------------------------------------ aggregation


@dataclass
class Table:
    """Scores: per task the mean over images, overall the unweighted mean of the tasks, 95 % intervals."""

    tasks: dict[str, float]
    overall: float
    intervals: dict[str, tuple[float, float]]
    prompts: dict[str, int]
    images: int
    results: dict[str, list[bool]] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single results, for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "results"}

    def markdown(self) -> str:
        """A table with one row per task and one for the mean."""
        rows = ["| task | prompts | score | 95 % interval |", "|---|---|---|---|"]
        for tag, score in self.tasks.items():
            low, high = self.intervals[tag]
            rows.append(f"| {tag} | {self.prompts[tag]} | {score:.3f} | {low:.3f} to {high:.3f} |")
        low, high = self.intervals["overall"]
        total = sum(self.prompts.values())
        rows.append(f"| **overall** | {total} | **{self.overall:.3f}** | {low:.3f} to {high:.3f} |")
        return "\n".join(rows)


def aggregate(
    prompts: Sequence[Prompt], outcomes: Sequence[Sequence[bool]], resamples: int = 1000, seed: int = 0
) -> Table:
    """Combine outcomes (per prompt, one per image).  The intervals are bootstraps over prompts."""
    rng = np.random.default_rng(seed)  # noqa: TID251 - resampling, seeded
    tasks: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    counts: dict[str, int] = {}
    draws = []
    for tag in TAGS:
        rows = [outcome for prompt, outcome in zip(prompts, outcomes, strict=True) if prompt.tag == tag]
        if not rows:
            continue
        hits = np.array([sum(row) for row in rows], float)
        sizes = np.array([len(row) for row in rows], float)
        chosen = rng.integers(0, len(rows), (resamples, len(rows)))
        draw = hits[chosen].sum(1) / sizes[chosen].sum(1)
        draws.append(draw)
        tasks[tag] = float(hits.sum() / sizes.sum())
        counts[tag] = len(rows)
        intervals[tag] = (float(np.quantile(draw, 0.025)), float(np.quantile(draw, 0.975)))
    if not tasks:
        raise ValueError("no prompts to aggregate")
    mean = np.mean(draws, axis=0)
    intervals["overall"] = (float(np.quantile(mean, 0.025)), float(np.quantile(mean, 0.975)))
    overall = float(np.mean(list(tasks.values())))
    results = {prompt.text: list(outcome) for prompt, outcome in zip(prompts, outcomes, strict=True)}
    return Table(tasks, overall, intervals, counts, sum(map(len, outcomes)), results)


def evaluate(
    render: Callable[[list[str], int], torch.Tensor],
    detector: Detects,
    prompts: Sequence[Prompt],
    images_per_prompt: int = 4,
    batch_size: int = 32,
    seed: int = 0,
) -> Table:
    """Render every prompt ``images_per_prompt`` times and score the pictures.

    ``render(texts, seed)`` returns images ``[B, 3, H, W]`` in [0, 1], one per text.  Every batch has a seed of
    its own, the same for every caller, so two methods given the same arguments see the same noise.
    """
    outcomes: list[list[bool]] = [[] for _ in prompts]
    batches = -(-len(prompts) // batch_size)
    for repeat in range(images_per_prompt):
        for index in range(batches):
            part = prompts[index * batch_size : (index + 1) * batch_size]
            images = render([prompt.text for prompt in part], seed + repeat * batches + index)
            if len(images) != len(part):
                raise ValueError(f"render gave {len(images)} images for {len(part)} prompts")
            found = detector.detect(images.float().clamp(0, 1))
            for offset, (prompt, objects) in enumerate(zip(part, found, strict=True)):
                outcomes[index * batch_size + offset].append(correct(prompt, objects))
    return aggregate(prompts, outcomes)
