"""Prompts of benchmarks from their published files. Imports no torch; ships no third-party text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError

TEXT = ("prompt", "prompts", "text", "caption")
CATEGORY = ("category", "tag", "categories")


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt of a benchmark."""

    text: str
    category: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Everything else its file says, as `metadata.jsonl` keeps it."""

    def record(self) -> dict[str, Any]:
        """As one line of JSON."""
        return {"tag": self.category, "prompt": self.text, **self.meta}

    @staticmethod
    def of(record: Mapping[str, Any]) -> BenchmarkPrompt:
        """Inverse of `record`."""
        rest = {k: v for k, v in record.items() if k not in ("tag", "prompt")}
        return BenchmarkPrompt(str(record["prompt"]), str(record.get("tag", "")), rest)


def read(path: Path) -> list[BenchmarkPrompt]:
    """A file of prompts: text with one a line, or CSV, TSV or JSON lines with columns like Prompt and Category.

    TSV is read without quoting (PartiPrompts has bare quotation marks), outer blanks are stripped.
    """
    if not path.exists():
        raise FairleadError(f"{path} does not exist. Pass a text file with one prompt per line.")
    try:
        raw = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FairleadError(f"{path} cannot be read ({error}). Pass a file of prompts.") from error
    try:
        found = list(_rows(path.suffix, raw))
    except (ValueError, KeyError, csv.Error) as error:
        raise FairleadError(f"{path} has no column of prompts ({error}): name one 'Prompt'.") from error
    if not found:
        raise FairleadError(f"{path} has no prompt: must have one per line.")
    return found


def _rows(suffix: str, raw: str) -> Iterator[BenchmarkPrompt]:
    if suffix == ".txt" or suffix not in (".csv", ".tsv", ".json", ".jsonl"):
        yield from (BenchmarkPrompt(line.strip()) for line in raw.splitlines() if line.strip())
        return
    if suffix in (".json", ".jsonl"):
        data = json.loads(raw) if suffix == ".json" else [json.loads(line) for line in raw.splitlines() if line.strip()]
        rows: Iterator[Mapping[str, Any]] = iter([{"prompt": r} if isinstance(r, str) else r for r in data])
    elif suffix == ".tsv":
        rows = csv.DictReader(raw.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        rows = csv.DictReader(raw.splitlines())
    for row in rows:
        named = {str(k).strip().lower(): v for k, v in row.items() if k is not None}
        text = next(named[k] for k in TEXT if k in named) if any(k in named for k in TEXT) else None
        if text is None:
            raise KeyError("columns are " + ", ".join(named))
        category = next((str(named[k] or "").strip() for k in CATEGORY if k in named), "")
        rest = {k: v for k, v in named.items() if k not in (*TEXT, *CATEGORY) and v not in (None, "")}
        if str(text).strip():
            yield BenchmarkPrompt(str(text).strip(), category, rest)


def digest(asked: list[BenchmarkPrompt]) -> str:
    """sha256 of texts and categories, 16 hex digits: what a result states."""
    records = json.dumps([a.record() for a in asked], sort_keys=True, ensure_ascii=False)
    return sha256(records.encode()).hexdigest()[:16]
