"""What happens in runs, as events for a function or a logger. Candidates come from the record. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fairlead.core.cost import Cost
from fairlead.run.follow import Follower
from fairlead.run.records import BatchStep, Candidate, Phase, Progress
from fairlead.run.store import DATABASE

if TYPE_CHECKING:
    from PIL import Image

CANDIDATE = "candidate"
PREVIEW = "preview"
END = "end"


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    kind: str
    """"candidate" when one is recorded, "preview" while one forms, "end" when a run ends, with its best candidate."""
    run: Path
    """The folder of the run."""
    candidate: int
    """Its number in the run; -1 for a baseline that is no candidate."""
    reward: float | None = None
    """None in a preview; NaN where the reward gave no number."""
    terms: Mapping[str, float] = field(default_factory=dict)
    best: float | None = None
    """The best reward of the run so far."""
    best_candidate: int | None = None
    spent: Cost = field(default_factory=Cost)
    """Everything that the run has spent so far: `spent.nfe`, `spent.seconds` and others."""
    step: int | None = None
    """Of a preview: denoising steps taken."""
    steps: int | None = None
    """Of a preview: denoising steps of the whole picture."""
    source: Path | bytes = b""
    """The file of the picture, or the WebP bytes of a preview."""

    @property
    def picture(self) -> Image.Image:
        """The picture, loaded."""
        from PIL import Image

        with Image.open(self.source if isinstance(self.source, Path) else io.BytesIO(self.source)) as image:
            image.load()
            return image.copy()


Listener = Callable[[Event], None]
Watch = Callable[[Progress], None]
OnStep = Callable[[BatchStep], None]


class Events:
    """Reads what the runs of a call have gained, and passes it to the listeners."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        self._runs: dict[Path, _Run] = {}

    def of(self, folder: Path, watch: Watch) -> Watch:
        """The watch of a run: `watch`, then the events of its new candidates."""
        if not self._listeners:
            return watch

        def seen(now: Progress) -> None:
            watch(now)
            self.progressed(folder, now)

        return seen

    def progressed(self, folder: Path, now: Progress) -> None:
        """A run reports how it stands. What it had recorded before its first report is no event."""
        if not self._listeners:
            return
        if folder not in self._runs:
            self._runs[folder] = _Run(folder)
        run = self._runs[folder]
        for event in run.news(now):
            self._tell(event)
        if now.phase == Phase.DONE:
            run.close()
            del self._runs[folder]

    def steps_of(self, folder: Path, on_step: OnStep | None, previews: object) -> OnStep | None:
        """What is called after every denoising step: `on_step`, and the events of previews where they are wanted."""
        if not self._listeners or previews == 0:
            return on_step

        def seen(step: BatchStep) -> None:
            if on_step is not None:
                on_step(step)
            self._step(folder, step)

        return seen

    def _step(self, folder: Path, step: BatchStep) -> None:
        for candidate, preview in step.previews.items():
            self._tell(
                Event(PREVIEW, folder, candidate, spent=step.spent, step=step.step, steps=step.steps, source=preview)
            )

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """Close the records and the loggers."""
        for run in self._runs.values():
            run.close()
        for listener in self._listeners:
            getattr(listener, "close", lambda: None)()


class _Run:
    """One record and the number of its last batch that is known."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._follower: Follower | None = None
        self._task = -1
        if (folder / DATABASE).is_file():
            self._follower = Follower(folder)
            self._task = self._follower.position().task

    def news(self, now: Progress) -> Iterator[Event]:
        """The candidates that were recorded since the last call, and the end."""
        if self._follower is None and (self._folder / DATABASE).is_file():
            self._follower = Follower(self._folder)
        if self._follower is None:
            return
        for candidate in self._follower.candidates(self._task):
            self._task = max(self._task, candidate.task)
            yield self._event(CANDIDATE, candidate, now)
        if now.phase == Phase.DONE and now.best_index is not None:
            known = {candidate.index: candidate for candidate in self._follower.candidates(-1)}
            yield self._event(END, known[now.best_index], now)

    def _event(self, kind: str, candidate: Candidate, now: Progress) -> Event:
        return Event(
            kind,
            self._folder,
            candidate.index,
            candidate.reward,
            dict(candidate.terms),
            now.best,
            now.best_index,
            now.spent,
            source=self._folder / candidate.image,
        )

    def close(self) -> None:
        """Close the record."""
        if self._follower is not None:
            self._follower.close()
