"""States that peeks left behind, so that their finished pictures go on from there, also after a run was stopped.

One file per candidate in the run's folder `states/`: a digest, then a safetensors tensor [2, C, h, w] in float32. The
folder is deleted when the run is finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from fairlead.core.errors import StoreError
from fairlead.run.files import write_atomically
from fairlead.run.records import Outcome

FOLDER = "states"
DIGEST = 16


class States:
    """The captured states of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Write the states of a batch. Called before its rows are recorded, so that every recorded peek has one."""
        for outcome in outcomes:
            if outcome.state is None:
                continue
            self._folder.mkdir(exist_ok=True)
            data = save({"state": outcome.state.to(torch.float32).contiguous()})
            write_atomically(self._path(outcome.index), _digest(data) + data, durable=False)

    def has(self, index: int) -> bool:
        """True if the state of this candidate is there."""
        return self._path(index).is_file()

    def get(self, index: int) -> Tensor:
        """[2, C, h, w]; damaged files are refused."""
        path = self._path(index)
        data = path.read_bytes()
        if _digest(data[DIGEST:]) != data[:DIGEST]:
            raise StoreError(
                f"{path} is damaged. Delete it and resume the run: its picture then starts from the noise."
            )
        state: Tensor = load(data[DIGEST:])["state"]
        return state

    def clear(self) -> None:
        """Delete them all: the run is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.state"


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST).digest()
