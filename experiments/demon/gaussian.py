"""Demon on exact worlds: what a step gains, what a run gains, and what each estimate costs and reaches.

    python experiments.demon.gaussian run                    # about ten minutes on one core
    python experiments.demon.gaussian run --runs 10 --draws 20 --out /tmp/tiny

Worlds of the specification: N(0, I) in 256 dimensions with reward x_1, 32 schedule points, 16 candidates, exact
look ahead; and two modes at +-3 with spread 0.5 in 64 dimensions. Each cell is appended to cells.csv when it is done, a
second call makes only what is missing. Intervals are 95 % bootstrap intervals over runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import common
from fairlead.bench import statistics
from fairlead.core.cost import INFINITE, Cost, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Conditioning
from fairlead.core.samplers import euler
from fairlead.core.sampling import sample
from fairlead.core.sde import ratio
from fairlead.core.steering import Steering, Step
from fairlead.models.mixture import Gaussians, Mixture
from fairlead.steering.demon import Demon, synthesis, weights

FIELDS = ("part", "method", "setting", "quantity", "mean", "low", "high", "published", "nfe", "seconds")
METHODS: dict[str, dict[str, Any]] = {
    "sde": {"k": 1},
    "tanh": {},
    "tanh, first tau": {"tau": "adaptive_first"},
    "boltzmann": {"weights": "boltzmann"},
    "best of K": {"weights": "boltzmann", "tau": 0.0},
}
TABLE = {  # the specification, section 7.4, toy 20
    0.05: (0.0, 12.12, 12.27, 7.83, 5.92),
    0.1: (0.0, 14.01, 14.20, 9.04, 6.84),
    0.5: (0.0, 13.28, 13.29, 8.53, 6.46),
}
BY_K = {2: (3.1, 2.2), 4: (6.1, 4.0), 8: (9.5, 5.5), 16: (14.0, 6.9), 32: (19.6, 8.0)}
GAINS = {  # section 2.6
    2: (0.85, 0.36, 0.63),
    4: (1.61, 1.01, 1.02),
    8: (2.57, 1.64, 1.39),
    16: (3.72, 2.41, 1.79),
    32: (5.33, 3.42, 2.10),
}


@dataclass(frozen=True)
class Exact(Demon):
    """Looks ahead by the ODE of N(0, I) in closed form."""

    def _look(self, step: Step, x: Tensor, rows: Tensor) -> Tensor:
        return x / step.to.alpha / (1 + ratio(step.to) ** 2) ** 0.5


def run(
    steering: Steering, model: Mixture, n: int, steps: int, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Cost]:
    """n samples, and what one cost."""
    meter = Meter()
    out = []
    first = 0
    model.meter(meter)
    while first < n:  # pieces that stay in the cache
        own = tuple(Key.root(20).fold("run", i) for i in range(first, min(first + 16, n)))
        x = normals(tuple(k.fold("init") for k in own), *model.latent)

        def scored(z: Tensor, cond: Conditioning) -> Tensor:
            meter.charge(Cost(scores=len(z)))
            return score(z)

        with torch.no_grad(), meter.grant(INFINITE):
            told = model.encode(["x"] * len(own))
            levels = model.levels(steps)
            out.append(sample(model, euler, x, told, levels, own, meter, steering=steering, score=scored))
        first += len(own)
    return torch.cat(out), meter.spent * (1 / n)


def linear(z: Tensor) -> Tensor:
    """x_1."""
    return z.flatten(1)[:, 0]


def gaussian() -> Mixture:
    """N(0, I) in 256 dimensions."""
    return Mixture(gaussians=Gaussians(torch.zeros(1, 256), torch.ones(1), 1.0))


def modes() -> Mixture:
    """A quarter of the mass at +3, the rest at -3."""
    means = torch.zeros(2, 64)
    means[:, 0] = torch.tensor([3.0, -3.0])
    return Mixture(gaussians=Gaussians(means, torch.tensor([0.25, 0.75]), 0.5))


Cell = tuple[str, str, str, str, Callable[[], tuple[Tensor, Cost]], float | None]


def cells(o: argparse.Namespace) -> Iterator[Cell]:
    """Everything that is measured: part, method, setting, quantity, how, the specification's number."""
    for k, published in GAINS.items():
        for name, value in zip(("tanh", "boltzmann", "best of K"), published, strict=True):
            yield (
                "gain of a step",
                name,
                f"K={k}",
                "gain",
                lambda k=k, name=name: (gains(k, name, o.draws), Cost()),
                value,
            )  # type: ignore[misc]
    for beta, row in TABLE.items():
        for name, value in zip(METHODS, row, strict=True):
            yield "gaussian", name, f"beta={beta:g}", "reward", world(o, beta=beta, **METHODS[name]), value
    for k, (tanh, best) in BY_K.items():
        for name, value in (("tanh", tanh), ("boltzmann", None), ("best of K", best)):
            yield "gaussian, K", name, f"K={k}", "reward", world(o, k=k, **METHODS[name]), value
    for tau in (0.0, 0.03, 0.1, 0.3, 1.0, 3.0):
        for name in ("tanh", "boltzmann"):
            yield "gaussian, tau", name, f"tau={tau:g}", "reward", world(o, weights=name, tau=tau), None
    for beta in (0.01, 0.02, 0.2, 1.0):
        yield "gaussian, beta", "tanh", f"beta={beta:g}", "reward", world(o, beta=beta), None
    for steps in (8, 16, 64):
        yield "gaussian, steps", "tanh", f"steps={steps}", "reward", world(o, steps=steps), None
    for reward in ("linear", "indicator"):
        for name in ("sde", "tanh", "boltzmann", "best of K"):
            published = {"sde": 0.23}.get(name, 1.0 if reward == "linear" else 0.84)
            yield "two modes", name, reward, "in the good mode", two(o, reward, look=10, **METHODS[name]), published
    for estimate, look in (("ode", None), ("ode", 4), ("few", 8), ("few", 4), ("few", 2), ("clean", None)):
        name = f"{estimate}{'' if look is None else f' {look}'}"
        yield (
            "estimates",
            name,
            "indicator",
            "in the good mode",
            two(o, "indicator", estimate=estimate, look=look),
            None,
        )


