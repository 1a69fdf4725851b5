"""`set.jsonl`: the runs of a set with their folders, in order. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fairlead.core.errors import StoreError
from fairlead.run.claim import refuse_taken
from fairlead.run.files import write_atomically
from fairlead.run.folders import slug
from fairlead.run.spec import Spec

NAME = "set.jsonl"
HEAD = "fairlead set"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One run of the set."""

    folder: str
    """Its folder inside the set's."""
    spec: Spec


@dataclass(frozen=True)
class SetFile:
    """What a set consists of."""

    entries: tuple[Entry, ...]
    exact: bool = False
    """True if no batch holds pictures of two runs."""

    @staticmethod
    def create(folder: Path, specs: Sequence[Spec], exact: bool = False) -> SetFile:
        """List the runs in a new folder. Refuses one that has anything in it."""
        folder = Path(folder)
        refuse_taken(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}). Choose another --out.") from error
        digits = len(str(len(specs)))
        seeds = len({spec.seed for spec in specs}) > 1
        entries = []
        for i, spec in enumerate(specs, 1):
            seed = f"-seed-{spec.seed}" if seeds else ""
            entries.append(Entry(f"{i:0{max(3, digits)}d}-{slug(spec.prompt)}{seed}", spec))
        listed = SetFile(tuple(entries), exact)
        listed._write(folder)
        return listed

    def _write(self, folder: Path) -> None:
        lines = [json.dumps({HEAD: VERSION, "exact": self.exact})]
        lines += [json.dumps({"folder": e.folder, "spec": json.loads(e.spec.json())}) for e in self.entries]
        write_atomically(folder / NAME, ("\n".join(lines) + "\n").encode())

    @staticmethod
    def is_here(folder: Path) -> bool:
        """True if the folder holds a set of runs."""
        return (Path(folder) / NAME).is_file()

    @staticmethod
    def read(folder: Path) -> SetFile:
        """The set in a folder."""
        path = Path(folder) / NAME
        try:
            head, *lines = path.read_text(encoding="utf-8").splitlines()
            first = json.loads(head)
            if first[HEAD] > VERSION:
                raise StoreError(f"{path} was written by a newer fairlead: update fairlead to continue it.")
            entries = tuple(_entries(lines))
            exact = bool(first["exact"])
        except FileNotFoundError:
            raise StoreError(f"{folder} holds no set of runs: it has no {NAME}.") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read ({type(error).__name__}: {error!s:.80}). Restore it.") from error
        return SetFile(entries, exact)


def _entries(lines: Iterable[str]) -> Iterable[Entry]:
    for line in lines:
        data = json.loads(line)
        name = data["folder"]
        if not isinstance(name, str) or PurePosixPath(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{name!r:.60} is not the name of a folder")
        yield Entry(name, Spec.from_json(json.dumps(data["spec"])))
