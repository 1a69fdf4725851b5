"""What a user sees while a run is going, and how they stop it. Imports no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fairlead.app.words import count, duration, number
from fairlead.run.records import BASELINE, BatchStep, Phase, Progress

STOPPING = "stopping after this batch… (Ctrl-C again to abort)"
EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


STEADY = 2
"""Batches in a row that must show drift before a warning is printed."""


class Interrupt:
    """While open, the first Ctrl-C asks the run to stop after its batch and the second one ends the process."""

    def __init__(self, announce: bool = True) -> None:
        self.asked = False
        self._announce = announce
        self._before: list[tuple[int, Any]] = []

    def __call__(self) -> bool:
        """True once the user wants to stop; the engine asks between batches."""
        return self.asked

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = [(s, signal.signal(s, self._heard)) for s in (signal.SIGINT, signal.SIGTERM)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for which, handler in self._before:
            signal.signal(which, handler)

    def _heard(self, which: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._announce:
            os.write(2, f"{STOPPING}\n".encode())


class Watch:
    """Shows `Progress` on a console: a live bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console, stop: Interrupt, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._stop = stop
        self._clock = clock
        self._now: Progress | None = None
        self._at = self._said = clock()
        self._phase = ""
        self._first: tuple[float, int] | None = None
        self._step: BatchStep | None = None
        self._step_rate = 0.0
        self._batch_since: tuple[float, int] | None = None
        """When the present batch was seen first, after how many steps."""
        self.idle = True
        """True if there was nothing to do."""
        self._drifted = 0
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Watch:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Called by the engine after every batch."""
        self._at = self._clock()
        self._now = progress = replace(progress, rate=self._rate(progress))
        self._step = None
        self._batch_since = None
        self.idle = False
        self._drifted = self._drifted + 1 if drifting(progress) else min(self._drifted, 0)
        if self._drifted == STEADY:
            self._drifted = -sys.maxsize  # warn once
            self._console.print(f"warning: {drift(progress)}", markup=False, highlight=False, soft_wrap=True)
        fresh = progress.phase != self._phase
        self._phase = progress.phase
        if not self._console.is_terminal and progress.phase != Phase.DONE and (fresh or self._at - self._said >= EVERY):
            self._said = self._at
            self._console.print(line(progress), markup=False, highlight=False, soft_wrap=True)

    def step(self, step: BatchStep) -> None:
        """Called by the engine after every denoising step."""
        now = self._clock()
        self._step = step
        since, taken = self._batch_since = self._batch_since or (now, step.step)
        if now > since and step.step > taken:
            self._step_rate = len(step.indices) * (step.step - taken) / step.steps / (now - since)
        if not self._console.is_terminal and self._now is not None and now - self._said >= EVERY:
            self._said = now
            self._console.print(line(self._now, step), markup=False, highlight=False, soft_wrap=True)

    def _rate(self, progress: Progress) -> float:
        """Images per second as they arrive, recording included; the engine's own figure until two batches were seen."""
        if progress.rate > 0 and self._first is None:
            self._first = (self._at, progress.done)
        if self._first is None or progress.done <= self._first[1] or self._at <= self._first[0]:
            return progress.rate
        return (progress.done - self._first[1]) / (self._at - self._first[0])

    def _render(self) -> Group:
        now = self._now
        if now is None or now.phase != Phase.SEARCHING:
            what = f"{now.phase if now else 'starting'} … {duration(self._clock() - self._at)}"
            return Group(Text(what, style="dim"), *self._notice())
        left = time_left(now if now.rate else replace(now, rate=self._step_rate))
        left = None if left is None else max(0.0, left - (self._clock() - self._at))
        share = fraction(now, self._step)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(
                total=1.0,
                completed=share,
                width=max(10, min(48, self._console.width - 30)),
                complete_style="cyan",
                finished_style="cyan",
            ),
            Text(f"{share:4.0%}"),
            Text("" if left is None else f"{duration(left)} left", style="dim"),
        )
        lines = [Text(_counts(now), style="dim", overflow="fold")]
        if self._step is not None:
            lines.append(Text(batch_step(self._step), style="dim", overflow="fold"))
        return Group(bar, *lines, _rewards(now), *self._notice())

    def _notice(self) -> list[Text]:
        return [Text(STOPPING, style="bold yellow")] if self._stop() else []


