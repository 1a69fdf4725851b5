"""One run of 100,000 candidates: memory and time while it grows, then resume, report and keep.

    python -m experiments.overhead.scale run [--count 100000]

The model is the exact mixture with one step, so that what is measured is fairlead itself. Seconds are those of the
processor: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch

from experiments import common
from fairlead.app.report import write_report
from fairlead.run import engine
from fairlead.run.diverse_subset import keep
from fairlead.run.records import Progress
from fairlead.run.spec import make_spec

REWARDS = ("brightness", "rank_mean(brightness, jpeg_size)")
PARTS = 10
"""Marks at which time and memory are noted."""


def memory() -> float:
    """Megabytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass
class Growth:
    """Time and memory of a run at its marks."""

    count: int
    candidates: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def seen(self, progress: Progress) -> None:
        """Called by the run after every batch."""
        if progress.done >= self.count * (len(self.candidates) + 1) / PARTS:
            gc.collect()
            self.candidates.append(progress.done)
            self.seconds.append(time.process_time())
            self.megabytes.append(memory())

    @property
    def rates(self) -> list[float]:
        """Milliseconds per candidate between two marks, the first of them left out."""
        marks = list(zip(self.candidates, self.seconds, strict=True))
        return [1000 * (t1 - t0) / (n1 - n0) for (n0, t0), (n1, t1) in pairwise(marks)]


@dataclass
class Scale:
    """What one reward gave."""

    growth: Growth
    resume: float
    report: float
    page: float
    """Megabytes of the report."""
    keep: float
    peak: float
    """Megabytes at the end of everything."""


def measure(count: int, reward: str, folder: Path) -> Scale:
    """Run, resume, report, keep."""
    spec = make_spec("a photo", model="mixture", reward=reward, steps=1, batch=64, budget={"nfe": float(count)})
    growth = Growth(count)
    engine.start(spec, folder, on_progress=growth.seen).close()
    spent = []
    since = time.process_time()
    engine.resume(folder, budget={"nfe": float(count + 64)}).close()
    spent.append(time.process_time() - since)
    since = time.process_time()
    page = write_report(folder)
    spent.append(time.process_time() - since)
    since = time.process_time()
    keep(folder, 8, likeness="pixels")
    spent.append(time.process_time() - since)
    return Scale(growth, spent[0], spent[1], page.stat().st_size / 1e6, spent[2], memory())


def lines_of(count: int, found: dict[str, Scale]) -> list[str]:
    """The report."""
    lines = ["# A run of many candidates", "", f"{count:,} candidates of the exact mixture, one step, batches of 64."]
    lines += ["Seconds are those of one processor.", ""]
    lines += ["| | " + " | ".join(f"`{reward}`" for reward in found) + " |", "|---|" + "---|" * len(found)]
    rates = {reward: one.growth.rates for reward, one in found.items()}
    cells = {
        "second tenth, ms a candidate": [f"{r[0]:.2f}" for r in rates.values()],
        "last tenth, ms a candidate": [f"{r[-1]:.2f}" for r in rates.values()],
        "memory after a tenth, MB": [f"{one.growth.megabytes[0]:.0f}" for one in found.values()],
        "memory at the end, MB": [f"{one.growth.megabytes[-1]:.0f}" for one in found.values()],
        "resume, s": [f"{one.resume:.1f}" for one in found.values()],
        "report, s": [f"{one.report:.1f}" for one in found.values()],
        "report, MB": [f"{one.page:.1f}" for one in found.values()],
        "keep 8, s": [f"{one.keep:.1f}" for one in found.values()],
        "memory after all, MB": [f"{one.peak:.0f}" for one in found.values()],
    }
    return lines + [f"| {name} | " + " | ".join(values) + " |" for name, values in cells.items()]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the report and print it."""
    p = common.parser(__doc__, Path(__file__).parent / "scale.md")
    p.add_argument("--count", type=int, default=100_000)
    o: argparse.Namespace = common.parse(p, argv)
    if o.word == "run":
        torch.set_num_threads(1)
        count = 2000 if o.quick else o.count
        found = {}
        with tempfile.TemporaryDirectory() as scratch:
            for i, reward in enumerate(REWARDS):
                found[reward] = measure(count, reward, Path(scratch) / str(i))
        o.out.write_text("\n".join(lines_of(count, found)) + "\n")
    common.show(o.out)


if __name__ == "__main__":
    main()
