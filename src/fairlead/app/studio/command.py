"""The command `studio`: open the page over a runs folder. Imports its packages only when it is called."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fairlead.app.console import say
from fairlead.app.words import shown
from fairlead.core.errors import FairleadError

IDLE = 900.0


def studio(
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of the runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 chooses a free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the link.")] = False,
    idle: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="The computing process ends after this time without work.")
    ] = IDLE,
) -> int:
    """Open a page to search, watch, judge and choose. Prints its link, which is also the key to it."""
    try:
        from fairlead.app.studio.guard import Guard, Keys
        from fairlead.app.studio.server import Studio, serve
    except ImportError as error:
        raise FairleadError(
            f"The studio needs the package {error.name!r}, which is not installed. "
            "Install it with: pip install 'fairlead[studio]'."
        ) from None
    listening = listen(host, port)
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        listening.close()
        raise FairleadError(f"--runs {runs} cannot be used ({error.strerror}). Choose another folder.") from error
    port = listening.getsockname()[1]
    keys = Keys()
    is_open = not is_loopback(host)
    link = f"http://{_in_link(host)}:{port}/?token={keys.reading}"
    if is_open:
        say(f"warning: the studio listens on {host}. Whoever has the link can run anything that you can run.")
    print(link, flush=True)
    say(f"Runs are in {shown(runs)}. Ctrl-C ends the page; runs that are being computed go on without it.")
    if not no_open and has_browser():
        webbrowser.open(link)
    serve(Studio(runs, Guard(keys, port, is_open), idle), listening)
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, TypeError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]
        raise FairleadError(f"--host {host} --port {port} cannot be used ({reason}). Choose another.") from None


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _in_link(host: str) -> str:
    """The address as a browser on this machine reaches it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def has_browser() -> bool:
    """True on a desktop: a text browser in a terminal would hide what is printed."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
