"""How strong repulsion should be for a model: the diversity and the reward of groups at several strengths."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE
from fairlead.core.diverse import kernel, vendi
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.search import Proposal
from fairlead.run import models, registry
from fairlead.run.dry_run import with_batch
from fairlead.run.records import Task
from fairlead.run.setup import resolve
from fairlead.run.spec import Part, Spec
from fairlead.run.store import write_atomically
from fairlead.run.worker import Worker


@dataclass(frozen=True)
class Strength:
    """What one strength does, in means over prompts."""

    strength: float
    vendi: float
    reward: float


def calibrate(
    spec: Spec, prompts: Sequence[str], strengths: Sequence[float], *, likeness: str = "pixels"
) -> list[Strength]:
    """Groups of `spec.group` pictures of every prompt, plain and at every strength, of the same seeds."""
    if spec.group < 2 or not prompts:
        raise FairleadError(
            f"{len(prompts)} prompts and groups of {spec.group}: at least 1 prompt and groups of 2 are needed."
        )
    models.check(replace(spec, interventions=(Part("repulsion"),)))
    encode: Callable[[Tensor], Tensor] = registry.build("features", Part(likeness))
    model = None
    table = dict[float, list[tuple[float, float]]]()
    for prompt in prompts:
        for strength in (0.0, *sorted(set(strengths) - {0.0})):
            part = Part("repulsion", {"strength": float(strength)})
            worker = Worker(with_batch(resolve(replace(spec, prompt=prompt, interventions=(part,)), model=model)))
            model = worker.model
            table.setdefault(strength, []).append(_group(worker, encode))
    return [_mean(strength, rows) for strength, rows in table.items()]


def _mean(strength: float, rows: Sequence[tuple[float, float]]) -> Strength:
    return Strength(strength, *(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def _group(worker: Worker, encode: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    import numpy as np
    from PIL import Image

    keys = [Key.root(worker.spec.seed).fold("search").fold("candidate", i) for i in range(worker.spec.group)]
    asked = tuple(Proposal(worker.space.draw(key), key) for key in keys)
    places = tuple(range(len(keys)))
    outcomes, _ = worker.evaluate(Task(places, asked, (0,) * len(keys), INFINITE), worker.steering)
    pixels = [np.asarray(Image.open(io.BytesIO(o.image)).convert("RGB")) for o in outcomes]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    rewards = torch.tensor([o.reward for o in outcomes], dtype=torch.float64)
    return float(vendi(kernel(encode(images)))), float(rewards.nanmean())


def chosen(found: Sequence[Strength], loss: float) -> Strength:
    """The most diverse strength whose reward is at most the share `loss` below that of strength 0; else strength 0."""
    plain = found[0]
    least = plain.reward - loss * abs(plain.reward)
    return max((s for s in found if s.reward >= least or s is plain), key=lambda s: s.vendi)


def write(name: str, strength: Strength, evidence: Sequence[Strength]) -> Path:
    """Into the `fairlead.json` of the model's folder, from where every later run of it takes the default."""
    where = models.folder(name)
    if where is None:
        raise FairleadError(
            f"{name!r} is not a folder, so nothing can be written beside it. Use --set repulsion.strength=... in "
            "each run."
        )
    path = where / "fairlead.json"
    data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else models.defaults(name)
    data.setdefault("interventions", {}).setdefault("repulsion", {})["strength"] = strength.strength
    data["calibration"] = {**data.get("calibration", {}), "repulsion": [asdict(s) for s in evidence]}
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())
    return path
