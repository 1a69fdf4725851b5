"""Numbers for sets of images; computed for reports, never optimised by accident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Metric(Protocol):
    """A number for a set: diversity of a group, agreement with a benchmark."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Images [G, 3, H, W] in [0, 1], prompts of length G -> one number."""
        ...