def drifting(now: Progress) -> bool:
    """True if the reward has risen over the baseline's while everything that is only watched has fallen."""
    rose = now.best is not None and now.baseline is not None and now.best > now.baseline
    return rose and bool(now.watched) and all(after < before for before, after in now.watched.values())


def drift(now: Progress) -> str:
    """The sentence about it."""
    fell = ", ".join(f"{name} ({number(after - before, sign=True)})" for name, (before, after) in now.watched.items())
    gain = number((now.best or 0.0) - (now.baseline or 0.0), sign=True)
    return (
        f"After {now.done} candidates the reward is {gain} above the baseline, but every watched reward fell: "
        f"{fell}. The "
        "search may be exploiting the reward. Ctrl-C stops it and keeps what was found; smaller steps, or a formula of "
        "both rewards, prevent it."
    )


def batch_step(step: BatchStep) -> str:
    """How far the present batch is."""
    first, last = min(step.indices), max(step.indices)
    if first == BASELINE:
        what = "the baseline"
    elif first == last:
        what = f"candidate {first}"
    else:
        what = f"candidates {first} to {last}"
    return f"step {step.step} of {step.steps}, {what}"


def fraction(now: Progress, step: BatchStep | None = None) -> float:
    """How far a run is: the fullest entry of its budget, or its candidates, whichever is further.

    `step` is what the present batch has done so far.
    """
    spent = asdict(now.spent if step is None else now.spent + step.spent)
    done = now.done if step is None else now.done + len(step.indices) * step.step / step.steps
    limits = now.limit.limits()
    shares = [spent[name] / limit for name, limit in limits.items() if limit > 0]
    if now.expected:
        shares.append(done / now.expected)
    return min(1.0, max(shares, default=0.0))


def time_left(now: Progress) -> float | None:
    """Seconds to the end at the present rate, None while nothing was measured."""
    guesses = []
    if now.rate > 0 and now.expected is not None:
        guesses.append((now.expected - now.done) / now.rate)
    if now.rate > 0 and "seconds" in now.limit.limits():
        guesses.append(now.limit.seconds - now.spent.seconds)
    if not guesses and now.rate > 0 and 0 < fraction(now) < 1:
        guesses.append(now.spent.seconds * (1 / fraction(now) - 1))
    return max(0.0, min(guesses)) if guesses else None


UNITS = {"seconds": "", "nfe": " NFE"}
"""What follows an amount of a resource, where it is not the resource's name."""


def _amount(name: str, value: float) -> str:
    return duration(value) if name == "seconds" else count(value)


def _counts(now: Progress) -> str:
    of = "" if now.expected is None else f" of {now.expected}"
    words = [f"{now.done}{of} candidates"]
    limits = {"nfe": None, **now.limit.limits()}
    for name, limit in limits.items():
        unit = UNITS.get(name, f" {name}")
        of = "" if limit is None else f" of {_amount(name, limit)}"
        words.append(f"{_amount(name, getattr(now.spent, name))}{of}{unit}")
    if now.rate > 0:
        words.append(f"{now.rate:.1f} images/s" if now.rate >= 1 else f"{duration(1 / now.rate)} per image")
    return " · ".join(words)


def _rewards(now: Progress) -> Text:
    out = Text()
    if now.best is not None:
        out.append("best ").append(number(now.best), style="bold cyan")
        out.append(f"  (candidate {now.best_index})", style="dim")
    if now.baseline is not None:
        out.append("   baseline " if out else "baseline ").append(number(now.baseline), style="yellow")
    if now.best is not None and now.baseline is not None and now.best > now.baseline:
        out.append("   gain ").append(number(now.best - now.baseline, sign=True), style="bold green")
    return out


def line(now: Progress, step: BatchStep | None = None) -> str:
    """One short line for a log."""
    if now.phase != Phase.SEARCHING:
        return f"{now.phase} …"
    left = time_left(now)
    words = [
        _counts(now),
        "" if step is None else batch_step(step),
        _rewards(now).plain.replace("   ", ", ").replace("  ", " "),
    ]
    if left:
        words.append(f"{duration(left)} left")
    return " · ".join(filter(None, words))
