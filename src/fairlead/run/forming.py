"""What a batch looks like while it forms: one call after every denoising step, with small pictures where wanted.

This is the only hook for progress within a batch and for previews. Whoever watches is no part of the run: nothing is
recorded, no budget pays for it, and the finished pictures stay the same to the bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fairlead.run import machine, png
from fairlead.run.records import BatchStep, Task

if TYPE_CHECKING:
    from fairlead.run.worker import Worker

SIDE = 256
"""Longest side of a preview in pixels; smaller pictures keep their size."""
MOST = 16
"""Pictures of a batch that are previewed, so that a batch of hundreds does not wait for them."""

OnStep = Callable[[BatchStep], None]
Every = int | Callable[[], int]
"""Steps between two previews, 0 for none; a function is asked before every batch, so that a switch works at once."""


@dataclass(frozen=True)
class Watching:
    """Who wants to see every step."""

    on_step: OnStep
    every: Every = 0
    only: Sequence[int] | None = None
    """The candidates whose previews are wanted; None: the first of every batch."""
    last: bool = False
    """Preview the last step too. Otherwise the finished picture follows anyway."""

    @staticmethod
    def of(on_step: OnStep | None, every: Every) -> Watching | None:
        """None where nobody watches: then nothing is done in the loop."""
        return None if on_step is None else Watching(on_step, every)


class Forming:
    """One batch while it is sampled: passed to `sample` as `on_step`."""

    def __init__(self, worker: Worker, task: Task) -> None:
        assert worker.watching is not None
        self._watching = worker.watching
        self._worker = worker
        self._indices = task.indices
        self._before = worker.meter.spent
        every = self._watching.every
        self._every = every if isinstance(every, int) else every()
        only = task.indices if self._watching.only is None else self._watching.only
        self._rows = [i for i, index in enumerate(task.indices) if index in only][:MOST]
        self._earlier = 0

    def first_part(self, beyond: int) -> Callable[[Tensor, int, int], None]:
        """For a trajectory that another model goes on with, for `beyond` steps."""
        return partial(self._seen, beyond=beyond)

    def __call__(self, x0: Tensor, taken: int, steps: int) -> None:
        """A step was taken."""
        self._seen(x0, taken + self._earlier, steps + self._earlier, 0)

    def _seen(self, x0: Tensor, taken: int, steps: int, beyond: int) -> None:
        if beyond and taken == steps:
            self._earlier = steps
        meter = self._worker.meter
        is_due = self._watching.last if taken == steps + beyond else taken % max(1, self._every) == 0
        previews = self._previews(x0) if self._every > 0 and is_due else {}
        spent = meter.spent - self._before
        now = BatchStep(self._indices, taken, steps + beyond, spent, previews, meter.apart_spent)
        with meter.paused():
            self._watching.on_step(now)

    def _previews(self, x0: Tensor) -> dict[int, bytes]:
        """The wanted rows, decoded; none where memory does not suffice, for the rest of the batch."""
        device = self._worker.model.device.type
        machine.synchronise(device)  # what was queued before belongs to the run
        try:
            with self._worker.meter.apart(), torch.no_grad():
                images = self._worker.model.decode(x0.detach()[self._rows])
                found = [webp(image) for image in smaller(images)]
        except torch.OutOfMemoryError:
            self._every = 0
            return {}
        return {self._indices[row]: data for row, data in zip(self._rows, found, strict=True)}


def smaller(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] -> [B, 3, h, w] float32 with no side above `SIDE`."""
    images = images.float().nan_to_num()
    share = SIDE / max(images.shape[-2:])
    if share >= 1:
        return images
    return interpolate(images, scale_factor=share, mode="area")


def webp(image: Tensor) -> bytes:
    """Image [3, H, W] in [0, 1] -> a file of a few kilobytes."""
    buffer = io.BytesIO()
    Image.fromarray(png.pixels(image)).save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
