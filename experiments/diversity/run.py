"""Quality against diversity for one prompt: base, contextual repulsion over its range and in parts, and its rivals.

    python -m experiments.diversity run --model pocket-turbo
    python -m experiments.diversity run --model pocket --arms main --out experiments/diversity/pocket
    python -m experiments.diversity run --quick --model pocket

Every arm draws the same `--images` seeds of the same prompts, several prompts in a batch, each a group of its own,
below the command line and with one loaded model. Vendi scores are taken within a prompt and averaged; intervals are
95 % bootstrap intervals over prompts, changes against the base are paired. Rows are appended to rows.csv.gz arm by
arm; a second call makes only what is missing. Selection renders a larger pool of plain samples and keeps the most
different ones, so it costs more evaluations: the table says how many per kept picture. At the end: tables.md,
front.svg, a sheet of pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from experiments import common
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.diverse import pick, standard
from fairlead.core.intervention import installed
from fairlead.core.key import Key, normals
from fairlead.core.sampling import sample
from fairlead.core.steering import Chain
from fairlead.metrics.features import Encoder, Pixels
from fairlead.metrics.vendi import kernel, mean_cosine, pairwise_vendi, vendi
from fairlead.run import models, registry
from fairlead.run.rewards import build_reward, reward_leaf
from fairlead.run.spec import Part, make_spec, parse_reward

CHUNK = 8
"""Prompts whose pictures are in memory at once"""
STRENGTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way of drawing, with what is kept of it."""

    family: str
    setting: str
    interventions: tuple[Part, ...] = ()
    steering: tuple[Part, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    pools: int = 1
    """Groups rendered per prompt"""
    weight: float | None = None
    """None keeps the first group; else k of the pool by determinant with so much weight on the first reward"""

    @property
    def drawn(self) -> str:
        """What decides the pictures."""
        return repr((self.interventions, self.steering, sorted(self.model.items()), self.steps))

    @property
    def name(self) -> str:
        return f"{self.family} {self.setting}".strip()


def repulsion(family: str, setting: str, **words: Any) -> Arm:
    return Arm(family, setting, interventions=(Part("repulsion", words),))


def arms(which: str, guided: bool) -> list[Arm]:
    """`main`: the fronts; `ablations`; `steps`: other numbers of steps; `all`: the three."""
    out = [Arm("base", "")]
    out += [repulsion("repulsion", f"q={q:g}", strength=q) for q in STRENGTHS]
    out += [repulsion("repulsion at block outputs", f"q={q:g}", strength=q, place="block") for q in STRENGTHS[1:7:2]]
    out += [Arm("selection", f"8 of {8 * n}", pools=n, weight=0.0) for n in (2, 4)]
    out += [Arm("keep", f"8 of 32, weight {w:g}", pools=4, weight=w) for w in (0.25, 0.5, 1.0, 2.0)]
    for q in (0.1, 0.3):
        drawn = (Part("repulsion", {"strength": q}),)
        out += [
            Arm("repulsion + keep", f"q={q:g}, 8 of 32, weight {w:g}", drawn, pools=4, weight=w) for w in (0.25, 0.5)
        ]
    for scale, mix in ((0.05, 0.0), (0.1, 0.0), (0.25, 0.0), (0.5, 0.0), (0.1, 0.5), (0.1, 1.0), (0.9, 1.0)):
        out.append(Arm("CADS", f"s={scale:g}, psi={mix:g}", (Part("cads", {"scale": scale, "mix": mix}),)))
    for scale in (0.1, 0.25, 0.5, 1.0):
        late = Part("cads", {"scale": scale, "until": 0.9, "start": 1.1})
        out.append(Arm("CADS, window 0.9 to 1", f"s={scale:g}, psi=1", (late,)))
    out += [
        Arm("particle guidance", f"scale {s:g}", steering=(Part("particle_guidance", {"scale": s}),))
        for s in (3, 10, 30, 100, 300)
    ]
    if guided:
        out += [
            Arm("guidance interval", f"{a:g} to {b:g}", model={"guidance_interval": (a, b)})
            for a, b in ((0, 0.95), (0.22, 0.84), (0, 0.84), (0, 0.7))
        ]
    parts: list[Arm] = []
    for q in (0.1, 0.3):
        for word in ("first_third", "middle_third", "last_third"):
            parts.append(repulsion("blocks", f"{word}, q={q:g}", strength=q, blocks=word))
        parts.append(repulsion("tokens", f"text only, q={q:g}", strength=q, single="text"))
        parts.append(repulsion("tokens", f"joint blocks only, q={q:g}", strength=q, single="off"))
        parts.append(repulsion("tokens", f"image in joint blocks, q={q:g}", strength=q, joint="image"))
        parts += [repulsion("window", f"{n} steps, q={q:g}", strength=q, first=n) for n in (1, 2, 4)]
        parts += [
            repulsion("objective", f"{o}, q={q:g}", strength=q, objective=o) for o in ("renyi2", "dpp", "mean_cosine")
        ]
        parts.append(
            Arm(
                "mean damping",
                f"{10 * q:g}",
                interventions=(Part("token_mean_damping", {"strength": 10 * q, "until": 0.25}),),
            )
        )
        if guided:
            parts += [repulsion("branches", f"{c}, q={q:g}", strength=q, cfg=c) for c in ("joint", "cond_only")]
    parts += [repulsion("inner steps", f"{m}, q=0.1", strength=0.1, inner=m) for m in (1, 50)]
    fewer: list[Arm] = []
    for n in (1, 2, 8) if not guided else (4, 8):
        fewer.append(Arm("base", f"{n} steps", steps=n))
        fewer += [
            Arm("repulsion", f"q={q:g}, {n} steps", interventions=(Part("repulsion", {"strength": q}),), steps=n)
            for q in (0.1, 0.3)
        ]
        fewer += [
            Arm(
                "particle guidance",
                f"scale {s}, {n} steps",
                steering=(Part("particle_guidance", {"scale": s}),),
                steps=n,
            )
            for s in (10, 100)
        ]
    return {"main": out, "ablations": [out[0], *parts], "steps": [out[0], *fewer], "all": [*out, *parts, *fewer]}[which]


class Studio:
    """Models, rewards and features, each loaded once."""

    def __init__(self, name: str, rewards: Sequence[str], steps: int | None, rows: int) -> None:
        self.name = name
        self.rows = rows
        self.own = models.defaults(name)
        self.steps = steps or int(self.own.get("steps", 20))
        self.rewards = {r: build_reward(parse_reward(r), reward_leaf) for r in rewards}
        self.features = {"clip": Encoder(), "pixels": Pixels()}
        self.model = cache(self._model)
        self.told: dict[Any, Any] = {}

    def _model(self, settings: str) -> Any:
        words = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(settings).items()}
        spec = models.with_dtype(make_spec("x", model=self.name, settings={"model": words}, defaults=self.own))
        return models.build(spec, device="cpu", dtype=spec.model.settings["dtype"])

    def draw(self, arm: Arm, prompts: Sequence[str], images: int) -> Tensor:
        """[len(prompts), pools * images, 3, H, W], rounded to 8 bits."""
        model = self.model(json.dumps(dict(arm.model)))
        meter = Meter()
        model.meter(meter)
        steering = [registry.build("steerings", part) for part in arm.steering]
        chain = Chain(tuple(steering))
        edits = [registry.build("interventions", part) for part in arm.interventions]
        n = arm.pools * images
        jobs = [(p, pool) for p in prompts for pool in range(arm.pools)]
        each = max(1, self.rows // (images * model.branches))
        out = []
        for start in range(0, len(jobs), each):
            some = jobs[start : start + each]
            keys = tuple(Key.root(0).fold("diversity", p, pool * images + i) for p, pool in some for i in range(images))
            groups = torch.arange(len(some)).repeat_interleave(images)
            cond = model.encode([p for p, _ in some]).take(groups)
            x = normals(tuple(k.fold("init") for k in keys), *model.latent)
            sampler = registry.resolve("samplers", str(self.own.get("sampler", "euler")))
            with torch.no_grad(), meter.grant(INFINITE), installed(model, edits):
                levels = model.levels(arm.steps or self.steps)
                z = sample(model, sampler, x, cond, levels, keys, meter, steering=chain, groups=groups)
                out.append((model.decode(z) * 255).round() / 255)
        return torch.cat(out).view(len(prompts), n, *out[0].shape[1:])

    def judged(self, prompt: str, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Images [n, 3, H, W] -> features by name, rewards [n] by name."""
        with torch.no_grad():
            rewards = {name: r(images, [prompt] * len(images))[0].double().cpu() for name, r in self.rewards.items()}
            return {name: f(images) for name, f in self.features.items()}, rewards

    def pool(self, arm: Arm, prompt: str, images: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features and rewards of the arm's whole pool; arms that draw alike share what was drawn."""
        name = (arm.drawn, prompt)
        if name not in self.told:
            self.told[name] = self.judged(prompt, self.draw(arm, [prompt], images)[0])
        return self.told[name]

    def prepare(self, arm: Arm, prompts: Sequence[str], images: int) -> None:
        """The pools of many prompts in full batches, the last few at once."""
        missing = [p for p in prompts if (arm.drawn, p) not in self.told]
        for start in range(0, len(missing), CHUNK):
            some = missing[start : start + CHUNK]
            for prompt, pool in zip(some, self.draw(arm, some, images), strict=True):
                self.told[arm.drawn, prompt] = self.judged(prompt, pool)


def chosen(arm: Arm, features: Mapping[str, Tensor], rewards: Mapping[str, Tensor], images: int) -> list[int]:
    """Which of a pool are kept."""
    if arm.weight is None:
        return list(range(images))
    n = arm.pools * images
    first = next(iter(rewards.values()))[:n]
    return pick(kernel(features["clip"][:n]), arm.weight * standard(first), images)


def rows_of(arm: Arm, largest: Arm, studio: Studio, prompts: Sequence[str], images: int) -> list[Row]:
    """One row per prompt; `largest` draws the same and more."""
    out = []
    since = time.perf_counter()
    studio.prepare(largest, prompts, images)
    seconds = (time.perf_counter() - since) / len(prompts)
    for prompt in prompts:
        features, rewards = studio.pool(largest, prompt, images)
        kept = chosen(arm, features, rewards, images)
        k = {name: kernel(f[kept]) for name, f in features.items()}
        row = {"family": arm.family, "setting": arm.setting, "prompt": prompt, "pools": arm.pools}
        row |= {f"vendi_{name}": float(vendi(v)) for name, v in k.items()}
        row |= {"pairwise_clip": float(pairwise_vendi(k["clip"])), "cosine_clip": float(mean_cosine(k["clip"]))}
        row |= {name: float(r[kept].nanmean()) for name, r in rewards.items()}
        out.append({**row, "seconds": round(seconds, 4)})
    return out


# what the rows say


def boot(columns: Sequence[Sequence[float]], statistic: Any) -> tuple[float, float, float]:
    """`statistic` of the mean of each column with its interval over prompts, paired."""
    return common.bootstrap(columns, Key.root(0).fold("bootstrap"), statistic)


def summary(rows: Sequence[Row], rewards: Sequence[str]) -> list[Row]:
    """One entry per arm: means, and changes against the base in percent."""
    table: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        table[row["family"], row["setting"]][row["prompt"]] = row
    base = table["base", ""]
    out = []
    for (family, setting), own in table.items():
        common = [p for p in own if p in base]
        entry: Row = {
            "family": family,
            "setting": setting,
            "prompts": len(common),
            "pools": int(float(next(iter(own.values()))["pools"])),
        }
        for metric in ("vendi_clip", "vendi_pixels", "pairwise_clip", *rewards):
            a, b = ([float(t[p][metric]) for p in common] for t in (own, base))
            entry[metric] = boot([a], lambda m: m)
            entry[f"{metric}_change"] = boot([a, b], lambda m, n: 100 * (m / n - 1))
        out.append(entry)
    return out


def fronts(entries: Sequence[Row], judge: str, metric: str, loss: float = 1.0) -> list[str]:
    """The strongest setting of every family that loses at most so many percent, and who dominates whom."""
    lines = [
        f"| family | strongest setting with at most {loss:g} % loss of {judge} | {metric}, change | {judge}, change |",
        "|---|---|---|---|",
    ]
    for family in dict.fromkeys(e["family"] for e in entries if e["family"] != "base"):
        fine = [e for e in entries if e["family"] == family and e[f"{judge}_change"][0] >= -loss]
        best = max(fine, key=lambda e: e[f"{metric}_change"][0], default=None)
        cells = (
            ("none", "", "")
            if best is None
            else (best["setting"], percent(best[f"{metric}_change"]), percent(best[f"{judge}_change"]))
        )
        lines.append(f"| {family} | {' | '.join(cells)} |")
    ours = [(e[metric][0], e[judge][0]) for e in entries if e["family"] in ("repulsion", "base")]
    names = ("CADS", "CADS, window 0.9 to 1", "particle guidance", "guidance interval", "selection")
    rivals = [(e[metric][0], e[judge][0]) for e in entries if e["family"] in names]
    beaten = sum(any(v >= a and q >= b for v, q in ours) for a, b in rivals)
    told = f"Settings of rivals at which repulsion has a setting at least as good in both: {beaten} of {len(rivals)}."
    return [*lines, "", told]


def percent(value: Sequence[float]) -> str:
    return f"{value[0]:+.1f} % ({value[1]:+.1f} to {value[2]:+.1f})"


def plain(value: Sequence[float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def markdown(entries: Sequence[Row], rewards: Sequence[str], model: str) -> str:
    metrics = ("vendi_clip", "vendi_pixels", *rewards)
    judge = rewards[-1]
    lines = [
        f"# Quality and diversity on {model}",
        "",
        f"{entries[0]['prompts']} prompts; 95 % intervals over prompts.",
        "",
    ]
    for metric in ("vendi_clip", "vendi_pixels"):
        lines += [*fronts(entries, judge, metric), ""]
    lines += [
        f"| arm | pictures drawn per picture kept | {' | '.join(metrics)} | vendi_clip, change | {judge}, change |",
        "|---" * (len(metrics) + 4) + "|",
    ]
    for e in entries:
        cells = [plain(e[m]) for m in metrics] + [percent(e["vendi_clip_change"]), percent(e[f"{judge}_change"])]
        lines.append(f"| {e['family']} {e['setting']} | {e['pools']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


COLOURS = ("#d1495b", "#e08e45", "#2e86ab", "#55a630", "#7b2cbf", "#6c757d", "#00798c", "#b5838d", "#3d405b")


def svg(entries: Sequence[Row], x: str, y: str) -> str:
    """The fronts at the model's own steps, in order of strength; ablations and ruined pictures are left to the
    tables.
    """
    base = next(e for e in entries if e["family"] == "base" and not e["setting"])
    main = {arm.family for arm in arms("main", guided=True)}
    entries = [
        e for e in entries if e["family"] in main and "steps" not in e["setting"] and e[y][0] > 0.75 * base[y][0]
    ]
    families = [f for f in dict.fromkeys(e["family"] for e in entries) if sum(e["family"] == f for e in entries) > 1]
    shown = [e for e in entries if e["family"] in families or e["family"] == "base"]
    (x0, x1), (y0, y1) = ((min(e[m][0] for e in shown), max(e[m][0] for e in shown)) for m in (x, y))

    def at(e: Row) -> tuple[float, float]:
        return 60 + 560 * (e[x][0] - x0) / (x1 - x0 or 1), 400 - 360 * (e[y][0] - y0) / (y1 - y0 or 1)

    middle = 'text-anchor="middle"'
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 450" font-family="sans-serif" font-size="12">']
    out.append('<rect width="900" height="450" fill="white"/>')
    out.append(f'<text x="340" y="440" {middle}>{x} (right is more different)</text>')
    out.append(f'<text x="14" y="220" transform="rotate(-90 14 220)" {middle}>{y}</text>')
    for t in (0, 0.5, 1):
        out.append(f'<text x="{60 + 560 * t}" y="418" {middle}>{x0 + t * (x1 - x0):.2f}</text>')
        out.append(f'<text x="56" y="{404 - 360 * t}" text-anchor="end">{y0 + t * (y1 - y0):.2f}</text>')
    for i, family in enumerate(families):
        own = [e for e in entries if e["family"] == family]
        colour = COLOURS[i % len(COLOURS)]
        points = [at(e) for e in own]
        if family != "base":
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            out.append(f'<polyline fill="none" stroke="{colour}" stroke-opacity=".5" points="{path}"/>')
        out += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"><title>{e["family"]} '
            f"{e['setting']}</title></circle>"
            for (a, b), e in zip(points, own, strict=True)
        ]
        out.append(
            f'<circle cx="650" cy="{40 + 18 * i}" r="4" fill="{colour}"/><text x="660" '
            f'y="{44 + 18 * i}">{family}</text>'
        )
    for e in (e for e in entries if e["family"] == "base" and not e["setting"]):
        out.append(
            f'<circle cx="{at(e)[0]:.1f}" cy="{at(e)[1]:.1f}" r="7" fill="none" '
            'stroke="black"><title>base</title></circle>'
        )
    return "".join([*out, "</svg>"])


def sheet(studio: Studio, wanted: Sequence[Arm], prompts: Sequence[str], images: int) -> Image.Image:
    """Rows: prompts times arms; columns: the pictures of one group."""
    lines = [(prompt, arm, studio.draw(arm, [prompt], images)[0]) for prompt in prompts for arm in wanted]
    side = lines[0][2].shape[-1]
    page = Image.new("RGB", (250 + images * (side + 2), len(lines) * (side + 2)), "white")
    pen = ImageDraw.Draw(page)
    for i, (prompt, arm, pool) in enumerate(lines):
        features, rewards = studio.judged(prompt, pool)
        kept = chosen(arm, features, rewards, images)
        top = i * (side + 2)
        pen.multiline_text((4, top + 8), f"{prompt[:38]}\n{arm.name}", fill="black")
        for j, one in enumerate(kept):
            page.paste(Image.fromarray((pool[one].permute(1, 2, 0) * 255).byte().numpy()), (250 + j * (side + 2), top))
    return page


def overhead(studio: Studio, prompts: Sequence[str], images: int, turns: int) -> str:
    """Plain and repelled sampling in turns, without rewards."""
    two = Arm("base", ""), repulsion("repulsion", "", strength=0.1)
    spent: list[list[float]] = [[], []]
    for turn in range(turns + 1):
        for own, arm in zip(spent, two, strict=True):
            since = time.process_time()
            studio.draw(arm, prompts, images)
            own += [time.process_time() - since] * bool(turn)
    plainly, repelled = np.median(spent, 1)
    ratio, low, high = common.ratio_of_medians(spent[1], spent[0])
    return (
        f"Overhead of repulsion, {len(prompts)} groups of {images}, {studio.steps} steps, {turns} turns, processor "
        "time: "
        f"{repelled:.3f} s against {plainly:.3f} s, ratio {ratio:.3f} (95 %: {low:.3f} to {high:.3f})."
    )


def prompts_of(count: int) -> list[str]:
    """GenEval's grammar over the pocket world's words, its kinds in turn."""
    return [p.text for p in common.world_prompts(count, 45)]


QUICK = ("base", "repulsion q=0.3", "selection 8 of 16", "CADS s=0.1, psi=1", "particle guidance scale 100")
"""Arms of a quick run."""


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then write the report."""
    p = common.parser(__doc__, Path(__file__).parent / "pocket-turbo")
    p.add_argument("--model", default="pocket-turbo")
    p.add_argument("--arms", default="all", choices=("main", "ablations", "steps", "all"))
    p.add_argument("--prompts", type=int, default=60)
    p.add_argument("--images", type=int, default=8)
    p.add_argument("--steps", type=int)
    p.add_argument("--rows", type=int, default=32, help="network rows at once")
    p.add_argument("--rewards", default="clip_score,aesthetic,detector", help="the first chooses, the last judges")
    p.add_argument("--seconds", type=float, default=float("inf"), help="start no arm later than this")
    p.add_argument("--turns", type=int, default=7, help="turns of the overhead measurement")
    o = common.parse(p, argv)
    if o.quick:
        o.prompts, o.steps, o.turns = 4, 2, 2
    o.rewards = o.rewards.split(",")
    kept = common.Rows(o.out / "rows.csv.gz")
    if o.word == "run":
        run(o, kept)
    print(report(o, kept))


def run(o: argparse.Namespace, kept: common.Rows) -> None:
    """The rows that are missing, the overhead, and the sheet of pictures."""
    since = time.perf_counter()
    studio = Studio(o.model, o.rewards, o.steps, o.rows)
    prompts = prompts_of(o.prompts)
    wanted = arms(o.arms, studio.model("{}").branches == 2)
    if o.quick:
        wanted = [arm for arm in wanted if arm.name in QUICK]
    done = {(r["family"], r["setting"], r["prompt"]) for r in kept.read()}
    for arm in wanted:
        missing = [p for p in prompts if (arm.family, arm.setting, p) not in done]
        if not missing or time.perf_counter() - since > o.seconds:
            continue
        like = [a for a in wanted if a.drawn == arm.drawn]
        kept.append(rows_of(arm, max(like, key=lambda a: a.pools), studio, missing, o.images))
        print(f"{time.perf_counter() - since:7.1f} s  {arm.name}", flush=True)
    timing = o.out / "overhead.txt"
    if not timing.exists():
        timing.write_text(overhead(studio, prompts[:4], o.images, o.turns) + "\n")
    shown = [Arm("base", ""), *strongest(entries_of(o, kept), wanted, o.rewards[-1])]
    some = prompts[:: max(1, len(prompts) // 4)][:4]
    sheet(studio, shown, some, o.images).quantize(128).save(o.out / "sheet.png", optimize=True)


def strongest(entries: Sequence[Row], wanted: Sequence[Arm], judge: str) -> list[Arm]:
    """Of three families, the arm with the most variety that loses at most 5 % of the judge's score."""
    arms_shown = []
    for family in ("repulsion", "CADS", "particle guidance"):
        own = [e for e in entries if e["family"] == family and "steps" not in e["setting"]]
        fine = [e for e in own if e[f"{judge}_change"][0] >= -5]
        best = max(fine, key=lambda e: e["vendi_clip_change"][0], default=None)
        if best is not None:
            arms_shown += [arm for arm in wanted if (arm.family, arm.setting) == (family, best["setting"])]
    return arms_shown


def entries_of(o: argparse.Namespace, kept: common.Rows) -> list[Row]:
    """One entry per arm."""
    prompts = set(prompts_of(o.prompts))
    return summary([row for row in kept.read() if row["prompt"] in prompts], o.rewards)


def report(o: argparse.Namespace, kept: common.Rows) -> Path:
    """tables.md and the front."""
    entries = entries_of(o, kept)
    timing = o.out / "overhead.txt"
    measured = timing.read_text() if timing.exists() else ""
    (o.out / "tables.md").write_text(f"{markdown(entries, o.rewards, o.model)}\n{measured}")
    (o.out / "front.svg").write_text(svg(entries, "vendi_clip", o.rewards[-1]))
    return o.out / "tables.md"


if __name__ == "__main__":
    main()
