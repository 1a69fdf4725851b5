"""`fairlead run --studio`: the run as a job of the studio over its folder, which is found or opened. Imports no torch.

A studio writes its link into the private folder of its socket while it holds a lock, so that a link is believed only
while its studio lives.
"""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from fairlead.app.console import say
from fairlead.app.running import refuse_existing
from fairlead.app.studio.library import run_id
from fairlead.app.workers.address import address, only_one, wake
from fairlead.app.workers.form import job_options
from fairlead.app.workers.jobs import Jobs
from fairlead.app.workers.vouching import vouch
from fairlead.core.errors import FairleadError
from fairlead.run import config
from fairlead.run.options import RunOptions
from fairlead.run.store import write_atomically

SERVER = "server"
"""The lock of the studio that can be found."""


def link_path(root: Path) -> Path:
    """The file with the link of the studio over a runs folder, where only its user can read it."""
    return address(root).with_suffix(".link")


@contextlib.contextmanager
def findable(root: Path, link: str) -> Iterator[None]:
    """Inside, `living` finds this studio, unless another one over the same folder is found already."""
    with only_one(root, SERVER) as first:
        if first:
            write_atomically(link_path(root), link.encode())
        try:
            yield
        finally:
            if first:
                link_path(root).unlink(missing_ok=True)


def living(root: Path) -> str:
    """The link of the studio that is open over this folder; empty if there is none."""
    with only_one(root, SERVER) as alone:
        if alone:
            return ""
    try:
        return link_path(root).read_text()
    except OSError:
        return ""


def open_run(options: RunOptions, out: Path | None, refused: dict[str, object]) -> int:
    """Queue a run that was checked, and show it in the studio; `refused` are options that do not go with it."""
    for flag, value in refused.items():
        if value:
            raise FairleadError(f"{flag} is for a run in the terminal. Leave it out, or leave --studio out.")
    from fairlead.app.studio import command

    root = config.runs_folder() if out is None else out.parent
    if out is not None:
        refuse_existing(out)
    command.need_packages()
    root.mkdir(parents=True, exist_ok=True)
    found = living(root)
    name = "" if out is None else out.name
    job = Jobs(root).add(job_options(options), name, where=os.getcwd(), ready=lambda job: vouch(root, job))
    place = f"#/run/{run_id(job.folder)}"
    if not found:
        return command.open_studio(root, {}, place)
    wake(root)  # without a worker the studio starts one
    print(found + place, flush=True)
    say("The run is in the studio that is open already.")
    if config.in_force()["studio.open"].value and has_browser():
        webbrowser.open(found + place)
    return 0


def has_browser() -> bool:
    """True on a desktop: a text browser in a terminal would hide what is printed."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
