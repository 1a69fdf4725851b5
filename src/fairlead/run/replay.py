"""A recorded candidate beside the same one rendered again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairlead.run import machine, png
from fairlead.run.records import Candidate, Outcome, Replay
from fairlead.run.store import Store


def compared(store: Store, recorded: Candidate, outcome: Outcome, companions: int, alone: bool) -> Replay:
    """Equal or not, bit for bit, and why not."""
    old, _ = png.read(store.image(Path(recorded.image).stem))
    new, _ = png.read(outcome.image)
    gap = int(np.abs(old.astype(int) - new.astype(int)).max()) if old.shape == new.shape else 255
    same = outcome.reward == recorded.reward or (
        outcome.reward != outcome.reward and recorded.reward != recorded.reward
    )
    here = machine.versions()
    why = "; ".join(f"{k} was {v} and is {here[k]}" for k, v in store.versions.items() if here.get(k, v) != v)
    if identical := gap == 0 and same:
        message = "Identical: same pixels, same reward."
    elif alone:
        message = (
            f"Rendered alone, it differs by at most {gap}/255 per pixel: "
            "kernels round differently for another batch size."
        )
    else:
        message = f"Differs by at most {gap}/255 per pixel" + (f": {why}." if why else "; versions are those recorded.")
    return Replay(recorded.index, recorded, outcome.reward, identical, gap, outcome.image, companions, message)
