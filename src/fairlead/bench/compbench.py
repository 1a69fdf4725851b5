"""T2I-CompBench's scores: BLIP-VQA, the rules over boxes and depth, CLIP, and 3-in-1.

Boxes come from an open-vocabulary detector asked for exactly the two nouns, not from UniDet, so these parts are called
`spatial-owl`, `3d-owl` and `numeracy-owl`: never compare them with published UniDet numbers. Its confidence threshold
is ours. The published depth part reads its map transposed; this one does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from fairlead.bench import blip_vqa, open_detector, phrases
from fairlead.bench.judging import Formula
from fairlead.bench.prompts import BenchmarkPrompt

Box = tuple[float, float, float, float]
NEAR = 150.0
"""Pixels of a frame of 480."""
SIDES = {"on the left of": (1, 0), "on the right of": (-1, 0), "on the top of": (0, 1), "on the bottom of": (0, -1)}
"""Where the second thing is, seen from the first; y points down."""
CLOSE = ("next to", "on side of", "near")


def iou(a: Box, b: Box) -> float:
    """Intersection over union, without the +1 of GenEval's."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(0.0, w) * max(0.0, h)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    return inner / area if area > 0 else 0.0


def place(relation: str, a: Box, b: Box) -> float:
    """How well box a lies in that relation to box b, 0 to 1; boxes in a frame of 480 pixels.

    "on top of", which is no relation of the published scorer, is always 0 there and here.
    """
    dx = (b[0] + b[2] - a[0] - a[2]) / 2
    dy = (b[1] + b[3] - a[1] - a[3]) / 2
    if relation in CLOSE:
        return 1.0 if abs(dx) < NEAR or abs(dy) < NEAR else NEAR / max(abs(dx), abs(dy))
    if relation not in SIDES:
        return 0.0
    sx, sy = SIDES[relation]
    along, across = (dx * sx, abs(dy)) if sx else (dy * sy, abs(dx))
    if along <= 0 or along <= across:
        return 0.0
    overlap = iou(a, b)
    return 1.0 if overlap < 0.1 else 0.1 / overlap


def _first(found: Sequence[tuple[str, float, Box]], thing: str) -> tuple[float, Box] | None:
    """The first detection of a thing: confidence and box."""
    return next(((confidence, box) for name, confidence, box in found if name == thing), None)


def spatial(relation: str, first: tuple[float, Box] | None, second: tuple[float, Box] | None) -> float:
    """Score of a picture from the first detection (confidence, box) of each thing."""
    if first is None or second is None:
        one = first or second
        total = 0.25 * one[0] if one else 0.0
    else:
        total = 0.25 * first[0] + 0.25 * second[0] + 0.5 * place(relation, first[1], second[1])
    return total if total >= 0.5 else 0.0


def in_depth(
    relation: str, first: tuple[float, Box] | None, second: tuple[float, Box] | None, near: Callable[[Box], float]
) -> float:
    """The same for "in front of", "behind", "hidden by"; `near(box)` is the mean depth in it, larger is nearer."""
    if first is None or second is None:
        one = first or second
        return 0.25 * one[0] if one else 0.0
    a = near(first[1])
    b = near(second[1])
    right = a > b if relation == "in front of" else a < b
    return 0.25 * first[0] + 0.25 * second[0] + 0.5 * (min(1.0, iou(first[1], second[1]) / 0.5) if right else 0.0)


def merged(boxes: Sequence[Box]) -> list[Box]:
    """Without those that overlap an earlier one by more than 0.9 or lie in it by more than 90 %, either way round."""
    kept: list[Box] = []
    for box in boxes:
        if not any(iou(box, other) > 0.9 or _inside(box, other) > 0.9 or _inside(other, box) > 0.9 for other in kept):
            kept.append(box)
    return kept


def _inside(a: Box, b: Box) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    area = (a[2] - a[0]) * (a[3] - a[1])
    return max(0.0, w) * max(0.0, h) / area if area > 0 else 0.0


