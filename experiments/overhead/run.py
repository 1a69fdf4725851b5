"""What fairlead adds to the work itself, and which settings make the work fast. Everything is measured side by side.

    python -m experiments.overhead run [--repeats 7] [--settings]

The bare side calls the same network rows, decodes and reward passes with nothing around them: no keys, no ledger, no
store, no PNG. Both sides use one loaded model in one process and take turns; the ratio is of medians, its interval from
bootstrap over the turns.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments import common
from fairlead.core.cost import INFINITE
from fairlead.core.model import whole
from fairlead.run import engine, models
from fairlead.run.executor import Local
from fairlead.run.spec import make_spec

PROMPT = "a photo of a red apple left of a dog"


def bare(worker, spec, images: int) -> float:
    """Seconds for `images` pictures: network, decoder and reward, and only them."""
    model = worker.model
    levels = model.levels(spec.steps)
    cond = model.encode([spec.prompt] * spec.batch)
    tokens = cond.tokens
    extra = {"pooled": cond.extra["pooled"]}
    if model.branches == 2:
        tokens = torch.cat([cond.extra["negative"], tokens])
        extra = {"pooled": torch.cat([cond.extra["negative_pooled"], extra["pooled"]])}
    model.meter(worker.meter)  # the run before took the model over
    since = time.perf_counter()
    with torch.no_grad(), worker.meter.grant(INFINITE):
        for _ in range(images // spec.batch):
            x = torch.zeros(spec.batch, *model.latent)
            rows = x.repeat(model.branches, 1, 1, 1)
            for level in levels[:-1]:
                model.run_network(rows, level, tokens, extra)
            worker.reward(model.decode(x), (spec.prompt,) * spec.batch)
    return time.perf_counter() - since


def controlled(worker, spec) -> float:
    """Seconds for the same pictures through engine, ledger, store and PNG files, as `fairlead run` does after
    loading.
    """
    with tempfile.TemporaryDirectory() as scratch:
        since = time.perf_counter()
        engine.start(spec, Path(scratch) / "run", model=worker.model, reward=common.reward("clip_score")).close()
        return time.perf_counter() - since


def overhead(repeats: int) -> list[str]:
    """Ratio with its interval."""
    spec = models.with_dtype(
        make_spec(PROMPT, budget="nfe=640", batch=16, steps=20, defaults=models.defaults("pocket"))
    )
    worker = Local(spec).worker
    images = 32
    ours = []
    theirs = []
    for turn in range(repeats + 1):
        a = controlled(worker, spec)
        b = bare(worker, spec, images)
        if turn:
            ours.append(a)
            theirs.append(b)
    ratio, low, high = common.ratio_of_medians(ours, theirs)
    return [
        f"Best of {images}, 20 steps, batch 16, {spec.model.settings['dtype']}, {torch.get_num_threads()} threads, "
        f"{repeats} turns each.",
        "",
        "| | seconds (median) |",
        "|---|---|",
        f"| fairlead, from loaded model to written pictures | {np.median(ours):.2f} |",
        f"| the same network rows, decodes and reward passes, bare | {np.median(theirs):.2f} |",
        f"| **ratio** | **{ratio:.3f}** (95 %: {low:.3f} to {high:.3f}) |",
    ]


def settings(repeats: int) -> list[str]:
    """Milliseconds per network row for batch size, number format and attention kernel."""
    out = [
        "| number format | attention | " + " | ".join(f"batch {b}" for b in (1, 4, 8, 16, 32)) + " |",
        "|---|---|" + "---|" * 5,
    ]
    for dtype in ("float32", "bfloat16"):
        for kernel in ("flash", "math"):
            cells = []
            spec = make_spec(PROMPT, settings={"pocket": {"dtype": dtype}}, defaults=models.defaults("pocket"))
            model = models.build(spec, device="cpu", dtype=dtype)
            backend = torch.nn.attention.SDPBackend
            chosen = backend.FLASH_ATTENTION if kernel == "flash" else backend.MATH
            for batch in (1, 4, 8, 16, 32):
                cond = model.encode([PROMPT] * batch)
                x = torch.zeros(batch, *model.latent)
                level = model.levels(4)[1]
                with torch.no_grad(), torch.nn.attention.sdpa_kernel([chosen]):
                    model.predict(x, level, cond, whole(batch, level))
                    spent = []
                    for _ in range(repeats):
                        since = time.perf_counter()
                        model.predict(x, level, cond, whole(batch, level))
                        spent.append(time.perf_counter() - since)
                cells.append(f"{1000 * float(np.median(spent)) / batch / model.branches:.2f}")
            out.append(f"| {dtype} | {kernel} | " + " | ".join(cells) + " |")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the report and print it."""
    p = common.parser(__doc__, Path(__file__).parent / "results.md")
    p.add_argument("--repeats", type=int, default=7)
    p.add_argument("--settings", action="store_true", help="also measure batch, number format and attention")
    o = common.parse(p, argv)
    if o.word == "run":
        o.out.write_text("\n".join(measure(o)) + "\n")
    common.show(o.out)


def measure(o: argparse.Namespace) -> list[str]:
    """The lines of the report."""
    repeats = 1 if o.quick else o.repeats
    lines = ["# Overhead", "", f"{platform.machine()}, torch {torch.__version__}.", "", *overhead(repeats)]
    if o.settings:
        lines += ["", "Milliseconds per network row:", "", *settings(repeats)]
    return lines


if __name__ == "__main__":
    main()
