"""The server's side of the worker: start it, follow what it does, notice when it has died. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.app.studio.address import address, ask, only_one
from fairlead.app.studio.jobs import HOME, Jobs
from fairlead.core.errors import FairleadError

IDLE_STATE: Mapping[str, Any] = {"job": None, "folder": None, "phase": "idle"}
RETRY = 0.3
"""Seconds between two attempts to reach the worker."""
PATIENCE = 180.0
"""Seconds that a price may take: a batch of a running job comes first."""
LOG_SIZE = 1_000_000
LONGEST = 1 << 24
"""Bytes of an answer: a strip of pictures is one."""


class Supervisor:
    """Follows the worker of one runs folder for as long as the server runs."""

    def __init__(self, root: Path, jobs: Jobs, idle: float) -> None:
        self.root = root
        self.jobs = jobs
        self.state: Mapping[str, Any] = IDLE_STATE
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
        reader, writer = await asyncio.open_unix_connection(str(address(self.root)), limit=1 << 20)
        try:
            writer.write(b'{"do": "follow"}\n')
            while line := await reader.readline():
                self.state = json.loads(line)
        finally:
            writer.close()

    def _lost(self) -> None:
        """No worker answers: mark what it left, and start another if somebody waits for it."""
        self.state = IDLE_STATE
        if self._process is not None:
            self._process.poll()
        with only_one(self.root) as alone:
            if not alone:
                return
            self.jobs.bury()
        if (self._wanted or self.jobs.waiting()) and time.monotonic() - self._started > 3:
            self._start()

    def _start(self) -> None:
        self._wanted = False
        self._started = time.monotonic()
        log = self.root / HOME / "worker.log"
        if log.is_file() and log.stat().st_size > LOG_SIZE:
            log.unlink()
        words = [sys.executable, "-m", "fairlead.app.studio.worker", str(self.root), "--idle", str(self._idle)]
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def wake(self) -> None:
        """Tell the worker that a job waits; without a worker, one is started soon."""
        try:
            ask(self.root, {"do": "wake"})
        except OSError:
            self._started = 0.0

    def stop(self, job: str) -> None:
        """Ask the worker to end a job after its present batch."""
        try:
            ask(self.root, {"do": "stop", "job": job})
        except OSError:
            raise FairleadError(f"Job {job} has ended already: no process computes it.") from None

    async def price(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the worker says about the cost."""
        return await self.ask({"do": "price", "options": dict(options)})

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer, which it gives between two batches; waits for a worker that is being started."""
        self._wanted = True
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(OSError):
                        return await self._asked(message)
                    await asyncio.sleep(RETRY)
        except TimeoutError:
            sentence = f"The studio's worker did not answer within {PATIENCE:.0f} seconds. Wait for the present batch."
            raise FairleadError(sentence) from None

    async def _asked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the worker to one message; raises OSError where it does not answer."""
        reader, writer = await asyncio.open_unix_connection(str(address(self.root)), limit=LONGEST)
        try:
            writer.write(json.dumps(message).encode() + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
        if not line:
            raise ConnectionResetError("the worker closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer
