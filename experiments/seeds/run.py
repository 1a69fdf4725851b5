"""The central claim of each of five systems, tried on the embedded model, and every method at equal seconds.

    python -m experiments.seeds run               # about half an hour on one core
    python -m experiments.seeds run --quick       # two prompts, tiny budgets
    python -m experiments.seeds run --scale 4     # four times the prompts; goes on from what is there

Claims are tried through `fairlead compare`: same prompts, same noise, one budget, paired differences with 95 %
bootstrap intervals over prompts. Repulsion is tried with the functions of experiments/diversity, whose rows are read
where they are already made. A part of a claim is shown if its interval lies on the claimed side; the claim holds if
all parts are shown, partly if some are, does not hold if the intervals lie on the other side, and is not shown
otherwise. That is evidence about a 64-pixel model of emoji scenes, not about the papers: the last column says how to
try it at true scale.
"""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import common
from experiments.diversity import run as diversity
from fairlead.app.comparison_page import write_comparison_page
from fairlead.app.words import duration, number
from fairlead.bench import comparison, statistics
from fairlead.bench import plan as plans
from fairlead.bench.comparison_results import BASELINE_ROW, REWARD, ComparisonResults
from fairlead.core.errors import FairleadError
from fairlead.run import registry
from fairlead.run.formula import parse_part

HERE = Path(__file__).parent
EVIDENCE = HERE.parent
Measure = Callable[[ComparisonResults], statistics.Mean]


@dataclass(frozen=True)
class Part:
    """One measurable piece of a claim: a paired difference that should be above zero."""

    says: str
    measure: Measure


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is tried."""

    name: str
    paper: str
    claim: str
    plan: Mapping[str, Any]
    parts: tuple[Part, ...]
    true_scale: str
    larger: str
    """Where a larger run's tables are, below experiments/"""


@dataclass(frozen=True)
class Finding:
    """What came out for one part."""

    claim: Claim
    part: str
    mean: statistics.Mean
    seconds: float
    reason: str = ""


def difference(a: str, b: str, metric: str = REWARD) -> Measure:
    """Method a minus method b over the shared prompts; `BASELINE_ROW` is the plain sample of the same noise."""

    def measure(s: ComparisonResults) -> statistics.Mean:
        mine = s.final(a, metric)
        theirs = s.final(b, metric)
        return statistics.mean(s.over_prompts(lambda p, k: mine(p, k) - theirs(p, k)))

    return measure


def growth(method: str, share: float) -> Measure:
    """A method at the whole budget minus itself at a part of it."""

    def measure(s: ComparisonResults) -> statistics.Mean:
        spent = s.plan.limit
        axis = s.plan.resource
        return statistics.mean(
            s.over_prompts(
                lambda p, k: (
                    s.done[method, p, k].at(spent, axis, REWARD) - s.done[method, p, k].at(spent * share, axis, REWARD)
                )
            )
        )

    return measure


TEXTS: dict[str, dict[str, str]] = tomllib.loads((HERE / "claims.toml").read_text())
"""What each paper says, and how to try it at its own scale."""


def watched(o: argparse.Namespace) -> str:
    """The reward that nobody optimises."""
    return str(o.watch[0])


