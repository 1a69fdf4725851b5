"""Scaling curves of noise search: reward and held-out metrics of the winner against evaluations spent.

    python experiments/noise_search/scaling.py --out results/noise_search                # pocket, everything: hours
    python experiments/noise_search/scaling.py --model mixture --verifier b=brightness --verifier j=jpeg_size \
        --judge brightness --prompts "a;b" --images 8 --steps 4 --out /tmp/tiny          # seconds

Random search renders one pool per prompt and seed, and every verifier picks from it. Every other search runs once per
verifier to the largest budget and is read at the smaller ones; search over paths is not anytime, so it runs once per
budget, with the number of children that budget affords. `steps` spends the budget on denoising steps of one picture.
Rows are appended to rows.jsonl as they are made, and a second call makes only what is missing. Intervals are 95 %
bootstrap intervals over prompts (of means over seeds), all methods on the same prompts and seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.reward import Reward
from fairlead.run import engine, models, registry
from fairlead.run.price import price
from fairlead.run.records import Candidate
from fairlead.run.spec import Spec, make_spec, parse_reward
from fairlead.run.store import Store
from fairlead.run.worker import build_reward

VERIFIERS = {
    "clip": "clip_score",
    "aesthetic": "aesthetic",
    "ensemble": "rank_mean(clip_score, aesthetic)",
}
"""What is embedded; add others by --verifier, for example preference=pick_score('FOLDER')."""
SEARCHES: dict[str, dict[str, Any]] = {
    "zero_order": {"search": "zero_order"},
    "evolution": {"search": "evolution"},
    "trust_region": {"search": "trust_region(warmup=16, batch=8, regions=4)"},
    "bayes_opt": {"search": "bayes_opt"},
    "first_order": {"search": "first_order(chains=4)"},
    "dfs": {"steer": "dfs"},
}
METHODS = ("random", *SEARCHES, "paths", "steps")
GROUP = 2
"""Samples kept by search over paths: Paths-2 of the paper."""
RESAMPLES = 2000

Row = dict[str, Any]


@cache
def build(formula: str) -> Reward:
    """A reward by its formula; its networks are loaded once."""
    return build_reward(parse_reward(formula), lambda part: registry.build("rewards", part))


def share_models() -> None:
    """Hundreds of runs in one process: load each model once."""
    load, loaded = models.build, {}

    def once(spec: Spec, **where: str) -> Any:
        name = (spec.model.name, json.dumps(dict(spec.model.settings), sort_keys=True), *sorted(where.items()))
        if name not in loaded:
            loaded[name] = load(spec, **where)
        return loaded[name]

    models.build = once


def pictures(folder: Path, chosen: Sequence[Candidate]) -> Tensor:
    """[n, 3, H, W] in [0, 1], as saved."""
    import numpy as np

    read = [np.asarray(Image.open(folder / c.image).convert("RGB")) for c in chosen]
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).float() / 255


def measure(formulas: Mapping[str, str], images: Tensor, prompt: str) -> dict[str, Tensor]:
    """Every formula that is a number for one picture, [n] each."""
    with torch.no_grad():
        return {name: build(f)(images, [prompt] * len(images))[0].float().cpu() for name, f in formulas.items()}


def leaves(formula: str, images: Tensor, prompt: str) -> dict[str, Tensor]:
    """Raw terms [n] of a formula by label."""
    with torch.no_grad():
        return {k: v.float().cpu() for k, v in build(formula)(images, [prompt] * len(images))[1].items()}


def best(formula: str, terms: Mapping[str, Tensor], n: int) -> int:
    """The winner among the first n by raw terms [n]: relative formulas rank these n and no others."""
    total = build(formula).from_terms([{label: float(v[i]) for label, v in terms.items()} for i in range(n)])
    return int(torch.where(total.isnan(), -torch.inf, total).argmax())


class Maker:
    """Makes the rows of one prompt and seed."""

    def __init__(self, options: argparse.Namespace, prompt: str, seed: int) -> None:
        self.o, self.prompt, self.seed = options, prompt, seed
        self.budgets = [n * options.steps for n in _powers(options.images)]

    def rows(self, method: str, verifier: str) -> Iterator[Row]:
        """One row per budget; random search yields those of every verifier at once."""
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

    def row(self, method: str, verifier: str, budget: float, nfe: float, image: Tensor) -> Row:
        """Everything that is measured of a winner [3, H, W]."""
        metrics = {k: float(v[0]) for k, v in measure(self.o.metrics, image[None], self.prompt).items()}
        where = {"prompt": self.prompt, "seed": self.seed, "method": method, "verifier": verifier}
        return {**where, "budget": budget, "nfe": nfe, "metrics": metrics}

    def random(self, method: str, verifier: str) -> Iterator[Row]:
        """One pool, rescored."""
        first = next(iter(self.o.metrics.values()))
        store = self.run(reward=first, budget={"nfe": self.budgets[-1]})
        pool = pictures(store.folder, store.candidates())
        for name, formula in self.o.verifiers.items():
            terms = leaves(formula, pool, self.prompt)
            for budget in self.budgets:
                n = int(budget // self.o.steps)
                yield self.row(method, name, budget, budget, pool[best(formula, terms, n)])

    def search(self, method: str, verifier: str) -> Iterator[Row]:
        """One run to the largest budget; the winner at a smaller one is among what it had afforded by then."""
        formula, words = self.o.verifiers[verifier], SEARCHES[method]
        extra = self.o.steps if "steer" in words else 0  # such runs render a baseline of their own
        store = self.run(reward=formula, budget={"nfe": self.budgets[-1] + extra}, **words)
        every = sorted(store.candidates(), key=lambda c: (c.task, c.index))
        spent = torch.tensor([c.cost.nfe for c in every]).cumsum(0)
        labels = build(formula).labels()
        terms = {k: torch.tensor([c.terms[k] for c in every]) for k in labels}
        for budget in self.budgets:
            n = int((spent <= budget + 1e-6).sum())
            if n:
                winner = every[best(formula, terms, n)]
                yield self.row(method, verifier, budget, float(spent[n - 1]), pictures(store.folder, [winner])[0])

    def paths(self, method: str, verifier: str) -> Iterator[Row]:
        """One group per budget, with the most children it affords."""
        formula = self.o.verifiers[verifier]

        def words(children: int) -> dict[str, Any]:
            return {"steer": f"paths(children={children})", "group": GROUP, "search": f"best_of(n={GROUP})"}

        def nfe(children: int) -> float:
            spec = make_spec(self.prompt, model=self.o.model, steps=self.o.steps, reward=formula, **words(children))
            return price(spec).unit.nfe * GROUP

        one, two = nfe(1), nfe(2)
        for budget in self.budgets:
            children = 1 + int((budget - one) // (two - one))
            if children > 0:
                store = self.run(reward=formula, budget={"nfe": 1e9}, **words(children))
                found = store.candidates()
                images = pictures(store.folder, found)
                winner = best(formula, leaves(formula, images, self.prompt), len(found))
                yield self.row(method, verifier, budget, sum(c.cost.nfe for c in found), images[winner])

    def control(self, method: str, verifier: str) -> Iterator[Row]:
        """No search: one picture with as many steps as the budget has evaluations."""
        first = next(iter(self.o.metrics.values()))
        for budget in self.budgets:
            store = self.run(reward=first, steps=int(budget), search="best_of(n=1)", budget={"nfe": budget})
            image = pictures(store.folder, store.candidates())[0]
            for name in self.o.verifiers:
                yield self.row(method, name, budget, budget, image)


def _powers(n: int) -> list[int]:
    return [1 << k for k in range(n.bit_length()) if 1 << k <= n]


# what the rows say


def interval(per_prompt: Sequence[float], key: Key) -> tuple[float, float, float]:
    """Mean and its bootstrap interval over prompts."""
    x = torch.tensor(per_prompt, dtype=torch.float64)
    picks = (key.uniform(RESAMPLES, len(x)) * len(x)).long()
    low, high = torch.quantile(x[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(x.mean()), low, high


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry per method, verifier, budget and metric."""
    cells: dict[tuple[str, str, float, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for metric, value in row["metrics"].items():
            if value == value:
                cells[row["method"], row["verifier"], row["budget"], metric][row["prompt"]].append(value)
    out = []
    for (method, verifier, budget, metric), prompts in sorted(cells.items()):
        mean, low, high = interval(
            [sum(v) / len(v) for v in prompts.values()], Key.root(0).fold(method, verifier, metric)
        )
        out.append({"method": method, "verifier": verifier, "budget": budget, "metric": metric, "mean": mean,
                    "low": low, "high": high, "prompts": len(prompts)})  # fmt: skip
    return out


def markdown(summary: Sequence[Row], verifiers: Sequence[str], metrics: Sequence[str]) -> str:
    """The algorithm x verifier table at the largest budget, then each verifier's curve on every metric."""
    found = {(s["method"], s["verifier"], s["budget"], s["metric"]): s for s in summary}
    budgets = sorted({s["budget"] for s in summary})
    methods = [m for m in METHODS if any(s["method"] == m for s in summary)]

    def cell(*where: Any) -> str:
        s = found.get(where)
        return "" if s is None else f"{s['mean']:.4g} ({s['low']:.4g} to {s['high']:.4g})"

    lines = [
        f"## At {budgets[-1]:g} NFE",
        "",
        f"| verifier + search | {' | '.join(metrics)} |",
        "|---" * (1 + len(metrics)) + "|",
    ]
    plain = [cell("random", verifiers[0], budgets[0], m) for m in metrics]
    lines.append(f"| none ({budgets[0]:g} NFE) | {' | '.join(plain)} |")
    for v in verifiers:
        lines += [f"| {v} + {m} | {' | '.join(cell(m, v, budgets[-1], x) for x in metrics)} |" for m in methods]
    for v in verifiers:
        for x in metrics:
            lines += ["", f"## {x} of what {v} chose", "", f"| search | {' | '.join(f'{b:g}' for b in budgets)} |"]
            lines.append("|---" * (1 + len(budgets)) + "|")
            lines += [f"| {m} | {' | '.join(cell(m, v, b, x) for b in budgets)} |" for m in methods]
    return "\n".join([*lines, ""])


def read(path: Path) -> list[Row]:
    """Rows made so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def prompts_of(text: str | None, count: int) -> list[str]:
    """A file with one prompt per line, prompts between semicolons, or GenEval's grammar over the pocket world's words."""
    if text is None:
        from fairlead.bench import geneval
        from fairlead.pocket import world

        every = geneval.generate(world.NAMES, seed=44)
        tags = list(dict.fromkeys(p.tag for p in every))
        lists = [[p.text for p in every if p.tag == tag] for tag in tags]
        return [row for rows in zip(*lists, strict=False) for row in rows][:count]
    path = Path(text)
    lines = path.read_text().splitlines() if path.is_file() else text.split(";")
    return [line.strip() for line in lines if line.strip()][:count]


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then write what it says."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        "--judge", default="detector", help="metric that no verifier optimises (an oracle: it knows the answer)"
    )
    p.add_argument("--out", type=Path, required=True)
    o = p.parse_args(argv)
    o.verifiers = dict(v.split("=", 1) for v in o.verifier) if o.verifier else VERIFIERS
    single = {k: f for k, f in o.verifiers.items() if not getattr(build(f), "relative", False)}
    o.metrics = {**single, "judge": o.judge}
    o.out.mkdir(parents=True, exist_ok=True)
    share_models()
    path = o.out / "rows.jsonl"
    done = {(r["prompt"], r["seed"], r["method"], r["verifier"]) for r in read(path)}
    for prompt in prompts_of(o.prompts, o.count):
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
                    print(f"{prompt!r} seed {seed}: {method}, {verifier}", flush=True)
    summary = summarise(read(path))
    (o.out / "summary.json").write_text(json.dumps(summary, indent=1))
    (o.out / "tables.md").write_text(markdown(summary, list(o.verifiers), list(o.metrics)))
    print(o.out / "tables.md")


if __name__ == "__main__":
    main()
