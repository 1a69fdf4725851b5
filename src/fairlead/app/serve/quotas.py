"""What a key may ask for: requests a minute, runs at once, and amounts a day. The amounts are in the server's SQLite.

A price is booked when a run is asked for, and corrected to the bill when it ends. So a server that was killed has
booked too much, never too little.
"""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fairlead.app.serve.errors import busy
from fairlead.core.cost import Cost
from fairlead.run.store import sqlite_errors

DAILY = ("nfe", "seconds", "dollars")
MINUTE = 60.0
DAY = 86_400.0


@dataclass(frozen=True)
class Reservation:
    """What was booked for a run that has not ended."""

    tenant: str
    day: str
    nfe: float


class Quotas:
    """The accounts of all keys of one server."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite_errors(path.parent), closing(self._connect()) as db, db:
            db.execute(
                "create table if not exists spent (tenant, day, nfe, seconds, dollars, primary key (tenant, day))"
            )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path)

    def check_request(self, tenant: str, limits: Mapping[str, float]) -> None:
        """Count a request; refuse it if there were too many within a minute."""
        recent = self._recent[tenant]
        now = self._clock()
        while recent and not 0 <= now - recent[0] < MINUTE:
            recent.popleft()
        if len(recent) >= limits.get("requests", float("inf")):
            wait = MINUTE - (now - recent[0]) if recent else MINUTE
            raise busy("rate_limit_exceeded", f"This key may send {limits['requests']:g} requests a minute.", wait)
        recent.append(now)

    def check_runs(self, limits: Mapping[str, float], active: int, waiting: int) -> None:
        """Refuse another run of a key that has as many as it may have."""
        for name, count in (("runs", active), ("waiting", waiting)):
            if count >= limits.get(name, float("inf")):
                raise busy("rate_limit_exceeded", f"This key may have {limits[name]:g} {name} at once.", 5)

    def spent(self, tenant: str) -> dict[str, float]:
        """What is booked for today."""
        return self._of(tenant, self._day())

    def _of(self, tenant: str, day: str) -> dict[str, float]:
        with sqlite_errors(self._path.parent), closing(self._connect()) as db:
            row = db.execute(
                "select nfe, seconds, dollars from spent where tenant=? and day=?", (tenant, day)
            ).fetchone()
        return dict(zip(DAILY, row or (0.0, 0.0, 0.0), strict=True))

    def reserve(self, tenant: str, limits: Mapping[str, float], nfe: float) -> Reservation:
        """Book the price of a run; refuse it if the key has not so much left today."""
        booked = self.spent(tenant)
        wanted = {"nfe": nfe, "seconds": 0.0, "dollars": 0.0}
        for name in DAILY:
            limit = limits.get(name, float("inf"))
            if booked[name] + wanted[name] > limit or booked[name] >= limit:
                left = max(0.0, limit - booked[name])
                message = f"This key has {name}={left:g} left today, and the request takes {name}={wanted[name]:g}."
                raise busy("insufficient_quota", message, DAY - self._clock() % DAY, retry=False)
        made = Reservation(tenant, self._day(), nfe)
        self._book(made, Cost(nfe=nfe))
        return made

    def settle(self, reservation: Reservation, bill: Cost) -> None:
        """Replace what was booked by what was spent, on the day of the booking."""
        self._book(reservation, bill - Cost(nfe=reservation.nfe))

    def _book(self, reservation: Reservation, cost: Cost) -> None:
        with sqlite_errors(self._path.parent), closing(self._connect()) as db, db:
            account = (reservation.tenant, reservation.day)
            db.execute("insert or ignore into spent values (?, ?, 0, 0, 0)", account)
            db.execute(
                "update spent set nfe=nfe+?, seconds=seconds+?, dollars=dollars+? where tenant=? and day=?",
                (cost.nfe, cost.seconds, cost.dollars, *account),
            )

    def _day(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
