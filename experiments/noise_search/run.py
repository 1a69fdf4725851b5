"""Scaling curves of noise search: reward and held-out metrics of the winner against evaluations spent.

    python -m experiments.noise_search run --model pocket-turbo --steps 4 --images 64 --part 1/2 --out DIR   # one core
    python -m experiments.noise_search run --model pocket-turbo --steps 4 --images 64 --part 2/2 --out DIR   # the other
    python -m experiments.noise_search report --model pocket-turbo --steps 4 --images 64 --out DIR           # tables
    python -m experiments.noise_search run --quick --model mixture --verifier b=brightness \
        --verifier j=jpeg_size --judge brightness --prompts "a;b"                                            # seconds

Random search renders one pool per prompt and seed, and every verifier picks from it; so does the oracle, the judge
itself, which knows the answer and is only an upper bound. Every other search runs once per verifier to the largest
budget and is read at the smaller ones; search over paths is not anytime, so it runs once per budget (every second one),
with the number of children that budget affords. `steps` spends the budget on denoising steps of one picture.
Rows are appended to rows*.jsonl as they are made, and a second call makes only what is missing; after `--minutes` no
new prompt is begun. What the rows say is in report.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import common
from experiments.noise_search import report
from experiments.noise_search.report import ORACLE, Row
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.reward import Reward
from fairlead.run import engine, models, registry
from fairlead.run.price import price
from fairlead.run.records import Candidate
from fairlead.run.rewards import build_reward
from fairlead.run.spec import Part, make_spec, parse_reward, reward_parts
from fairlead.run.store import Store

VERIFIERS = {
    "clip": "clip_score",
    "aesthetic": "aesthetic",
    "preference": "image_reward",
    "ensemble": "rank_mean(clip_score, aesthetic, image_reward)",
}
"""What is embedded; others by --verifier, for example preference=pick_score('FOLDER')."""
SEARCHES: dict[str, dict[str, Any]] = {
    "zero_order": {"search": "zero_order"},
    "evolution": {"search": "evolution"},
    "trust_region": {"search": "trust_region(warmup=16, batch=8, regions=4)"},
    "bayes_opt": {"search": "bayes_opt"},
    "first_order": {"search": "first_order(chains=4)"},
    "dfs": {"steer": "dfs"},
}
METHODS = ("random", "zero_order", "evolution", "trust_region", "bayes_opt", "paths", "steps")
"""Without --methods. dfs, whose cost hangs on the scores, and first_order, at four times the work, are asked for by
name.
"""
GROUP = 2
"""Samples kept by search over paths: Paths-2 of the paper."""


@cache
def build(formula: str) -> Reward:
    """A reward by its formula; its networks are loaded once."""
    return build_reward(parse_reward(formula), leaf)


_LEAVES: dict[str, Reward] = {}


def leaf(part: Part) -> Reward:
    """One object per name and settings."""
    if repr(part) not in _LEAVES:
        _LEAVES[repr(part)] = registry.build("rewards", part)
    return _LEAVES[repr(part)]


def pictures(folder: Path, chosen: Sequence[Candidate]) -> Tensor:
    """[n, 3, H, W] in [0, 1], as saved."""
    return common.pictures(folder / candidate.image for candidate in chosen)


class Scored:
    """Pictures of one prompt; a reward that several formulas name looks at them once."""

    def __init__(self, images: Tensor, prompt: str) -> None:
        self.images = images
        self._prompts = [prompt] * len(images)
        self._known = dict[str, Tensor]()

    def terms(self, formula: str) -> dict[str, Tensor]:
        """Raw terms [n] by label."""
        parts = list({repr(p): p for p in reward_parts(parse_reward(formula))}.values())
        for part in parts:
            if repr(part) not in self._known:
                with torch.no_grad():
                    value = leaf(part)(self.images, self._prompts)[0]
                self._known[repr(part)] = value.float().cpu()
        return {k: self._known[repr(p)] for k, p in zip(build(formula).labels(), parts, strict=True)}

    def metrics(self, formulas: Mapping[str, str], i: int) -> dict[str, float]:
        """Every formula that is a number for one picture, of picture i."""
        return {k: float(totals(f, self.terms(f), len(self.images))[i]) for k, f in formulas.items()}


def totals(formula: str, terms: Mapping[str, Tensor], n: int) -> Tensor:
    """Of the first n by raw terms [n]: relative formulas rank these n and no others."""
    return build(formula).from_terms([{label: float(v[i]) for label, v in terms.items()} for i in range(n)])


def best(formula: str, terms: Mapping[str, Tensor], n: int) -> int:
    """The winner among the first n."""
    total = totals(formula, terms, n)
    return int(torch.where(total.isnan(), -torch.inf, total).argmax())


class Maker:
    """Makes the rows of one prompt and seed."""

    def __init__(self, options: argparse.Namespace, prompt: str, seed: int) -> None:
        self.o = options
        self.prompt = prompt
        self.seed = seed
        self.budgets = [n * options.steps for n in _powers(options.images)]

    def rows(self, method: str, verifier: str) -> Iterator[Row]:
        """One row per budget; random search and the control yield those of every verifier at once."""
        made = {"random": self.random, "paths": self.paths, "steps": self.control}.get(method, self.search)
        yield from made(method, verifier)

    def run(self, **words: Any) -> Store:
        """A run in a folder that lives as long as this process."""
        words = {"model": self.o.model, "steps": self.o.steps, "batch": self.o.batch, **words}
        words["seed"] = (
            Key.root(self.seed).fold("noise_search", self.prompt).integer() % 2**31
        )  # other noise per prompt
        spec = make_spec(self.prompt, **words)
        return engine.start(spec, Path(tempfile.mkdtemp(dir=self.o.scratch)) / "run")

    def row(self, method: str, verifier: str, budget: float, nfe: float, metrics: Mapping[str, float]) -> Row:
        """One point of a curve."""
        where = {"prompt": self.prompt, "seed": self.seed, "method": method, "verifier": verifier}
        return {**where, "budget": budget, "nfe": nfe, "metrics": dict(metrics)}

    def random(self, method: str, verifier: str) -> Iterator[Row]:
        """One pool, rescored."""
        first = next(iter(self.o.metrics.values()))
        store = self.run(reward=first, budget={"nfe": self.budgets[-1]})
        pool = Scored(pictures(store.folder, store.candidates()), self.prompt)
        for name, formula in (self.o.verifiers | {ORACLE: self.o.judge}).items():
            terms = pool.terms(formula)
            for budget in self.budgets:
                winner = best(formula, terms, int(budget // self.o.steps))
                yield self.row(method, name, budget, budget, pool.metrics(self.o.metrics, winner))

    def search(self, method: str, verifier: str) -> Iterator[Row]:
        """One run to the largest budget; the winner at a smaller one is among what it had afforded by then."""
        formula = self.o.verifiers[verifier]
        words = SEARCHES[method]
        extra = self.o.steps if "steer" in words else 0  # such runs render a baseline of their own
        store = self.run(reward=formula, budget={"nfe": self.budgets[-1] + extra}, **words)
        every = sorted(store.candidates(), key=lambda c: (c.task, c.index))
        spent = torch.tensor([c.cost.nfe for c in every]).cumsum(0)
        terms = {k: torch.tensor([c.terms[k] for c in every]) for k in build(formula).labels()}
        afforded = {b: n for b in self.budgets if (n := int((spent <= b + 1e-6).sum()))}
        winners = {b: best(formula, terms, n) for b, n in afforded.items()}
        some = list(dict.fromkeys(winners.values()))
        scored = Scored(pictures(store.folder, [every[i] for i in some]), self.prompt)
        for budget, winner in winners.items():
            metrics = scored.metrics(self.o.metrics, some.index(winner))
            yield self.row(method, verifier, budget, float(spent[afforded[budget] - 1]), metrics)

    def paths(self, method: str, verifier: str) -> Iterator[Row]:
        """One group per budget, with the most children it affords; every second budget, down from the largest."""
        formula = self.o.verifiers[verifier]

        def words(children: int) -> dict[str, Any]:
            return {"steer": f"paths(children={children})", "group": GROUP, "search": f"best_of(n={GROUP})"}

        def nfe(children: int) -> float:
            if children not in _PRICES:
                spec = make_spec(self.prompt, model=self.o.model, steps=self.o.steps, reward=formula, **words(children))
                _PRICES[children] = price(spec).cost_per_candidate.nfe * GROUP
            return _PRICES[children]

        one = nfe(1)
        two = nfe(2)
        for budget in self.budgets[::-1][::2]:
            children = 1 + int((budget - one) // (two - one))
            if children > 0:
                store = self.run(reward=formula, budget={"nfe": 1e9}, **words(children))
                found = store.candidates()
                scored = Scored(pictures(store.folder, found), self.prompt)
                winner = best(formula, scored.terms(formula), len(found))
                metrics = scored.metrics(self.o.metrics, winner)
                yield self.row(method, verifier, budget, sum(c.cost.nfe for c in found), metrics)

    def control(self, method: str, verifier: str) -> Iterator[Row]:
        """No search: one picture with as many steps as the budget has evaluations."""
        first = next(iter(self.o.metrics.values()))
        made = []
        for budget in self.budgets:
            store = self.run(
                model=self.o.control, reward=first, steps=int(budget), search="best_of(n=1)", budget={"nfe": budget}
            )
            made.append(pictures(store.folder, store.candidates()))
        scored = Scored(torch.cat(made), self.prompt)
        for i, budget in enumerate(self.budgets):
            for name in self.o.verifiers:
                yield self.row(method, name, budget, budget, scored.metrics(self.o.metrics, i))


_PRICES: dict[int, float] = {}
"""NFE of a group of paths by children; one model and number of steps per process."""


def _powers(n: int) -> list[int]:
    return [1 << k for k in range(n.bit_length()) if 1 << k <= n]


def read(folder: Path) -> list[Row]:
    """Rows made so far, by all parts."""
    files = sorted(folder.glob("rows*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def prompts_of(text: str | None, count: int) -> list[str]:
    """A file with one prompt per line, prompts between semicolons, or GenEval's grammar over the pocket world's
    words.
    """
    if text is None:
        return [p.text for p in common.world_prompts(count, 44)]
    return common.prompts_from(text)[:count]


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the formulas looked up."""
    p = common.parser(__doc__, Path(__file__).parent / "results")
    p.add_argument("--model", default="pocket")
    p.add_argument("--prompts", help="file, or prompts between semicolons; left out, generated")
    p.add_argument("--count", type=int, default=40)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--images", type=int, default=128, help="largest budget, in pictures at --steps")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--methods", default=",".join(METHODS))
    p.add_argument("--verifier", action="append", metavar="NAME=FORMULA")
    p.add_argument(
        "--judge", default="detector", help="metric that no verifier optimises: an oracle, it knows the answer"
    )
    p.add_argument(
        "--control", help="model of the steps-only control, where --model was distilled for few; else --model"
    )
    p.add_argument("--part", default="1/1", metavar="K/N", help="every N-th prompt, from the K-th")
    p.add_argument("--minutes", type=float, default=1e9, help="begin no new prompt after so long")
    o = common.parse(p, argv)
    o.control = o.control or o.model
    if o.quick:
        o.count, o.images, o.steps = 2, 8, 4
    o.verifiers = dict(v.split("=", 1) for v in o.verifier) if o.verifier else VERIFIERS
    single = {k: f for k, f in o.verifiers.items() if not getattr(build(f), "relative", False)}
    o.metrics = {**single, ORACLE: o.judge}
    return o


