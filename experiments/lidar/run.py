"""LiDAR beside the methods it claims to beat, on GenEval's tasks: score, reward and diversity against seconds.

    python -m experiments.lidar run --sibling pocket-turbo --minutes 14        # everything; a second call goes on
    python -m experiments.lidar run --quick                                    # a look

Every prompt is done by every method before the next begins, so a run that is cut compares all of them on the same
prompts. Seconds are end to end on this machine, per prompt of 4 pictures: bank, decoding, reward and guidance included;
the smaller banks are the first members of the largest, timed as they are drawn. Models are loaded once. Rows are
appended to rows.csv; the word `report` writes summary.md and the figure again.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments import common
from fairlead.bench import geneval
from fairlead.core.cost import INFINITE, Cost
from fairlead.core.key import Key
from fairlead.core.search import Proposal
from fairlead.core.steering import Chain, Scene
from fairlead.metrics.vendi import MeanCosine
from fairlead.pocket import load
from fairlead.pocket.judge import Detector
from fairlead.run import machine, memory, models, registry
from fairlead.run.records import Task
from fairlead.run.setup import resolve
from fairlead.run.spec import Part, Spec, make_spec
from fairlead.run.worker import Worker
from fairlead.steering.lidar import Lidar

IMAGES = 4
COUNTS = (3, 9, 50, 100)
METHODS: dict[str, dict[str, Any]] = {
    "base": {},
    "reward_gradient": {"steer": "reward_gradient(scale=0.2)"},
    "reward_gradient, every 4th": {"steer": "reward_gradient(scale=0.4, every=4)"},
    "date, every step": {"steer": "date(every=1)"},
    "date, every 2nd": {"steer": "date(every=2)"},
    "feynman_kac": {"steer": "feynman_kac(tilt=2)", "sampler": "ancestral"},
    "svdd": {"steer": "svdd(children=4, block=3)", "sampler": "ancestral"},
}
BEST_OF = (2, 4)
FIELDS = (
    "prompt",
    "tag",
    "method",
    "correct",
    "reward",
    "aesthetic",
    "cosine",
    "seconds",
    "nfe",
    "forwards",
    "backwards",
    "decodes",
    "megabytes",
)
RESAMPLES = 2000
Row = dict[str, Any]
Pictures = tuple[list[bytes], list[float], Cost]
"""PNGs, rewards and what they cost."""


@dataclass(frozen=True)
class Lookahead:
    """How a bank is drawn, and the sizes it is used at."""

    name: str
    settings: dict[str, Any]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class InPieces(Lidar):
    """The bank in pieces, each with the seconds and the cost it took."""

    def prepare(self, scene: Scene) -> Lidar:
        ends = [n for n in COUNTS if n <= self._usual("n")]
        banks = []
        values = []
        for first, end in zip([0, *ends], ends, strict=False):
            start = time.perf_counter()
            piece = replace(self, n=end)
            keys = tuple(scene.key.fold("lidar", i) for i in range(first, end))
            for i in range(0, len(keys), 32):
                z = scene.render(keys[i : i + 32], self._usual("steps"), model=self.model)
                banks.append(z)
                values.append(scene.score(z))
            PIECES.append((end, time.perf_counter() - start))
        return piece.with_bank(torch.cat(banks), torch.cat(values))


PIECES: list[tuple[int, float]] = []


class Bench:
    """The models, loaded once, and what every prompt is put through."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        device = machine.device()
        dtype = args.dtype or machine.dtype(device)
        self.model = self._load(args.model, device, dtype)
        self.siblings = {args.sibling: self._load(args.sibling, device, dtype)} if args.sibling else {}
        self.reward = registry.resolve("rewards", args.reward)()
        self.judge = Detector.from_pretrained(load.detector_folder())
        self.aesthetic = registry.resolve("rewards", "aesthetic")()
        self.cosine = MeanCosine()
        self.lookaheads = [
            Lookahead(f"lidar, {args.look} steps", {"steps": args.look}, COUNTS),
            *(Lookahead(f"lidar, {s} steps", {"steps": s}, (9,)) for s in args.look_too),
        ]
        if args.sibling:
            self.lookaheads.append(Lookahead(f"lidar, {args.sibling}", {"steps": 1, "model": args.sibling}, COUNTS))

    @staticmethod
    def _load(name: str, device: str, dtype: str) -> Any:
        return models.build(make_spec("a dog", model=name, reward="brightness"), device=device, dtype=dtype)

    def worker(self, prompt: str, words: dict[str, Any]) -> Worker:
        words = {"sampler": "euler", "batch": 64, **words}
        spec: Spec = make_spec(prompt, model=self.args.model, reward=self.args.reward, steps=self.args.steps, **words)
        return Worker(resolve(spec, reward=self.reward, model=self.model, siblings=self.siblings))

    def pictures(self, worker: Worker, n: int, steering: Chain, first: int = 0) -> Pictures:
        """n pictures of the prompt from the first on, the same noise for every method, in one group."""
        keys = [Key.root(self.args.seed).fold("picture", first + i) for i in range(n)]
        proposals = tuple(Proposal(worker.space.draw(key), key) for key in keys)
        task = Task(tuple(range(n)), proposals, (0,) * n, INFINITE)
        outcomes, cost = worker.evaluate(task, steering)
        return [o.image for o in outcomes], [o.reward for o in outcomes], cost

    def row(self, prompt: geneval.Prompt, method: str, made: Pictures, peak: float) -> Row:
        images, rewards, cost = made
        x = torch.stack([_pixels(data) for data in images])
        with torch.no_grad():
            correct = [geneval.correct(prompt, found) for found in self.judge.detect(x)]
            aesthetic = self.aesthetic.score(x, [prompt.text] * len(x))
            cosine = self.cosine(x, [prompt.text] * len(x))
        return {
            "prompt": prompt.text,
            "tag": prompt.tag,
            "method": method,
            "correct": float(np.mean(correct)),
            "reward": float(np.mean(rewards)),
            "aesthetic": float(aesthetic.mean()),
            "cosine": cosine,
            "seconds": cost.seconds,
            "nfe": cost.nfe,
            "forwards": cost.forwards,
            "backwards": cost.backwards,
            "decodes": cost.decodes,
            "megabytes": peak,
        }

    def prompt(self, prompt: geneval.Prompt, measure: bool) -> list[Row]:
        """Every method on one prompt; `measure`: memory too, which takes longer and is done once."""
        rows: list[Row] = []

        def add(method: str, work: Callable[[], Pictures], more: Cost | None = None) -> None:
            peak = memory.peak(work) / 1e6 if measure else float("nan")
            start = time.perf_counter()
            images, rewards, cost = work()
            cost = replace(cost, seconds=time.perf_counter() - start) + (more or Cost())
            rows.append(self.row(prompt, method, (images, rewards, cost), peak))

        for method, words in METHODS.items():
            self._plain(prompt, method, words, add)
        self._best_of(prompt, add)
        for look in self.lookaheads:
            self._guided(prompt, look, add)
        return rows

    def _plain(self, prompt: geneval.Prompt, method: str, words: dict[str, Any], add: Callable[..., None]) -> None:
        worker = self.worker(prompt.text, {**words, "group": IMAGES})
        add(method, lambda: self.pictures(worker, IMAGES, worker.steering))

    def _best_of(self, prompt: geneval.Prompt, add: Callable[..., None]) -> None:
        """Each of the pictures the best of n of its own; a larger n goes on where the smaller one ended."""
        worker = self.worker(prompt.text, {})
        images = list[bytes]()
        rewards = list[float]()
        paid = Cost()
        for n in BEST_OF:
            start = time.perf_counter()
            more, values, cost = self.pictures(worker, n * IMAGES - len(images), Chain(), len(images))
            images = images + more
            rewards = rewards + values
            paid = paid + replace(cost, seconds=time.perf_counter() - start)
            best = [max(range(i, n * IMAGES, IMAGES), key=lambda j: rewards[j]) for i in range(IMAGES)]
            chosen = [images[j] for j in best], [rewards[j] for j in best], Cost()
            add(f"best_of {n}", lambda chosen=chosen: chosen, paid)  # type: ignore[misc]

    def _guided(self, prompt: geneval.Prompt, look: Lookahead, add: Callable[..., None]) -> None:
        own = {"n": look.counts[-1], "tilt": self.args.tilt, "scale": self.args.scale, **look.settings}
        worker = self.worker(prompt.text, {"steer": Part("lidar", {k: v for k, v in own.items() if v is not None})})
        worker.steering = Chain((InPieces(**own),))
        PIECES.clear()
        ready, cost = worker.prepare(INFINITE)
        each = cost * (1 / look.counts[-1])
        full = ready.parts[0]
        assert isinstance(full, Lidar)
        assert full.bank is not None
        assert full.rewards is not None
        for n in look.counts:
            seconds = sum(s for end, s in PIECES if end <= n)
            lidar = Lidar(**{**own, "n": n}).with_bank(full.bank[:n], full.rewards[:n])
            target = Chain((lidar,))
            add(
                f"{look.name}, n={n}",
                lambda t=target: self.pictures(worker, IMAGES, t),
                replace(each * n, seconds=seconds),
            )


