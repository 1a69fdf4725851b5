"""What experiments share: one command line, rows that a second call continues, intervals and tables.

    python -m experiments.NAME run              make what is missing, then write the report
    python -m experiments.NAME report           write the report from the rows that are there
    python -m experiments.NAME run --quick      the same code at the smallest size, in a minute, into a temporary folder
    python -m experiments.NAME run --out DIR    somewhere else

Intervals over prompts come from `fairlead.bench.statistics` where they are intervals of a mean.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fairlead.bench import geneval
from fairlead.core.key import Key
from fairlead.core.reward import Reward
from fairlead.pocket import world
from fairlead.run.rewards import build_reward, reward_leaf
from fairlead.run.spec import parse_reward

RESAMPLES = 2000
ROOT = Path(__file__).parents[1]


# the command line


def parser(doc: str | None, out: Path) -> argparse.ArgumentParser:
    """The four words of every experiment; the caller adds its own options. `out` is where its evidence is kept."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "word", choices=("run", "report"), help="run: make what is missing; report: only write the report"
    )
    made.add_argument("--quick", action="store_true", help="the smallest size, to see that everything works")
    shown = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    made.add_argument(
        "--out", type=Path, help=f"where rows and reports go (default: {shown}; with --quick: a temporary folder)"
    )
    made.set_defaults(default_out=out)
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the folder chosen. A quick run never writes over evidence unless it is told to."""
    options = made.parse_args(argv)
    if options.out is None:
        scratch = Path(tempfile.gettempdir()) / "fairlead-experiments" / options.default_out.name
        options.out = scratch if options.quick else options.default_out
    folder = options.out.parent if options.out.suffix else options.out
    folder.mkdir(parents=True, exist_ok=True)
    return options


# rows


class Rows:
    """A table on disk, `.csv` or `.csv.gz`, to which rows are appended as they are made. Values are read as text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, str]]:
        """Every row so far."""
        if not self.path.exists():
            return []
        with self._open("rt") as handle:
            return list(csv.DictReader(handle))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write these at the end; the first row ever names the columns."""
        rows = list(rows)
        if not rows:
            return
        new = not self.path.exists()
        with self._open("at") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            if new:
                writer.writeheader()
            writer.writerows(rows)

    def _open(self, mode: str) -> IO[str]:
        if self.path.suffix == ".gz":
            return gzip.open(self.path, mode, newline="")  # type: ignore[return-value]
        return self.path.open(mode.removesuffix("t"), newline="")


# prompts, rewards and pictures


def world_prompts(count: int, seed: int) -> list[geneval.Prompt]:
    """GenEval's grammar over the words of the pocket world, its tasks in turn."""
    every = geneval.generate(world.NAMES, seed=seed)
    columns = [[p for p in every if p.tag == tag] for tag in dict.fromkeys(p.tag for p in every)]
    return [p for row in zip(*columns, strict=False) for p in row][:count]


def prompts_from(text: str) -> list[str]:
    """A file with one prompt in each line, or prompts between semicolons."""
    is_file = len(text) < 250 and Path(text).is_file()
    lines = Path(text).read_text().splitlines() if is_file else text.split(";")
    return [line.strip() for line in lines if line.strip()]


@cache
def reward(formula: str) -> Reward:
    """A reward by its formula; its networks are loaded once."""
    return build_reward(parse_reward(formula), reward_leaf)


def pictures(paths: Iterable[Path]) -> Tensor:
    """Saved pictures of one size as [n, 3, H, W] in [0, 1]."""
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


# intervals


def quantiles(values: Tensor) -> tuple[float, float]:
    """The ends of the 95 % interval."""
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def bootstrap(
    columns: Sequence[Sequence[float]],
    key: Key,
    statistic: Callable[..., Tensor] = lambda mean: mean,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """`statistic` of the columns' means with its interval over prompts; every column is resampled alike, so they
    stay paired.
    """
    x = torch.tensor(columns, dtype=torch.float64)
    picks = (key.uniform(resamples, x.shape[1]) * x.shape[1]).long()
    return float(statistic(*x.mean(1))), *quantiles(statistic(*x[:, picks].mean(-1)))


def bootstrap_seeds(per_prompt: Sequence[float | Sequence[float]], key: Key) -> tuple[float, float, float]:
    """Mean with its interval over prompts, and over the seeds of each where there are several."""
    table = [[v] if isinstance(v, float) else list(v) for v in per_prompt]
    mean = sum(sum(v) / len(v) for v in table) / len(table)
    seeds = max(len(v) for v in table)
    x = torch.tensor([[v[i % len(v)] for i in range(seeds)] for v in table], dtype=torch.float64)
    rows = (key.uniform(RESAMPLES, len(x)) * len(x)).long()
    columns = (key.fold("seeds").uniform(RESAMPLES, len(x), seeds) * seeds).long()
    return mean, *quantiles(x[rows[..., None], columns].mean((1, 2)))


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of `ours` over median of `theirs`, measured in turns, with its interval over the turns."""
    picks = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = np.median(np.array(ours)[picks], 1) / np.median(np.array(theirs)[picks], 1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(ours) / np.median(theirs)), float(low), float(high)


# reports


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body]


def show(path: Path) -> None:
    """Print a report that an earlier run wrote."""
    if not path.is_file():
        raise SystemExit(f"{path} does not exist. Use the word 'run' first.")
    print(path.read_text())
