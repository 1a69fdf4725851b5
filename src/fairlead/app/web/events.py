"""What happens to a run, as server-sent events whose ids are positions of its record. Imports no torch.

A stream is a function of the record: after any interruption, of the listener or of the server, the listener names the
last position that it knows and receives the rest, in order and once.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.responses import Response, StreamingResponse

from fairlead.core.errors import FairleadError
from fairlead.run.follow import Follower, Position, line
from fairlead.run.store import DATABASE

TICK = 0.1
BEAT = 15.0
"""Seconds of silence after which a comment shows that the connection lives."""
START = "retry: 2000\n\n: ok\n\n"


def event(kind: str, data: object, id: object = None) -> str:
    """One event as text; without an id it does not move the listener's position."""
    head = "" if id is None else f"id: {id}\n"
    return f"{head}event: {kind}\ndata: {line(data)}\n\n"


class RunEvents(ABC):
    """The events of one run for one listener. A subclass says how they are told."""

    def __init__(self, folder: Path, after: str) -> None:
        self.folder = folder
        self.at = Position.parse(after)
        self.follower: Follower | None = None
        self.existed = False
        """True once there was a record."""
        self.ended = False
        self._said: dict[str, Any] = {}

    def close(self) -> None:
        """Close the record."""
        if self.follower is not None:
            self.follower.close()

    def news(self) -> Iterator[str]:
        """What happened since the last call."""
        if self.follower is None and (self.folder / DATABASE).is_file():
            self.follower = Follower(self.folder)
            self.existed = True
        if self.follower is not None:
            if self.follower.is_gone():
                self.ended = True
                yield self.gone(f"The folder {self.folder.name} was moved or deleted.")
                return
            if self.follower.changed():
                yield from self.recorded(self.follower)
        yield from self.beside()

    @abstractmethod
    def recorded(self, follower: Follower) -> Iterator[str]:
        """What the record has gained. Each event moves the position."""

    @abstractmethod
    def beside(self) -> Iterator[str]:
        """What is true beside the record, said at each call."""

    @abstractmethod
    def gone(self, sentence: str) -> str:
        """The last event of a run that cannot be read any more."""

    def rewards_changed(self, follower: Follower) -> bool:
        """True if a reward of what is known has changed; the position then knows the new ones."""
        if self.at.task < 0 or follower.same_rewards(self.at):
            return False
        self.at = replace(self.at, rewards=follower.digest(self.at.task))
        return True

    def once(self, kind: str, value: Any) -> Iterator[str]:
        """An event without a position, unless the same was said last."""
        if self._said.get(kind) != value:
            self._said[kind] = value
            yield event(kind, value)

    def knows(self, kind: str, value: Any) -> None:
        """Take an event for said."""
        self._said[kind] = value


async def stream(source: RunEvents, closing: Callable[[], bool]) -> AsyncIterator[str]:
    """The events of a run until the listener leaves or the server closes."""
    yield START
    heard = time.monotonic()
    try:
        while not (closing() or source.ended):
            for text in source.news():
                yield text
                heard = time.monotonic()
            if time.monotonic() - heard > BEAT:
                yield ": beat\n\n"
                heard = time.monotonic()
            await asyncio.sleep(TICK)
    except FairleadError as error:
        yield source.gone(str(error))
    finally:
        source.close()


def streamed(text: AsyncIterator[str]) -> Response:
    """The answer that sends events as they come."""
    headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
    return StreamingResponse(text, media_type="text/event-stream", headers=headers)
