"""How one recorded picture formed: its clean predictions over the steps, made again by replay. Imports no torch.

Nothing of it is recorded. Its cost is told apart, and no run's budget pays for it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.run.records import BatchStep

MOST = 40
"""Pictures of a strip: of more steps, every second or third one is shown."""


def strip(folder: Path, candidate: int) -> dict[str, Any]:
    """Render the batch of a candidate again and keep what it predicts at every step. Loads the model."""
    from fairlead.run import engine
    from fairlead.run.forming import Watching
    from fairlead.run.store import Store

    seen: list[BatchStep] = []
    store = Store.open(folder)
    steps = store.get(candidate).steps
    store.close()
    watching = Watching(seen.append, every=max(1, -(-steps // MOST)), only=(candidate,), last=True)
    since = time.perf_counter()
    again = engine.replay(folder, candidate, watching=watching)
    shown = [step for step in seen if candidate in step.previews]
    return {
        "steps": [{"step": s.step, "of": s.steps, "image": _text(s.previews[candidate])} for s in shown],
        "identical": again.identical,
        "message": again.message,
        "cost": {
            "seconds": time.perf_counter() - since,
            "nfe": seen[-1].spent.nfe,
            "decodes": seen[-1].apart.decodes,
            "pictures": again.companions,
        },
    }


def answered(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """The worker's answer to `{folder, candidate}`."""
    return strip(root / str(message["folder"]), int(message["candidate"]))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
