"""How much variety distillation cost: Vendi score over CLIP features, pocket beside pocket-turbo, and what it bought.

    python -m experiments.distilled_diversity run [--prompts 60] [--seeds 8]
    python -m experiments.distilled_diversity run --quick              # seconds

One group is the pictures of one prompt, the same seeds (so the same noise) for every model. The Vendi score (Friedman
and Dieng 2023, arXiv 2210.02410) of a group is exp(entropy of the eigenvalues of K/n) with cosine kernel: 1 when all
pictures are alike, n when none are. Broken pictures are varied too: so beside it stand the share of pictures the judge
accepts, and the mean cosine distance between accepted ones of prompts for which pocket and pocket-turbo at 4 steps have
two. Intervals are 95 % bootstrap intervals over prompts; differences are paired by prompt. Rows are appended to
rows.csv as they are made, and a second call makes only what is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments import common
from fairlead.bench import geneval, statistics
from fairlead.metrics.features import Encoder
from fairlead.metrics.vendi import kernel, mean_cosine, vendi
from fairlead.pocket import load, world
from fairlead.pocket.judge import Detector
from fairlead.run import models
from fairlead.run.render import Renderer
from fairlead.run.spec import Part, Spec

MODELS = ("pocket:20", "pocket-turbo:4", "pocket-turbo:2", "pocket-turbo:1")
FIELDS = ("model", "tag", "prompt", "vendi", "distance", "right_distance", "accepted")


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
    judge = Detector.from_pretrained(load.detector_folder())
    features = Encoder()
    shown = []
    kept = common.Rows(out / "rows.csv")
    for prompt in prompts:
        images = renderer([prompt.text] * seeds, 0)
        with torch.no_grad():
            alike = kernel(features(images))
        right = [geneval.correct(prompt, found) for found in judge.detect(images)]
        good = alike[right][:, right]
        apart = 1 - float(mean_cosine(good)) if len(good) > 1 else float("nan")
        numbers = float(vendi(alike)), 1 - float(mean_cosine(alike)), apart, sum(right) / seeds
        kept.append([dict(zip(FIELDS, (name, prompt.tag, prompt.text, *numbers), strict=True))])
        shown.append(images)
    picked = torch.cat(shown[:: max(1, len(shown) // 8)][:8])
    pixels = picked.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    world.grid(pixels, seeds, 1).save(out / f"{name.replace(':', '_')}.png")


def interval(values: np.ndarray) -> str:
    """Mean with its interval."""
    mean = statistics.mean(values.tolist())
    return f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})"


def summary(out: Path, prompts: list[geneval.Prompt], seeds: int) -> str:
    """The table, first model as the reference."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for row in common.Rows(out / "rows.csv").read():
        found[row["model"]][row["prompt"]] = {k: float(row[k]) for k in FIELDS[3:]}
    names = [p.text for p in prompts]
    table = {m: {k: np.array([found[m][n][k] for n in names]) for k in FIELDS[3:]} for m in MODELS}
    both = np.all([~np.isnan(table[m]["right_distance"]) for m in MODELS[:2]], axis=0)
    first = table[MODELS[0]]
    lines = [
        f"{len(prompts)} prompts, {seeds} pictures each; 95 % intervals over prompts; losses are paired with "
        f"{MODELS[0]}. "
        f"Distances between accepted pictures over {both.sum()} prompts.",
        "",
        "| model:steps | Vendi (CLIP) | of pocket's, less 1 | mean cosine distance | of accepted ones | accepted by "
        "the judge |",
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


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then write the table."""
    p = common.parser(__doc__, Path(__file__).parent)
    p.add_argument("--prompts", type=int, default=60)
    p.add_argument("--seeds", type=int, default=8, help="pictures of a prompt")
    o = common.parse(p, argv)
    if o.quick:
        o.prompts, o.seeds = 6, 2
    prompts = chosen(o.prompts)
    if o.word == "run":
        done = {(row["model"], row["prompt"]) for row in common.Rows(o.out / "rows.csv").read()}
        for name in MODELS:
            if missing := [prompt for prompt in prompts if (name, prompt.text) not in done]:
                make(name, missing, o.seeds, o.out)
    text = summary(o.out, prompts, o.seeds)
    (o.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
