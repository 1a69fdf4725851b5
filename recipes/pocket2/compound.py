"""Compound captions of the pocket world as a benchmark: numbers, colours, sizes, places and backgrounds together.

The rules are those of rules.py; the request is read from the prompt's own words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import world
from parse import read
from rules import THRESHOLD, Found, correct, share
from torch import Tensor
from world import Request, Thing

from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.core.errors import FairleadError

__all__ = ["CompoundJudge", "Scores", "correct", "draw", "evaluate", "record", "share"]

WORDS = world.TOKENS - 2


class Detects(Protocol):
    """A detector of objects with their sizes."""

    def detect(self, images: Tensor) -> Sequence[Sequence[Found]]:
        """Images ``[B, 3, H, W]`` in [0, 1] to one list of objects per image."""


# ---------------------------------------------------------------------------------------- prompts


def record(request: Request) -> dict[str, Any]:
    """What a prompt asks for, in words for JSON; what is not named is left out."""
    things = [{key: value for key, value in asdict(thing).items() if value is not None} for thing in request.things]
    whole = {"relation": request.relation, "background": request.background}
    return {"things": things, **{key: value for key, value in whole.items() if value is not None}}


def request_of(stored: Mapping[str, Any]) -> Request:
    """Inverse of `record`."""
    things = tuple(Thing(**thing) for thing in stored["things"])
    return Request(things, stored.get("relation"), stored.get("background"))


def draw(rng: random.Random, task: str, count: int) -> list[tuple[str, Request]]:
    """Distinct prompts of a task in GenEval's wording; reading one gives back the request that it was drawn from."""
    found: dict[str, Request] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        request = world.draw_request(rng, task)
        text = world.caption_of(request)
        if len(world.split(text)) <= WORDS and read(text) == request:
            found.setdefault(text, request)
    return list(found.items())


# ---------------------------------------------------------------------------------------- judging


def grounds(images: Tensor, found: Sequence[Sequence[Found]]) -> list[str | None]:
    """The named colour behind the objects of each image ``[B, 3, H, W]``, by the judge's rule."""
    from judge import background

    pixels = images.detach().float().permute(0, 2, 3, 1).cpu().numpy()
    boxes = [[one.box for one in objects if one.score > THRESHOLD] for objects in found]
    return [background(picture, places) for picture, places in zip(pixels, boxes, strict=True)]


@dataclass
class CompoundJudge:
    """The written rules over the pocket world's detector."""

    id: str
    note: str
    detector: Detects

    def score(self, images: Tensor, asked: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
        """1 if the picture shows what was asked for and nothing else, else 0; ``share`` of the conditions that hold."""
        found = self.detector.detect(images)
        rows = []
        for one, objects, ground in zip(asked, found, grounds(images, found), strict=True):
            request = read(one.text)
            if not request.things:
                raise FairleadError(f"The prompt {one.text!r} names no object of the pocket world.")
            right = correct(request, objects, ground)
            rows.append({"score": float(right), "share": share(request, objects, ground)})
        return rows


# ------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Scores:
    """Per task the share of right pictures and the mean share of conditions, with the right pictures of each prompt."""

    tasks: Mapping[str, tuple[float, float]]
    prompts: Mapping[str, int]
    images: int
    rates: Mapping[str, float]
    """Prompt -> share of its pictures that are right."""

    @property
    def overall(self) -> float:
        """Unweighted mean of the tasks."""
        return float(np.mean([right for right, _ in self.tasks.values()]))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the single prompts."""
        tasks = {task: {"right": right, "conditions": some} for task, (right, some) in self.tasks.items()}
        return {"tasks": tasks, "overall": self.overall, "prompts": dict(self.prompts), "images": self.images}

    def markdown(self) -> str:
        """A table with one row per task and one for the mean."""
        rows = ["| task | prompts | right | conditions met |", "|---|---|---|---|"]
        for task, (right, some) in self.tasks.items():
            rows.append(f"| {task} | {self.prompts[task]} | {right:.3f} | {some:.3f} |")
        some = float(np.mean([value for _, value in self.tasks.values()]))
        rows.append(f"| **overall** | {sum(self.prompts.values())} | **{self.overall:.3f}** | {some:.3f} |")
        return "\n".join(rows)


def evaluate(
    render: Callable[[list[str], int], Tensor],
    detector: Detects,
    prompts: Sequence[BenchmarkPrompt],
    images_per_prompt: int = 4,
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """Render every prompt ``images_per_prompt`` times and judge the pictures; every batch has a noise of its own.

    ``render(texts, seed)`` returns images ``[B, 3, H, W]`` in [0, 1], one per text.
    """
    judged = CompoundJudge("", "", detector)
    rows: list[list[dict[str, Any]]] = [[] for _ in prompts]
    jobs = [(asked, row) for _ in range(images_per_prompt) for asked, row in zip(prompts, rows, strict=True)]
    for number, first in enumerate(range(0, len(jobs), batch_size)):
        part = jobs[first : first + batch_size]
        images = render([asked.text for asked, _ in part], seed + number)
        scores = judged.score(images.float().clamp(0, 1), [asked for asked, _ in part])
        for (_, row), one in zip(part, scores, strict=True):
            row.append(one)
    tasks: dict[str, tuple[float, float]] = {}
    counts: dict[str, int] = {}
    for task in dict.fromkeys(asked.category for asked in prompts):
        mine = [row for asked, row in zip(prompts, rows, strict=True) if asked.category == task]
        every = [one for row in mine for one in row]
        tasks[task] = float(np.mean([one["score"] for one in every])), float(np.mean([one["share"] for one in every]))
        counts[task] = len(mine)
    rates = {a.text: float(np.mean([one["score"] for one in row])) for a, row in zip(prompts, rows, strict=True)}
    return Scores(tasks, counts, len(jobs), rates)
