"""Scores for the model card: ``python evaluate.py --model FOLDER --prompts .../evaluation_metadata.jsonl``.

Prints the autoencoder's PSNR, the judge's accuracy on held-out scenes by the size of the objects and on ruined objects,
the GenEval table of the model with what is wrong in the pictures, and a table of compound captions.  Without
``--prompts`` a generated split is used.  Runs on the accelerator if there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import compound
import numpy as np
import torch
import world
from common import place
from damage import RUINED
from detector import accepted, accuracy, held_out, ruined
from export import opened, pictures
from judge import Detector, background
from PIL import Image
from scenes import Painter
from torch.nn import functional as F

from fairlead.bench import geneval
from fairlead.bench.prompts import BenchmarkPrompt

ACROSS = 8
"""Pictures in a row of a sheet."""


def failures(judged: Iterable[tuple[geneval.Prompt, Sequence[geneval.Found]]]) -> dict[str, Any]:
    """Of pictures and what the judge found in them: how many objects came for a number, where two objects were lost.

    `counting` has per number asked for the pictures with 0 to 5 of it, 5 for more too. The tasks of two objects have
    the `pictures`, those with `both` classes, those that are `right`, and those whose two colours are `exchanged`.
    """
    counts: dict[int, Counter[int]] = {}
    tasks: dict[str, Counter[str]] = {}
    for prompt, found in judged:
        seen = geneval.by_class(found, prompt.tag)
        if prompt.tag == "counting":
            wanted = prompt.include[0]
            counts.setdefault(wanted.count, Counter())[min(5, len(seen.get(wanted.name, [])))] += 1
        elif len(prompt.include) == 2:
            task = tasks.setdefault(prompt.tag, Counter({"pictures": 0, "both": 0, "right": 0}))
            both = all(wanted.name in seen for wanted in prompt.include)
            task.update(pictures=1, both=both, right=geneval.correct(prompt, found))
            if prompt.tag == "color_attr":
                a, b = prompt.include
                colours = [seen[wanted.name][0].colour for wanted in (b, a)] if both else None
                task["exchanged"] += colours == [a.colour, b.colour]
    return {
        "counting": {n: dict(sorted(c.items())) for n, c in sorted(counts.items())},
        **{t: dict(c) for t, c in tasks.items()},
    }


class Remembering:
    """A judge that keeps what it found, picture by picture."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self.found = detector, list[Sequence[geneval.Found]]()

    def detect(self, images: torch.Tensor) -> Sequence[Sequence[geneval.Found]]:
        found = self._detector.detect(images)
        self.found += found
        return found