def _pixels(data: bytes) -> Tensor:
    array = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def prompts(count: int, names: Sequence[str]) -> list[geneval.Prompt]:
    """As many of every task as fit, the tasks in turn."""
    every = geneval.generate(names, count=max(1, -(-count // 5)))
    by = {tag: [p for p in every if p.tag == tag] for tag in geneval.TAGS}
    turns = [by[tag][i] for i in range(max(map(len, by.values()))) for tag in geneval.TAGS if i < len(by[tag])]
    return turns[:count]


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then write the tables."""
    parser = common.parser(__doc__, Path(__file__).parent / "results")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--sibling", help="distilled model that shares the autoencoder")
    parser.add_argument("--reward", default="clip_score")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--look", type=int, default=3, help="steps of the bank")
    parser.add_argument("--look-too", type=int, nargs="*", default=[2], help="steps of other banks, at n=9")
    parser.add_argument("--tilt", type=float)
    parser.add_argument("--scale", type=float)
    parser.add_argument("--dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9)
    args = common.parse(parser, argv)
    if args.quick:
        args.prompts, args.steps = 2, 4
    table = common.Rows(args.out / "rows.csv")
    if args.word == "run":
        paint(args, table)
    summarise(read(table), args.out, args)


def read(table: common.Rows) -> list[Row]:
    """The rows with their numbers."""
    words = {"prompt", "tag", "method"}
    return [{k: v if k in words else float(v) for k, v in row.items()} for row in table.read()]


def paint(args: argparse.Namespace, table: common.Rows) -> None:
    """The prompts that are missing, one after the other, until the time is up."""
    bench = Bench(args)
    start = time.perf_counter()
    before = read(table)
    done = {row["prompt"] for row in before}
    if not before:
        bench.prompt(prompts(1, bench.judge.names)[0], measure=False)  # caches are filled before anything is timed
    for prompt in prompts(args.prompts, bench.judge.names):
        if prompt.text in done:
            continue
        if time.perf_counter() - start > 60 * args.minutes:
            break
        table.append(bench.prompt(prompt, measure=not done))
        done.add(prompt.text)
        print(f"{len(done)} of {args.prompts} prompts, {time.perf_counter() - start:.0f} s", flush=True)


class Table:
    """Rows as arrays [method, prompt], with bootstrap draws over prompts shared by all methods."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.methods = list(dict.fromkeys(row["method"] for row in rows))
        texts = list(dict.fromkeys(row["prompt"] for row in rows))
        at = {(row["method"], row["prompt"]): row for row in rows}
        self.texts = [t for t in texts if all((m, t) in at for m in self.methods)]
        self.tags = np.array([at[self.methods[0], t]["tag"] for t in self.texts])
        self.value = {f: np.array([[at[m, t][f] for t in self.texts] for m in self.methods]) for f in FIELDS[3:]}
        rng = np.random.default_rng(0)
        groups = [np.flatnonzero(self.tags == tag) for tag in dict.fromkeys(self.tags)]
        self.draws = [[rng.choice(g, (RESAMPLES, len(g))) for g in groups], groups]

    def score(self, field: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """[methods] and [RESAMPLES, methods]: the unweighted mean over tasks, as GenEval's overall is."""
        x = self.value[field]
        drawn, groups = self.draws
        mean = np.mean([x[:, g].mean(1) for g in groups], 0)
        return mean, np.mean([x[:, d].mean(2).T for d in drawn], 0)


def summarise(rows: Sequence[Row], out: Path, args: argparse.Namespace) -> None:
    if not rows:
        return
    t = Table(rows)
    fields = ("correct", "reward", "aesthetic", "cosine", "seconds")
    scores = {f: t.score(f) for f in fields}
    lines = [
        f"# LiDAR and its rivals: {args.model}, {len(t.texts)} prompts x {IMAGES} pictures, {args.steps} steps",
        "",
        f"Guided by {args.reward}; `correct` is the detector's GenEval score, which nothing optimises. 95 % "
        "bootstrap intervals "
        "over prompts within tasks. Seconds, NFE and rows are per prompt of 4 pictures, end to end. `alike` is the "
        "mean CLIP "
        "cosine of the 4 pictures: low is diverse. MB: the most memory alive at once in tensors made (the target's "
        "stage, weights "
        "left out), for the first prompt.",
        "",
        "| method | correct | reward | aesthetic | alike | seconds | NFE | rows | backward | MB |",
        "|---" * 10 + "|",
    ]
    for i, method in enumerate(t.methods):
        shown = []
        for field, digits in zip(fields, (3, 2, 3, 3, 2), strict=True):
            low, high = np.quantile(scores[field][1][:, i], [0.025, 0.975])
            shown.append(f"{scores[field][0][i]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        counts = [f"{t.value[f][i].mean():.0f}" for f in ("nfe", "forwards", "backwards")]
        lines.append(
            f"| {method} | {' | '.join(shown)} | {' | '.join(counts)} | {np.nanmax(t.value['megabytes'][i]):.1f} |"
        )
    tags = list(dict.fromkeys(t.tags))
    lines += ["", "## Per task", "", f"| method | {' | '.join(tags)} |", "|---" * (1 + len(tags)) + "|"]
    for i, method in enumerate(t.methods):
        cells = [f"{t.value['correct'][i, t.tags == tag].mean():.3f}" for tag in tags]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", "## Speed at equal score", ""]
    lines += ["Seconds of a gradient method over those of the cheapest lidar that scores at least as high."]
    lines += ["", "| gradient method | by | its score | lidar | ratio |", "|---|---|---|---|---|"]
    for rival in (m for m in t.methods if m.startswith(("reward_gradient", "date"))):
        lines += [speed(t, scores, rival, field) for field in ("correct", "reward")]
    lines += ["", "## Largest banks and gradients against the others, paired", ""]
    lines += ["| method minus the other | correct | reward | alike | seconds |", "|---|---|---|---|---|"]
    largest = [m for m in t.methods if m.startswith("lidar") and m.endswith(("n=50", "n=100"))] + ["reward_gradient"]
    for mine, other in itertools.product(largest, ("base", "reward_gradient", *(f"best_of {n}" for n in BEST_OF))):
        if {mine, other} <= set(t.methods) and mine != other:
            lines.append(f"| {mine} - {other} | {' | '.join(paired(t, scores, mine, other))} |")
    (out / "summary.md").write_text("\n".join(lines) + "\n")
    (out / "figure.svg").write_text(figure(t, scores))
    print("\n".join(lines))


def paired(t: Table, scores: dict[str, Any], mine: str, other: str) -> list[str]:
    """Differences of two methods with intervals from the same resamples of prompts."""
    i = t.methods.index(mine)
    j = t.methods.index(other)
    out = []
    for field, digits in (("correct", 3), ("reward", 2), ("cosine", 3), ("seconds", 2)):
        mean, draws = scores[field]
        low, high = np.quantile(draws[:, i] - draws[:, j], [0.025, 0.975])
        out.append(f"{mean[i] - mean[j]:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})")
    return out


def speed(t: Table, scores: dict[str, Any], rival: str, field: str) -> str:
    """One line: the ratio of seconds at equal score, with the share of resamples in which lidar gets there."""
    ours = [i for i, m in enumerate(t.methods) if m.startswith("lidar")]
    j = t.methods.index(rival)

    def best(score: Any, seconds: Any) -> tuple[float, int]:
        good = [i for i in ours if score[i] >= score[j]]
        return (
            (float(seconds[j] / min(seconds[i] for i in good)), min(good, key=lambda i: seconds[i]))
            if good
            else (0.0, -1)
        )

    (mean, draws), (seconds, times) = scores[field], scores["seconds"]
    value, which = best(mean, seconds)
    every = np.array([best(a, b)[0] for a, b in zip(draws, times, strict=True)])
    reached = every > 0
    low, high = np.quantile(every[reached], [0.025, 0.975]) if reached.any() else (0.0, 0.0)
    often = f"reached in {100 * reached.mean():.0f} % of resamples"
    said = f"{value:.2f} ({low:.2f} to {high:.2f}; {often})" if which >= 0 else f"not reached; {often}"
    return f"| {rival} | {field} | {mean[j]:.3f} | {t.methods[which] if which >= 0 else ''} | {said} |"


COLOURS = {
    "base": "#555",
    "reward": "#c33",
    "date": "#e80",
    "best": "#07a",
    "feyn": "#839",
    "svdd": "#a5c",
    "lida": "#2a2",
}


def figure(t: Table, scores: dict[str, Any]) -> str:
    """Score and reward against seconds (logarithmic), one dot a method with its interval."""
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="1260" height="420" font-family="sans-serif" font-size="10">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    seconds = np.log10(scores["seconds"][0])
    for panel, field in enumerate(("correct", "reward")):
        mean, draws = scores[field]
        low = np.quantile(draws, 0.025, 0)
        high = np.quantile(draws, 0.975, 0)

        def x(v: float, panel: int = panel) -> float:
            return 60 + 620 * panel + 400 * (v - seconds.min()) / max(1e-9, np.ptp(seconds))

        def y(v: float, low: Any = low, high: Any = high) -> float:
            return 370 - 330 * (v - low.min()) / max(1e-9, high.max() - low.min())

        title = {"correct": "GenEval score by the detector", "reward": "guiding reward"}[field]
        out.append(f'<text x="{60 + 620 * panel}" y="20" font-size="13">{title} against seconds per prompt</text>')
        for v in (seconds.min(), seconds.max()):
            out.append(f'<text x="{x(v):.0f}" y="400">{10**v:.2f} s</text>')
        for v in (low.min(), high.max()):
            out.append(f'<text x="{20 + 620 * panel}" y="{y(v):.0f}">{v:.2f}</text>')
        labels: list[tuple[float, float]] = []
        for i, method in sorted(enumerate(t.methods), key=lambda e: -mean[e[0]]):
            colour = next((c for word, c in COLOURS.items() if method.startswith(word)), "#000")
            cx = x(seconds[i])
            ends = f'y1="{y(low[i]):.0f}" y2="{y(high[i]):.0f}"'
            out.append(f'<line x1="{cx:.0f}" x2="{cx:.0f}" {ends} stroke="{colour}" opacity="0.4"/>')
            out.append(f'<circle cx="{cx:.0f}" cy="{y(mean[i]):.0f}" r="4" fill="{colour}"/>')
            cy = y(mean[i]) + 3
            while any(abs(cx - a) < 130 and abs(cy - b) < 10 for a, b in labels):
                cy += 2
            labels.append((cx, cy))
            out.append(f'<text x="{cx + 6:.0f}" y="{cy:.0f}" fill="{colour}">{method}</text>')
    return "\n".join([*out, "</svg>"])


if __name__ == "__main__":
    main()
