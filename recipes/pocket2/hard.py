"""The hard split: compound captions on which a plain picture of pocket is seldom right.

``python hard.py propose --out RUN/candidates.jsonl`` draws captions;
``python hard.py measure --candidates RUN/candidates.jsonl --model FOLDER`` makes 64 pictures of each and
writes the share that is right beside the captions; called again it goes on where it stopped;
``python hard.py write --candidates RUN/candidates.jsonl`` chooses 60 to 120 of them for ``fairlead bench hard``.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import compound
import numpy as np
from common import place

from fairlead.bench.prompts import BenchmarkPrompt

SHARES = {
    "compound": 8,
    "three_objects": 3,
    "two_counts": 3,
    "color_position": 2,
    "color_count": 2,
    "size": 1,
    "background": 1,
}
"""How many of twenty candidates come from each task."""
LOW, HIGH = 0.01, 0.10
"""Bounds of the mean share of right pictures of the set."""
MOST = 0.2
"""Prompts with a larger share of right pictures are left out where there are enough others."""
FEWEST, FULL = 60, 120
"""Bounds of the number of prompts."""


def propose(count: int, seed: int) -> list[dict[str, Any]]:
    """Distinct captions of all compound tasks in plain wording, mixed."""
    rng = random.Random(seed)
    rows = []
    for task, share in SHARES.items():
        for text, request in compound.draw(rng, task, count * share // sum(SHARES.values())):
            rows.append({"tag": task, "prompt": text, "request": compound.record(request)})
    distinct = list({row["prompt"]: row for row in rows}.values())
    rng.shuffle(distinct)
    return distinct


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def choose(rows: Sequence[dict[str, Any]], aim: float, count: int) -> list[dict[str, Any]]:
    """At most ``count`` of the measured rows, their mean rate at most ``aim`` and at least `LOW`.

    Prompts with rates above 0 and up to `MOST` come first.  If they are fewer than `FEWEST`, those that were never
    right are added, as far as the mean allows, and then those with larger rates.  While the mean is above ``aim``, the
    prompt with the highest rate is left out.
    """
    if not LOW <= aim <= HIGH:
        raise SystemExit(f"--aim must be in [{LOW}, {HIGH}], but is {aim}")
    chosen = [row for row in rows if 0 < row["rate"] <= MOST]
    if len(chosen) > count:
        # The hardest go first where a choice is left, so that the mean comes down by itself.
        chosen = sorted(chosen, key=lambda row: row["rate"])[:count] if _mean(chosen) > aim else chosen[:count]
    never = [row for row in rows if row["rate"] == 0]
    while len(chosen) < FEWEST and never and sum(row["rate"] for row in chosen) / (len(chosen) + 1) >= LOW:
        chosen.append(never.pop(0))
    more = sorted((row for row in rows if row["rate"] > MOST), key=lambda row: row["rate"])
    while len(chosen) < FEWEST and more:
        chosen.append(more.pop(0))
    chosen.sort(key=lambda row: row["rate"])
    while len(chosen) > FEWEST and _mean(chosen) > aim:
        chosen.pop()
    while _mean(chosen) > aim and never and chosen:
        chosen[-1] = never.pop(0)
        chosen.sort(key=lambda row: row["rate"])
    order = {row["prompt"]: number for number, row in enumerate(rows)}
    return sorted(chosen, key=lambda row: (list(SHARES).index(row["tag"]), order[row["prompt"]]))


def _mean(rows: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([row["rate"] for row in rows])) if rows else 0.0


def measure(a: argparse.Namespace) -> None:
    """Add ``right``, ``pictures`` and ``rate`` to the rows of a file; rows that have them are passed over."""
    from export import opened, pictures
    from judge import Detector

    defaults = json.loads((a.model / "fairlead.json").read_text())
    steps = a.steps or defaults["steps"]
    settings = defaults["settings"]
    scale = "guidance_scale" if "guidance_scale" in settings else "true_cfg_scale"
    guidance = settings[scale] if a.guidance is None else a.guidance
    pipe = opened(a.model)
    detector = Detector.from_pretrained(a.detector)
    detector.model.to(place())
    judge = compound.CompoundJudge("", "", detector)
    rows = read(a.candidates)
    todo = [row for row in rows if row.get("pictures") != a.pictures][: a.limit]
    group = max(1, a.batch // a.pictures)
    start = shown = time.time()
    for first in range(0, len(todo), group):
        part = todo[first : first + group]
        texts = [row["prompt"] for row in part for _ in range(a.pictures)]
        scores: list[float] = []
        for at in range(0, len(texts), a.batch):
            some = texts[at : at + a.batch]
            # The noise of a batch follows from the place of its first caption in the file.
            seed = a.seed + 1_000_003 * rows.index(part[0]) + at
            images = pictures(pipe, some, seed, steps, guidance)
            asked = [BenchmarkPrompt(text) for text in some]
            scores += [row["score"] for row in judge.score(images.float().clamp(0, 1), asked)]
        for number, row in enumerate(part):
            right = int(sum(scores[number * a.pictures : (number + 1) * a.pictures]))
            row.update(right=right, pictures=a.pictures, rate=right / a.pictures)
        now = time.time()
        if now - shown > 15 or first + group >= len(todo):
            write(a.candidates, rows)
            shown = now
            done = first + len(part)
            known = [row["rate"] for row in rows if "rate" in row]
            eligible = sum(0 < rate <= MOST for rate in known)
            print(f"{done} of {len(todo)} captions, {now - start:.0f} s, mean {np.mean(known):.3f}, {eligible} fit")
        if a.minutes and now - start > a.minutes * 60:
            write(a.candidates, rows)
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    stage = stages.add_parser("propose")
    stage.add_argument("--out", type=Path, required=True)
    stage.add_argument("--count", type=int, default=600)
    stage.add_argument("--seed", type=int, default=16)
    stage = stages.add_parser("measure")
    stage.add_argument("--candidates", type=Path, required=True)
    stage.add_argument("--model", type=Path, required=True)
    stage.add_argument("--detector", type=Path, required=True)
    stage.add_argument("--pictures", type=int, default=64, help="of each caption")
    stage.add_argument("--batch", type=int, default=512 if place().type == "cuda" else 32)
    stage.add_argument("--limit", type=int, help="at most so many captions in this call")
    stage.add_argument("--minutes", type=float, help="stop after these")
    stage.add_argument("--steps", type=int)
    stage.add_argument("--guidance", type=float)
    stage.add_argument("--seed", type=int, default=0)
    stage = stages.add_parser("write")
    stage.add_argument("--candidates", type=Path, required=True)
    stage.add_argument("--out", type=Path, required=True)
    stage.add_argument("--aim", type=float, default=0.05, help="mean rate of the set, at most")
    stage.add_argument("--count", type=int, default=100, help="prompts, at most")
    a = parser.parse_args()
    if a.stage == "propose":
        rows = propose(a.count, a.seed)
        write(a.out, rows)
        print(f"{len(rows)} captions, {dict(Counter(row['tag'] for row in rows))}, for example:")
        print("\n".join(row["prompt"] for row in rows[:5]))
    elif a.stage == "measure":
        measure(a)
    else:
        rows = [row for row in read(a.candidates) if "rate" in row]
        chosen = choose(rows, a.aim, min(a.count, FULL))
        write(a.out, [{key: row[key] for key in ("tag", "prompt", "request", "rate")} for row in chosen])
        mean = _mean(chosen)
        print(f"{len(chosen)} of {len(rows)} captions, mean rate {mean:.4f}, {dict(Counter(r['tag'] for r in chosen))}")
        if len(chosen) < FEWEST or not LOW <= mean <= HIGH:
            print(f"not as wanted: {FEWEST} to {FULL} prompts with a mean in [{LOW}, {HIGH}]; measure more captions")


if __name__ == "__main__":
    main()
