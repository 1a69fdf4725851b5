"""Benchmarks by name: where their prompts come from and which judge is theirs. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.bench import prompts
from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.core.errors import FairleadError, unknown

COMPBENCH = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
"""The eight validation sets, `<category>_val.txt` each."""
PUBLISHED = {"geneval": 553, "drawbench": 200, "partiprompts": 1632}
"""How many prompts the whole file has: partial copies float around."""


@dataclass(frozen=True)
class Suite:
    """A benchmark with its prompts."""

    name: str
    asked: tuple[BenchmarkPrompt, ...]
    source: str
    """Where the prompts are from, in words."""
    images: int
    """Pictures per prompt of the published protocol."""
    plurals: Mapping[str, str] = field(default_factory=dict)
    """Plural -> singular of the things that are counted."""

    @property
    def digest(self) -> str:
        """Of prompts and categories."""
        return prompts.digest(list(self.asked))


def load(name: str, path: Path | None, words: bool, split_seed: int) -> Suite:
    """A benchmark by its name. `words`: the model paints the pocket world only, and is asked for no other objects.

    geneval takes evaluation_metadata.jsonl, or object_names.txt to draw a new split from; t2i_compbench the folder of
    its `*_val.txt`; drawbench, partiprompts and prompts their file.
    """
    key = name.replace("-", "_")
    if key not in SUITES:
        raise unknown("benchmark", name, SUITES)
    return SUITES[key](path, words, split_seed)


def _needed(path: Path | None, what: str) -> Path:
    if path is None:
        raise FairleadError(f"This benchmark's prompts are not in the package. Pass {what} with --prompts.")
    return path


def _geneval(path: Path | None, words: bool, seed: int) -> Suite:
    from fairlead.bench import geneval
    from fairlead.pocket import world

    if path is None and not words:
        raise FairleadError("GenEval's prompts are not in the package. Pass evaluation_metadata.jsonl with --prompts.")
    try:
        if path is None:
            chosen = geneval.generate(world.NAMES, seed=seed)
            source = f"drawn in GenEval's grammar, seed {seed}"
        elif path.suffix == ".txt":
            names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            chosen = geneval.generate([n for n in names if not words or n in world.NAMES], seed=seed)
            source = f"drawn in GenEval's grammar from the classes in {path.name}, seed {seed}"
        else:
            chosen = geneval.read_prompts(path)
            source = path.name
            every = len(chosen)
            if words:
                chosen = [p for p in chosen if p.names <= set(world.NAMES)]
                source += f", the {len(chosen)} of {every} whose classes are in the pocket world"
    except (OSError, ValueError, KeyError) as error:
        raise FairleadError(f"{path} cannot be read ({error}). Pass GenEval's evaluation_metadata.jsonl.") from error
    if not chosen:
        raise FairleadError(f"{path} has no prompt that this model can be asked: use another model or file.")
    return Suite("geneval", tuple(BenchmarkPrompt.of(geneval.as_record(p)) for p in chosen), source, 4)


def _compbench(path: Path | None, words: bool, seed: int) -> Suite:
    folder = _needed(path, "the folder with color_val.txt and its seven sisters")
    asked = []
    for category in COMPBENCH:
        file = folder / f"{category}_val.txt"
        if not file.is_file():
            raise FairleadError(f"{file} does not exist. Pass T2I-CompBench's folder examples/dataset with --prompts.")
        kinds = {"kind": ""}
        if category == "complex":
            kinds = {p.text: kind for kind in ("spatial", "action", "spatialaction") for p in _optional(folder, kind)}
        for one in prompts.read(file):
            meta = {"kind": kinds[one.text]} if category == "complex" and one.text in kinds else {}
            asked.append(BenchmarkPrompt(one.text, category, meta))
    lines = prompts.read(folder / "new_objects.txt") if (folder / "new_objects.txt").is_file() else []
    pairs = [line.text.partition(" - ") for line in lines]
    plurals = {many.strip(): one.strip() for one, _, many in pairs if many}
    return Suite("t2i_compbench", tuple(asked), f"{folder.name}/*_val.txt", 10, plurals)


def _optional(folder: Path, kind: str) -> list[BenchmarkPrompt]:
    file = folder / f"complex_val_{kind}.txt"
    return prompts.read(file) if file.is_file() else []


def _table(name: str, images: int, what: str) -> Callable[[Path | None, bool, int], Suite]:
    def make(path: Path | None, words: bool, seed: int) -> Suite:
        file = _needed(path, what)
        asked = prompts.read(file)
        wanted = PUBLISHED.get(name, len(asked))
        if len(asked) != wanted:
            parts = ", ".join(f"{k} {n}" for k, n in Counter(a.category for a in asked).items())
            raise FairleadError(
                f"{file} has {len(asked)} prompts ({parts}) and {name} has {wanted}: it is a partial copy."
            )
        return Suite(name, tuple(asked), file.name, images)

    return make


SUITES: dict[str, Callable[[Path | None, bool, int], Suite]] = {
    "geneval": _geneval,
    "t2i_compbench": _compbench,
    "drawbench": _table("drawbench", 1, "its CSV with columns Prompts and Category"),
    "partiprompts": _table("partiprompts", 1, "PartiPrompts.tsv"),
    "prompts": _table("prompts", 1, "a file of prompts"),
}
