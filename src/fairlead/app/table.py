"""A table in Python: a list of rows that pandas can take over. Imports no torch and no pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, overload

from fairlead.core.errors import FairleadError

Row = Mapping[str, Any]


class Table(Sequence[Row]):
    """Rows by number, columns by name."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = list(rows)

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order of their first row."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    @overload
    def __getitem__(self, index: str) -> list[Any]: ...

    def __getitem__(self, index: int | slice | str) -> Row | list[Any]:
        """A row, some rows, or the column of that name."""
        if not isinstance(index, str):
            return self._rows[index]
        if index not in self.columns:
            raise KeyError(f"The table has no column {index!r}: its columns are {', '.join(self.columns)}.")
        return [row.get(index) for row in self._rows]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def to_pandas(self) -> Any:
        """A pandas DataFrame, where pandas is installed."""
        try:
            import pandas
        except ImportError:
            raise FairleadError("to_pandas() needs pandas. Install it with 'pip install pandas'.") from None
        return pandas.DataFrame(self._rows, columns=self.columns)

    def to_csv(self) -> str:
        """The table as text, with one line of names."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        return out.getvalue()

    def __repr__(self) -> str:
        return f"Table({len(self)} rows: {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        from fairlead.app.page import fill

        return fill("table.html", columns=self.columns, rows=[list(map(row.get, self.columns)) for row in self._rows])
