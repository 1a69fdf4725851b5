"""sep-CMA-ES against Adam on the prompt embedding (Pereira Neto et al. 2025, arXiv 2511.03913), as a list of Specs.

    python -m experiments.embedding_search run --quick --model pocket      # a minute
    python -m experiments.embedding_search run                             # pocket-turbo, 36 prompts
    python -m experiments.embedding_search run --model stabilityai/sdxl-turbo --prompts parti --steps 1 --unit one \
        --rates 0.0001,0.001,0.01 --generations 100 --judge clip_score --set model.dtype=float32 \
        --set aesthetic.head=sac+logos+ava1-l14-linearMSE.pth --set aesthetic.checkpoint=openai/clip-vit-large-patch14 \
        --set clip_score.checkpoint=openai/clip-vit-large-patch14 --out results/sdxl_turbo  # the paper's, on a GPU

For every prompt and weighting each method runs once to the same number of evaluations. At equal seconds both of a
pair are read at the time at which the quicker one had spent its evaluations. All of a winner's numbers are of one
saved picture, scored by one evaluator. Adam runs at several rates, and the table shows every one of them beside the
rate that is best over the prompts, chosen in Adam's favour. A finished (prompt, weighting) is a line of rows.jsonl;
an interrupted run continues from its record, bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from experiments import common
from fairlead.core.cost import INFINITE
from fairlead.core.key import Key
from fairlead.core.reward import Reward
from fairlead.core.search import Proposal
from fairlead.core.steering import Chain
from fairlead.metrics.features import Encoder
from fairlead.run import engine, machine, models, registry
from fairlead.run.executor import Local
from fairlead.run.records import Candidate, Task
from fairlead.run.rewards import build_reward
from fairlead.run.spec import Part, Spec, make_spec, parse_reward, parse_settings
from fairlead.run.store import Store

TSV = Path("data", "partiprompts", "PartiPrompts.tsv")
CANONICAL = {"aesthetic": "aesthetic", "clip": "clip_score(scale='cosine')"}
RESAMPLES = 5000
SHOTS = 6
"""Prompts of which small pictures are kept."""

Row = dict[str, Any]


# prompts


def parti(path: Path) -> list[tuple[str, str]]:
    """(category, prompt): three of each category by the published rule, one Random(42), categories as they first
    appear.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[row["Category"]].append(row["Prompt"])
    draw = random.Random(42)
    return [(category, prompt) for category, every in groups.items() for prompt in draw.sample(every, 3)]


def found_parti() -> Path:
    """The TSV in the folder of published data: $FAIRLEAD_SHARED, or `shared` beside or above the repository."""
    roots = [
        *filter(None, [os.environ.get("FAIRLEAD_SHARED")]),
        *(p / "shared" for p in Path(__file__).resolve().parents),
    ]
    return next((Path(r) / TSV for r in roots if (Path(r) / TSV).is_file()), TSV)


def prompts_of(text: str | None, count: int) -> list[tuple[str, str]]:
    """`parti`, a TSV of that layout, prompts between semicolons, or GenEval's grammar over the pocket world's words."""
    if text is None:
        return [(p.tag, p.text) for p in common.world_prompts(count, 45)]
    path = found_parti() if text == "parti" else Path(text)
    if path.suffix == ".tsv":
        if not path.is_file():
            raise SystemExit(
                f"{path} is not there: download PartiPrompts.tsv of google-research/parti and give its path."
            )
        return parti(path)[:count]
    return [("", line.strip()) for line in text.split(";") if line.strip()][:count]


# runs


