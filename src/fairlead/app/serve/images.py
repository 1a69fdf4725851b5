"""The answer to a request for pictures: OpenAI's object, with what fairlead adds under `fairlead`. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fairlead.app.serve import delivered
from fairlead.app.serve.asked import Asked
from fairlead.app.serve.errors import Refused, unavailable, without_places
from fairlead.run.follow import as_number
from fairlead.run.records import Candidate
from fairlead.run.store import Store


@dataclass(frozen=True)
class Order:
    """A request whose run, seed and budget are known."""

    asked: Asked
    run: str
    """The id that the client may use."""
    seed: int
    warnings: tuple[str, ...]


def usable(folder: Path) -> int:
    """How many finished pictures have a reward."""
    store = Store.open(folder, verify=False)
    try:
        every = store.candidates()
    finally:
        store.close()
    highest = max((c.rung for c in every), default=0)
    return sum(c.rung == highest and c.reward == c.reward for c in every)


def nothing_yet(run: str) -> Refused:
    """No picture of the run has a reward."""
    return unavailable("reward_unavailable", f"Run {run} has no picture with a reward yet. Ask again.")


def answer(order: Order, folder: Path, indices: Sequence[int], stopped: str) -> dict[str, Any]:
    """The whole answer for some candidates of a run."""
    asked = order.asked
    store = Store.open(folder, verify=False)
    try:
        chosen = [store.get(index) for index in indices]
        data = []
        size = (0, 0)
        for rank, candidate in enumerate(chosen, 1):
            picture, size = encoded(store, candidate, asked)
            data.append({"b64_json": delivered.as_text(picture), "fairlead": {"rank": rank, **described(candidate)}})
        baseline = store.baseline()
        created = int(datetime.fromisoformat(store.created).timestamp())
        cost = store.spent().as_dict()
    finally:
        store.close()
    best = chosen[0]
    own: dict[str, Any] = {
        "run": order.run,
        "seed": order.seed,
        **described(best),
        "reward_formula": asked.reward,
        "baseline": None if baseline is None else as_number(baseline.reward),
        "baseline_image": None if baseline is None else Path(baseline.image).stem,
        "cost": cost,
        "stopped": without_places(stopped),
        "warnings": list(order.warnings),
    }
    found = {
        "created": created,
        "data": data,
        "background": "opaque",
        "output_format": asked.format,
        "quality": asked.quality,
        "size": f"{size[0]}x{size[1]}",
        "usage": usage(asked),
        "fairlead": own,
    }
    if asked.safety_identifier is not None:
        found["safety_identifier"] = asked.safety_identifier
    return found


def encoded(store: Store, candidate: Candidate, asked: Asked) -> tuple[bytes, tuple[int, int]]:
    """The picture of a candidate in the format of the request, and its size."""
    return delivered.encode(store.image(Path(candidate.image).stem), asked.format, asked.compression)


def described(candidate: Candidate) -> dict[str, Any]:
    """Number, reward, terms and the digest of the picture of a candidate."""
    terms = {without_places(name): as_number(value) for name, value in candidate.terms.items()}
    return {
        "candidate": candidate.index,
        "reward": as_number(candidate.reward),
        "terms": terms,
        "image": Path(candidate.image).stem,
    }


def usage(asked: Asked) -> dict[str, Any]:
    """Words of the prompt as input tokens, and none out: what was spent is under `fairlead.cost`."""
    words = len(str(asked.words["prompt"]).split())
    inside = {"image_tokens": 0, "text_tokens": words}
    return {"input_tokens": words, "input_tokens_details": inside, "output_tokens": 0, "total_tokens": words}
