"""The command `studio`: open the page over a runs folder. Imports its packages only when it is called."""

from __future__ import annotations

import importlib
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.app.console import say
from fairlead.app.studio.opening import findable, has_browser
from fairlead.app.web.hosts import in_link, is_loopback
from fairlead.app.words import shown
from fairlead.app.workers.address import workers
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


GRACE = 3
"""Seconds that open requests have after a signal."""
NAMES = ("host", "port", "idle", "devices", "open")
"""Settings of the studio, in `fairlead.toml` and as options."""


def open_studio(runs: Path | None, chosen: Mapping[str, Any], place: str = "") -> int:
    """Serve the page until a signal ends it. What is not chosen comes from `fairlead.toml`; `place` ends the link."""
    need_packages()
    from fairlead.app.studio.guard import Guard, Keys
    from fairlead.app.studio.server import Studio
    from fairlead.app.web.listening import listen, serve

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
    link = f"http://{in_link(host)}:{port}/?token={keys.reading}"
    if is_open:
        say(f"warning: the studio listens on {host}. Whoever has the link can run anything that you can run.")
    made = Studio(root, Guard(keys, port, is_open), words["idle"], workers(devices))
    with findable(root, link):
        print(link + place, flush=True)
        say(f"Runs are in {shown(root)}. Ctrl-C ends the page; runs that are being computed go on without it.")
        if words["open"] and has_browser():
            webbrowser.open(link + place)
        serve(made.app(), listening, made.end, GRACE)
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
