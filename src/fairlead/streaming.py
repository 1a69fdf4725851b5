"""A run whose events are iterated while it is searched: `for event in fairlead.stream(...)`, also with `async for`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from fairlead import api
from fairlead.core.errors import FairleadError

if TYPE_CHECKING:
    from fairlead.app.events import Event

WAITING = 16
"""Events that the search may be ahead of the loop; then it waits."""
TICK = 0.1
"""Seconds between two looks at whether the loop was left, while the search waits."""


class _Left(BaseException):
    """The loop was left: ends the run from inside."""


class Stream:
    """The events of a run in a thread of its own. Leaving the loop ends the run after its present batch.

    What was recorded is kept: `fairlead.resume(stream.folder)` goes on. `result` is what `fairlead.run` returns.
    """

    def __init__(self, **options: Any) -> None:
        inspect.signature(api.run).bind(**options)
        if "on_event" in options:
            raise TypeError("stream() has no argument 'on_event': its events are what you iterate over.")
        if options.get("out") is None:
            options["out"] = api.new_folder()
        self.folder = options["out"]
        self._options = options
        self._events: queue.Queue[Event | None] = queue.Queue(WAITING)
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Event]:
        """Every event in order. An error of the run is raised at its place."""
        self._start()
        try:
            while (event := self._events.get()) is not None:
                yield event
        finally:
            self.close()
        self._raise()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The same without blocking the event loop."""
        self._start()
        try:
            while (event := await asyncio.to_thread(self._events.get)) is not None:
                yield event
        finally:
            self._left.set()
            await asyncio.to_thread(self.close)
        self._raise()

    @property
    def result(self) -> Any:
        """A `Result`, or `Results` for several prompts, once all events were read."""
        if self._result is None:
            raise FairleadError(f"The run in {self.folder} has not ended. Read all events before its result.")
        return self._result

    def close(self) -> None:
        """End the run after its present batch and wait for it."""
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is not None:
            raise FairleadError("A stream can be iterated once. Call fairlead.stream again, or resume its folder.")
        inside = contextvars.copy_context()
        self._thread = threading.Thread(target=inside.run, args=(self._search,), name="fairlead-stream", daemon=True)
        self._thread.start()

    def _search(self) -> None:
        try:
            self._result = api.run(on_event=self._put, **self._options)
        except BaseException as error:
            self._error = error
        with contextlib.suppress(_Left):
            self._put(None)

    def _put(self, event: Event | None) -> None:
        while not self._left.is_set():
            try:
                return self._events.put(event, timeout=TICK)
            except queue.Full:
                continue
        raise _Left

    def _raise(self) -> None:
        if self._error is not None and not isinstance(self._error, _Left):
            raise self._error


def stream(prompt: Any = "", **options: Any) -> Stream:
    """The run of `fairlead.run(prompt, **options)`, as events that are iterated while it is searched.

    Every event is an `Event`: a candidate with its reward and picture, a preview every `previews` steps, and the end.
    With `for` the caller waits between two events; with `async for` the event loop goes on.
    """
    return Stream(prompt=prompt, **options)