def gains(k: int, method: str, draws: int) -> Tensor:
    """First-order gain of one step for a linear reward in 4096 dimensions, [draws]."""
    out = []
    for i in range(draws):
        z = Key.root(7).fold("gain", i).normal(1, k, 4096)
        v = z[..., 0].double()
        tau = 0 * v.std(1) if method == "best of K" else v.std(1)
        out.append(synthesis(z, weights(v, "tanh" if method == "tanh" else "boltzmann", tau))[0, 0])
    return torch.stack(out)


def world(o: argparse.Namespace, steps: int = 31, **settings: Any) -> Callable[[], tuple[Tensor, Cost]]:
    """Final rewards on the Gaussian."""

    def made() -> tuple[Tensor, Cost]:
        out, cost = run(Exact(**settings), gaussian(), o.runs, steps, linear)
        return linear(out), cost

    return made


def two(o: argparse.Namespace, reward: str, **settings: Any) -> Callable[[], tuple[Tensor, Cost]]:
    """Who ends in the good mode."""

    def made() -> tuple[Tensor, Cost]:
        judge = linear if reward == "linear" else lambda z: (linear(z) > 0).float()
        out, cost = run(Demon(**settings), modes(), max(2, o.runs // 2), 23, judge)
        return (linear(out) > 0).float(), cost

    return made


def table(rows: Sequence[dict[str, str]]) -> str:
    """Markdown by part."""
    lines = [
        "# Demon on exact worlds",
        "",
        "Written by `gaussian.py`; intervals are 95 % bootstrap intervals over runs.",
    ]
    for part in dict.fromkeys(r["part"] for r in rows):
        own = [r for r in rows if r["part"] == part]
        lines += ["", f"## {part[0].upper()}{part[1:]}: {own[0]['quantity']}", ""]
        lines += ["| method | setting | measured | specification | NFE a sample |", "|---|---|---|---|---|"]
        for r in own:
            measured = f"{float(r['mean']):.3g} ({float(r['low']):.3g} to {float(r['high']):.3g})"
            nfe = f"{float(r['nfe']):.0f}" if float(r["nfe"]) else ""
            lines.append(f"| {r['method']} | {r['setting']} | {measured} | {r['published']} | {nfe} |")
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing, then the table."""
    p = common.parser(__doc__, Path(__file__).parent / "gaussian")
    p.add_argument("--runs", type=int, default=200)
    p.add_argument("--draws", type=int, default=400)
    o = common.parse(p, argv)
    if o.quick:
        o.runs, o.draws = 4, 20
    kept = common.Rows(o.out / "cells.csv")
    if o.word == "run":
        make(o, kept)
    (o.out / "results.md").write_text(table(kept.read()))
    print(o.out / "results.md")


def make(o: argparse.Namespace, kept: common.Rows) -> None:
    """The cells that are missing."""
    done = {(r["part"], r["method"], r["setting"]) for r in kept.read()}
    for part, method, setting, quantity, measure, published in cells(o):
        if (part, method, setting) in done:
            continue
        since = time.perf_counter()
        values, cost = measure()
        took = time.perf_counter() - since
        found = statistics.mean(values.tolist())
        numbers = {"mean": found.value, "low": found.low, "high": found.high, "nfe": cost.nfe, "seconds": took}
        row = {"part": part, "method": method, "setting": setting, "quantity": quantity}
        row["published"] = "" if published is None else published
        kept.append([row | {name: f"{value:.6g}" for name, value in numbers.items()}])
        print(f"{part}: {method}, {setting}: {found.value:.3f}", flush=True)


if __name__ == "__main__":
    main()
