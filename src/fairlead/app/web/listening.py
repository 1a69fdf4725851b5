"""A listening socket, and a server on it that tells its application before it waits for open connections."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from fairlead.core.errors import FairleadError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, TypeError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]
        raise FairleadError(f"--host {host} --port {port} cannot be used ({reason}). Choose another.") from None


class Server(uvicorn.Server):
    """Calls `end` at the first signal, before it waits for connections; the second signal ends at once."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Once: let everybody answer. Twice: end."""
        if self.should_exit:
            self.force_exit = True
        self._end()
        super().handle_exit(sig, frame)


def serve(app: ASGIApp, listening: socket.socket, end: Callable[[], None], grace: int) -> None:
    """Answer until a signal ends the process; open requests have `grace` seconds from the signal."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace,
        ws="none",
    )
    Server(config, end).run(sockets=[listening])