def claims(o: argparse.Namespace) -> list[Claim]:
    """The four that are comparisons; repulsion is apart."""
    n = o.nfe
    steps = o.steps
    few = o.few_steps
    sibling = {} if o.few == o.model else {"model": o.few}
    look = 1 if sibling else few
    bank = ", ".join(f"{k}={v!r}" for k, v in {"n": o.bank, "steps": look, **sibling}.items())
    common = {
        "model": o.model,
        "steps": steps,
        "reward": o.reward,
        "watch": o.watch,
        "prompts": {"generate": o.prompts},
    }
    return [
        Claim(
            "noise search",
            plan={
                **common,
                "budget": {"nfe": n},
                "methods": {"random": {"search": "best_of"}, "steps": {"search": "best_of(n=1)", "steps": n}},
            },
            parts=(
                Part("search over steps, optimised reward", difference("random", "steps")),
                Part(f"search over steps, {watched(o)} (held out)", difference("random", "steps", watched(o))),
                Part("whole budget over a quarter of it", growth("random", 0.25)),
            ),
            **TEXTS["noise search"],
        ),
        Claim(
            "embedding search",
            plan={
                **common,
                "model": o.few,
                "steps": few,
                "reward": o.objective,
                "budget": {"nfe": few * o.evaluations},
                "reference": "adam",
                "watch": [w for w in o.watch if w not in o.objective],
                "methods": {
                    "adam": {"space": "embedding", "search": "adam(rate=0.3)"},
                    "sep_cma": {"space": "embedding", "search": "sep_cma(sigma=2, population=20)"},
                    "random": {"search": "best_of"},
                },
            },
            parts=(
                Part("sep-CMA-ES over Adam at equal evaluations", difference("sep_cma", "adam")),
                Part("sep-CMA-ES over the unsearched prompt", difference("sep_cma", BASELINE_ROW)),
            ),
            **TEXTS["embedding search"],
        ),
        Claim(
            "Demon",
            plan={
                **common,
                "budget": {"nfe": n},
                "methods": {"random": {"search": "best_of"}, "demon": {"steer": [o.demon]}},
            },
            parts=(
                Part("over the plain sample", difference("demon", BASELINE_ROW)),
                Part("over best of N at equal evaluations", difference("demon", "random")),
            ),
            **TEXTS["Demon"],
        ),
        Claim(
            "LiDAR",
            plan={
                **common,
                "budget": {"nfe": steps + o.bank * look},
                "methods": {
                    "random": {"search": "best_of"},
                    "lidar": {"steer": [f"lidar({bank})"], "search": "best_of(n=1)"},
                },
            },
            parts=(
                Part("over the plain sample", difference("lidar", BASELINE_ROW)),
                Part(f"over the plain sample, {watched(o)} (held out)", difference("lidar", BASELINE_ROW, watched(o))),
                Part("over best of N at equal evaluations", difference("lidar", "random")),
            ),
            **TEXTS["LiDAR"],
        ),
    ]


METHODS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "league.toml").read_text())["methods"]
"""Of the league; what is not registered takes no part."""


def registered(words: Mapping[str, Any]) -> bool:
    """True if every part of a method is there."""
    kinds = {"search": "searches", "steer": "steerings", "intervene": "interventions", "space": "spaces"}
    for word, kind in kinds.items():
        listed = words.get(word, [])
        for text in [listed] if isinstance(listed, str) else listed:
            if text.partition("(")[0] not in registry.table(kind):
                return False
            parse_part(text, kind)
    return True


def compare(name: str, raw: Mapping[str, Any], out: Path, make: bool) -> tuple[ComparisonResults, float]:
    """A comparison made or continued, with the seconds its runs took."""
    plan = plans.make(raw, name)
    folder = out / name.replace(" ", "_")

    def seen(cell: plans.Cell, status: str) -> None:
        print(f"{name}: {cell.method}, {cell.prompt!r}{'' if status == 'done' else f': {status}'}", flush=True)

    if make:
        comparison.run(plan, folder, watch=seen)
    standing = ComparisonResults.read(plan, folder)
    write_comparison_page(standing, str(folder))
    return standing, sum(d.wall or d.view.spent.seconds for d in standing.done.values())


def try_claim(claim: Claim, out: Path, make: bool) -> list[Finding]:
    """Every part of a claim."""
    try:
        standing, seconds = compare(claim.name, claim.plan, out, make)
    except FairleadError as error:
        return [Finding(claim, part.says, statistics.Mean(math.nan), 0.0, str(error)) for part in claim.parts]
    why = "; ".join(f"{m}: {w}" for m, w in standing.refused.items())
    return [
        Finding(claim, p.says, statistics.Mean(math.nan) if why else p.measure(standing), seconds, why)
        for p in claim.parts
    ]


