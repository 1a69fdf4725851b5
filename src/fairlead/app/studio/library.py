"""The run folders below one folder: found by id, listed, moved to the trash. Imports no torch.

An id is the digest of a folder's name. It is looked up among the folders that exist and never joined to a path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fairlead.app.studio.standing import standing
from fairlead.app.words import shown
from fairlead.app.workers.jobs import Job, Jobs, State
from fairlead.app.workers.supervisor import Crew
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run import marks
from fairlead.run.follow import as_number, is_held
from fairlead.run.parent import Parent
from fairlead.run.question_store import QuestionStore
from fairlead.run.records import Candidate
from fairlead.run.spec import Spec, reward_text
from fairlead.run.store import DATABASE
from fairlead.run.view import View

TRASH = ".trash"


class Missing(FairleadError):
    """An id that belongs to nothing."""


def run_id(name: str) -> str:
    """32 hex digits for a folder's name."""
    return blake2b(os.fsencode(name), digest_size=16).hexdigest()


class Library:
    """One runs folder; `crew` are those who compute its jobs."""

    def __init__(self, root: Path, jobs: Jobs, crew: Crew | None = None) -> None:
        self.root = root
        self.jobs = jobs
        self._crew = crew
        self._rows: dict[Path, tuple[object, dict[str, Any]]] = {}

    def folders(self) -> dict[str, Path]:
        """Every run by its id."""
        return {run_id(path.parent.name): path.parent for path in self.root.glob(f"*/{DATABASE}")}

    def find(self, id: str) -> tuple[Path, Job | None]:
        """The folder of a run, whose record may not exist yet, and its job if it has one."""
        every = {run_id(job.folder): job for job in self.jobs.all()}
        folder = self.folders().get(id)
        job = every.get(id)
        if folder is None and job is None:
            raise _missing(id)
        return folder or self.root / job.folder, job  # type: ignore[union-attr]

    def recorded(self, id: str) -> Path:
        """The folder of a run that has a record."""
        folder = self.folders().get(id)
        if folder is None:
            raise _missing(id)
        return folder

    def list(self) -> list[dict[str, Any]]:
        """Every run and every job, the latest first."""
        jobs = {job.folder: job for job in self.jobs.all()}
        found = {path.name: self._row(path, jobs.get(path.name)) for path in self.folders().values()}
        for name, job in jobs.items():
            if name not in found:
                found[name] = {**_waiting_row(job), "state": self.standing("", "", False, job)}
        return [found[name] for name in sorted(found, reverse=True)]

    def _row(self, folder: Path, job: Job | None) -> dict[str, Any]:
        stamp = _stamp(folder)
        if folder not in self._rows or self._rows[folder][0] != stamp:
            self._rows[folder] = (stamp, _recorded_row(folder))
        row = self._rows[folder][1]
        if "error" in row:
            return row
        return {**row, "state": self.standing(row["status"], row["stopped"], is_held(folder), job)}

    def standing(self, status: str, stopped: str, held: bool, job: Job | None) -> dict[str, Any]:
        """How a run stands, and whether somebody will compute its job."""
        waits = job is not None and job.state is State.QUEUED
        unserved = None
        if waits and job is not None and self._crew is not None and not self._crew.serves(job.device):
            unserved = self._crew.devices
        return standing(status, stopped, held, job, unserved)

    def trash(self, id: str) -> str:
        """Move a run to the trash folder, or forget a job that left no record. Returns the new name."""
        folder, job = self.find(id)
        if job is not None and job.state != "failed":
            raise StoreError(f"{folder.name} is {job.state}. Stop it first.")
        if is_held(folder):
            raise StoreError(f"{shown(folder)} is being written by another process. Stop it first.")
        if job is not None:
            self.jobs.remove(job)
        if not folder.is_dir():
            return ""
        trash = self.root / TRASH
        trash.mkdir(exist_ok=True)
        return _move(folder, trash)

    def restore(self, id: str) -> str:
        """Move a run out of the trash folder."""
        found = {run_id(path.parent.name): path.parent for path in (self.root / TRASH).glob(f"*/{DATABASE}")}
        if id not in found:
            raise Missing(f"There is no run {id!r:.40} in the trash folder {shown(self.root / TRASH)}.")
        return run_id(_move(found[id], self.root))


def _missing(id: str) -> Missing:
    return Missing(f"There is no run {id!r:.40} here: it was moved or deleted. The list shows those that exist.")


def _move(folder: Path, to: Path) -> str:
    target = to / folder.name
    again = 2
    while target.exists():
        target, again = to / f"{folder.name}-{again}", again + 1
    try:
        folder.rename(target)
    except OSError as error:
        raise StoreError(f"{shown(folder)} cannot be moved to {shown(to)} ({error.strerror}).") from error
    return target.name


def _stamp(folder: Path) -> object:
    """Changes whenever the record does. An empty log counts as none: reading leaves one behind."""
    found: list[object] = []
    for name in (DATABASE, f"{DATABASE}-wal"):
        try:
            stat = (folder / name).stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat.st_size else None)
        except OSError:
            found.append(None)
    return found


def _picture(candidate: Candidate | None) -> dict[str, Any] | None:
    if candidate is None:
        return None
    return {
        "index": candidate.index,
        "reward": as_number(candidate.reward),
        "image": Path(candidate.image).stem,
    }


def _recorded_row(folder: Path) -> dict[str, Any]:
    """A run in the list; one that cannot be read is shown with the reason."""
    start = {"id": run_id(folder.name), "name": folder.name, "folder": shown(folder)}
    try:
        view = View.read(folder)
        own = marks.present(marks.of(folder))
        waiting = QuestionStore(folder).pending()
    except FairleadError as error:
        return {**start, "error": str(error)}
    return {
        **start,
        "prompt": view.spec.prompt,
        "model": view.spec.model.name,
        "reward": reward_text(view.spec.reward),
        "search": view.spec.search.name,
        "method": method_words(view.spec),
        "created": view.created,
        "status": view.status.value,
        "stopped": view.stopped,
        "candidates": len(view.candidates),
        "best": _picture(view.best),
        "baseline": _picture(view.baseline),
        "parent": parent_json(view.spec.parent),
        "spent": view.spent.as_dict(),
        "limit": view.spec.limit.limits(),
        "stars": sum("star" in kinds for kinds in own.values()),
        "questions": len(waiting),
    }


def parent_json(parent: Parent | None) -> dict[str, Any] | None:
    """The parent of a run for the page, with the id of the other run."""
    if parent is None:
        return None
    found = {"verb": parent.verb, "name": parent.name, "candidate": parent.candidate, "picture": parent.picture}
    return {**found, "run": run_id(parent.name), "words": parent.words()}


def method_words(spec: Spec) -> str:
    """What tells methods apart in a few words: search, steering, interventions, drafts."""
    parts = [spec.search, *spec.steering, *spec.interventions]
    return " + ".join([*(part.name for part in parts), *(["drafts"] if spec.rungs else [])])


def _waiting_row(job: Job) -> dict[str, Any]:
    """A job in the list of runs."""
    options: Mapping[str, Any] = job.options
    return {
        "id": run_id(job.folder),
        "name": job.folder,
        "prompt": options.get("prompt", ""),
        "model": options.get("model", "pocket"),
        "reward": options.get("reward", "clip_score"),
        "created": job.created,
        "candidates": 0,
        "best": None,
        "baseline": None,
        "stars": 0,
    }