def make(o: argparse.Namespace) -> None:
    """What is missing of this part."""
    k, n = (int(v) for v in o.part.split("/"))
    path = o.out / ("rows.jsonl" if n == 1 else f"rows-{k}.jsonl")
    done = {(r["prompt"], r["seed"], r["method"], r["verifier"]) for r in read(o.out)}
    end = time.monotonic() + 60 * o.minutes
    for prompt in prompts_of(o.prompts, o.count)[k - 1 :: n]:
        if time.monotonic() > end:
            print("time is up: the same command goes on", flush=True)
            break
        for seed in range(o.seeds):
            maker = Maker(o, prompt, seed)
            for method in o.methods.split(","):
                for verifier in o.verifiers:
                    if (prompt, seed, method, verifier) in done:
                        continue
                    try:
                        with tempfile.TemporaryDirectory() as o.scratch:
                            made = list(maker.rows(method, verifier))
                    except (
                        FairleadError
                    ) as error:  # a pair that cannot be: no gradient, no package, no ranks on the way
                        print(f"left out: {method} with {verifier}: {error}", flush=True)
                        continue
                    with path.open("a") as handle:
                        handle.writelines(json.dumps(row) + "\n" for row in made)
                    done |= {(prompt, seed, method, row["verifier"]) for row in made}
            print(f"{prompt!r} seed {seed}: {time.process_time():.0f} s of processor so far", flush=True)


def said(o: argparse.Namespace) -> str:
    """The setting in a sentence."""
    other = "" if o.control == o.model else f"; the steps-only control is {o.control}"
    verifiers = ", ".join(f"{k} = {f}" for k, f in o.verifiers.items())
    return f"{o.model} at {o.steps} steps{other}. Verifiers: {verifiers}. Oracle, which knows the answer: {o.judge}."


@models.shared()
def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then write what it says."""
    o = options(argv)
    if o.word == "run":
        make(o)
    report.write(o.out, read(o.out), list(o.verifiers), list(o.metrics), said(o))
    print(o.out / "tables.md")


if __name__ == "__main__":
    main()