def reconstructed(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Pictures ``[B, 3, 128, 128]`` in [0, 1] encoded and decoded."""
    with torch.no_grad():
        parts = [vae.decode(vae.encode(part * 2 - 1).latent_dist.mode()).sample for part in images.split(64)]
    return torch.cat(parts).float().clamp(-1, 1) / 2 + 0.5


def judge_report(detector: Detector, vae: Any, painter: Painter, count: int) -> dict[str, Any]:
    """The autoencoder's PSNR and the judge's accuracy: ``count`` held-out scenes, reconstructions, ruined objects."""
    scenes, images = held_out(count, 31_337, painter)
    back = reconstructed(vae, images)
    some = scenes[: max(1, count * 2 // 5)]
    grounds = []
    for scene, picture in zip(scenes, images.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
        grounds.append(background(picture, [item.box for item in scene.items]) == scene.request.background)
    return {
        "psnr": -10 * math.log10(F.mse_loss(back, images).item()),
        "judge": accuracy(detector, scenes, images),
        "judge_on_reconstructions": accuracy(detector, scenes, back),
        "background": float(np.mean(grounds)),
        "ruined_accepted": {kind: accepted(detector, ruined(some, 1, kind), some) for kind in RUINED},
    }


def compound_prompts(each: int, seed: int) -> list[BenchmarkPrompt]:
    """So many captions of every compound task, in plain wording."""
    rng = random.Random(seed)
    return [BenchmarkPrompt(text, task) for task in world.COMPOUND_TASKS for text, _ in compound.draw(rng, task, each)]


def sheet(images: torch.Tensor, count: int) -> Image.Image:
    """About ``count`` of the pictures, evenly chosen, at twice their size."""
    chosen = images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
    pixels = chosen.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return world.grid(pixels, ACROSS, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="run folder with the banks of sprites")
    parser.add_argument("--prompts", type=Path, help="evaluation_metadata.jsonl")
    parser.add_argument("--images", type=int, default=4, help="pictures per prompt")
    parser.add_argument("--limit", type=int, help="at most so many prompts of each task")
    parser.add_argument("--compound", type=int, default=40, help="prompts of each compound task")
    parser.add_argument("--scenes", type=int, default=500, help="held-out scenes for the judge; 0: do not check it")
    parser.add_argument("--batch", type=int, default=256 if place().type == "cuda" else 32)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="contact sheet of some of the pictures, 256 pixels each")
    parser.add_argument("--shown", type=int, default=48, help="pictures on the sheet")
    a = parser.parse_args()
    defaults = json.loads((a.model / "fairlead.json").read_text())
    steps = a.steps or defaults["steps"]
    scale = "guidance_scale" if "guidance_scale" in defaults["settings"] else "true_cfg_scale"
    guidance = defaults["settings"][scale] if a.guidance is None else a.guidance
    pipe = opened(a.model)
    detector = Detector.from_pretrained(a.detector)
    detector.model.to(place())
    report: dict[str, Any] = {"steps": steps, "guidance_scale": guidance}

    if a.scenes:
        report |= judge_report(detector, pipe.vae, Painter(place(), a.folder), a.scenes)
        print(f"autoencoder: {report['psnr']:.1f} dB on {a.scenes} held-out scenes")
        for key in ("judge", "judge_on_reconstructions"):
            print(f"{key}, per object: { {name: round(value, 4) for name, value in report[key].items()} }")
        print(f"background named right: {report['background']:.4f}")
        print(f"ruined objects accepted: { {kind: round(v, 3) for kind, v in report['ruined_accepted'].items()} }")

    def render(texts: list[str], seed: int) -> torch.Tensor:
        made = pictures(pipe, texts, seed, steps, guidance)
        shown.append(made)
        return made

    shown: list[torch.Tensor] = []
    prompts = (
        geneval.read_prompts(a.prompts, world.NAMES) if a.prompts else geneval.generate(world.NAMES, 50, seed=a.seed)
    )
    if a.limit:
        prompts = [p for tag in geneval.TAGS for p in [q for q in prompts if q.tag == tag][: a.limit]]
    start = time.time()
    judge = Remembering(detector)
    table = geneval.evaluate(render, judge, prompts, a.images, a.batch, a.seed)
    wrong = failures(zip(cycle(prompts), judge.found, strict=False))
    print(f"{table.images} pictures, {steps} steps, guidance {guidance}, {time.time() - start:.0f} s")
    print(table.markdown())
    for task, numbers in wrong.items():
        print(f"{task}: {numbers}")
    report |= {"geneval": table.as_dict(), "failures": wrong}
    first = torch.cat(shown)[: len(prompts)]
    if a.compound:
        start = time.time()
        shown.clear()
        asked = compound_prompts(a.compound, a.seed + 1)
        scores = compound.evaluate(render, detector, asked, a.images, a.batch, a.seed)
        print(f"{scores.images} pictures of compound captions, {time.time() - start:.0f} s")
        print(scores.markdown())
        report["compound"] = scores.as_dict()
        first = torch.cat([first, torch.cat(shown)[: len(asked)]])
    if a.json:
        a.json.write_text(json.dumps(report, indent=1) + "\n")
    if a.sheet:
        sheet(first, a.shown).save(a.sheet)


if __name__ == "__main__":
    main()
