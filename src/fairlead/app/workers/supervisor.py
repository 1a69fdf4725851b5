"""The server's side of the worker: start it, follow what it does, notice when it has died. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.app.workers.address import WORKER, address, ask, device_of, is_alive, living, only_one
from fairlead.app.workers.jobs import HOME, Job, Jobs
from fairlead.core.errors import FairleadError

IDLE_STATE: Mapping[str, Any] = {"job": None, "folder": None, "phase": "idle"}
SWEEP = 2.0
"""Seconds between two looks at workers that another server has started."""
RETRY = 0.3
"""Seconds between two attempts to reach the worker."""
PATIENCE = 180.0
"""Seconds that a price may take: a batch of a running job comes first."""
LOG_SIZE = 1_000_000
LONGEST = 1 << 24
"""Bytes of an answer: a strip of pictures is one."""


class Supervisor:
    """Follows one worker of a runs folder for as long as the server runs."""

    def __init__(self, root: Path, jobs: Jobs, idle: float, name: str = WORKER) -> None:
        self.root = root
        self.name = name
        self.jobs = jobs
        self.state: Mapping[str, Any] = IDLE_STATE
        self.is_up = False
        """True while a worker answers."""
        self.starts = 0
        """How many workers this process has started."""
        self._idle = idle
        self._wanted = True
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    async def run(self) -> None:
        """Follow the worker; start one while there is work and none lives."""
        while True:
            with contextlib.suppress(OSError, ValueError):
                await self._follow()
            self._lost()
            await asyncio.sleep(RETRY)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(address(self.root, self.name)), limit=1 << 20)
        try:
            writer.write(b'{"do": "follow"}\n')
            while line := await reader.readline():
                self.state = json.loads(line)
                self.is_up = True
        finally:
            writer.close()

    def _lost(self) -> None:
        """No worker answers: mark what it left, and start another if somebody waits for it."""
        self.state = IDLE_STATE
        self.is_up = False
        if self._process is not None:
            self._process.poll()
        with only_one(self.root, self.name) as alone:
            if not alone:
                return
        self.jobs.bury(lambda worker: not is_alive(self.root, worker or WORKER))
        if (self._wanted or self.jobs.waiting(device_of(self.name))) and time.monotonic() - self._started > 3:
            self._start()

    def _start(self) -> None:
        self._wanted = False
        self.starts += 1
        self._started = time.monotonic()
        log = self.root / HOME / "worker.log"
        if log.is_file() and log.stat().st_size > LOG_SIZE:
            log.unlink()
        words = [sys.executable, "-m", "fairlead.app.workers.worker", str(self.root)]
        words += ["--idle", str(self._idle), "--name", self.name]
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def wake(self) -> None:
        """Tell the worker that a job waits; without a worker, one is started soon."""
        try:
            ask(self.root, {"do": "wake"}, worker=self.name)
        except OSError:
            self._started = 0.0

    def end(self) -> None:
        """End the worker, unless somebody else waits for a job of it; raises OSError where none lives."""
        ask(self.root, {"do": "end"})

    def stop(self, job: str) -> None:
        """Ask the worker to end a job after its present batch."""
        try:
            ask(self.root, {"do": "stop", "job": job}, worker=self.name)
        except OSError:
            raise FairleadError(f"Job {job} has ended already: no process computes it.") from None

    async def price(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the worker says about the cost."""
        return await self.work("The price was not counted", do="price", options=dict(options))

    async def work(self, failure: str, **message: Any) -> dict[str, Any]:
        """The worker's answer; waits for a worker that is being started. `failure` says what did not happen in time."""
        self._wanted = True
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(OSError):
                        return await self._asked(message)
                    await asyncio.sleep(RETRY)
        except TimeoutError:
            raise FairleadError(f"{failure} within {PATIENCE:.0f} seconds. Wait for the present batch.") from None

    async def _asked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the worker to one message; raises OSError where it does not answer."""
        reader, writer = await asyncio.open_unix_connection(str(address(self.root, self.name)), limit=LONGEST)
        try:
            writer.write(json.dumps(message).encode() + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
        if not line:
            raise ConnectionResetError("the worker closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Crew:
    """The workers of a runs folder, one for each device."""

    def __init__(self, root: Path, jobs: Jobs, idle: float, names: Sequence[str] = (WORKER,)) -> None:
        self._root = root
        self._jobs = jobs
        self._names = tuple(names)
        self._all = [Supervisor(root, jobs, idle, name) for name in names]

    @property
    def devices(self) -> list[str]:
        """The devices that a job may name; empty where the one worker chooses its own."""
        return list(dict.fromkeys(device for one in self._all if (device := device_of(one.name))))

    async def run(self) -> None:
        """Follow all of them."""
        await asyncio.gather(*(one.run() for one in self._all), self._sweep())

    async def _sweep(self) -> None:
        """Mark what died with a worker that nobody here follows, because it was started for other devices."""
        while True:
            self._jobs.bury(lambda worker: worker not in self._names and not is_alive(self._root, worker or WORKER))
            await asyncio.sleep(SWEEP)

    def serves(self, device: str) -> bool:
        """True if a job for this device will be computed: by these workers, or by one that still lives."""
        mine = ["", *self.devices]
        return device in mine or device in [device_of(worker) for worker in living(self._root)]

    def state_of(self, folder: str) -> Mapping[str, Any]:
        """What the worker says that computes this folder."""
        return next((one.state for one in self._all if one.state.get("folder") == folder), IDLE_STATE)

    def wake(self, device: str = "") -> None:
        """Tell those that may compute a job for this device."""
        for one in self._all:
            if device in ("", device_of(one.name)):
                one.wake()

    def stop(self, job: Job) -> None:
        """Ask the worker of a job to end it after its present batch."""
        self._of(job.worker).stop(job.id)

    def _of(self, worker: str) -> Supervisor:
        """Who speaks with a worker, which an earlier server may have started for other devices."""
        own = next((one for one in self._all if one.name == worker), None)
        return own or Supervisor(self._root, self._jobs, 0.0, worker or WORKER)

    async def price(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the first worker without work says about the cost."""
        return await self._free().price(options)

    async def work(self, failure: str, **message: Any) -> dict[str, Any]:
        """The answer of the first worker without work; see `Supervisor.work`."""
        return await self._free().work(failure, **message)

    def _free(self) -> Supervisor:
        return next((one for one in self._all if one.state.get("job") is None), self._all[0])

    def worker_of(self, folder: str) -> str:
        """The name of the worker that computes this folder, else of the first one."""
        return next((one for one in self._all if one.state.get("folder") == folder), self._all[0]).name
