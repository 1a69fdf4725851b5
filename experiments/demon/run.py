"""Demon on real networks: reward against evaluations, its settings, and its four ways of looking ahead.

    python -m experiments.demon run --models pocket,pocket-unet --sibling pocket=pocket-turbo       # hours
    python -m experiments.demon run --quick                                                         # a minute
    python -m experiments.demon run --quick --models mixture --reward brightness --watch jpeg_size

Parts: `curve` (tanh, boltzmann and best of K per step, against best of N pictures of the ODE and of the plain SDE
that cost as much), `settings` (K, tau, beta, one at a time), `estimates` (ode, few, clean, sibling: reward, network
rows, seconds). A row is one winner: what optimised it, what only watched, what it cost. Rows are appended to rows.csv
as they are made, and a second call makes only what is missing. Intervals are 95 % bootstrap intervals over prompts of
means over seeds; `spread` is the mean distance between the winners of a prompt's seeds (root mean square of pixels).
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments import common
from fairlead.bench import statistics
from fairlead.core.key import Key
from fairlead.run import engine, models
from fairlead.run.price import price
from fairlead.run.records import Candidate
from fairlead.run.spec import Part, Spec, make_spec
from fairlead.run.store import Store

COSTS = ("nfe", "forwards", "scores", "seconds")
FIELDS = ("model", "part", "method", "setting", "prompt", "seed", *COSTS, "reward", "terms", "picture")
KINDS: dict[str, dict[str, Any]] = {
    "tanh": {},
    "boltzmann": {"weights": "boltzmann"},
    "best of K": {"weights": "boltzmann", "tau": 0.0},
}
PROMPTS = (
    "a photo of a red apple left of a dog;a photo of four clocks;a photo of a blue car above a cat;a photo of three "
    "bananas;"
    "a photo of a green bird;a photo of a cat and a bus;a photo of two dogs;a photo of a yellow kite right of a chair;"
    "a photo of a clock below an apple;a photo of a purple bear;a photo of a bicycle and a banana;a photo of a red bus;"
    "a photo of three cats;a photo of a dog above a car;a photo of a pink couch;a photo of a zebra left of a boat"
)


@dataclass(frozen=True)
class Job:
    """One demon picture; or, with `pool`, the best of as many plain ones as each of those NFE buy."""

    model: str
    part: str
    method: str
    setting: str
    demon: dict[str, Any] | None
    steps: int
    pool: tuple[float, ...] = ()


class Bench:
    """Specs and runs of one call."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.o = options
        self._units = dict[str, tuple[float, float]]()

    def spec(self, job: Job, prompt: str, seed: int, nfe: float) -> Spec:
        """The run of a job. Methods share the noise of a prompt and seed."""
        steer = () if job.demon is None else (Part("demon", job.demon),)
        number = Key.root(seed).fold("demon", prompt).integer() % 2**31
        return make_spec(
            prompt,
            model=job.model,
            reward=self.o.reward,
            watch=self.o.watch,
            steer=steer,
            steps=job.steps,
            batch=16,
            seed=number,
            budget={"nfe": nfe},
            defaults=models.defaults(job.model),
        )

    def unit(self, job: Job) -> tuple[float, float]:
        """NFE of one picture and of its baseline."""
        spec = self.spec(job, self.o.prompts[0], 0, 1e6)
        if spec.id() not in self._units:
            found = price(spec)
            self._units[spec.id()] = found.cost_per_candidate.nfe, found.baseline.nfe
        return self._units[spec.id()]

    def jobs(self) -> Iterator[Job]:
        """Everything asked for, model by model."""
        for model in self.o.models:
            yield from (job for part in self.o.parts for job in getattr(self, part)(model))

    def curve(self, model: str) -> Iterator[Job]:
        """Tanh, Boltzmann and best of K at three lengths; pools to the same NFE."""
        made = [
            Job(model, "curve", kind, f"steps={steps}", {"k": self.o.k, "estimate": "clean", **more}, steps)
            for steps in self.o.lengths
            for kind, more in KINDS.items()
        ]
        yield from made
        marks = tuple(sorted({self.unit(job)[0] for job in made}))
        yield Job(model, "curve", "best of N, ODE", "", None, self.o.steps, marks)
        yield Job(model, "curve", "best of N, SDE", "", {"k": 1}, self.o.steps, marks)

    def settings(self, model: str) -> Iterator[Job]:
        """One setting at a time."""
        usual = {"k": self.o.k, "estimate": "clean"}
        changes = (
            [{"k": k} for k in self.o.ks] + [{"beta": b} for b in self.o.betas] + [{"tau": t} for t in self.o.taus]
        )
        for change in changes:
            name = ", ".join(f"{k}={v}" for k, v in change.items())
            yield Job(model, "settings", "tanh", name, {**usual, **change}, self.o.steps)

    def estimates(self, model: str) -> Iterator[Job]:
        """The four ways of looking ahead, and none."""
        ways: list[dict[str, Any]] = [{"estimate": "ode"}, {"estimate": "few", "look": 4}, {"estimate": "clean"}]
        if model in self.o.sibling:
            distilled = {"estimate": "sibling", "sibling": self.o.sibling[model]}
            smaller = ((self.o.k // 2, 2), (self.o.k // 2, 4), (self.o.k * 7 // 8, 2))
            ways += [distilled, *({**distilled, "k": k, "look": look} for k, look in smaller)]
        yield Job(model, "estimates", "plain SDE", "", {"k": 1}, self.o.steps)
        for way in ways:
            setting = f"k={way['k']}, look={way['look']}" if "k" in way else ""
            yield Job(model, "estimates", way["estimate"], setting, {"k": self.o.k, **way}, self.o.steps)
        if model in self.o.sibling:  # two small ones in place of a large one
            small = Job(model, "estimates", "", "", {**distilled, "k": self.o.k * 3 // 8, "look": 2}, self.o.steps)
            yield replace(
                small, method=f"best of 2, sibling, k={self.o.k * 3 // 8}, look=2", pool=(2 * self.unit(small)[0],)
            )

    def rows(self, job: Job, prompt: str, seed: int) -> Iterator[dict[str, Any]]:
        """One row, or one per mark of a pool."""
        nfe, plain = self.unit(job)
        with tempfile.TemporaryDirectory() as scratch:
            budget = plain + (max(job.pool) if job.pool else nfe)
            store = engine.start(self.spec(job, prompt, seed, max(budget, plain + nfe)), Path(scratch) / "run")
            every = sorted(store.candidates(), key=lambda c: c.index)
            for mark in job.pool or (nfe,):
                some = every[: max(1, int(mark / nfe + 1e-6))]
                yield self.row(job, store, some, prompt, seed, f"{mark:g} NFE" if job.pool else job.setting)
            store.close()

    def row(
        self, job: Job, store: Store, some: Sequence[Candidate], prompt: str, seed: int, setting: str
    ) -> dict[str, Any]:
        """The winner of those, and what they cost."""
        best = max(some, key=lambda c: (c.reward, -c.index))
        name = (
            "-".join((job.model, job.part, job.method, setting, prompt, str(seed))).replace(" ", "_").replace("/", "_")
        )
        picture = self.o.pictures / f"{name}.png"
        picture.write_bytes((store.folder / best.image).read_bytes())
        spent = {k: sum(getattr(c.cost, k) for c in some) for k in COSTS}
        return {
            "model": job.model,
            "part": job.part,
            "method": job.method,
            "setting": setting,
            "prompt": prompt,
            "seed": seed,
            **spent,
            "reward": best.reward,
            "terms": json.dumps(dict(best.terms)),
            "picture": picture.name,
        }


def spread(files: Sequence[Path]) -> float:
    """Mean distance of pictures from each other; NaN for one."""
    read = [np.asarray(Image.open(f).convert("RGB")).astype(float) / 255 for f in files]
    gaps = [float(np.sqrt(((a - b) ** 2).mean())) for a, b in itertools.combinations(read, 2)]
    return sum(gaps) / len(gaps) if gaps else float("nan")


def table(rows: Sequence[dict[str, str]], pictures: Path) -> str:
    """Markdown: a table per model and part."""
    cells: dict[tuple[str, str], dict[tuple[str, str], list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        cells[r["model"], r["part"]][r["method"], r["setting"]].append(r)
    said = "Written by `python -m experiments.demon`; means over prompts with 95 % bootstrap intervals; costs are "
    "means of one winner."
    lines = ["# Demon", "", said]
    for (model, part), own in cells.items():
        terms = sorted({t for some in own.values() for r in some for t in json.loads(r["terms"])})
        several = ["spread"] if len({r["seed"] for some in own.values() for r in some}) > 1 else []
        lines += ["", f"## {model}: {part}", "", f"| method | setting | {' | '.join([*COSTS, *terms, *several])} |"]
        lines.append("|---" * (2 + len(COSTS) + len(terms) + len(several)) + "|")
        for (method, setting), some in own.items():
            by: dict[str, list[dict[str, str]]] = defaultdict(list)
            for r in some:
                by[r["prompt"]].append(r)
            costs = [f"{np.mean([float(r[c]) for r in some]):.4g}" for c in COSTS]
            values = [
                _cell([float(np.mean([json.loads(r["terms"])[t] for r in p])) for p in by.values()]) for t in terms
            ]
            away = [_cell([spread([pictures / r["picture"] for r in p]) for p in by.values()])] if several else []
            lines.append(f"| {method} | {setting} | {' | '.join([*costs, *values, *away])} |")
        lines += gaps(own) if part == "estimates" else []
    return "\n".join([*lines, ""])


def gaps(own: dict[tuple[str, str], list[dict[str, str]]]) -> list[str]:
    """Lines: the optimised reward minus that of the full rollout, prompt by prompt, and the share of its network
    rows.
    """
    full = own.get(("ode", ""), [])
    theirs = {(r["prompt"], r["seed"]): r for r in full}
    lines = ["", "| method | setting | reward minus that of `ode`, paired | of its rows |", "|---|---|---|---|"]
    for (method, setting), some in own.items():
        both = [(r, theirs[r["prompt"], r["seed"]]) for r in some if (r["prompt"], r["seed"]) in theirs]
        by: dict[str, list[float]] = defaultdict(list)
        for mine, other in both:
            by[mine["prompt"]].append(float(mine["reward"]) - float(other["reward"]))
        share = sum(float(o["forwards"]) for _, o in both) / max(1e-9, sum(float(m["forwards"]) for m, _ in both))
        lines.append(f"| {method} | {setting} | {_cell([float(np.mean(v)) for v in by.values()])} | 1/{share:.3g} |")
    return lines if full else []


def _cell(values: Sequence[float]) -> str:
    found = statistics.mean(values)
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `--quick` is the smallest setting."""
    p = common.parser(__doc__, Path(__file__).parent / "pocket")
    p.add_argument("--models", default="pocket")
    p.add_argument("--sibling", action="append", default=[], metavar="MODEL=DISTILLED")
    p.add_argument("--reward", default="clip_score")
    p.add_argument("--watch", action="append", metavar="FORMULA", help="default: aesthetic and detector")
    p.add_argument("--prompts", default=PROMPTS, help="file, or prompts between semicolons")
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--k", type=int, default=16)
    p.add_argument("--parts", default="curve,settings,estimates")
    o = common.parse(p, argv)
    o.models, o.parts, o.sibling = o.models.split(","), o.parts.split(","), dict(s.split("=", 1) for s in o.sibling)
    o.prompts = common.prompts_from(o.prompts)
    o.watch = tuple(o.watch or ("aesthetic", "detector"))
    o.lengths = (10, 20, 40)
    o.ks = (2, 4, 8, 32)
    o.betas = (0.02, 0.05, 0.2, 0.5)
    o.taus = ("adaptive", "adaptive_first", 0.0, 0.1, 1.0)
    if o.quick:
        o.prompts = o.prompts[:1]
        o.seeds = 1
        o.steps = 4
        o.k = 3
        o.lengths = (3,)
        o.ks = (2,)
        o.betas = (0.5,)
        o.taus = ("adaptive",)
    o.pictures = o.out / "pictures"
    o.pictures.mkdir(parents=True, exist_ok=True)
    return o


@models.shared()
def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then the tables."""
    o = options(argv)
    kept = common.Rows(o.out / "rows.csv")
    if o.word == "run":
        make(o, kept)
    (o.out / "results.md").write_text(table(kept.read(), o.pictures))
    print(o.out / "results.md")


def make(o: argparse.Namespace, kept: common.Rows) -> None:
    """The rows that are missing."""
    bench = Bench(o)
    names = ("model", "part", "method", "setting", "prompt", "seed")
    done = {tuple("" if "NFE" in row[name] else row[name] for name in names) for row in kept.read()}
    jobs = list(bench.jobs())
    for seed, prompt, job in itertools.product(range(o.seeds), o.prompts, jobs):
        if (job.model, job.part, job.method, job.setting, prompt, str(seed)) in done:
            continue
        made = list(bench.rows(job, prompt, seed))
        kept.append(made)
        what = f"{job.model} {job.part} {job.method} {job.setting}"
        print(f"{prompt!r} seed {seed}: {what}: {made[-1]['reward']:.4g}", flush=True)


if __name__ == "__main__":
    main()
