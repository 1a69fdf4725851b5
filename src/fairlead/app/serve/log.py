"""One line of JSON for every request, on stderr. No prompt, no key, no address, no body."""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import IO, Any

from starlette.types import Scope


class Log:
    """Writes lines; `prompts` also writes the prompts, for operators who ask for it."""

    def __init__(self, out: IO[str] | None = None, prompts: bool = False) -> None:
        self._out = out or sys.stderr
        self._prompts = prompts

    def write(self, event: str, **values: Any) -> None:
        """One line."""
        text = json.dumps({"time": round(time.time(), 3), "event": event, **values}, ensure_ascii=True, default=repr)
        print(text, file=self._out, flush=True)

    def answered(self, scope: Scope, request: str, status: int, seconds: float) -> None:
        """A request has ended; status 0: its client left before an answer."""
        if scope["path"] in ("/healthz", "/readyz", "/metrics"):
            return
        state = scope["state"]
        more = {"prompt": state["prompt"]} if self._prompts and "prompt" in state else {}
        route = getattr(scope.get("route"), "path", "")
        self.write(
            "request",
            request=request,
            method=scope["method"][:10],
            route=route,
            status=status,
            seconds=round(seconds, 4),
            tenant=state["tenant"],
            **({"run": state["run"]} if "run" in state else {}),
            **more,
        )

    def bug(self, request: str, error: Exception) -> None:
        """An error of the server: its kind and where it was raised, but not its text, which may hold a prompt."""
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-4:]]
        self.write("bug", request=request, error=type(error).__name__, where=where)