def numeracy(wanted: Sequence[tuple[str, int]], found: dict[str, int]) -> float:
    """Every thing weighs the same: half for being there, half for its exact number."""
    return sum(0.5 * (found.get(t, 0) > 0) + 0.5 * (found.get(t, 0) == n) for t, n in wanted) / len(wanted)


def three_in_one(kind: str, attribute: float, where: float, clip: float) -> float:
    """`spatial` prompts: attribute and place; `action` prompts: attribute and CLIP; others: all three."""
    parts = {"spatial": (where, attribute), "action": (clip, attribute)}.get(kind, (attribute, where, clip))
    return sum(parts) / len(parts)


class CompBench:
    """The judge of all eight categories; a network is loaded when a category needs it."""

    id = "t2i-compbench-hf"
    note = (
        "t2i-compbench-hf is a port: BLIP-VQA as published up to its resolution, boxes from OWLv2 instead of UniDet "
        "(their parts end in -owl and are not comparable with published ones); prompts that only a parser "
        "could read have no number"
    )

    def __init__(self, plurals: Mapping[str, str]) -> None:
        self._plurals = plurals

    @cached_property
    def vqa(self) -> Callable[[Tensor, Sequence[str]], list[float]]:
        """P(yes) of questions about one image."""
        return blip_vqa.BlipVqa()

    @cached_property
    def detector(self) -> Any:
        """Open-vocabulary boxes."""
        return open_detector.Owl()

    @cached_property
    def depth(self) -> Any:
        """Relative depth."""
        return open_detector.Depth()

    @cached_property
    def clip(self) -> Formula:
        """Raw cosine of OpenAI's ViT-B/32."""
        return Formula("clip_score(checkpoint='openai/clip-vit-base-patch32', scale='cosine')")

    def score(self, images: Tensor, asked: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
        """One record each, its category with the name of what scored it."""
        return [self._one(image, a) for image, a in zip(images, asked, strict=True)]

    def _one(self, image: Tensor, a: BenchmarkPrompt) -> dict[str, Any]:
        if a.category in ("color", "shape", "texture"):
            return {"category": f"{a.category} [blip-vqa]", "score": self._attribute(image, a.text)}
        if a.category == "non_spatial":
            return {"category": "non_spatial [clip-b32]", "score": self._clip(image, a.text)}
        if a.category == "numeracy":
            return {"category": "numeracy [numeracy-owl]", "score": self._numeracy(image, a.text)}
        if a.category == "complex":
            text = phrases.without_adjectives(a.text)
            clip = math.nan if text is None else self._clip(image, text)
            where = self._where(image, a.text)
            value = three_in_one(str(a.meta.get("kind", "")), self._attribute(image, a.text), where, clip)
            return {"category": "complex [3-in-1, spatial-owl]", "score": value}
        name = "3d-owl" if a.category == "3d_spatial" else "spatial-owl"
        return {"category": f"{a.category} [{name}]", "score": self._where(image, a.text)}

    def _clip(self, image: Tensor, text: str) -> float:
        return float(self.clip.score(image[None], [BenchmarkPrompt(text)])[0]["score"])

    def _attribute(self, image: Tensor, prompt: str) -> float:
        found = phrases.noun_phrases(prompt)
        return math.nan if found is None else math.prod(self.vqa(image, [f"{p}?" for p in found]))

    def _where(self, image: Tensor, prompt: str) -> float:
        read = phrases.relation(prompt)
        if read is None:
            return math.nan
        first, relation, second = read
        found = self.detector(image, [first, second])
        one = _first(found, first)
        two = _first(found, second)
        if relation in ("in front of", "behind", "hidden by"):
            return in_depth(relation, one, two, self.depth(image))
        return spatial(relation, one, two)

    def _numeracy(self, image: Tensor, prompt: str) -> float:
        wanted = phrases.counted(prompt, self._plurals)
        if wanted is None:
            return math.nan
        boxes = self.detector(image, [t for t, _ in wanted])
        counts = {}
        for thing, _ in wanted:
            counts[thing] = len(merged([box for name, _, box in boxes if name == thing]))
        return numeracy(wanted, counts)
