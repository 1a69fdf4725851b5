"""Runs that wait, as small files beside the run folders. Imports no torch.

A job is a file `.studio/jobs/<id>.<state>.json` below the runs folder. Its state is in its name, so that a change of
state is one rename: of two processes that want to change it exactly one succeeds. The name of a running job also
holds the worker that computes it. A job that has ended well leaves no file, because the run's record tells the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from fairlead.core.errors import StoreError
from fairlead.run.folders import new_folder
from fairlead.run.store import write_atomically

HOME = ".studio"
"""The folder of the studio below the runs folder."""
REBINDING = "The studio ended while it queued this run for another device. Start the run again."
DIED = (
    "The process that computed this run ended without a word. Often the system ends a process when memory runs out. "
    "Everything that was recorded is kept."
)


IN_ITS_NAME = ("id", "state", "worker")
"""Fields of a job that are in the name of its file."""


class State(StrEnum):
    """How a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """A run that was asked for and is not done."""

    id: str
    folder: str
    """Name of the run's folder below the runs folder."""
    kind: str = "run"
    """`run` or `resume`"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of `fairlead run`, by their names in Python."""
    budget: Mapping[str, float] | None = None
    """The new limits of a run that is resumed."""
    created: str = ""
    where: str = ""
    """The folder in which the names of files in the options are meant; empty for that of the worker."""
    trust: bool = False
    """True where a person said that the file or the server which a stored run names may be used."""
    device: str = ""
    """Which worker computes it; empty for any."""
    sentence: str = ""
    """Why it failed."""
    error: str = ""
    """The class of the error, for programs."""
    report: bool = True
    """Write the page of the run when it ends."""
    state: State = State.QUEUED
    worker: str = ""
    """Who computes it now."""


class Jobs:
    """The jobs of one runs folder, read from their files each time."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._folder = self.root / HOME / "jobs"

    def all(self) -> list[Job]:
        """Every job, the oldest first."""
        if not self._folder.is_dir():
            return []
        paths = sorted(self._folder.glob("*.json"))
        return [job for path in paths if (job := _read(path)) is not None]

    def waiting(self, device: str | None = None) -> list[Job]:
        """Those that are queued, the oldest first; with a device those that it may compute."""
        queued = [job for job in self.all() if job.state is State.QUEUED]
        return [job for job in queued if device is None or job.device in ("", device)]

    def of(self, folder: str) -> Job | None:
        """The latest job of a run folder."""
        return next((job for job in reversed(self.all()) if job.folder == folder), None)

    def add(self, options: Mapping[str, Any], folder: str = "", **more: Any) -> Job:
        """Queue a new run; its folder is chosen now. `more` are fields of a job, and what `_put` takes."""
        name = folder or self._vacant(str(options.get("prompt", "")))
        return self._put(folder=name, options=dict(options), **more)

    def resume(self, folder: str, budget: Mapping[str, float] | None, **more: Any) -> Job:
        """Queue a run that has a record. An older failure of it is forgotten."""
        old = self.of(folder)
        if old is not None and old.state is not State.FAILED:
            raise StoreError(f"{folder} is {old.state} already. Wait for it, or stop it first.")
        if old is not None:
            self.remove(old)
        return self._put(folder=folder, kind="resume", budget=None if budget is None else dict(budget), **more)

    def move(self, job: Job, state: State, sentence: str = "", *, error: str = "", worker: str = "") -> Job | None:
        """The job in its new state; None if another process was faster.

        A sentence is written before the state changes, so that nobody reads a failure without its reason. Only the
        process that holds the worker's lock may pass one.
        """
        moved = replace(job, state=state, sentence=sentence, error=error, worker=worker)
        if sentence and self._path(job).is_file():
            self._write(replace(job, sentence=sentence, error=error))
        try:
            self._path(job).rename(self._path(moved))
        except FileNotFoundError:
            return None
        return moved

    def remove(self, job: Job) -> bool:
        """Take the job out of the list; False if another process was faster."""
        try:
            self._path(job).unlink()
        except FileNotFoundError:
            return False
        return True

    def rebind(self, job: Job, device: str, ready: Callable[[Job], object]) -> Job:
        """Queue a waiting job for another device. It leaves the queue meanwhile, so that no process takes it."""
        out = self.move(job, State.FAILED) if job.state is State.QUEUED else None
        if out is None:
            raise StoreError(f"{job.folder} does not wait any more: it was started or stopped. Reload the page.")
        bound = replace(out, device=device, sentence=REBINDING)
        self._write(bound)
        ready(bound)
        queued = self.move(bound, State.QUEUED)
        assert queued is not None
        return queued

    def bury(self, died: Callable[[str], bool] = lambda worker: True) -> None:
        """Mark jobs as failed that no process computes any more; `died` tells it of a worker."""
        for job in self.all():
            if job.state is State.RUNNING and died(job.worker):
                self.move(job, State.FAILED, DIED)

    def _vacant(self, prompt: str) -> str:
        now = datetime.now(UTC)
        taken = {job.folder for job in self.all()}
        while (folder := new_folder(prompt, now, self.root)).name in taken:
            now += timedelta(seconds=1)
        return folder.name

    def _put(self, ready: Callable[[Job], object] | None = None, **words: Any) -> Job:
        """A job that is queued; `ready` is called with it before anybody can take it."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        job = Job(id=f"{time.time_ns():020d}", created=created, **words)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.root} cannot be written ({error.strerror}). Choose another --runs.") from error
        if ready is not None:
            ready(job)
        self._write(job)
        return job

    def _path(self, job: Job) -> Path:
        worker = f"@{job.worker}" if job.worker else ""
        return self._folder / f"{job.id}.{job.state}{worker}.json"

    def _write(self, job: Job) -> None:
        data = {name: value for name, value in asdict(job).items() if name not in IN_ITS_NAME}
        write_atomically(self._path(job), json.dumps(data, ensure_ascii=True).encode())


def _read(path: Path) -> Job | None:
    """A job from its file; None where the file has gone, or is none of ours."""
    name, _, end = path.name.removesuffix(".json").partition(".")
    state, _, worker = end.partition("@")
    try:
        return Job(id=name, state=State(state), worker=worker, **json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
