"""A run in Python and in a notebook: pictures, numbers, a table. Imports no torch."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.app.keep import starred_of, strengths
from fairlead.app.page import fill, picture
from fairlead.app.preferences import preference_rows, ranking_rows
from fairlead.app.report import write_report
from fairlead.app.words import count, duration, number, reason
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import marks
from fairlead.run.judged import Judged
from fairlead.run.records import Candidate
from fairlead.run.spec import Spec, reward_text
from fairlead.run.store import DATABASE
from fairlead.run.view import View, rows

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Shot:
    """One candidate with its picture."""

    index: int
    """Its number in the run; -1 for a baseline that is no candidate."""
    reward: float
    terms: Mapping[str, float]
    path: Path

    @property
    def image(self) -> Image.Image:
        """The picture, loaded."""
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                image.load()
                return image.copy()
        except FileNotFoundError:
            raise StoreError(f"{self.path} is missing. Restore it, or start the run again.") from None

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


class Result:
    """What a run found. Reads the run's folder each time, so a resumed run shows its present state."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._view()

    def _view(self) -> View:
        return View.read(self.folder)

    def _shot(self, view: View, candidate: Candidate) -> Shot:
        return Shot(candidate.index, candidate.reward, dict(candidate.terms), view.picture(candidate))

    @property
    def best(self) -> Shot:
        """The candidate with the highest reward."""
        view = self._view()
        if view.best is None:
            raise FairleadError(f"{self.folder} has no candidate with a reward: {len(view.candidates)} were rendered.")
        return self._shot(view, view.best)

    @property
    def baseline(self) -> Shot:
        """The plain sample of the same seed, without search or control."""
        view = self._view()
        if view.baseline is None:
            raise FairleadError(f"{self.folder} has no baseline: the run was stopped before its first batch was done.")
        return self._shot(view, view.baseline)

    @property
    def gain(self) -> float:
        """Best reward minus the baseline's."""
        return self._view().gain

    @property
    def candidates(self) -> Any:
        """Every candidate in ask order: a pandas DataFrame where pandas is installed, else a list of dicts."""
        table = rows(self._view())
        try:
            import pandas
        except ImportError:
            return table
        return pandas.DataFrame(table)

    def judged(self, who: str | None = None) -> Any:
        """The pictures that people compared, best first: a pandas DataFrame where pandas is installed, else dicts.

        `strength` is a log odds against the average of them, with 95 % in `low` and `high`. `who`: one person's.
        """
        table = ranking_rows(self._view(), Judged.of(self.folder, who), Path())
        try:
            import pandas
        except ImportError:
            return table
        return pandas.DataFrame(table)

    def preferences(self, who: str | None = None) -> list[dict[str, Any]]:
        """Every decided comparison of people, with the `prompt`, `chosen` and `rejected` of datasets for DPO."""
        return preference_rows(self._view(), Judged.of(self.folder, who), Path())

    def keep(
        self,
        k: int,
        *,
        weight: float = 0.5,
        floor: float | str = "median",
        likeness: str | None = None,
        starred: bool = False,
        judged: bool = False,
    ) -> list[Shot]:
        """k candidates that are good and different, the best choice first; the report shows them from now on.

        `weight` counts standard deviations of the reward: 0 keeps the most different, a large one the best. `likeness`
        is clip, pixels, or an image encoder's folder or hub name. `floor` is a reward, 'median' (of the run) or
        'none': nothing below it is kept while k candidates are not below it. `starred`: only from pictures with a
        star. `judged`: quality is what people said instead of the reward, and only pictures they judged are kept.
        """
        from fairlead.run.diverse_subset import keep

        among = starred_of(self.folder) if starred else None
        quality = strengths(self.folder) if judged else None
        chosen = keep(self.folder, k, weight=weight, floor=floor, likeness=likeness, among=among, quality=quality)
        view = self._view()
        by_index = {c.index: c for c in view.candidates}
        return [self._shot(view, by_index[i]) for i in chosen]

    @property
    def marks(self) -> dict[int, dict[str, str]]:
        """Stars, rejects and notes that hold now: candidate -> kind -> value."""
        return {index: dict(kinds) for index, kinds in self._view().marks.items()}

    @property
    def starred(self) -> list[Shot]:
        """The candidates with a star, in order."""
        view = self._view()
        return [self._shot(view, c) for c in view.candidates if "star" in view.marks.get(c.index, {})]

    def mark(self, candidate: int, kind: str, value: str = "1", who: str = "") -> None:
        """Star, reject or note a candidate, as in the studio; an empty value takes it back."""
        marks.add(self.folder, candidate, kind, value, who)

    @property
    def cost(self) -> Cost:
        """Everything the run has spent."""
        return self._view().spent

    @property
    def spec(self) -> Spec:
        """The run as data."""
        return self._view().spec

    @property
    def stopped(self) -> str:
        """Why the run ended."""
        return self._view().stopped

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, for example words that the model does not know."""
        return self._view().warnings

    def save(self, folder: str | Path) -> Path:
        """Copy the run to a new folder. All of it or nothing; an existing folder must be empty."""
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"{target} exists and is not empty. Choose another folder.")
        half = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            half.mkdir(parents=True)
            _copy_database(self.folder / DATABASE, half / DATABASE)
            skip = shutil.ignore_patterns(f"{DATABASE}*", "run.lock", ".*")
            shutil.copytree(self.folder, half, ignore=skip, dirs_exist_ok=True)
            os.replace(half, target)
        except (OSError, sqlite3.Error) as error:
            shutil.rmtree(half, ignore_errors=True)
            raise StoreError(f"{target} cannot be written ({error}). Choose another folder.") from error
        return target

    def report(self) -> Path:
        """Write `report.html` into the run's folder."""
        return write_report(self.folder)

    def __repr__(self) -> str:
        view = self._view()
        best = number(view.best.reward) if view.best else "none"
        before = number(view.baseline.reward) if view.baseline else "none"
        ended = reason(view.stopped) or view.status
        return f"Result({str(self.folder)!r}: {before} -> {best}, {len(view.candidates)} candidates, {ended})"

    def _repr_html_(self) -> str:
        view = self._view()
        facts = [
            ("reward", reward_text(view.spec.reward)),
            ("gain", number(view.gain, sign=True)),
            ("candidates", str(len(view.candidates))),
            ("NFE", count(view.spent.nfe)),
            ("time", duration(view.spent.seconds)),
            ("stopped", reason(view.stopped) or view.status),
        ]
        shots = [
            {"name": name, "picture": picture(view.picture(candidate), 512), "reward": candidate.reward}
            for name, candidate in (("best", view.best), ("baseline", view.baseline))
            if candidate is not None
        ]
        return fill("notebook.html", prompt=view.spec.prompt, shots=shots, facts=facts)


def _copy_database(source: Path, target: Path) -> None:
    """A consistent copy also while the run is being written."""
    old = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)
    new = sqlite3.connect(target)
    try:
        old.backup(new)
    finally:
        new.close()
        old.close()
