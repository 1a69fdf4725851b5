"""Pictures while they form: the switch, kept beside the jobs, and what the worker shows last. Imports no torch."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.app.workers.jobs import HOME
from fairlead.core.check import whole_number
from fairlead.run.records import BatchStep
from fairlead.run.store import write_atomically

PAUSE = 0.1
"""Least seconds between two steps that are sent."""
MOST = 1000
"""Largest number of steps between two previews."""


class Switch:
    """How many steps lie between two previews, for every run of a runs folder; 0: previews are off."""

    def __init__(self, root: Path) -> None:
        self._path = Path(root) / HOME / "previews"

    def read(self) -> int:
        """The chosen number; 0 where nothing was chosen."""
        with contextlib.suppress(OSError, ValueError):
            return max(0, min(MOST, int(self._path.read_text())))
        return 0

    def set(self, every: Any) -> int:
        """Choose. The worker reads it before its next batch."""
        number: int = whole_number("every", every, 0, MOST)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, str(number).encode())
        return number


class Window:
    """What the present batch looks like, for everybody who asks the worker; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = ""
        self._pictures: Mapping[int, bytes] = {}
        self._number = 0
        self._sent = 0.0

    def show(self, folder: str, step: BatchStep) -> dict[str, Any] | None:
        """The step as plain values; None where the last one was sent a moment ago."""
        now = time.monotonic()
        if step.previews:
            with self._lock:
                self._folder = folder
                self._pictures = step.previews
                self._number += 1
        elif now - self._sent < PAUSE:
            return None
        self._sent = now
        shown = sorted(self._pictures) if set(self._pictures) <= set(step.indices) else []
        return {
            "first": min(step.indices),
            "last": max(step.indices),
            "step": step.step,
            "steps": step.steps,
            "number": self._number,
            "shown": shown,
            "apart": {"seconds": step.apart.seconds, "decodes": step.apart.decodes},
        }

    def picture(self, folder: str, index: int) -> dict[str, Any]:
        """The latest preview of a candidate as base64 text; empty where there is none."""
        with self._lock:
            data = self._pictures.get(index, b"") if folder == self._folder else b""
        return {"image": base64.b64encode(data).decode()}
