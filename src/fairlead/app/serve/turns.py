"""Whose run is computed next: round robin over the tenants, first come first served within one, bounded."""

from __future__ import annotations

import asyncio
from collections import deque

from fairlead.app.serve.errors import busy

MOST_WAITING = 32
USUAL_SECONDS = 10.0
"""What a run is taken to need before one was measured."""


class Turns:
    """The queue in front of the worker."""

    def __init__(self, slots: int = 1, most: int = MOST_WAITING) -> None:
        self._free = slots
        self._most = most
        self._slots = slots
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By tenant, the tenant whose turn is next first."""
        self._seconds = USUAL_SECONDS

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def estimate(self) -> float:
        """Seconds until a new run would start, at the speed so far."""
        return self._seconds * (len(self) + 1) / self._slots

    def check_room(self) -> None:
        """Refuse a run that would have to wait behind too many."""
        if len(self) >= self._most:
            wait = min(120.0, self.estimate())
            raise busy("queue_full", f"{len(self)} runs wait already. Ask again in {wait:.0f} seconds.", wait)

    async def take(self, tenant: str) -> None:
        """Wait for a turn. Whoever took one must call `leave`."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._give_up(tenant, turn)
            raise

    def leave(self, seconds: float) -> None:
        """The run of a turn has ended after so many seconds."""
        self._seconds = 0.7 * self._seconds + 0.3 * seconds
        self._next()

    def _next(self) -> None:
        while self._waiting:
            tenant, own = next(iter(self._waiting.items()))
            del self._waiting[tenant]
            turn = own.popleft()
            if own:
                self._waiting[tenant] = own  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _give_up(self, tenant: str, turn: asyncio.Future[None]) -> None:
        """Leave the queue; a turn that had come goes to the next."""
        if turn.done() and not turn.cancelled():
            self._next()
        own = self._waiting.get(tenant)
        if own is not None and turn in own:
            own.remove(turn)
            if not own:
                del self._waiting[tenant]
