"""The record of a served run as the server reads it: how far it is, what covers a budget, who is best. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fairlead.core.cost import Cost
from fairlead.core.errors import StoreError
from fairlead.run.follow import Follower
from fairlead.run.records import Candidate, RunStatus, StopReason
from fairlead.run.store import DATABASE, Store

PACKAGES = ("fairlead", "torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Standing:
    """A record at one moment."""

    spent: Cost
    limit: Cost
    status: RunStatus
    stopped: str
    best: Candidate | None
    count: int

    def covers(self, budget: Mapping[str, float]) -> bool:
        """True if nothing is left to compute for a budget: the run has spent it, or ended within it."""
        asked = Cost.budget(budget)
        if any(getattr(self.spent, name) >= limit for name, limit in budget.items()):
            return True
        if self.status != RunStatus.FINISHED:
            return False
        return self.stopped == StopReason.SEARCH_FINISHED or asked.fits(self.limit)

    def ended_by(self, budget: Mapping[str, float]) -> str:
        """Why nothing is left to compute for a budget."""
        gone = [name for name, limit in budget.items() if getattr(self.spent, name) >= limit]
        return StopReason.budget(gone) if gone else self.stopped

    def share(self, budget: Mapping[str, float]) -> float:
        """How much of a budget is spent, from 0 to 1."""
        return min(1.0, max((getattr(self.spent, name) / limit for name, limit in budget.items()), default=0.0))


class Record:
    """One run folder, read again and again while another process writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._follower: Follower | None = None
        self._last: Standing | None = None

    def close(self) -> None:
        """Close the record."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def standing(self) -> Standing | None:
        """How the record stands now; None while there is none."""
        if self._follower is None:
            if not (self.folder / DATABASE).is_file():
                return None
            try:
                self._follower = Follower(self.folder)
            except StoreError:
                if (self.folder / DATABASE).is_file():
                    raise
                return None  # a run that was refused has removed its folder in between
        if self._follower.changed() or self._last is None:
            self._last = standing(self._follower.store)
        return self._last

    def picture(self, candidate: Candidate) -> bytes:
        """The PNG of a candidate, with its recipe."""
        assert self._follower is not None
        return self._follower.store.image(Path(candidate.image).stem)


def standing(store: Store) -> Standing:
    """How a record stands."""
    return Standing(store.spent(), store.spec.limit, store.status, store.stopped, store.best(), store.count())


@cache
def packages() -> dict[str, str]:
    """The versions that decide the pixels of a run, read without importing anything."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def is_outdated(folder: Path) -> bool:
    """True if other versions of the packages made the record: it is not continued."""
    if not (folder / DATABASE).is_file():
        return False
    store = Store.open(folder, verify=False)
    try:
        made: Mapping[str, Any] = store.versions
        return any(made.get(name, known) != known for name, known in packages().items())
    finally:
        store.close()


def set_aside(folder: Path) -> None:
    """Rename a run folder, so that its name is free."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
