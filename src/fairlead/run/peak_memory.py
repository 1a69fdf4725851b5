"""The most memory a piece of work held at once."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import torch

OWN = Path("/proc/self")


def reset(device: str) -> None:
    """Start counting again. On a CPU this needs Linux; elsewhere the peak is that of the process, or unknown."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        (OWN / "clear_refs").write_text("5")


def read(device: str) -> float | None:
    """Megabytes (10^6 bytes) at the peak: tensors on an accelerator, the process on a CPU; None if unknown."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", (OWN / "status").read_text()):
            return int(found[1]) * 1024 / 1e6
    return None
