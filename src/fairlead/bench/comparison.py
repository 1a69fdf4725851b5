"""Runs every cell of a plan, in one process or several. A finished cell is not run again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import multiprocessing
import os
import queue
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fairlead.bench.plan import Cell, Plan
from fairlead.core.check import whole_number
from fairlead.core.errors import FairleadError, StoreError
from fairlead.core.model import Model
from fairlead.run import engine, machine, models, peak_memory, registry
from fairlead.run.records import RunStatus
from fairlead.run.spec import Spec
from fairlead.run.store import DATABASE, Store, write_atomically

NOTE = "cell.json"
"""Beside a run's record: what the record does not hold."""

Watch = Callable[[Cell, str], None]


@dataclass
class CellRunner:
    """What one process keeps between cells: models are loaded once."""

    out: Path
    models: dict[str, Model]

    def model(self, spec: Spec) -> Model | None:
        """The loaded model of a run; None for one without weights, which is made anew each time."""
        spec = models.with_dtype(spec)
        name = json.dumps([spec.model.name, dict(spec.model.settings)], sort_keys=True, default=str)
        if name not in self.models:
            device = machine.device()
            dtype = str(spec.model.settings.get("dtype") or machine.dtype(device))
            self.models[name] = models.build(spec, device=device, dtype=dtype)
        return self.models[name]

    def warm(self, cell: Cell) -> None:
        """Render one picture that is not counted: the first picture of a process is slow while libraries initialise."""
        spec = replace(
            cell.spec,
            search=replace(cell.spec.search, name="best_of", settings={}),
            steering=(),
            interventions=(),
            draft=None,
            final_judge=None,
            until="",
            stop="",
            group=1,
            budget={"nfe": float(cell.spec.steps)},
        )
        with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(FairleadError):
            engine.start(spec, Path(scratch) / "run", model=self.model(spec)).close()

    def make(self, cell: Cell, stop: Callable[[], bool]) -> str:
        """Start or continue one cell; returns `done`, `stopped`, or the sentence that refused it."""
        folder = self.out / cell.folder
        device = machine.device()
        kept = note(folder)
        fresh = not (folder / DATABASE).is_file()
        since = time.perf_counter()
        peak_memory.reset(device)
        try:
            model = self.model(cell.spec)
            if fresh:
                (folder / NOTE).unlink(missing_ok=True)  # a refusal of last time
                store = engine.start(cell.spec, folder, model=model, stop=stop)
            else:
                store = engine.resume(
                    folder,
                    budget=_larger(folder, cell.spec),
                    until=cell.spec.until,
                    stop_rule=cell.spec.stop,
                    model=model,
                    stop=stop,
                    trust=True,
                )
            status = store.status
            store.close()
        except FairleadError as error:
            if isinstance(error, StoreError) or stop():
                raise
            failure = {**kept, "error": str(error), "budget": dict(cell.spec.budget)}
            write_atomically(_made(folder) / NOTE, json.dumps(failure).encode())
            return str(error)
        wall = time.perf_counter() - since
        whole = fresh or kept.get("wall") is not None
        measured = {
            "wall": (kept.get("wall") or 0.0) + wall if whole else None,
            "peak_mb": max(peak_memory.read(device) or 0.0, kept.get("peak_mb") or 0.0) or None,
            "threads": torch.get_num_threads(),
        }
        write_atomically(folder / NOTE, json.dumps(measured).encode())
        return "done" if status == RunStatus.FINISHED else "stopped"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def note(folder: Path) -> dict[str, Any]:
    """`wall` seconds, `peak_mb`, `threads`, or `error` and the `budget` it was about; empty where nothing was noted."""
    try:
        return dict(json.loads((folder / NOTE).read_text()))
    except (OSError, ValueError):
        return {}


def _larger(folder: Path, spec: Spec) -> dict[str, float] | None:
    """The plan's budget if it is not the record's. One below what was spent is refused: it would discard results."""
    store = Store.open(folder)
    try:
        if dict(store.spec.budget) == dict(spec.budget):
            return None
        if not store.spent().fits(replace(spec.limit, seconds=math.inf)):
            asked = ",".join(f"{k}={v:.15g}" for k, v in spec.budget.items())
            raise StoreError(f"{folder} has spent more than {asked}. Use a larger --budget, or another --out.")
        return dict(spec.budget)
    finally:
        store.close()


