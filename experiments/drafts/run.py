"""Network rows and seconds to reach the reward of best-of-64, with drafts and without.

    python -m experiments.drafts run --prompts FILE        record what is missing of the pools, then resample policies
    python -m experiments.drafts report                    resample policies from the pools that are there
    python -m experiments.drafts run --quick               three prompts, 32 candidates

FILE is a list of prompts as `fairlead bench` reads it. With --known, only prompts whose objects the embedded models
know are taken, equally many of each category. `--model`, `--draft` and `--reward` choose another family; give it an
--out of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments import common
from experiments.drafts import pools, results
from fairlead.bench import geneval
from fairlead.bench import prompts as prompt_files
from fairlead.pocket import world

DRAFTS = ("4", "6", "pocket-turbo", "pocket-turbo@3", "peek(8)")
REWARDS = ("clip_score", "image_reward", "aesthetic", "detector")


def chosen(file: Path | None, count: int, known: bool) -> list[str]:
    """`count` prompts, equally many of each category and spread evenly over it; all in GenEval's grammar if no file."""
    if file is None:
        return [p.text for p in common.world_prompts(count, seed=43)]
    every = prompt_files.read(file)
    if known:
        understood = {p.text for p in geneval.read_prompts(file, world.NAMES)}
        every = [p for p in every if p.text in understood]
    by_category = {
        tag: [p.text for p in every if p.category == tag] for tag in dict.fromkeys(p.category for p in every)
    }
    out: list[str] = []
    for place, own in enumerate(by_category.values()):
        share = count // len(by_category) + (place < count % len(by_category))
        share = min(share, len(own))
        out += [own[i * len(own) // share] for i in range(share)]
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Record, then report."""
    p = common.parser(__doc__, Path(__file__).parent / "pocket")
    p.add_argument("--model", default="pocket")
    p.add_argument("--steps", type=int, help="of a picture (default: the model's)")
    p.add_argument("--draft", action="append", help=f"a kind of draft; repeat for several (default: {DRAFTS})")
    p.add_argument("--reward", action="append", help=f"the first is optimised, the last held out (default: {REWARDS})")
    p.add_argument("--prompts", type=Path, help="file of prompts (default: drawn in GenEval's grammar)")
    p.add_argument("--known", action="store_true", help="only GenEval prompts of objects that the embedded models know")
    p.add_argument("--count", type=int, default=20, help="prompts")
    p.add_argument("--candidates", type=int, default=128, help="of each prompt")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--target", type=int, default=64, help="the best_of whose mean reward is to be reached")
    p.add_argument("--orders", type=int, default=100, help="of every pool")
    o: argparse.Namespace = common.parse(p, argv)
    if o.quick:
        o.count = 3
        o.candidates = 32
        o.target = 16
        o.orders = 10
    if o.word == "run":
        asked = pools.Asked(
            o.model,
            o.steps,
            o.seed,
            16,
            tuple(o.reward or REWARDS),
            tuple(o.draft or DRAFTS),
            tuple(chosen(o.prompts, o.count, o.known)),
            o.candidates,
        )
        pools.record(asked, o.out)
    text = results.report(o.out, o.target, o.orders)
    (o.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
