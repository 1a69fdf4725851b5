"""Scores for the model card: ``python evaluate.py --prompts .../evaluation_metadata.jsonl``.

Prints the autoencoder's PSNR, the judge's accuracy on rendered scenes and on damaged ones, the GenEval table of the
pocket model, four pictures per prompt, and what is wrong in them.  Without ``--prompts`` a generated split is used.
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

import numpy as np
import torch
from damage import RUINED, draw
from detector import accuracy
from diffusers import DiffusionPipeline
from export import pictures
from torch.nn import functional as F

from fairlead.bench import geneval
from fairlead.pocket import world
from fairlead.pocket.judge import Detector

ASSETS = Path(world.ASSETS)


def rendered(count: int, seed: int) -> tuple[list[world.Scene], torch.Tensor]:
    """Held-out scenes and their images ``[B, 3, 64, 64]`` in [0, 1]."""
    rng = random.Random(seed)
    scenes = [world.sample(rng) for _ in range(count)]
    stack = np.stack([world.render(scene) for scene in scenes])
    return scenes, torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ASSETS / "pocket")
    parser.add_argument("--detector", type=Path, default=ASSETS / "detector")
    parser.add_argument("--prompts", type=Path, help="evaluation_metadata.jsonl")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--limit", type=int, help="at most so many prompts of each task")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="contact sheet of some of the pictures")
    a = parser.parse_args()
    defaults = json.loads((a.model / "fairlead.json").read_text())
    steps = a.steps or defaults["steps"]
    scale = "guidance_scale" if "guidance_scale" in defaults["settings"] else "true_cfg_scale"
    guidance = defaults["settings"][scale] if a.guidance is None else a.guidance
    pipe = DiffusionPipeline.from_pretrained(a.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    detector = Detector.from_pretrained(a.detector)

    scenes, images = rendered(500, 31_337)
    with torch.no_grad():
        back = pipe.vae.decode(pipe.vae.encode(images * 2 - 1).latent_dist.mode()).sample.clamp(-1, 1) / 2 + 0.5
    psnr = -10 * math.log10(F.mse_loss(back, images).item())
    named, coloured, extra = accuracy(detector, scenes, images)
    named_back, coloured_back, _ = accuracy(detector, scenes, back)
    rng = random.Random(1)
    ruined = {}
    for kind in RUINED:
        stack = np.stack([draw(scene, [kind] * len(scene.items), rng) for scene in scenes[:200]])
        found = detector.detect(torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255)
        objects = sum(len(scene.items) for scene in scenes[:200])
        ruined[kind] = sum(one.score > 0.3 for row in found for one in row) / objects
    print(f"autoencoder: {psnr:.1f} dB on 500 held-out scenes")
    print(f"judge, per object: class {named:.3f}, class and colour {coloured:.3f}, extra per picture {extra:.3f}")
    print(f"judge on reconstructions: class {named_back:.3f}, class and colour {coloured_back:.3f}")
    print("damaged objects accepted:", {kind: round(share, 3) for kind, share in ruined.items()})

    prompts = (
        geneval.read_prompts(a.prompts, world.NAMES) if a.prompts else geneval.generate(world.NAMES, 50, seed=a.seed)
    )
    if a.limit:
        prompts = [p for tag in geneval.TAGS for p in [q for q in prompts if q.tag == tag][: a.limit]]
    shown: list[torch.Tensor] = []

    def render(texts: list[str], seed: int) -> torch.Tensor:
        made = pictures(pipe, texts, seed, steps, guidance)
        shown.append(made)
        return made

    start = time.time()
    judge = Remembering(detector)
    table = geneval.evaluate(render, judge, prompts, a.images, 48)
    wrong = failures(zip(cycle(prompts), judge.found, strict=False))
    print(f"{table.images} pictures, {steps} steps, guidance {guidance}, {time.time() - start:.0f} s")
    print(table.markdown())
    for task, numbers in wrong.items():
        print(f"{task}: {numbers}")
    if a.json:
        report = {
            "psnr": psnr,
            "judge": {"class": named, "class_and_colour": coloured, "extra": extra, "damaged_accepted": ruined},
            "judge_on_reconstructions": {"class": named_back, "class_and_colour": coloured_back},
            "steps": steps,
            "guidance_scale": guidance,
            "geneval": table.as_dict(),
            "failures": wrong,
        }
        a.json.write_text(json.dumps(report, indent=1) + "\n")
    if a.sheet:
        stack = torch.cat(shown)[: len(prompts)]
        stack = stack[:: max(1, len(stack) // 96)][:96]
        pixels = stack.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        world.grid(pixels, 12, 1).save(a.sheet)


if __name__ == "__main__":
    main()
