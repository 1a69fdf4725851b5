"""The winner and the plain sample of a run, as files beside its record. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from fairlead.run import final_judge
from fairlead.run.store import Store, write_atomically


def write_pictures(store: Store) -> None:
    """The winner and the plain sample as files beside the record, unless they are there."""
    for name, candidate in (("best", final_judge.winner(store)), ("baseline", store.baseline())):
        if candidate is not None:
            path, data = store.folder / f"{name}.png", store.image(Path(candidate.image).stem)
            if not path.is_file() or path.read_bytes() != data:
                write_atomically(path, data)