def specs(o: argparse.Namespace, prompt: str, w: float) -> dict[str, Spec]:
    """Every run of one prompt and weighting, by method, at one number of evaluations."""
    evaluations = 1 + o.population * o.generations
    space = f"embedding(unit={o.unit!r})"
    words: dict[str, dict[str, Any]] = {
        "sep_cma": {
            "space": space,
            "search": f"sep_cma(sigma={o.sigma}, population={o.population})",
            "batch": o.population,
        },
        "snes": {"space": space, "search": f"snes(sigma={o.sigma}, population={o.population})", "batch": o.population},
        "best_of": {"search": "best_of", "batch": o.population},
        "reno": {"search": "reno(iterations=None)", "batch": 1},
    }
    words |= {f"adam@{rate}": {"space": space, "search": f"adam(rate={rate})", "batch": 1} for rate in o.rates}
    usual = models.defaults(o.model)
    steps = o.steps or int(usual.get("steps", 4))
    wanted = [m for name in o.methods.split(",") for m in words if m.partition("@")[0] == name]
    seed = Key.root(o.seed).fold("embedding_search", prompt).integer() % 2**31  # streams of their own for every prompt

    def spec(method: str) -> Spec:
        formula = f"aesthetic_clip(w={w})" if o.reward is None else o.reward
        named = {"model", *(part.name for part in _parts(formula))}
        settings = {k: v for k, v in parse_settings(o.set).items() if k in named}
        return make_spec(
            prompt,
            model=o.model,
            reward=formula,
            steps=steps,
            seed=seed,
            settings=settings,
            defaults=usual,
            budget={"nfe": float(evaluations * steps)},
            **words[method],
        )

    return {method: spec(method) for method in wanted}


def _parts(formula: str) -> list[Part]:
    from fairlead.run.spec import reward_parts

    return reward_parts(parse_reward(formula))