def try_repulsion(o: argparse.Namespace) -> list[Finding]:
    """Repulsion's claim, from the rows of its own experiment where they are, else from a few made here."""
    claim = Claim(
        "repulsion",
        plan={},
        parts=(),
        **TEXTS["repulsion"],
    )
    strength = 0.1
    try:
        paths = [EVIDENCE / "diversity" / model / "rows.csv.gz" for model in (o.model, o.few)]
        path = next((p for p in paths if p.is_file()), paths[0])
        rewards = ["clip_score", watched(o)]
        name = f"q={strength:g}"
        since = time.perf_counter()
        own = common.Rows(o.out / "repulsion.csv")
        rows = [r for r in common.Rows(path).read() if not r["setting"] or r["setting"] == name] if not o.quick else []
        prompts = diversity.prompts_of(o.prompts)
        if not {"repulsion", "base"} <= {r["family"] for r in rows}:
            rows = own.read()
            done = {r["prompt"] for r in rows}
            missing = [p for p in prompts if p not in done]
            if missing and o.word == "run":
                studio = diversity.Studio(o.model, rewards, o.steps, 32)
                for arm in (diversity.Arm("base", ""), diversity.repulsion("repulsion", name, strength=strength)):
                    made = diversity.rows_of(arm, arm, studio, missing, 4)
                    own.append(made)
                    rows += made
        (entry,) = [e for e in diversity.summary(rows, rewards) if (e["family"], e["setting"]) == ("repulsion", name)]
    except (FairleadError, OSError, AttributeError, KeyError, ValueError) as error:
        return [
            Finding(
                claim, "more different pictures", statistics.Mean(math.nan), 0.0, f"{type(error).__name__}: {error}"
            )
        ]
    seconds = time.perf_counter() - since
    n = entry["prompts"]
    varied = statistics.Mean(*entry["vendi_clip_change"], n)
    kept = statistics.Mean(*(v + 5 for v in entry[f"{watched(o)}_change"]), n)
    return [
        Finding(claim, f"Vendi score (CLIP) at strength {strength:g}, percent", varied, seconds),
        Finding(claim, f"{watched(o)}, percent, plus the 5 that may be lost", kept, seconds),
    ]


def verdict(means: list[statistics.Mean]) -> str:
    """Of a claim from its parts."""
    if all(m.value != m.value for m in means):
        return "not tried"
    sure = [m.sure for m in means]
    if all(s > 0 for s in sure):
        return "holds"
    if any(s > 0 for s in sure):
        return "holds partly"
    return "does not hold" if any(s < 0 for s in sure) else "not shown at this size"


def figure(m: statistics.Mean) -> str:
    """`+1.20 (+0.30 to +2.10), 12 prompts`."""
    if m.value != m.value:
        return "–"
    inside = f" ({number(m.low, sign=True)} to {number(m.high, sign=True)})" if m.low == m.low else ""
    return f"{number(m.value, sign=True)}{inside}, {m.n} prompts"