def finished(out: Path, cell: Cell) -> bool:
    """True if nothing is left to do for it."""
    folder = out / cell.folder
    if not (folder / DATABASE).is_file() or "error" in note(folder):
        return False
    store = Store.open(folder)
    try:
        return store.status == RunStatus.FINISHED and dict(store.spec.budget) == dict(cell.spec.budget)
    finally:
        store.close()


def _claim(out: Path, cell: Cell) -> Path:
    return out / ".claims" / cell.folder.removeprefix("runs/").replace("/", "--")


def is_claimed(out: Path, cell: Cell) -> bool:
    """True while some process works on it."""
    try:
        with _claim(out, cell).open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _claimed(out: Path, cell: Cell) -> Iterator[bool]:
    """True for the one process that may work on it. The claim ends with the process, however it ends."""
    path = _claim(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def walk(plan: Plan, out: Path, watch: Watch, stop: Callable[[], bool]) -> None:
    """Every cell that is neither finished nor claimed by another process, in the plan's order."""
    bench = CellRunner(out, {})
    warm: set[str] = set()
    for cell in plan.cells():
        if stop():
            return
        with _claimed(out, cell) as mine:
            if not mine or finished(out, cell):
                continue
            if cell.spec.model.name not in warm:
                bench.warm(cell)
                warm.add(cell.spec.model.name)
            watch(cell, bench.make(cell, stop))


def check_settings(plan: Plan) -> None:
    """Refuse a misspelt setting of any method before the first picture is rendered."""
    for method in plan.methods:
        spec = plan.spec(method, plan.prompts[0][0], plan.seeds[0])
        parts = [("searches", spec.search, 2), ("spaces", spec.space, 1)]
        parts += [("steerings", part, 0) for part in spec.steering]
        parts += [("interventions", part, 0) for part in spec.interventions]
        for kind, part, given in parts:
            accepted = registry.parameters(registry.resolve(kind, part.name), given)
            registry.known_settings(part.name, part.settings, [p.name for p in accepted])


def run(
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    watch: Watch = lambda c, s: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run all cells, with `workers` > 1 in as many processes; each has its share of the threads, or its own
    accelerator.

    `watch(cell, status)` is called in this process after every cell.
    """
    whole_number("workers", workers, 1)
    check_settings(plan)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{out} cannot be written ({error.strerror}). Choose another --out.") from error
    if workers == 1:
        walk(plan, out, watch, stop)
        return
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    messages = context.Queue()
    threads = max(1, torch.get_num_threads() // workers)
    team = [context.Process(target=_work, args=(plan, out, i, threads, ended, messages)) for i in range(workers)]
    for one in team:
        one.start()
    try:
        failed = _follow(plan, team, messages, ended, watch, stop)
    finally:
        ended.set()  # also if `watch` raised: no process goes on unobserved
        for one in team:
            one.join()
    if failed:
        raise FairleadError(failed)
    if (dead := sum(one.exitcode != 0 for one in team)) and not stop():
        raise FairleadError(
            f"{dead} of {workers} workers died (out of memory?). Start again with fewer; finished cells are kept."
        )


def _follow(plan: Plan, team: Sequence[Any], messages: Any, ended: Any, watch: Watch, stop: Callable[[], bool]) -> str:
    """Follow the workers to their end; returns the sentence of the error that ended them, if one did."""
    cells = {c.folder: c for c in plan.cells()}
    failed = ""
    while any(one.is_alive() for one in team) or not messages.empty():
        if stop():
            ended.set()
        try:
            where, status = messages.get(timeout=0.2)
        except queue.Empty:
            continue
        if where:
            watch(cells[where], status)
        else:
            failed = status
            ended.set()
    return failed


def _work(plan: Plan, out: Path, rank: int, threads: int, ended: Any, messages: Any) -> None:
    """One worker process: its own models, its own device where there are several."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if devices := torch.cuda.device_count():
        torch.cuda.set_device(rank % devices)
    torch.set_num_threads(threads)
    try:
        walk(plan, out, lambda cell, status: messages.put((cell.folder, status)), ended.is_set)
    except FairleadError as error:
        messages.put(("", str(error)))
