"""How much variety distillation cost: Vendi score over CLIP features, pocket beside pocket-turbo, and what it bought.

    python experiments/distilled_diversity/measure.py [--prompts 60] [--seeds 8] [--out experiments/distilled_diversity]
    python experiments/distilled_diversity/measure.py --prompts 2 --seeds 3 --out /tmp/tiny        # smoke, seconds

One group is the pictures of one prompt, the same seeds (so the same noise) for every model. The Vendi score (Friedman
and Dieng 2023, arXiv 2210.02410) of a group is exp(entropy of the eigenvalues of K/n) with cosine kernel: 1 when all
pictures are alike, n when none are. Broken pictures are varied too: so beside it stand the share of pictures the judge
accepts, and the mean cosine distance between accepted ones of prompts for which pocket and pocket-turbo at 4 steps have
two. Intervals are 95 % bootstrap intervals over prompts; differences are paired by prompt. Rows are appended to
rows.csv as they are made, and a second call makes only what is missing.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from fairlead.bench import geneval
from fairlead.metrics.vendi import kernel, mean_cosine, vendi
from fairlead.pocket import load, world
from fairlead.pocket.judge import Detector
from fairlead.rewards._clip import clip
from fairlead.run import models
from fairlead.run.render import Renderer
from fairlead.run.spec import Part, Spec

MODELS = ("pocket:20", "pocket-turbo:4", "pocket-turbo:2", "pocket-turbo:1")
FIELDS = ("model", "tag", "prompt", "vendi", "distance", "right_distance", "accepted")
RESAMPLES = 5000


def chosen(count: int) -> list[geneval.Prompt]:
    """The same number of each task, drawn in GenEval's grammar."""
    drawn = geneval.generate(world.NAMES, 100, seed=43)
    each = -(-count // len(geneval.TAGS))
    return [p for tag in geneval.TAGS for p in [q for q in drawn if q.tag == tag][:each]][:count]


def make(name: str, prompts: list[geneval.Prompt], seeds: int, out: Path) -> None:
    """Rows and one sheet of a model at its steps."""
    model, steps = name.split(":")
    own = models.defaults(model)
    renderer = Renderer(Spec("", model=Part(model), steps=int(steps), batch=int(own["batch"])))
    judge, eye = Detector.from_pretrained(load.detector_folder()), clip(str(load.clip_folder()), "cpu")
    shown = []
    with (out / "rows.csv").open("a", newline="") as stream:
        rows = csv.DictWriter(stream, FIELDS)
        for prompt in prompts:
            images = renderer([prompt.text] * seeds, 0)
            with torch.no_grad():
                alike = kernel(eye.images(images))
            right = [geneval.correct(prompt, found) for found in judge.detect(images)]
            good = alike[right][:, right]
            apart = 1 - float(mean_cosine(good)) if len(good) > 1 else float("nan")
            numbers = float(vendi(alike)), 1 - float(mean_cosine(alike)), apart, sum(right) / seeds
            rows.writerow(dict(zip(FIELDS, (name, prompt.tag, prompt.text, *numbers), strict=True)))
            stream.flush()
            shown.append(images)
    picked = torch.cat(shown[:: max(1, len(shown) // 8)][:8])
    pixels = picked.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    world.grid(pixels, seeds, 1).save(out / f"{name.replace(':', '_')}.png")


def interval(values: np.ndarray) -> str:
    """Mean with its interval."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def summary(out: Path, prompts: list[geneval.Prompt], seeds: int) -> str:
    """The table, first model as the reference."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    with (out / "rows.csv").open() as stream:
        for row in csv.DictReader(stream):
            found[row["model"]][row["prompt"]] = {k: float(row[k]) for k in FIELDS[3:]}
    names = [p.text for p in prompts]
    table = {m: {k: np.array([found[m][n][k] for n in names]) for k in FIELDS[3:]} for m in MODELS}
    both = np.all([~np.isnan(table[m]["right_distance"]) for m in MODELS[:2]], axis=0)
    first = table[MODELS[0]]
    lines = [
        f"{len(prompts)} prompts, {seeds} pictures each; 95 % intervals over prompts; losses are paired with {MODELS[0]}. "
        f"Distances between accepted pictures over {both.sum()} prompts.",
        "",
        "| model:steps | Vendi (CLIP) | of pocket's, less 1 | mean cosine distance | of accepted ones | accepted by the judge |",
        "|---|---|---|---|---|---|",
    ]
    for m in MODELS:
        kept = (table[m]["vendi"].mean() - 1) / (first["vendi"].mean() - 1)
        own = table[m]["right_distance"][both]
        cells = [
            interval(table[m]["vendi"]),
            f"{kept:.0%}",
            interval(table[m]["distance"]),
            interval(own[~np.isnan(own)]),
        ]
        cells.append(interval(table[m]["accepted"]))
        lines.append(f"| {m} | " + " | ".join(cells) + " |")
    lines.append("")
    for m in MODELS[1:]:
        lines.append(
            f"- {m} minus {MODELS[0]}: Vendi {interval(table[m]['vendi'] - first['vendi'])}, "
            f"accepted {interval(table[m]['accepted'] - first['accepted'])}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    path = a.out / "rows.csv"
    if not path.exists():
        path.write_text(",".join(FIELDS) + "\n")
    with path.open() as stream:
        done = {(row["model"], row["prompt"]) for row in csv.DictReader(stream)}
    prompts = chosen(a.prompts)
    for name in MODELS:
        if missing := [p for p in prompts if (name, p.text) not in done]:
            make(name, missing, a.seeds, a.out)
    text = summary(a.out, prompts, a.seeds)
    (a.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
