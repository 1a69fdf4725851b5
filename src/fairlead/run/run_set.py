"""Many prompts and seeds as one set: a folder with a list of runs, each an ordinary run in a folder of its own.

`set.jsonl` names the folder and the settings of every run, in order. It is written first, so that one resume goes on
with all of them. Runs are done in blocks: those of one block fill their batches together, and a block that is done is
never opened again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.core.model import Model
from fairlead.core.reward import Reward
from fairlead.run import engine, kept, machine, together
from fairlead.run.clock import Watch
from fairlead.run.engine import Changes
from fairlead.run.live_objects import Siblings
from fairlead.run.records import Progress, RunStatus
from fairlead.run.requests import Stop
from fairlead.run.set_file import Entry, SetFile
from fairlead.run.set_progress import SetProgress
from fairlead.run.store import DATABASE, Store

BLOCK = 64
"""Runs that are open at the same time."""
Finished = Callable[[Path], None]
"""Called with the folder of every run that has ended."""

OnRun = Callable[[Path, Progress], None]
"""Called with the folder and the progress of a single run of the set."""


@dataclass(frozen=True)
class Lent:
    """Live objects in place of what the settings name."""

    reward: Reward | None = None
    model: Model | None = None
    siblings: Siblings = None


@machine.outside_inference_mode
def run_set(
    folder: Path,
    *,
    lent: Lent | None = None,
    changes: Changes | None = None,
    on_progress: Watch | None = None,
    on_run: OnRun = lambda folder, now: None,
    on_finished: Finished = lambda folder: None,
    stop: Stop = lambda: False,
    trust: bool = False,
) -> None:
    """Do, or go on with, the set that `folder` lists. An error of one run is raised when all others are done."""
    listed = SetFile.read(folder)
    lent = lent or Lent()
    changes = changes or Changes()
    progress = SetProgress(len(listed.entries), on_progress or (lambda now: None))
    errors: dict[str, FairleadError] = {}
    batches: dict[str, int] = {}
    stopped = False

    def asked() -> bool:
        nonlocal stopped
        stopped = stopped or stop()
        return stopped

    with kept.shared():
        for start in range(0, len(listed.entries), BLOCK):
            block = listed.entries[start : start + BLOCK]
            if changes == Changes() and all(_is_finished(folder / entry.folder) for entry in block):
                progress.skipped(len(block))
                continue
            if asked():
                break
            with contextlib.ExitStack() as stack:
                members = []
                for entry in block:
                    watch = _both(progress.of(entry.folder), folder / entry.folder, on_run)
                    opened = _opened(stack, folder, entry, batches, lent, changes, watch, trust)
                    if opened.loop is not None and opened.executor is not None:
                        requests = opened.loop.requests(opened.store)
                        members.append(together.Member(entry.folder, opened.executor, requests))
                errors |= together.serve(members, asked, listed.exact)
            for entry in block:
                on_finished(folder / entry.folder)
    if errors:
        name, first = next(iter(errors.items()))
        many = f"{len(errors)} of {len(listed.entries)} runs"
        raise FairleadError(f"{many} in {folder} ended with an error. {name}: {first}")


def _both(watch: Watch, folder: Path, on_run: OnRun) -> Watch:
    def seen(now: Progress) -> None:
        watch(now)
        on_run(folder, now)

    return seen


def _is_finished(folder: Path) -> bool:
    if not (folder / DATABASE).is_file():
        return False
    with contextlib.closing(Store.open(folder, verify=False)) as store:
        return store.status == RunStatus.FINISHED


def _opened(
    stack: contextlib.ExitStack,
    folder: Path,
    entry: Entry,
    batches: dict[str, int],
    lent: Lent,
    changes: Changes,
    watch: Watch,
    trust: bool,
) -> engine.OpenRun:
    """A run of the set, new or recorded, locked until the stack is closed.

    All runs that are alike take the batch that the first of them chose by the free memory.
    """
    given: dict[str, Any] = {"reward": lent.reward, "model": lent.model, "siblings": lent.siblings}
    place = folder / entry.folder
    kind = entry.spec.alike
    if (place / DATABASE).is_file():
        context = engine.reopened(place, changes, on_progress=watch, trust=trust, again=True, **given)
        opened = stack.enter_context(context)
    else:
        spec = entry.spec
        if spec.batch == 0 and kind in batches:
            spec = replace(spec, batch=batches[kind])
        if changes.budget is not None:
            spec = replace(spec, budget=dict(changes.budget))
        opened = stack.enter_context(engine.started(spec, place, on_progress=watch, **given))
    stack.callback(opened.store.close)
    if opened.executor is not None:
        batches.setdefault(kind, opened.executor.setup.spec.batch)
    return opened
