"""Many prompts: a file or a list of rows, each with a prompt and options of its own, times seeds. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError, nearest
from fairlead.run.options import RunOptions, described

MOST_RUNS = 20_000
"""Prompts times seeds; more belong into several sets."""
KINDS = (".txt", ".csv", ".jsonl")
RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Row:
    """One prompt with the options that it sets itself."""

    place: str
    """Where it stands, for an error: `prompts.csv, line 3`."""
    options: Mapping[str, Any]


def read(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a file, and sentences about lines that were left out."""
    if path.suffix.lower() not in KINDS:
        raise FairleadError(
            f"{path} must end in {', '.join(KINDS)}: a prompt per line, or a table with a prompt column."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FairleadError(f"{path} cannot be read ({error.strerror}). Pass a file of prompts.") from error
    except UnicodeDecodeError as error:
        raise FairleadError(f"{path} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    lines = {".txt": _lines, ".csv": _table, ".jsonl": _objects}[path.suffix.lower()](path, text)
    found: list[Row] = []
    empty = 0
    for number, options in lines:
        if options and str(options.get("prompt") or "").strip():
            found.append(Row(f"{path}, line {number}", options))
        elif options and any(value not in (None, "") for value in options.values()):
            raise FairleadError(f"{path}, line {number} has options but no prompt. Write one, or remove the line.")
        else:
            empty += 1
    if not found:
        raise FairleadError(f"{path} has no prompt. Write one per line.")
    return found, [f"{path}: {empty} empty lines were left out."] if empty else []


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        yield number, {"prompt": line.strip()}


def _table(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names = rows.fieldnames or []
        if "prompt" not in names:
            shown = ", ".join(map(repr, names)) or "none"
            raise FairleadError(f"{path} must have a column 'prompt', but its columns are {shown}. Name one 'prompt'.")
        for row in rows:
            if None in row:
                raise FairleadError(f"{path}, line {rows.line_num} has more cells than the first line has names.")
            yield rows.line_num, {name: value for name, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        raise FairleadError(f"{path}, line {rows.line_num} is not valid CSV ({error}). Fix the line.") from error


def _objects(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            yield number, {}
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FairleadError(f"{path}, line {number} is not valid JSON ({error!s:.80}). Fix the line.") from error
        if isinstance(data, str):
            data = {"prompt": data}
        if not isinstance(data, dict):
            raise FairleadError(f'{path}, line {number} must be an object like {{"prompt": "a dog"}}, or a text.')
        yield number, data


def of(prompts: Sequence[Any]) -> list[Row]:
    """The rows of a Python list of texts and mappings."""
    if not prompts:
        raise FairleadError("The list of prompts is empty. Write what the pictures should show.")
    return [
        Row(f"prompt {i}", dict(prompt) if isinstance(prompt, Mapping) else {"prompt": prompt})
        for i, prompt in enumerate(prompts)
    ]


def seeds_of(seeds: Any) -> list[int]:
    """`0-7`, `1,5,9`, a number, or a sequence of numbers -> the seeds in their order, each once."""
    if isinstance(seeds, str):
        found: list[int] = []
        for piece in filter(None, (piece.strip() for piece in seeds.split(","))):
            pair = RANGE.fullmatch(piece)
            try:
                first, last = (int(pair[1]), int(pair[2])) if pair else (int(piece), int(piece))
            except ValueError:
                raise FairleadError(f"seeds is {seeds!r:.80}: must be like 0-7 or 1,5,9.") from None
            if last < first or last - first >= MOST_RUNS:
                raise FairleadError(f"seeds has {piece!r}: must rise, and have at most {MOST_RUNS} seeds.")
            found += range(first, last + 1)
    else:
        found = list(seeds) if isinstance(seeds, Sequence | range) else [seeds]
    if not found or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in found):
        raise FairleadError(f"seeds is {seeds!r:.80}: must be whole numbers, like 0-7 or [0, 1, 2].")
    return list(dict.fromkeys(found))


def expanded(options: RunOptions, rows: Sequence[Row], seeds: Any = None) -> list[tuple[str, RunOptions]]:
    """Every row with every seed -> where it stands, and the options of its run. A row's own seed replaces `seeds`."""
    chosen = None if seeds is None else seeds_of(seeds)
    out = []
    for row in rows:
        own = {name: _value(row.place, name, value) for name, value in row.options.items()}
        several = [own["seed"]] if "seed" in own else chosen or [options.seed]
        out += [(row.place, replace(options, **{**own, "seed": seed})) for seed in several]
        if len(out) > MOST_RUNS:
            raise FairleadError(f"There are more than {MOST_RUNS} runs (prompts times seeds). Split them.")
    return out


def _value(place: str, name: str, value: Any) -> Any:
    """A cell as the option wants it: text from a table is read as the command line reads it."""
    known = described()
    if name not in known:
        near = nearest(name, known)
        hint = f" Did you mean {near!r}?" if near else " See 'fairlead run --help'."
        raise FairleadError(f"{place} sets {name!r:.60}, which is no option of a run.{hint}")
    kind = known[name].read_as
    if not isinstance(value, str) or kind is str:
        return value
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind not in (int, float):
        return [value] if kind == list[str] else value
    try:
        return kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise FairleadError(f"{place}: {name} is {value!r:.60}, but must be {wanted}.") from None
