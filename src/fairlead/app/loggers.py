"""Loggers of other packages: `--log tensorboard` and `--log wandb`. Each is imported when it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairlead.app.events import CANDIDATE, END, Event, Events, Listener
from fairlead.core.errors import FairleadError, unknown
from fairlead.run.records import BASELINE
from fairlead.run.view import View

PROJECT = "fairlead"
"""Project of Weights & Biases, unless WANDB_PROJECT names another."""
BEST_PICTURE = "best picture"


def scalars(event: Event) -> dict[str, float]:
    """What is logged of a candidate: its reward and terms, the best so far, and what the run has spent."""
    found = {"reward": event.reward, "best": event.best, "nfe": event.spent.nfe, "seconds": event.spent.seconds}
    if event.candidate == BASELINE:
        found = {"baseline": event.reward}
    terms = {f"terms/{name}": value for name, value in event.terms.items()}
    return {name: float(v) for name, v in (found | terms).items() if v is not None and not math.isnan(v)}


class TensorBoard:
    """Writes each run into its own folder, `RUN/tensorboard`; the step is the number of the candidate."""

    def __init__(self) -> None:
        self._writers: dict[Path, Any] = {}

    def __call__(self, event: Event) -> None:
        """Log one event."""
        if event.kind not in (CANDIDATE, END):
            return
        if event.run not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[event.run] = SummaryWriter(str(event.run / "tensorboard"))
        writer = self._writers[event.run]
        step = max(0, event.candidate)
        if event.kind == CANDIDATE:
            for name, value in scalars(event).items():
                writer.add_scalar(name, value, step)
            return
        import numpy

        writer.add_image(BEST_PICTURE, numpy.asarray(event.picture.convert("RGB")), step, dataformats="HWC")
        self._writers.pop(event.run).close()

    def close(self) -> None:
        """Write what is left of runs that did not end."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class WeightsAndBiases:
    """Logs each run as a run of Weights & Biases, offline where WANDB_MODE=offline; a resumed run continues it."""

    def __init__(self) -> None:
        self._runs: dict[Path, Any] = {}

    def __call__(self, event: Event) -> None:
        """Log one event."""
        if event.kind not in (CANDIDATE, END):
            return
        if event.run not in self._runs:
            self._runs[event.run] = _begin(event.run)
        run = self._runs[event.run]
        if event.kind == CANDIDATE and event.candidate == BASELINE:
            run.summary.update(scalars(event))
        elif event.kind == CANDIDATE:
            run.log({"candidate": event.candidate, **scalars(event)})
        else:
            import wandb

            run.log({BEST_PICTURE: wandb.Image(event.picture)})
            run.summary["best candidate"] = event.candidate
            self._runs.pop(event.run).finish()

    def close(self) -> None:
        """End what is left of runs that did not end."""
        for run in self._runs.values():
            run.finish()
        self._runs.clear()


def _begin(folder: Path) -> Any:
    """A run of Weights & Biases that a resumed run finds again: its id follows from the record."""
    import os

    import wandb

    view = View.read(folder)
    spec = json.loads(view.spec.json())
    same = blake2b(f"{view.created} {folder.name} {view.spec.prompt} {view.spec.seed}".encode(), digest_size=8)
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=folder.name,
        id=same.hexdigest(),
        resume="allow",
        reinit="create_new",
        dir=str(folder),
        config=spec,
    )


LOGGERS: Mapping[str, Callable[[], Listener]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def loggers(names: Sequence[str]) -> list[Listener]:
    """The loggers of these names, refused before anything is computed where a package is missing."""
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        if find_spec(name) is None:
            raise FairleadError(
                f"log is {name!r}, but the package {name} is not installed. Install it with: pip install "
                f"'fairlead[{name}]'."
            )
    return [LOGGERS[name]() for name in dict.fromkeys(names)]


@contextmanager
def followed(on_event: Listener | None = None, log: str | Sequence[str] = ()) -> Iterator[Events]:
    """Events for a function and for loggers by name, closed at the end."""
    own = [] if on_event is None else [on_event]
    events = Events([*own, *loggers([log] if isinstance(log, str) else log)])
    try:
        yield events
    finally:
        events.close()