def finished(spec: Spec, folder: Path) -> Store:
    """The run, started or continued."""
    if (folder / "run.sqlite").is_file():
        return engine.resume(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return engine.start(spec, folder)


def timeline(store: Store) -> list[tuple[Candidate, float]]:
    """Candidates in the order they were computed, with the seconds spent by then."""
    every = sorted(store.candidates(), key=lambda c: (c.task, c.index))
    return list(zip(every, np.cumsum([c.cost.seconds for c in every]).tolist(), strict=True))


def best(line: Sequence[tuple[Candidate, float]], seconds: float = float("inf")) -> Candidate:
    """The best answered by then; the first where nothing was."""
    ranked = [c for c, t in line if t <= seconds + 1e-9 and c.reward == c.reward] or [line[0][0]]
    return max(ranked, key=lambda c: (c.reward if c.reward == c.reward else -np.inf, -c.index))


# what a picture is worth


@cache
def build(formula: str, settings: str = "[]") -> Reward:
    """A reward by its formula; its networks are loaded once."""
    named = parse_settings(json.loads(settings))

    def leaf(part: Part) -> Reward:
        reward: Reward = registry.build("rewards", part.with_settings(named.get(part.name, {})))
        return reward

    return build_reward(parse_reward(formula), leaf)


def pixels(path: Path) -> Tensor:
    """[1, 3, H, W] in [0, 1]."""
    return common.pictures([path])


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two grey pictures [1, 3, H, W], longest side at most 256, 7x7 means (Wang et al.
    2004).
    """
    grey = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    x, y = ((v * grey).sum(1, keepdim=True).double() for v in (a, b))
    if max(x.shape[-2:]) > 256:
        size = [max(7, round(s * 256 / max(x.shape[-2:]))) for s in x.shape[-2:]]
        x, y = (F.interpolate(v, size, mode="area") for v in (x, y))
    n = 49 / 48  # sample covariance

    def mean(v: Tensor) -> Tensor:
        return F.avg_pool2d(v, min(7, *v.shape[-2:]), 1)

    mx = mean(x)
    my = mean(y)
    vx = n * (mean(x * x) - mx * mx)
    vy = n * (mean(y * y) - my * my)
    vxy = n * (mean(x * y) - mx * my)
    c1 = 0.01**2
    c2 = 0.03**2
    return float(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


class Evaluator:
    """The one that reports, whatever was optimised: float32, the saved 8-bit picture, features of one CLIP."""

    def __init__(self, o: argparse.Namespace) -> None:
        self._settings = json.dumps(o.set)
        self._judge = o.judge
        self._plain = o.reward is None
        named = parse_settings(o.set).get("clip_score", {})
        self._features = Encoder(named.get("checkpoint")) if self._plain else None

    @torch.no_grad()
    def __call__(self, path: Path, plain: Path, prompt: str, w: float) -> dict[str, float]:
        """Aesthetic and CLIP of one picture, their weighted sum, a judge nobody optimised, divergence from the
        baseline.
        """
        a = pixels(path)
        b = pixels(plain)
        formulas = {**(CANONICAL if self._plain else {}), "judge": self._judge}
        out = {k: float(build(f, self._settings)(a, [prompt])[0]) for k, f in formulas.items()}
        if self._plain:
            out["objective"] = w * out["aesthetic"] / 10 + (1 - w) * out["clip"] / 0.5
            features = F.normalize(self._features(torch.cat([a, b])), dim=1)
            out["distance"] = float(1 - features[0] @ features[1])
        return {**out, "ssim": ssim(a, b)}


def unit(o: argparse.Namespace, look: Evaluator, number: int, category: str, prompt: str, w: float) -> Row:
    """All methods on one prompt and weighting."""
    lines: dict[str, list[tuple[Candidate, float]]] = {}
    folders: dict[str, Path] = {}
    found: Row = {"number": number, "category": category, "prompt": prompt, "w": w, "methods": {}, "pairs": {}}
    for method, spec in specs(o, prompt, w).items():
        folder = o.out / "work" / f"{number}_{w:g}_{method}"
        store = finished(spec, folder)
        lines[method] = timeline(store)
        folders[method] = folder
        store.close()
    plain = next(iter(lines))
    start = folders[plain] / lines[plain][0][0].image

    def looked(method: str, candidate: Candidate) -> dict[str, float]:
        values = look(folders[method] / candidate.image, start, prompt, w)
        return {"objective": candidate.reward, **values, "recorded": candidate.reward}

    found["baseline"] = looked(plain, lines[plain][0][0])
    for method, line in lines.items():
        climb = np.maximum.accumulate(np.nan_to_num([c.reward for c, _ in line], nan=-np.inf)).tolist()
        marks = range(0, len(line), max(1, len(line) // 40))
        found["methods"][method] = {
            "evaluations": len(line),
            "seconds": line[-1][1],
            "nfe": sum(c.cost.nfe for c, _ in line),
            "forwards": sum(c.cost.forwards for c, _ in line),
            "backwards": sum(c.cost.backwards for c, _ in line),
            "curve": [[i + 1, line[i][1], climb[i]] for i in (*marks, len(line) - 1)],
            **looked(method, best(line)),
        }
    for method in lines:
        if "sep_cma" in lines and method != "sep_cma":
            together = min(lines["sep_cma"][-1][1], lines[method][-1][1])
            pair = {m: looked(m, best(lines[m], together)) for m in ("sep_cma", method)}
            found["pairs"][method] = {"seconds": together, **pair}
    if number < SHOTS:
        shots(o, number, w, start, {m: folders[m] / best(line).image for m, line in lines.items()})
    return found


def shots(o: argparse.Namespace, number: int, w: float, start: Path, winners: Mapping[str, Path]) -> None:
    """Small pictures of the baseline and every winner in one strip."""
    every = [Image.open(p).convert("RGB") for p in (start, *winners.values())]
    every = [im if max(im.size) <= 128 else im.resize((128, 128)) for im in every]
    strip = Image.new("RGB", (sum(im.width for im in every), every[0].height))
    for i, im in enumerate(every):
        strip.paste(im, (i * every[0].width, 0))
    (o.out / "pictures").mkdir(exist_ok=True)
    strip.save(o.out / "pictures" / f"{number}_{w:g}.png", optimize=True)


# memory


def resident(word: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at the most."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(word))
    return int(line.split()[1]) / 1024


def measure(o: argparse.Namespace, method: str, batch: int) -> dict[str, Any]:
    """Peak memory in MB above the loaded model and seconds a picture, of one batch in this process, which did
    nothing else.
    """
    torch.set_num_threads(o.threads)
    spec = specs(o, "a photo of a dog", 0.5)[method]
    local = Local(spec)
    keys = [Key.root(0).fold(i) for i in range(batch)]
    task = Task(
        tuple(range(batch)), tuple(Proposal(local.space.draw(k), k) for k in keys), tuple(range(batch)), INFINITE
    )
    gc.collect()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    since = time.perf_counter()
    local.worker.evaluate(task, Chain())
    machine.synchronise("cuda" if cuda else "cpu")
    most = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident("VmHWM")
    return {
        "method": method,
        "batch": batch,
        "loaded": before,
        "above": most - before,
        "seconds": (time.perf_counter() - since) / batch,
        "device": "cuda" if cuda else "cpu",
    }


def memory(o: argparse.Namespace, argv: Sequence[str]) -> list[dict[str, Any]]:
    """One child process per method and batch."""
    wanted = [("sep_cma", 1), ("sep_cma", o.population), (f"adam@{o.rates[0]}", 1)]
    out = []
    for method, batch in wanted:
        if method.partition("@")[0] in o.methods.split(","):
            words = [sys.executable, "-m", "experiments.embedding_search", *argv, "--measure", f"{method}:{batch}"]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            out.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return out


# what the rows say


def bootstrap(values: Sequence[float], key: Key) -> tuple[float, float, float]:
    """The mean with its 95 % bootstrap interval."""
    return common.bootstrap([values], key, resamples=RESAMPLES)


def compare(a: Sequence[float], b: Sequence[float], key: Key) -> Row:
    """Paired: mean difference with interval, wins with the exact sign test, Wilcoxon, Vargha-Delaney A12."""
    from scipy import stats

    d = [x - y for x, y in zip(a, b, strict=True)]
    mean, low, high = bootstrap(d, key)
    wins = sum(v > 0 for v in d)
    ties = sum(v == 0 for v in d)
    decided = len(d) - ties
    sign = float(stats.binomtest(wins, decided).pvalue) if decided else 1.0
    ranks = float(stats.wilcoxon(d).pvalue) if decided else 1.0
    a12 = sum((x > y) + 0.5 * (x == y) for x in a for y in b) / (len(a) * len(b))
    return {
        "prompts": len(d),
        "difference": mean,
        "low": low,
        "high": high,
        "wins": wins,
        "ties": ties,
        "sign_p": sign,
        "wilcoxon_p": ranks,
        "a12": a12,
    }


def holm(entries: Sequence[Row]) -> None:
    """Holm's correction of the Wilcoxon p over these entries, in place."""
    worst = 0.0
    for i, entry in enumerate(sorted(entries, key=lambda e: e["wilcoxon_p"])):
        worst = max(worst, min(1.0, (len(entries) - i) * entry["wilcoxon_p"]))
        entry["holm_p"] = worst


def contests(rows: Sequence[Row]) -> list[Row]:
    """sep_cma against every other method, per weighting, at equal NFE and at equal seconds."""
    out: list[Row] = []
    rivals = list(dict.fromkeys(m for r in rows for m in r["pairs"]))
    for rival in rivals:
        for at in ("nfe", "seconds"):
            family = []
            for w in sorted({r["w"] for r in rows}, reverse=True):
                own = [r for r in rows if r["w"] == w and rival in r["pairs"]]
                if at == "nfe":
                    a, b = ([r["methods"][m]["objective"] for r in own] for m in ("sep_cma", rival))
                else:
                    a, b = ([r["pairs"][rival][m]["objective"] for r in own] for m in ("sep_cma", rival))
                found = compare(a, b, Key.root(0).fold(rival, at, str(w)))
                family.append({"rival": rival, "equal": at, "w": w, **found})
            holm(family)
            out += family
    return out


def levels(rows: Sequence[Row]) -> Iterator[Row]:
    """Mean, spread and greatest of every number, per weighting and method."""
    for w in sorted({r["w"] for r in rows}, reverse=True):
        own = [r for r in rows if r["w"] == w]
        for method in ("baseline", *own[0]["methods"]):
            found = [r["baseline"] if method == "baseline" else r["methods"][method] for r in own]
            entry: Row = {"w": w, "method": method, "prompts": len(own)}
            for name in ("objective", "aesthetic", "clip", "judge", "distance", "ssim", "seconds", "evaluations"):
                values = [f[name] for f in found if f.get(name) is not None and f[name] == f[name]]
                if values:
                    x = torch.tensor(values, dtype=torch.float64)
                    entry |= {
                        name: float(x.mean()),
                        f"{name}_sd": float(x.std(correction=0)),
                        f"{name}_max": float(x.max()),
                    }
                    entry[f"{name}_low"], entry[f"{name}_high"] = bootstrap(
                        values, Key.root(0).fold(method, name, str(w))
                    )[1:]
            yield entry


def halves(rows: Sequence[Row]) -> Iterator[list[str]]:
    """What every method adds, apart for the poorer and the better half of the plain pictures."""
    for w in sorted({r["w"] for r in rows}, reverse=True):
        own = sorted((r for r in rows if r["w"] == w), key=lambda r: r["baseline"]["objective"])
        for half, some in (("poorer", own[: len(own) // 2]), ("better", own[len(own) // 2 :])):
            for method in own[0]["methods"] if some else ():
                cells = []
                for name in ("objective", "judge"):
                    gains = [r["methods"][method][name] - r["baseline"][name] for r in some]
                    mean, low, high = bootstrap(gains, Key.root(0).fold("half", half, method, name))
                    cells.append(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")
                yield [f"{w:g}", half, method, str(len(some)), *cells]


def chosen(rows: Sequence[Row], w: float) -> str | None:
    """Adam's best rate over the prompts of a weighting."""
    rates = [m for m in rows[0]["methods"] if m.startswith("adam@")]
    own = [r for r in rows if r["w"] == w]
    return max(rates, key=lambda m: sum(r["methods"][m]["objective"] for r in own)) if rates else None


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table after an empty line."""
    return ["", *common.table(head, rows)]


def verdicts(rows: Sequence[Row], duels: Sequence[Row], used: Sequence[Row]) -> Iterator[str]:
    """The aims of the study, each with what was found."""
    for d in duels:
        if d["rival"] == chosen(rows, d["w"]):
            n = d["wins"] + d["ties"]
            yield (
                f"- w = {d['w']:g}, equal {d['equal']}: sep_cma is at least {d['rival']} (Adam's best rate here) on "
                f"{n} of "
                f"{d['prompts']} prompts; difference {d['difference']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f}), "
                "Holm p = "
                f"{d['holm_p']:.2g}. Aim 30 of 36: {'reached' if n * 36 >= 30 * d['prompts'] else 'not reached'}."
            )
    by = {(u["method"].partition("@")[0], u["batch"]): u for u in used}
    if ("sep_cma", 1) in by and ("adam", 1) in by:
        one = by["sep_cma", 1]
        two = by["adam", 1]
        for name, share in (
            ("above the loaded model", one["above"] / max(two["above"], 1e-9)),
            ("with the model", (one["loaded"] + one["above"]) / (two["loaded"] + two["above"])),
        ):
            aim = "reached" if share <= 1 / 3 else "not reached"
            yield f"- Peak memory {name}, one picture at a time: sep_cma uses {share:.2f} of Adam's. Aim 1/3: {aim}."


def report(rows: Sequence[Row], used: Sequence[Row], o: argparse.Namespace) -> str:
    """The page: what holds, then the tables."""
    entries = list(levels(rows))
    duels = contests(rows)
    n = len({r["prompt"] for r in rows})
    said = [
        "# sep-CMA-ES against Adam on the prompt embedding",
        "",
        f"Model {o.model}, {o.population} x {o.generations} + 1 evaluations a run, sigma {o.sigma} ({o.unit}), {n} "
        "prompts, one "
        "seed each. Intervals: 95 % bootstrap over prompts.",
        "",
        "## What holds",
        "",
        *verdicts(rows, duels, used),
        "",
        "## sep_cma against each rival",
    ]
    said += table(
        ["equal", "w", "rival", "difference", "wins", "ties", "sign p", "Wilcoxon p", "Holm p", "A12"],
        (
            [
                d["equal"],
                f"{d['w']:g}",
                d["rival"],
                f"{d['difference']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})",
                f"{d['wins']} of {d['prompts']}",
                d["ties"],
                *(f"{d[p]:.2g}" for p in ("sign_p", "wilcoxon_p", "holm_p")),
                f"{d['a12']:.2f}",
            ]
            for d in duels
        ),
    )
    names = ("objective", "aesthetic", "clip", "judge", "distance", "ssim")
    names = tuple(x for x in names if any(x in e for e in entries))

    def cell(entry: Row, x: str) -> str:
        return f"{entry[x]:.4f} ({entry[f'{x}_low']:.4f} to {entry[f'{x}_high']:.4f})" if x in entry else ""

    def shown(entry: Row) -> list[str]:
        numbers = [cell(entry, x) for x in names]
        return [
            f"{entry['w']:g}",
            entry["method"],
            *numbers,
            f"{entry.get('seconds', 0):.1f}",
            f"{entry.get('evaluations', 0):g}",
        ]

    said += ["", f"## Levels (judge: {o.judge}; distance and SSIM to the baseline)"]
    said += table(["w", "method", *names, "seconds", "evaluations"], map(shown, entries))
    said += ["", "## Gain over the baseline where it was poor and where it was good (halves by its objective)"]
    said += table(["w", "half", "method", "prompts", "objective", "judge"], halves(rows))
    said += ["", "## Resources of one batch"]
    said += table(
        ["method", "batch", "device", "loaded MB", "above it MB", "seconds a picture"],
        (
            [u["method"], u["batch"], u["device"], f"{u['loaded']:.0f}", f"{u['above']:.0f}", f"{u['seconds']:.4f}"]
            for u in used
        ),
    )
    return "\n".join([*said, ""])


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, read."""
    p = common.parser(__doc__, Path(__file__).parent / "pocket-turbo")
    p.add_argument("--model", default="pocket-turbo")
    p.add_argument("--prompts", help="parti, a TSV, or prompts between semicolons; left out, 36 of the pocket world")
    p.add_argument("--count", type=int, default=36)
    p.add_argument("--weights", default="1,0.5,0")
    p.add_argument("--methods", default="sep_cma,adam,best_of", help="of sep_cma, adam, best_of, snes, reno")
    p.add_argument("--rates", default="0.01,0.1", help="Adam's")
    p.add_argument("--sigma", type=float, default=0.5)
    p.add_argument("--unit", default="spread", help="spread, or one (the paper's)")
    p.add_argument("--population", type=int, default=20)
    p.add_argument("--generations", type=int, default=20)
    p.add_argument("--steps", type=int)
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--judge", default="detector", help="reward that no method optimises")
    p.add_argument("--reward", help="another objective in place of aesthetic_clip, the same for every weight")
    p.add_argument("--set", action="append", default=[], metavar="PART.SETTING=VALUE")
    p.add_argument("--measure", help=argparse.SUPPRESS)
    o = common.parse(p, argv)
    if o.quick:
        o.count = 2
        o.weights = "0.5"
        o.population = 4
        o.generations = 2
        o.rates = "0.1"
        o.steps = o.steps or 2
    o.rates = [float(r) for r in o.rates.split(",")]
    return o


@models.shared()
def make(o: argparse.Namespace, path: Path) -> None:
    """The rows that are missing."""
    look = Evaluator(o)
    done = {(r["prompt"], r["w"]) for r in map(json.loads, path.read_text().splitlines())} if path.exists() else set()
    for number, (category, prompt) in enumerate(prompts_of(o.prompts, o.count)):
        for w in map(float, o.weights.split(",")):
            if (prompt, w) in done:
                continue
            row = unit(o, look, number, category, prompt, w)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            shutil.rmtree(o.out / "work", ignore_errors=True)
            short = {m: round(v["objective"], 4) for m, v in row["methods"].items()}
            print(f"{number} {prompt!r} w={w:g}: baseline {row['baseline']['objective']:.4f}, {short}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then write what it says."""
    given = list(sys.argv[1:] if argv is None else argv)
    o = options(given)
    if o.measure:
        method, _, batch = o.measure.partition(":")
        print(json.dumps(measure(o, method, int(batch))))
        return
    torch.set_num_threads(o.threads)
    path = o.out / "rows.jsonl"
    if o.word == "run":
        make(o, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    used_path = o.out / "resources.json"
    if o.word == "run" and not used_path.exists():
        used_path.write_text(json.dumps(memory(o, given), indent=1))
    with (o.out / "contests.csv").open("w", newline="") as file:
        every = contests(rows)
        if every:
            writer = csv.DictWriter(file, list(every[0]))
            writer.writeheader()
            writer.writerows(every)
    (o.out / "results.md").write_text(report(rows, json.loads(used_path.read_text()), o))
    print(o.out / "results.md")


if __name__ == "__main__":
    main()
