"""One run as the server shows it to the tenant whose it is. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fairlead.app.serve import delivered, images
from fairlead.app.serve.errors import Refused, without_places
from fairlead.app.serve.record import standing
from fairlead.run.store import DATABASE, Store

DIGEST = re.compile(r"[0-9a-f]{32}")


def described(folder: Path, is_active: bool) -> dict[str, Any]:
    """How a run stands, with its best picture."""
    if not (folder / DATABASE).is_file():
        return {"id": folder.name, "status": "waiting" if is_active else "failed", "candidates": 0}
    store = Store.open(folder, verify=False)
    try:
        now = standing(store)
        spec = store.spec
    finally:
        store.close()
    best = None if now.best is None else images.described(now.best)
    status = now.status.value
    if status == "running" and not is_active:
        status = "stopped"
    return {
        "id": folder.name,
        "status": status,
        "stopped": without_places(now.stopped),
        "prompt": spec.prompt,
        "seed": spec.seed,
        "candidates": now.count,
        "best": best,
        "cost": now.spent.as_dict(),
        "budget": now.limit.limits(),
    }


def picture(folder: Path, digest: str) -> bytes:
    """A picture that a row of the record names, without its recipe."""
    if DIGEST.fullmatch(digest) and (folder / DATABASE).is_file():
        store = Store.open(folder, verify=False)
        try:
            every = [*store.candidates(), *filter(None, [store.baseline()])]
            if any(Path(one.image).stem == digest for one in every):
                return delivered.encode(store.image(digest), "png", 100)[0]
        finally:
            store.close()
    raise Refused(404, "run_not_found", f"The run has no picture {digest!r:.40}.")
