"""What `calibrate` measured, kept for the planner: correlation and price per model, reward and rung. Imports no torch.

One JSON file in the user's state folder, `$XDG_STATE_HOME/fairlead/calibrations.json` or `~/.local/state/...`. It holds
numbers only. A run reads it once when it starts and writes the values that it uses into its own record, so that neither
resuming nor replaying depends on this file. It can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError
from fairlead.run import fingerprint, rungs
from fairlead.run.files import as_json, write_atomically
from fairlead.run.part import Part
from fairlead.run.spec import Spec, reward_text

MOST_BYTES = 4 << 20
"""A larger file is none of ours."""


@dataclass(frozen=True)
class Known:
    """What was measured of one rung."""

    correlation: float
    """Of normal scores, inside a prompt, in [-1, 1]."""
    price: float
    """Network rows of a draft as a share of a finished picture's."""
    prompts: int
    candidates: int
    """Per prompt."""


def path() -> Path:
    """The file; it need not exist."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "fairlead" / "calibrations.json"


def key(spec: Spec, effort: int | str) -> str:
    """Names everything that the correlation depends on: weights and settings, sampler, steps, reward and rung."""
    settings = {name: value for name, value in spec.model.settings.items() if name != "dtype"}
    facts: dict[str, Any] = {
        "model": [spec.model.name, settings, fingerprint.of(spec)],
        "reward": reward_text(spec.reward),
        "sampler": spec.sampler,
        "steps": spec.steps,
        "rung": str(rungs.read(effort)),
    }
    for name in rungs.siblings(effort):
        facts["sibling"] = fingerprint.of(replace(spec, model=Part(name)))
    return blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def look_up(spec: Spec, efforts: Sequence[int | str]) -> list[Known | None]:
    """What is known of each rung; None where nothing was measured."""
    found = _read()
    return [found.get(key(spec, effort)) for effort in efforts] if found else [None] * len(efforts)


def keep(spec: Spec, measured: Mapping[str, Known]) -> Path:
    """Add what was measured, by rung; the rest of the file stays. Returns the file."""
    entries = {name: vars(known) for name, known in _read().items()}
    entries |= {key(spec, effort): vars(known) for effort, known in measured.items()}
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FairleadError(f"{file.parent} cannot be written ({error.strerror}). Set XDG_STATE_HOME.") from error
    write_atomically(file, as_json({"version": 1, "entries": entries}).encode())
    return file


def _read() -> dict[str, Known]:
    """Every entry; none, with a warning, where the file is not what `keep` writes."""
    file = path()
    try:
        if not file.is_file():
            return {}
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        data = json.loads(file.read_text())
        return {str(name): _known(entry) for name, entry in data["entries"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        warnings.warn(
            f"{file} cannot be read ({error!s:.80}), so nothing measured is used. Delete it and calibrate again.",
            stacklevel=2,
        )
        return {}


def _known(entry: Any) -> Known:
    known = Known(**entry)
    numbers = [known.correlation, known.price, known.prompts, known.candidates]
    usable = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not usable or not -1 <= known.correlation <= 1 or not 0 < known.price < 1e6:
        raise ValueError(f"{entry!r:.60} are not the numbers of a calibration")
    return known
