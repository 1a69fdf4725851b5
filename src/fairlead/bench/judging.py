"""Scores of a benchmark's pictures and their totals. Reads files, so any folder of the same layout can be judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead.bench import geneval, statistics
from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.bench.statistics import Mean
from fairlead.core.errors import FairleadError
from fairlead.run import machine, scoring
from fairlead.run.folders import slug
from fairlead.run.spec import parse_reward, reward_text

BATCH = 32


class Judge(Protocol):
    """Gives every picture a number."""

    @property
    def id(self) -> str:
        """Names scorer and weights; what tables are headed with."""

    @property
    def note(self) -> str:
        """What a reader must know before comparing its numbers with others."""

    def score(self, images: Tensor, asked: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
        """Images [B, 3, H, W] in [0, 1] -> one record each, with `score`; NaN where there is none."""


@dataclass
class Formula:
    """Any registered reward."""

    formula: str

    def __post_init__(self) -> None:
        from fairlead.run.rewards import build_reward, reward_leaf

        tree = parse_reward(self.formula)
        self._reward = build_reward(tree, reward_leaf)
        self._text = reward_text(tree)

    @property
    def id(self) -> str:
        """The formula."""
        return self._text

    note = "a reward as fairlead computes it: docs/rewards.md says how"

    def score(self, images: Tensor, asked: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
        """Total and terms."""
        with torch.no_grad():
            total, terms = self._reward(images, [a.text for a in asked])
        columns = {"score": total.tolist()}
        columns |= {k: v.tolist() for k, v in terms.items() if k != self.id}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass
class GenEval:
    """GenEval's published rules over any detector."""

    id: str
    note: str
    detector: geneval.Detects

    def score(self, images: Tensor, asked: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
        """1 if the picture shows what was asked for, else 0."""
        found = self.detector.detect(images)
        return [
            {"score": float(geneval.correct(geneval.of_record(a.record()), objects))}
            for a, objects in zip(asked, found, strict=True)
        ]


def pocket_geneval() -> GenEval:
    """GenEval's rules over the detector of the pocket world."""
    from fairlead.pocket.judge import Detector
    from fairlead.pocket.load import detector_folder

    note = "GenEval's rules over the pocket world's own detector: not comparable with numbers of the official detector"
    return GenEval("geneval-pocket", note, Detector.from_pretrained(detector_folder()))


def score(judge: Judge, out: Path, seen: Callable[[int, int], None], stop: Callable[[], bool]) -> list[dict[str, Any]]:
    """Judge every picture below `out` that has no record from this judge yet; returns all records in their order."""
    path = out / "scores" / f"{slug(judge.id)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {r["picture"]: r for r in _lines(path) if r.get("judge") == judge.id}
    files = sorted(p for p in out.glob("[0-9]*/samples/*.png") if p.stem.isdigit())
    if not files:
        raise FairleadError(f"{out} holds no pictures: make them first, without --only score.")
    asked = {folder: _asked(folder) for folder in dict.fromkeys(f.parent.parent for f in files)}
    todo = [f for f in files if str(f.relative_to(out)) not in known]
    seen(len(files) - len(todo), len(files))
    with path.open("a") as handle:
        for first in range(0, len(todo), BATCH):
            if stop():
                break
            some = todo[first : first + BATCH]
            images = [scoring.load(f)[0] for f in some]
            for shape in dict.fromkeys(i.shape for i in images):
                mine = [i for i, image in enumerate(images) if image.shape == shape]
                rows = judge.score(torch.stack([images[i] for i in mine]), [asked[some[i].parent.parent] for i in mine])
                for i, row in zip(mine, rows, strict=True):
                    one = asked[some[i].parent.parent]
                    name = str(some[i].relative_to(out))
                    known[name] = {
                        "picture": name,
                        "judge": judge.id,
                        "category": one.category,
                        "prompt": one.text,
                        **row,
                    }
                    handle.write(json.dumps(known[name]) + "\n")
            handle.flush()
            seen(len(files) - len(todo) + first + len(some), len(files))
    return [known[name] for name in sorted(known) if (out / name).is_file()]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole records; a line cut off by a crash is not one."""
    out = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            out.append(json.loads(line))
        except ValueError:
            continue
    return out


def _asked(folder: Path) -> BenchmarkPrompt:
    try:
        return BenchmarkPrompt.of(json.loads((folder / "metadata.jsonl").read_text().splitlines()[0]))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise FairleadError(
            f"{folder}/metadata.jsonl cannot be read ({error}): it holds the prompt on one line."
        ) from error


@dataclass(frozen=True)
class Result:
    """What the scores of one judge add up to."""

    judge: str
    note: str
    categories: Mapping[str, Mean]
    """Mean over pictures, interval over prompts."""
    overall: Mean
    overall_is: str
    extra: Mapping[str, float]
    pictures: int
    without: int
    """Pictures that got no number: they are in no mean."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """A record for each category and one for all, whose category is what the overall score is."""
        means = [*self.categories.items(), (self.overall_is, self.overall)]
        return [{"judge": self.judge, "category": name, **asdict(m)} for name, m in means]

    def markdown(self) -> str:
        """One row per category and one for all."""
        rows = [f"| {self.judge} | prompts | score | 95 % interval |", "|---|---|---|---|"]
        for name, m in [*self.categories.items(), (f"**{self.overall_is}**", self.overall)]:
            interval = "" if m.low != m.low else f"{m.low:.3f} to {m.high:.3f}"
            rows.append(f"| {name or 'all'} | {m.n} | {m.value:.3f} | {interval} |")
        return "\n".join(rows)


def summarise(judge: Judge, records: Sequence[Mapping[str, Any]], tasks: bool) -> Result:
    """Per category the mean over pictures. `tasks`: overall is the unweighted mean of the categories, as in GenEval,
    else the mean over all pictures. Intervals are bootstraps over prompts.
    """
    per: dict[str, dict[str, list[float]]] = {}
    for r in records:
        if r["score"] is not None and r["score"] == r["score"]:
            folder = str(r["picture"]).partition("/")[0]
            per.setdefault(str(r["category"]), {}).setdefault(folder, []).append(float(r["score"]))
    if not per:
        raise FairleadError(f"{judge.id} gave no picture a number: see the records in scores/.")
    groups = {name: list(rows.values()) for name, rows in per.items()}
    ratio = {name: statistics.ratio(rows) for name, rows in groups.items()}
    every = [row for rows in groups.values() for row in rows]
    overall = statistics.mean_of([rows for rows in groups.values()]) if tasks else statistics.ratio(every)
    scores = [v for row in every for v in row]
    extra = {}
    if set(scores) <= {0.0, 1.0}:
        extra = {
            "correct pictures": sum(scores) / len(scores),
            "prompts with a correct picture": sum(max(r) for r in every) / len(every),
        }
    over = "mean of tasks" if tasks else "all pictures"
    return Result(judge.id, judge.note, ratio, overall, over, extra, len(scores), len(records) - len(scores))


def provenance() -> dict[str, str]:
    """Versions that scores depend on."""
    return machine.versions()
