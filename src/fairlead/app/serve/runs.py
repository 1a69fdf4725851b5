"""Runs that requests share: the same request of the same tenant is one run, with as many listeners as ask for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.app.serve.errors import Refused, unavailable, without_places
from fairlead.app.serve.record import Record, Standing, is_outdated, set_aside
from fairlead.app.serve.turns import Turns
from fairlead.app.workers.jobs import DIED, Job, Jobs, State
from fairlead.app.workers.supervisor import Supervisor
from fairlead.app.workers.vouching import forget, vouch
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError, StoreError

TICK = 0.05
"""Seconds between two looks at a record, at least."""
REST = 10
"""A record is looked at for a tenth of the time at most."""
LINGER = 30.0
"""Seconds that a run goes on without a listener: a client that retries comes back within eight."""
SETTLE = 0.2


@dataclass(eq=False)
class Listener:
    """A request that waits for a run."""

    budget: Mapping[str, float]
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever there is something new."""


class SharedRun:
    """One run folder and everybody who waits for it. Lives in the event loop."""

    def __init__(self, runs: Runs, tenant: str, id: str, options: Mapping[str, Any], trust: bool) -> None:
        self.id = id
        self.tenant = tenant
        self.folder = f"{tenant}/{id}"
        self.standing: Standing | None = None
        self.first: Standing | None = None
        """The record before this server computed anything."""
        self.label = ""
        """The served model, for the metrics."""
        self.booked = 0.0
        """Denoiser evaluations that were booked for it."""
        self.asked = time.monotonic()
        self.error: Refused | None = None
        self.ended = False
        self.started: float | None = None
        """When its turn came; None while it waits."""
        self.linger: asyncio.TimerHandle | None = None
        self.listeners: set[Listener] = set()
        self._given_up: set[Listener] = set()
        """Those that get what there is when the run was stopped."""
        self._runs = runs
        self._options = options
        self._trust = trust
        self.has_expired = False
        """True if the server's limit of seconds ended it."""
        self._job: Job | None = None
        self._stopping = False
        self._stops: asyncio.Task[None] | None = None
        self.record = Record(runs.root / self.folder)
        self.task: asyncio.Task[None] | None = None

    def is_done_for(self, budget: Mapping[str, float]) -> bool:
        """True if the record covers the budget, or the run has ended in whatever way."""
        return self.ended or (self.standing is not None and self.standing.covers(budget))

    async def drive(self) -> None:
        """Compute until no listener's budget is open."""
        turn = False
        timer = None
        try:
            self._look()
            if self._need() is not None:
                await self._runs.turns.take(self.tenant)
                turn = True
                self.started = time.monotonic()
                timer = asyncio.get_running_loop().call_later(self._runs.most_seconds, self._expire)
            while (need := self._need()) is not None:
                before = self.standing
                self._stopping = False
                self._job = await asyncio.to_thread(self._submit, need, before)
                if self._stopping:
                    await self._stop_job()
                await self._followed(self._job)
                self._job = None
                if self.error is not None or (before is not None and self.standing == before):
                    break
        except StoreError as error:
            self.error = locked(str(error))
        except FairleadError as error:
            self.error = Refused(400, "invalid_value", without_places(str(error)))
        except OSError as error:
            self.error = Refused(500, "internal", f"Run {self.id} cannot be written ({error.strerror}).")
        finally:
            if timer is not None:
                timer.cancel()
            if turn and self.started is not None:
                self._runs.turns.leave(time.monotonic() - self.started)
            self.record.close()
            self.ended = True
            self._runs.forget(self)
            self._tell()

    def _need(self) -> Mapping[str, float] | None:
        """The largest budget of a listener that the record does not cover."""
        if self._runs.closing or self.has_expired:
            return None
        open_budgets = [one.budget for one in self.listeners - self._given_up if not self.is_done_for(one.budget)]
        return max(open_budgets, key=lambda budget: budget.get("nfe", 0.0), default=None)

    def _submit(self, need: Mapping[str, float], now: Standing | None) -> Job:
        """Queue the run, or join the job that an earlier server has left."""
        jobs = self._runs.jobs
        old = jobs.of(self.folder)
        if old is not None and old.state is not State.FAILED:
            return old
        if old is not None:
            jobs.remove(old)
        more = {"report": False, "where": os.getcwd(), "ready": lambda job: vouch(self._runs.root, job)}
        if now is None:
            text = ",".join(f"{name}={limit:.15g}" for name, limit in need.items())
            job = jobs.add({**self._options, "budget": text}, self.folder, **more)
        else:
            same = Cost.budget(need) == now.limit
            job = jobs.resume(self.folder, None if same else need, trust=self._trust, **more)
        self._runs.supervisor.wake()
        return job

    async def _followed(self, job: Job) -> None:
        """Watch the record until the job has ended."""
        while True:
            found = await asyncio.to_thread(self._runs.jobs.of, self.folder)
            before = time.perf_counter()
            self._look()
            looking = time.perf_counter() - before
            if found is None or found.id != job.id:
                return
            if found.state is State.FAILED:
                self.error = failure(found, self.standing is not None)
                await asyncio.to_thread(self._runs.jobs.remove, found)
                return
            await asyncio.sleep(max(TICK, REST * looking))  # reading a long record takes a while

    def _look(self) -> None:
        now = self.record.standing()
        if now is not self.standing:
            self.standing = now
            self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener.changed.set()

    def stop(self) -> None:
        """End the computing after its present batch; what is recorded stays."""
        self._given_up |= self.listeners
        self._stopping = True
        if self._job is not None:
            self._stops = asyncio.create_task(self._stop_job())
        elif self.started is None and self.task is not None:
            self.task.cancel()

    async def _stop_job(self) -> None:
        job = self._job
        if job is None:
            return
        if await asyncio.to_thread(self._runs.jobs.remove, job):
            forget(self._runs.root, job)
            return  # it was still queued
        with contextlib.suppress(FairleadError):
            await asyncio.to_thread(self._runs.supervisor.stop, job.id)

    def _expire(self) -> None:
        """The server gives no run more time than this."""
        self.has_expired = True
        self.stop()


