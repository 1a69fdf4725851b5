"""One row for every run of a set, for the table in Python, on the page and in the terminal. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairlead.run.view import View


def rows_of(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for every run: what it was asked, what it found and what it cost."""
    return [_row(View.read(run)) for run in runs]


def _row(view: View) -> dict[str, Any]:
    return {
        "prompt": view.spec.prompt,
        "seed": view.spec.seed,
        "baseline": None if view.baseline is None else view.baseline.reward,
        "best": None if view.best is None else view.best.reward,
        "gain": view.gain,
        "candidates": len(view.candidates),
        "nfe": view.spent.nfe,
        "seconds": view.spent.seconds,
        "stopped": view.stopped or str(view.status),
        "run": view.folder.name,
    }