def table(findings: list[Finding]) -> str:
    """Claims as Markdown."""
    head = (
        "system",
        "claim, and what was measured",
        "our figure, 95 % interval",
        "verdict",
        "seconds",
        "at true scale",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(f.claim.name for f in findings):
        mine = [f for f in findings if f.claim.name == name]
        claim = mine[0].claim
        found = sorted((EVIDENCE / claim.larger).glob("**/*.md")) if (EVIDENCE / claim.larger).is_dir() else []
        results = [f for f in found if f.stem in ("results", "tables", "summary")]
        larger = f" Larger: {', '.join(str(f.relative_to(EVIDENCE)) for f in results)}." if results else ""
        lines.append(
            f"| **{name}**, {claim.paper} | {claim.claim} |  | **{verdict([f.mean for f in mine])}** | "
            f"{duration(mine[0].seconds)} "
            f"| {claim.true_scale}.{larger} |"
        )
        lines += [f"| | {f.part} | {f.reason or figure(f.mean)} | | | |" for f in mine]
    return "\n".join(lines)


def league(o: argparse.Namespace) -> str:
    """Every registered method at equal seconds."""
    every = {k: {**v, "draft": max(1, o.steps * 2 // 5)} if "draft" in v else v for k, v in METHODS.items()}
    raw = {
        "model": o.model,
        "steps": o.steps,
        "reward": o.reward,
        "watch": o.watch,
        "seeds": o.seeds,
        "budget": {"seconds": o.seconds},
        "prompts": {"generate": max(2, o.prompts * 3 // 8)},
        "diversity": ["vendi"] if o.seeds > 1 else [],
        "methods": {k: v for k, v in every.items() if registered(v) and (not o.methods or k in o.methods)},
    }
    s, _ = compare("league", raw, o.out, o.word == "run")
    metrics = s.metrics
    kinds = list(dict.fromkeys(k for x in s.lines for k in x.diversity))
    names = [o.reward if m == REWARD else m for m in metrics]
    head = [*names, f"{names[0]} over random", *(f"diversity: {k}" for k in kinds), "NFE", "start to end"]
    lines = [f"| method at {o.seconds:g} s | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for x in s.lines:
        cells = [_cell(x.values[m]) for m in metrics]
        cells.append(figure(x.over[REWARD]) if REWARD in x.over else "")
        cells += [_cell(x.diversity[k]) if k in x.diversity else "" for k in kinds]
        cells += [number(x.cost.nfe), duration(x.wall)] if x.method != BASELINE_ROW else ["", ""]
        lines.append(f"| {x.method} | {' | '.join(cells)} |")
    lines += ["", *(f"- {m} took no part: {why}" for m, why in s.refused.items())]
    unknown = [k for k, v in METHODS.items() if not registered(v)]
    lines += [f"- not registered here: {', '.join(unknown)}"] if unknown else []
    return "\n".join([*lines, "", f"{len(s.prompts)} prompts, {o.seeds} seeds; prompt means with 95 % intervals."])


def _cell(m: statistics.Mean) -> str:
    return number(m.value) + (f" ({number(m.low)} to {number(m.high)})" if m.low == m.low else "")


@dataclass
class _Sizes:
    """Of a run of all in about half an hour; `quick` only shows that everything works."""

    prompts: int = 8
    nfe: int = 320
    evaluations: int = 61
    bank: int = 50
    seconds: float = 8.0
    seeds: int = 2
    demon: str = "demon(k=4, estimate='clean')"
    quick: dict[str, Any] = field(
        default_factory=lambda: {
            "prompts": 2,
            "nfe": 32,
            "evaluations": 3,
            "bank": 2,
            "seconds": 0.05,
            "seeds": 2,
            "demon": "demon(k=2, estimate='clean', tail=2)",
        }
    )


def main(argv: list[str] | None = None) -> None:
    """Make what is missing, then say what came out."""
    size = _Sizes()
    p = common.parser(__doc__, HERE / "pocket")
    p.add_argument("--model", default="pocket")
    p.add_argument("--few", help="few-step model of the embedding search; left out: pocket-turbo where there is one")
    p.add_argument("--reward", default="clip_score")
    p.add_argument("--objective", default="clip_score + aesthetic", help="of the embedding search")
    p.add_argument("--watch", action="append", help="never optimised; the first one judges  [detector, aesthetic]")
    p.add_argument("--steps", type=int, help="[the model's own]")
    p.add_argument("--scale", type=float, default=1.0, help="times the prompts")
    p.add_argument(
        "--only", default="", help="claims between commas: noise search,embedding search,Demon,LiDAR,repulsion,league"
    )
    p.add_argument("--seconds", type=float, help="of every method in the league, the slowest draws one batch in it")
    p.add_argument("--methods", default="", help="of the league, between commas")
    o = common.parse(p, argv)
    for name in ("prompts", "nfe", "evaluations", "bank", "seconds", "seeds", "demon"):
        if getattr(o, name, None) is None:
            setattr(o, name, size.quick[name] if o.quick else getattr(size, name))
    o.prompts = max(2, round(o.prompts * o.scale))
    o.few = o.few or ("pocket-turbo" if "pocket-turbo" in registry.table("models") and o.model == "pocket" else o.model)
    o.watch = o.watch or ["detector", "aesthetic"]
    from fairlead.run import models

    own = models.defaults(o.model)
    o.steps = o.steps or (4 if o.quick else int(own.get("steps", 20)))
    o.few_steps = min(4, o.steps)
    wanted = [w.strip().lower() for w in o.only.split(",") if w.strip()]
    o.methods = [w for w in o.methods.split(",") if w]
    findings: list[Finding] = []
    for claim in claims(o):
        if not wanted or claim.name.lower() in wanted:
            findings += try_claim(claim, o.out, o.word == "run")
    if not wanted or "repulsion" in wanted:
        findings += try_repulsion(o)
    text = [
        "# Five systems on the embedded model",
        "",
        f"`python -m experiments.seeds {shlex.join(argv or sys.argv[1:])}`",
        "",
    ]
    text += [table(findings), ""] if findings else []
    if not wanted or "league" in wanted:
        text += ["## Every method at equal seconds", "", league(o), ""]
    text += [__doc__.split("\n\n")[2].replace("\n", " ") if __doc__ else "", ""]
    (o.out / "results.md").write_text("\n".join(text))
    if findings:
        with (o.out / "claims.csv").open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(("system", "part", "mean", "low", "high", "prompts", "shown", "seconds", "reason"))
            for f in findings:
                m = f.mean
                writer.writerow((f.claim.name, f.part, m.value, m.low, m.high, m.n, m.sure, f.seconds, f.reason))
    print("\n".join(text))


if __name__ == "__main__":
    main()
