"""The neutral judge as a reward: an oracle, to be asked for by name and labelled as such.

A search that optimises the judge cannot be judged by it: numbers reported after such a run are an upper bound of what
search could reach, not evidence that it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.reward import Reward
from fairlead.pocket import load as pocket
from fairlead.pocket.parse import Request, read


class DetectorScore(Reward):
    """Mean over what the prompt asks for: each object seen, its colour, its number, the relation, nothing else there.

    Objects seen enter by the detector's confidence, the rest as 0 or 1. Knows the objects of the pocket world only.
    """

    name = "detector"
    unit = "share of the prompt's conditions met, 0 to 1"
    licence: ClassVar[str] = "Apache-2.0"
    differentiable = False

    def __init__(self) -> None:
        from fairlead.pocket.judge import Detector

        self._detector = Detector.from_pretrained(pocket.detector_folder())

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B] in [0, 1]."""
        wanted = {p: read(p) for p in set(prompts)}
        for prompt, request in wanted.items():
            if not request.things:
                raise FairleadError(
                    f"The detector does not know any object in {prompt!r}. The model card lists its objects."
                )
        found = self._detector.detect(images.detach())
        return torch.tensor([_met(wanted[p], seen) for p, seen in zip(prompts, found, strict=True)])


def _met(request: Request, found: Sequence[object]) -> float:
    from fairlead.bench.geneval import THRESHOLD, relations
    from fairlead.pocket.judge import Detection

    seen: list[Detection] = [d for d in found if isinstance(d, Detection)]
    conditions: list[float] = []
    taken: list[list[Detection]] = []
    for thing in request.things:
        mine = [d for d in seen if d.name == thing.name and not any(d in t for t in taken)][: thing.count]
        scores = [d.score for d in mine] + [0.0] * (thing.count - len(mine))
        conditions += scores
        if thing.colour is not None:
            conditions.append(float(bool(mine) and all(d.colour == thing.colour for d in mine)))
        taken.append(mine)
    if request.relation is not None:
        first, second = taken
        conditions.append(float(bool(first and second) and request.relation in relations(first[0].box, second[0].box)))
    rest = [d for d in seen if d.score > THRESHOLD and not any(d in t for t in taken)]
    conditions.append(float(not rest))
    return sum(conditions) / len(conditions)
