"""What several runs found: a list of results in Python, a table and a page of their best pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from fairlead.app.result import Result
from fairlead.app.set_rows import rows_of
from fairlead.app.table import Table


class Results(Sequence[Result]):
    """The results of several runs in the order of their prompts; a prompt that was written twice has one run."""

    def __init__(self, folder: str | Path, runs: Sequence[Path]) -> None:
        self.folder = Path(folder)
        self._runs = [Path(run) for run in runs]

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...

    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        """One result, or a list of several."""
        if isinstance(index, slice):
            return [Result(run) for run in self._runs[index]]
        return Result(self._runs[index])

    def __len__(self) -> int:
        """How many prompts times seeds there are."""
        return len(self._runs)

    def __iter__(self) -> Iterator[Result]:
        """Every result in order."""
        return (Result(run) for run in self._runs)

    @property
    def table(self) -> Table:
        """One row for every run."""
        return Table(rows_of(self._runs))

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame."""
        return self.table.to_pandas()

    def gallery(self) -> Path:
        """Write the page of all best pictures into the folder of the set."""
        from fairlead.app.gallery import write_gallery

        return write_gallery(self.folder)

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r}: {len(self)} runs)"
