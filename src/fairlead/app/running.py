"""What the command line does around a run: progress before the end, a report and a summary after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fairlead.app import held_out
from fairlead.app.console import print_json, quiet, say, stderr, stdout
from fairlead.app.keep import say_what_was_kept
from fairlead.app.progress import Interrupt, Watch
from fairlead.app.report import write_report
from fairlead.app.run_object import run_object
from fairlead.app.summary import print_summary
from fairlead.app.words import command, shown
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run.records import RunStatus, StopReason
from fairlead.run.spec import Spec
from fairlead.run.store import DATABASE, discard, refuse_taken
from fairlead.run.view import View

INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C, and of one that was aborted."""


@contextlib.contextmanager
def computing(as_json: bool) -> Iterator[tuple[Watch, Interrupt]]:
    """Progress on stderr, Ctrl-C as a request, and no foreign line on stdout before the JSON object."""
    console = stderr()
    with quiet(as_json), Interrupt(announce=not console.is_terminal) as stop, Watch(console, stop) as watch:
        yield watch, stop


def refuse_existing(folder: Path) -> None:
    """Refuse a folder that has files before anything is loaded; the engine would refuse it only after loading."""
    try:
        refuse_taken(folder)
    except StoreError as error:  # here it is a wrong option of the command
        raise FairleadError(str(error)) from error


def warn(spec: Spec) -> None:
    """Say what the user should know about a run before it starts."""
    from fairlead.run import models

    for sentence in models.warnings(spec):
        say(f"warning: {sentence}")


@contextlib.contextmanager
def reported(folder: Path) -> Iterator[None]:
    """However a run ends, write the report of what it has; remove the folder of a refused run that found nothing."""
    new = not folder.exists()
    try:
        yield
    except BaseException as error:
        kept = (folder / DATABASE).is_file()
        if kept:
            with contextlib.suppress(FairleadError):
                refused = isinstance(error, FairleadError) and not isinstance(error, StoreError)
                if not (new and refused and discard(folder)):
                    write_report(folder)
        if isinstance(error, KeyboardInterrupt):
            onward = f"; what was recorded is kept. Continue with: {command('resume', shown(folder))}" if kept else "."
            say(f"fairlead: aborted{onward}")
        raise


def finish(folder: Path, as_json: bool) -> int:
    """Write the report and print the result."""
    page = write_report(folder)
    view = View.read(folder)
    console = stderr() if as_json else stdout()
    print_summary(console, view, page)
    say_what_was_kept(folder)
    if as_json:
        print_json(run_object(view))
    if sentence := held_out.warning(view):
        say(f"warning: {sentence}")
    if view.status == RunStatus.STOPPED:
        if view.stopped == StopReason.WAITING:
            say(f"The run waits for your answer: {command('answer', shown(folder))}")
        else:
            say(f"Stopped early. Continue with: {command('resume', shown(folder))}")
        return INTERRUPTED
    return 0
