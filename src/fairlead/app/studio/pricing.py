"""What the worker answers the studio between two batches: what a run would cost, what a weight would keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.app.price_table import sentence
from fairlead.app.workers.form import read_options
from fairlead.run.options import RunOptions


def price_of(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the worker to a question about a price."""
    return priced(read_options(message["options"]))


def front_of(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """What each weight of the reward would keep of a run."""
    from fairlead.run.diverse_subset import front

    words = {name: message[name] for name in ("floor", "among", "quality") if message.get(name) is not None}
    if "quality" in words:
        words["quality"] = {int(index): float(value) for index, value in words["quality"].items()}
    return front(root / str(message["folder"]), int(message["k"]), **words)


def priced(options: RunOptions) -> dict[str, Any]:
    """Cost and warnings of a run; raises the error that the run would raise. Loads the model."""
    from fairlead.run import models
    from fairlead.run.price import price

    spec = models.spec_of(options)
    found = price(spec)
    need = found.setup_cost + found.baseline + found.cost_per_candidate * spec.group + found.finals
    lacking = [] if found.candidates else need.over(spec.limit)
    wanted = ", ".join(f"{name}={getattr(need, name):g}" for name in lacking)
    if wanted:
        return {"error": f"The budget covers no picture: the first one takes {wanted}."}
    return {
        "sentence": sentence(found).removesuffix(" Nothing was run or written."),
        "candidates": found.candidates,
        "total": found.total.as_dict(),
        "seconds": found.seconds,
        "dollars": found.dollars,
        "warnings": models.warnings(spec),
    }