def locked(sentence: str) -> Refused:
    """Another process writes the run: the client asks again in a moment."""
    return Refused(409, "run_locked", without_places(sentence), headers={"retry-after": "5"})


def failure(job: Job, has_record: bool) -> Refused:
    """What a failed job is to whoever waits for it."""
    sentence = without_places(job.sentence)
    if job.sentence == DIED:
        return unavailable("worker_down", "The process that computes has ended. What it made is kept. Ask again.")
    if job.error == "bug":
        return Refused(500, "internal", f"Job {job.id} ended with an error of this server.")
    if job.error == "RewardError":
        return unavailable("reward_unavailable", sentence)
    if "another process" in job.sentence:
        return locked(sentence)
    if job.error == "OutOfMemory":
        return unavailable("worker_down", sentence)
    code = "budget_too_small" if "budget" in job.sentence and not has_record else "invalid_value"
    return Refused(400, code, sentence)


class Runs:
    """The runs that are computed or waited for now."""

    def __init__(
        self, root: Path, idle: float, *, linger: float = LINGER, most_waiting: int = 32, most_seconds: float = 600.0
    ) -> None:
        self.most_seconds = most_seconds
        self.root = root
        self.jobs = Jobs(root)
        self.supervisor = Supervisor(root, self.jobs, idle)
        self.turns = Turns(most=most_waiting)
        self.closing = False
        self.on_end: Callable[[SharedRun], None] = lambda run: None
        self.reserve: Callable[[SharedRun, float], None] = lambda run, nfe: None
        """Book the price of what is to be computed, or refuse it."""
        self._linger = linger
        self._active: dict[tuple[str, str], SharedRun] = {}

    def join(
        self, tenant: str, id: str, options: Mapping[str, Any], budget: Mapping[str, float], trust: bool
    ) -> tuple[SharedRun, Listener]:
        """The run of a request, started if nobody has; call `leave` when the request ends."""
        run = self._active.get((tenant, id))
        listener = Listener(budget)
        if run is None:
            if is_outdated(self.root / tenant / id):
                set_aside(self.root / tenant / id)
            run = SharedRun(self, tenant, id, options, trust)
            run.standing = run.first = run.record.standing()
            if not run.is_done_for(budget):
                self.turns.check_room()
            self._pay(run, budget)
            self._active[tenant, id] = run
            run.listeners.add(listener)
            run.task = asyncio.create_task(run.drive())
            return run, listener
        self._pay(run, budget)
        if run.linger is not None:
            run.linger.cancel()
            run.linger = None
        run.listeners.add(listener)
        return run, listener

    def _pay(self, run: SharedRun, budget: Mapping[str, float]) -> None:
        """Book what a budget adds to what is recorded and booked already."""
        spent = 0.0 if run.first is None else run.first.spent.nfe
        missing = budget["nfe"] - spent - run.booked
        if missing > 0 and not run.is_done_for(budget):
            self.reserve(run, missing)
            run.booked += missing

    def leave(self, run: SharedRun, listener: Listener, *, now: bool = False) -> None:
        """A request has ended. A run without listeners stops after the linger, or `now`."""
        run.listeners.discard(listener)
        if run.listeners or run.ended:
            return
        if now:
            run.stop()
        elif run.linger is None:
            run.linger = asyncio.get_running_loop().call_later(self._linger, self._nobody_came, run)

    def _nobody_came(self, run: SharedRun) -> None:
        run.linger = None
        if not run.listeners and not run.ended:
            run.stop()

    def forget(self, run: SharedRun) -> None:
        """A run is not computed any more; its record answers from now on."""
        if self._active.get((run.tenant, run.id)) is run:
            del self._active[run.tenant, run.id]
        if run.linger is not None:
            run.linger.cancel()
        self.on_end(run)

    def find(self, tenant: str, id: str) -> SharedRun | None:
        """A run that is computed now."""
        return self._active.get((tenant, id))

    def active(self) -> list[SharedRun]:
        """Every run that is computed or waits."""
        return list(self._active.values())

    async def close(self) -> None:
        """Stop every run after its present batch; requests answer with what there is."""
        self.closing = True
        mine = list(self._active.values())
        for run in mine:
            for listener in run.listeners:
                listener.changed.set()
        await asyncio.sleep(SETTLE)
        for run in mine:
            run.stop()
        if tasks := [run.task for run in mine if run.task is not None]:
            await asyncio.wait(tasks, timeout=20)
