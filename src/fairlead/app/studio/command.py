"""The command `studio`: open the page over a runs folder. Imports its packages only when it is called."""

from __future__ import annotations

import importlib
import ipaddress
import socket
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.app.console import say
from fairlead.app.studio.address import workers
from fairlead.app.studio.opening import findable, has_browser
from fairlead.app.words import shown
from fairlead.core.errors import FairleadError
from fairlead.run import config


def _default(name: str) -> str:
    return f"[default: {config.SETTINGS[name].default}]"


def studio(
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help=f"The folder of the runs.  {_default('runs')}")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help=f"Where to listen.  {_default('studio.host')}")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=65535, help=f"0 chooses a free one.  {_default('studio.port')}"),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the link.")] = False,
    idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help=f"The computing process ends after this time without work.  {_default('studio.idle')}",
        ),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Devices like cuda:0,cuda:1, each with a process of its own.")
    ] = None,
) -> int:
    """Open a page to search, watch, judge and choose. Prints its link, which is also the key to it."""
    chosen = {"host": host, "port": port, "idle": idle, "devices": devices, "open": False if no_open else None}
    return open_studio(runs, chosen)


NAMES = ("host", "port", "idle", "devices", "open")
"""Settings of the studio, in `fairlead.toml` and as options."""


def open_studio(runs: Path | None, chosen: Mapping[str, Any], place: str = "") -> int:
    """Serve the page until a signal ends it. What is not chosen comes from `fairlead.toml`; `place` ends the link."""
    need_packages()
    from fairlead.app.studio.guard import Guard, Keys
    from fairlead.app.studio.server import Studio, serve

    words = {name: config.in_force()[f"studio.{name}"].value for name in NAMES}
    words |= {name: value for name, value in chosen.items() if value is not None}
    devices = config.checked("studio.devices", words["devices"])
    root = config.runs_folder() if runs is None else runs
    host = words["host"]
    listening = listen(host, words["port"])
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        listening.close()
        raise FairleadError(f"--runs {root} cannot be used ({error.strerror}). Choose another folder.") from error
    port = listening.getsockname()[1]
    keys = Keys()
    is_open = not is_loopback(host)
    link = f"http://{_in_link(host)}:{port}/?token={keys.reading}"
    if is_open:
        say(f"warning: the studio listens on {host}. Whoever has the link can run anything that you can run.")
    made = Studio(root, Guard(keys, port, is_open), words["idle"], workers(devices))
    with findable(root, link):
        print(link + place, flush=True)
        say(f"Runs are in {shown(root)}. Ctrl-C ends the page; runs that are being computed go on without it.")
        if words["open"] and has_browser():
            webbrowser.open(link + place)
        serve(made, listening)
    return 0


def need_packages() -> None:
    """Refuse in one sentence where the packages of the page are missing."""
    for package in ("starlette", "uvicorn"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise FairleadError(
                f"The studio needs the package {package!r}, which is not installed. "
                "Install it with: pip install 'fairlead[studio]'."
            ) from None


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
